"""A TensorRT plan on a real GPU: results, graphs, threads, memory, damaged files, and leaks after closing."""

from __future__ import annotations

import fcntl
import gc
import json
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgesparse import device
from edgesparse.backends import BuildOptions, backend
from edgesparse.backends.base import Precision
from edgesparse.builder.child.timing import interleaved
from edgesparse.errors import BuildError, MemoryBudgetExceeded

Batch = int | str
Profile = tuple[int, int, int] | None


def network(path: Path, batch: Batch = 2, channels: int = 32, size: int = 32) -> Path:
    """Three convolutions with ReLU and a pooled second output."""
    rng = np.random.default_rng(0)
    shapes = [(channels, 3, 3, 3), (channels, channels, 3, 3), (16, channels, 1, 1)]
    nodes, stored, at = [], [], "images"
    for i, shape in enumerate(shapes):
        weight = (rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)
        stored.append(numpy_helper.from_array(weight, f"w{i}"))
        nodes.append(helper.make_node("Conv", [at, f"w{i}"], [f"c{i}"], f"conv{i}", pads=[shape[2] // 2] * 4))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"], f"relu{i}"))
        at = f"r{i}"
    nodes.append(helper.make_node("GlobalAveragePool", [at], ["means"], "pool"))
    entry = helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, size, size])
    outputs = [
        helper.make_tensor_value_info(at, TensorProto.FLOAT, [batch, 16, size, size]),
        helper.make_tensor_value_info("means", TensorProto.FLOAT, [batch, 16, 1, 1]),
    ]
    graph = helper.make_graph(nodes, "net", [entry], outputs, stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def built(folder: Path, precision: Precision = "fp16", profile: Profile = None, **settings: Any) -> Path:
    """A plan of `network`, next to its net.onnx. It is built once for all tests that share a folder."""
    shared = os.environ.get("EDGESPARSE_PLANS")
    path = folder / "net.engine"
    if shared is None:
        return _build(folder, precision, profile, settings)
    name = "-".join(map(str, (precision, profile, *sorted(settings.items()))))
    kept = Path(shared) / "".join(letter if letter.isalnum() else "_" for letter in name)
    with Path(f"{kept}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            _build(folder, precision, profile, settings)
            part = Path(shutil.copytree(folder, f"{kept}.part", dirs_exist_ok=True))
            part.rename(kept)
    shutil.copytree(kept, folder, dirs_exist_ok=True)
    return path


def _build(folder: Path, precision: Precision, profile: Profile, settings: dict[str, Any]) -> Path:
    options = BuildOptions(precision=precision, profile=profile)
    return backend("tensorrt").build(network(folder / "net.onnx", **settings), folder / "net.engine", options).path


def expected(model: Path, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    import onnxruntime as ort

    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"images": images}), strict=True))


def noise(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random(shape).astype(np.float32)


def in_a_process(code: str, *arguments: Path) -> subprocess.CompletedProcess[str]:
    """Run code that may crash its process; `path` is its first argument."""
    begin = "import sys; from pathlib import Path; path = Path(sys.argv[1]); from edgesparse.backends import backend\n"
    return python("-c", begin + textwrap.dedent(code), *arguments)


def python(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    root = str(Path(__file__).parents[2])
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(command, capture_output=True, text=True, timeout=200, env=paths, check=False)


def test_the_gpu_is_what_nvidia_smi_says() -> None:
    from edgesparse.backends.cuda.gpu import gpu

    card, machine = gpu(), device.probe()
    assert machine.gpu in ("", card.name) and machine.sm in ("", card.sm)
    assert 0 < card.free() <= card.total and card.driver.get_driver_version() >= 11040
    assert device.clocks().gpu > 0 or card.integrated


@pytest.mark.parametrize(("precision", "error"), [("fp32", 0.005), ("fp16", 0.01)])
def test_numbers_are_onnx_runtimes(tmp_path: Path, precision: Precision, error: float) -> None:
    with backend("tensorrt").load(built(tmp_path, precision)) as runner:
        assert [str(spec) for spec in runner.inputs] == ["images 2x3x32x32 float32"]
        buffers = runner.allocate()
        runner.bind(buffers)
        assert not runner.plain, "it must run as a CUDA graph"  # type: ignore[attr-defined]
        for seed in range(3):
            buffers["images"][...] = noise(2, 3, 32, 32, seed=seed)
            runner.infer()
            for name, right in expected(tmp_path / "net.onnx", buffers["images"]).items():
                assert np.abs(buffers[name] - right).max() <= error * np.abs(right).max(), (name, seed)


def test_buffers_of_the_callers_own_give_the_same(tmp_path: Path) -> None:
    with backend("tensorrt").load(built(tmp_path)) as runner:
        pinned = runner.allocate()
        own = {name: np.zeros_like(array) for name, array in pinned.items()}
        for seed, buffers in enumerate((pinned, own, pinned, {**own, "means": pinned["means"]})):
            runner.bind(buffers)
            buffers["images"][...] = noise(2, 3, 32, 32, seed=seed)
            runner.infer()
            right = expected(tmp_path / "net.onnx", buffers["images"])["means"]
            assert np.abs(buffers["means"] - right).max() <= 0.01 * np.abs(right).max()


def test_an_open_batch_runs_at_any_size_of_its_profile(tmp_path: Path) -> None:
    import tensorrt as trt

    from edgesparse.backends.tensorrt.runner import TensorRTRunner

    plan = built(tmp_path, batch="n", profile=(1, 2, 4))
    for batch in (None, 1, 3, 4):
        with TensorRTRunner(trt, plan, batch=batch) as runner:
            assert runner.inputs[0].shape == (batch or 2, 3, 32, 32)
            buffers = runner.allocate()
            runner.bind(buffers)
            buffers["images"][...] = noise(batch or 2, 3, 32, 32)
            runner.infer()
            right = expected(tmp_path / "net.onnx", buffers["images"])["means"]
            assert np.abs(buffers["means"] - right).max() <= 0.01 * np.abs(right).max()
    with pytest.raises(BuildError, match="found a batch of 5, needed 1 to 4"):
        TensorRTRunner(trt, plan, batch=5)


def test_times_are_the_engines_own(tmp_path: Path) -> None:
    plan = built(tmp_path)
    with backend("tensorrt").load(plan) as first, backend("tensorrt").load(plan) as other:
        timings = interleaved({"one": first, "other": other}, 0.2)
    assert 0 < timings["one"].median_ms < 100 and timings["one"].count > 50
    print({name: str(timing) for name, timing in timings.items()})


def test_runners_work_beside_each_other_in_threads(tmp_path: Path) -> None:
    plan = built(tmp_path)
    wrong: list[object] = []

    def loop(seed: int) -> None:
        try:
            with backend("tensorrt").load(plan) as runner:
                buffers = runner.allocate()
                runner.bind(buffers)
                buffers["images"][...] = noise(2, 3, 32, 32, seed=seed)
                right = expected(tmp_path / "net.onnx", buffers["images"])["means"]
                for _ in range(200):
                    buffers["means"][...] = 0
                    runner.infer()
                    if np.abs(buffers["means"] - right).max() > 0.01 * np.abs(right).max():
                        wrong.append(seed)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=loop, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_opening_and_closing_many_times_leaves_nothing(tmp_path: Path) -> None:
    from edgesparse.backends.cuda.gpu import gpu

    plan, free = built(tmp_path), []
    for _ in range(40):
        with backend("tensorrt").load(plan) as runner:
            runner.infer()
            runner.latency()
        gc.collect()
        free.append(gpu().free())
    assert min(free[10:]) >= free[9] - (2 << 20), [size >> 20 for size in free]


def test_arrays_outlive_their_runner(tmp_path: Path) -> None:
    with backend("tensorrt").load(built(tmp_path)) as runner:
        buffers = runner.allocate()
        runner.bind(buffers)
        buffers["images"][...] = 1
        runner.infer()
    gc.collect()
    assert np.isfinite(buffers["means"]).all() and buffers["means"].max() > 0


def test_too_little_memory_is_told_before_it_is_taken(tmp_path: Path) -> None:
    from edgesparse.backends.cuda.gpu import gpu

    plan = built(tmp_path, channels=64, size=1024)
    with backend("tensorrt").load(plan) as runner:
        runner.infer()
    card = gpu()
    with card.errors_of("filling the memory"):
        filling = card.memory(card.free() - (150 << 20))
    try:
        with pytest.raises(MemoryBudgetExceeded, match=r"needed .* MB of activations .*, free \d+") as raised:
            backend("tensorrt").load(plan)
        print(raised.value)
    finally:
        with card.errors_of("freeing"):
            filling.free()
    with backend("tensorrt").load(plan) as runner:
        runner.infer()


def test_inspect_of_a_plan_names_what_each_layer_runs(tmp_path: Path) -> None:
    plan, page = built(tmp_path), tmp_path / "page.html"
    done = python("-m", "edgesparse", "inspect", plan, "--json", "--html", page)
    assert done.returncode == 0, done.stderr
    layers = json.loads(done.stdout)["layers"]
    names = " ".join(layer["name"] for layer in layers)
    assert all(f"conv{i}" in names for i in range(3)) and "pool" in names
    assert all(layer["kernel"] for layer in layers if "conv" in layer["name"])
    assert page.read_text().count("<tr id=") == len(layers)
    table = python("-m", "edgesparse", "inspect", plan)
    assert f" of {len(layers)} layers run a 2:4 kernel" in table.stdout


LOAD = """
    try:
        backend("tensorrt").load(path).close()
    except Exception as error:
        print(type(error).__name__, error)
"""


@pytest.mark.parametrize("damage", ["empty", "text", "half", "first byte"])
def test_a_damaged_plan_is_refused_in_one_line(tmp_path: Path, damage: str) -> None:
    plan = built(tmp_path)
    data = bytearray(plan.read_bytes())
    if damage == "first byte":
        data[0] ^= 0xFF
    plan.write_bytes({"empty": b"", "text": b"no plan at all", "half": bytes(data[: len(data) // 2])}.get(damage, data))
    done = in_a_process(LOAD, plan)
    assert done.returncode == 0 and done.stdout.startswith("BuildError "), (done.returncode, done.stdout, done.stderr)
    assert done.stdout.count("\n") == 1 and "edgesparse build" in done.stdout


def test_an_illegal_address_ends_the_runner_with_one_line(tmp_path: Path) -> None:
    code = """
        from edgesparse.errors import BuildError
        runner = backend("tensorrt").load(path)
        with runner._gpu:  # an address that was the GPU's and is no more; one that never was may be found out
            gone = runner._gpu.memory(1 << 28)
            address = int(gone)
            gone.free()
        runner._at["images"] = address
        runner._run = runner._engine
        try:
            runner.infer()
        except BuildError as error:
            print(error)
        runner.close()
    """
    done = in_a_process(code, built(tmp_path))
    assert "restart it" in done.stdout and done.stdout.count("\n") == 1, (done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("end", ["", "runner.close()", "kept = runner.allocate()", "sys.exit(0)"])
def test_a_process_ends_in_peace(tmp_path: Path, end: str) -> None:
    done = in_a_process(f"runner = backend('tensorrt').load(path)\nrunner.infer()\n{end}", built(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
