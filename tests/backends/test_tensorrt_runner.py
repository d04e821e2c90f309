"""The Runner of TensorRT plans on a fake GPU: what is copied, captured, refused and freed."""

from __future__ import annotations

import gc
import sys
import threading
from pathlib import Path
from typing import Any

import fake_gpu
import numpy as np
import pytest
from fake_gpu import Fake
from fake_tensorrt import SMALL, Engine, plan, tensorrt

from edgesparse.backends.cuda import gpu
from edgesparse.backends.tensorrt.context import Scratch, static_shape
from edgesparse.backends.tensorrt.driver import TensorRTBackend
from edgesparse.backends.tensorrt.runner import TensorRTRunner
from edgesparse.errors import BackendUnavailable, BuildError, MemoryBudgetExceeded


def load(fake: Fake, folder: Path, batch: int | None = None, **settings: Any) -> TensorRTRunner:
    path = folder / "model.plan"
    path.write_bytes(plan(**{"tensors": SMALL, **settings}))
    return TensorRTRunner(tensorrt(fake), path, batch=batch)


def test_a_run_is_one_launch_from_inputs_to_outputs(fake: Fake, tmp_path: Path) -> None:
    with load(fake, tmp_path) as runner:
        assert [str(spec) for spec in runner.inputs] == ["images 2x3 float32"]
        assert [str(spec) for spec in runner.outputs] == ["boxes 2x3 float16", "count scalar int32"]
        buffers = runner.allocate()
        runner.bind(buffers)
        copies, launches, runs = fake.copies, fake.launches, int(buffers["count"])
        for value in (1, 2, 3):
            buffers["images"][...] = value
            runner.infer()
            assert (buffers["boxes"] == 2 * value).all() and buffers["count"] == runs + value
        assert fake.launches == launches + 3 and not runner.plain
        assert fake.copies == copies + (0 if fake.integrated else 9), "an integrated GPU needs no copies"


def test_buffers_of_the_callers_own_are_copied_through(fake: Fake, tmp_path: Path) -> None:
    with load(fake, tmp_path) as runner:
        specs = (*runner.inputs, *runner.outputs)
        own = {spec.name: np.zeros(spec.shape, spec.dtype) for spec in specs}
        mixed = {**runner.allocate(), "images": np.ones((2, 3), np.float32)}
        for buffers, value in ((own, 7), (mixed, 8), (own, 9)):
            runner.bind(buffers)
            buffers["images"][...] = value
            runner.infer()
            assert (buffers["boxes"] == 2 * value).all()


def test_what_is_bound_is_checked_once(fake: Fake, tmp_path: Path) -> None:
    with load(fake, tmp_path) as runner:
        with pytest.raises(BuildError, match="buffer for boxes 2x3 float16: found 2x3 float32"):
            runner.bind({**runner.allocate(), "boxes": np.zeros((2, 3), np.float32)})


def test_a_plan_is_loaded_on_the_dla_core_that_it_was_built_for(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.plan").write_bytes(plan(tensors=SMALL))
    monkeypatch.setattr("edgesparse.backends.tensorrt.driver._import", lambda: tensorrt(fake))
    monkeypatch.setattr(TensorRTBackend, "_require", lambda self: None)
    for core in (None, 0, 1):
        with TensorRTBackend().load(tmp_path / "model.plan", dla=core):
            assert fake.dla == core


def test_latency_is_of_the_engine_alone(fake: Fake, tmp_path: Path) -> None:
    with load(fake, tmp_path) as runner:
        copies, launches = fake.copies, fake.launches
        assert [runner.latency() for _ in range(3)] == [0.25] * 3
        assert fake.copies == copies and fake.launches == launches + 6
        assert fake.graphs == 4, "two graphs, and what each was made from"


def test_closing_gives_everything_back_and_may_be_repeated(fake: Fake, tmp_path: Path) -> None:
    runner = load(fake, tmp_path)
    kept = runner.allocate()
    runner.latency()
    runner.close()
    runner.close()
    assert not fake.memory and not fake.created
    assert fake.hosts == len(kept), "arrays that somebody holds stay"
    kept["images"][...] = 1
    view = kept.pop("images")[0]
    kept.clear()
    assert fake.hosts == 1 and view[0] == 1
    del view, runner
    gc.collect()
    assert fake.hosts == fake.streams == 0


def test_a_runner_that_is_forgotten_gives_back_too(fake: Fake, tmp_path: Path) -> None:
    for _ in range(20):
        load(fake, tmp_path).latency()
    gc.collect()
    assert not fake.memory and not fake.created and fake.hosts == fake.streams == 0


def test_a_runner_may_be_used_and_closed_in_another_thread(fake: Fake, tmp_path: Path) -> None:
    runner = load(fake, tmp_path)
    seen: list[Any] = []

    def loop() -> None:
        try:
            buffers = runner.allocate()
            runner.bind(buffers)
            buffers["images"][...] = 4
            runner.infer()
            seen.append(float(buffers["boxes"][0, 0]))
            runner.close()
            seen.append(fake.threads.depth)
        except BaseException as error:
            seen.append(error)

    thread = threading.Thread(target=loop)
    thread.start()
    thread.join()
    assert seen == [8.0, 0]


def test_without_capture_it_runs_step_by_step_and_says_why(
    fake: Fake, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fake.uncapturable = True
    with load(fake, tmp_path) as runner:
        buffers = runner.allocate()
        runner.bind(buffers)
        buffers["images"][...] = 5
        runner.infer()
        assert (buffers["boxes"] == 10).all() and runner.latency() == 0 and fake.launches == 0
        assert "cannot be captured in a CUDA graph: CUDA reports: CUDA_ERROR_901" in runner.plain
        assert runner.plain in caplog.text


@pytest.mark.parametrize(("batch", "shape"), [(None, (4, 3)), (1, (1, 3)), (8, (8, 3))])
def test_an_open_batch_is_the_profiles_usual_one_or_the_one_asked_for(
    fake: Fake, tmp_path: Path, batch: int | None, shape: tuple[int, ...]
) -> None:
    tensors = {"images": ["INPUT", [-1, 3], "FLOAT"], "boxes": ["OUTPUT", [-1, 3], "FLOAT"]}
    with load(fake, tmp_path, batch, tensors=tensors, profile=[[1, 3], [4, 3], [8, 3]]) as runner:
        assert runner.inputs[0].shape == runner.outputs[0].shape == shape
        runner.buffers["images"][...] = 2
        runner.infer()
        assert (runner.buffers["boxes"] == 4).all()


OPEN = {"tensors": {"images": ["INPUT", [-1, 3], "FLOAT"], "boxes": ["OUTPUT", [-1, 3], "FLOAT"]}}
PROFILE = {"profile": [[1, 3], [4, 3], [8, 3]]}


@pytest.mark.parametrize(
    ("settings", "batch", "message"),
    [
        (OPEN | PROFILE, 9, "images: found a batch of 9, needed 1 to 8: build it for more"),
        ({}, 4, "images: found a batch of 4, needed 2: build it with batch 4"),
        (OPEN | PROFILE | {"unknown": True}, None, "boxes has the shape .* known only after a run"),
        (OPEN | PROFILE | {"refuses_shape": True}, None, "does not take"),
        ({"tensors": {"images": ["INPUT", [2], "BF16"]}}, None, "images is BF16: needed one of FLOAT, HALF"),
        ({"format": "CHW32"}, None, "has the layout CHW32: needed LINEAR"),
        ({"location": "HOST"}, None, "a shape that the CPU sets"),
        ({"refuses_address": True}, None, "refuses the address of images"),
        ({"refuses_run": True}, None, "TensorRT does not run it"),
    ],
)
def test_what_cannot_run_is_refused_in_one_line_and_leaves_nothing(
    fake: Fake, tmp_path: Path, settings: dict[str, Any], batch: int | None, message: str
) -> None:
    with pytest.raises(BuildError, match=message) as raised:
        load(fake, tmp_path, batch, **settings)
    assert "\n" not in str(raised.value)
    del raised
    gc.collect()
    assert not fake.memory and not fake.created and fake.hosts == fake.streams == 0


@pytest.mark.parametrize("data", [b"", b"no plan", None])
def test_a_file_that_is_no_plan_is_refused(fake: Fake, tmp_path: Path, data: bytes | None) -> None:
    path = tmp_path / "model.plan"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(BuildError, match=r"(cannot read|Magic tag is wrong).*build --force"):
        TensorRTRunner(tensorrt(fake), path)


def test_what_it_needs_is_known_before_it_is_loaded(fake: Fake, tmp_path: Path) -> None:
    fake.room = 50
    with pytest.raises(MemoryBudgetExceeded, match=r"needed .* MB of weights, free 0.0 MB: stop other programs"):
        load(fake, tmp_path)
    fake.room = 10**6
    with pytest.raises(
        MemoryBudgetExceeded, match=r"needed 5.0 MB of activations \+ 0.0 MB of inputs and outputs, free 1.0 MB"
    ):
        load(fake, tmp_path, activations=5_000_000)
    with pytest.raises(MemoryBudgetExceeded, match="TensorRT creates no context"):
        load(fake, tmp_path, no_context=True)
    assert not fake.memory


def test_memory_that_runs_out_all_the_same_is_said(fake: Fake) -> None:
    card = gpu.gpu()
    with pytest.raises(MemoryBudgetExceeded, match="buffers: the GPU has no memory left"), card.errors_of("buffers"):
        card.memory(1 << 40)


def test_an_error_inside_the_gpu_ends_the_runner_with_one_line(fake: Fake, tmp_path: Path) -> None:
    runner = load(fake, tmp_path)
    fake.broken = "an illegal memory access was encountered"
    with pytest.raises(BuildError, match=r"running model.plan: CUDA reports: .*illegal memory.*restart it$"):
        runner.infer()
    runner.close()
    assert not fake.memory and not fake.created


def test_without_a_gpu_or_pycuda_the_remedy_is_told(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.count = 0
    with pytest.raises(BackendUnavailable, match="CUDA finds no GPU: pip install pycuda"):
        gpu.gpu()

    def broken() -> None:
        raise fake_gpu.Error("cuInit failed: no CUDA-capable device is detected")

    monkeypatch.setattr(fake.driver, "init", broken)
    with pytest.raises(BackendUnavailable, match=r"CUDA does not start \(cuInit failed"):
        gpu.gpu()
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    monkeypatch.delattr(sys.modules["pycuda"], "driver")
    with pytest.raises(BackendUnavailable, match="pycuda does not load"):
        gpu.gpu()


def test_after_a_fork_the_gpu_is_refused(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    card = gpu.gpu()
    assert (card.sm, card.name, card.integrated) == ("8.7", "Fake GPU", fake.integrated)
    monkeypatch.setattr("os.getpid", lambda: -1)
    with pytest.raises(BackendUnavailable, match="does not survive a fork"):
        gpu.gpu()


def test_an_output_with_an_open_batch_counts_as_the_batch_asked_for(fake: Fake) -> None:
    engine = Engine(fake, OPEN | PROFILE)
    assert static_shape(engine, "boxes", 8) == (8, 3) and static_shape(engine, "boxes", None) == (1, 3)


def test_runners_that_take_turns_share_scratch_memory(fake: Fake, tmp_path: Path) -> None:
    """As much as the largest needs, freed with the last runner; one that needs more than was allocated gets its own."""
    scratch = Scratch()
    (tmp_path / "model.plan").write_bytes(plan(tensors=SMALL, activations=5000))
    (tmp_path / "small.plan").write_bytes(plan(tensors=SMALL, activations=100))
    (tmp_path / "large.plan").write_bytes(plan(tensors=SMALL, activations=9000))
    runners = [
        TensorRTRunner(tensorrt(fake), tmp_path / f"{name}.plan", scratch=scratch) for name in ("model", "small")
    ]
    sizes = [block.nbytes for block in fake.memory.values() if block.nbytes >= 1000]
    assert sizes == [5000]
    runners.append(TensorRTRunner(tensorrt(fake), tmp_path / "large.plan", scratch=scratch))
    assert sorted(block.nbytes for block in fake.memory.values() if block.nbytes >= 1000) == [5000, 9000]
    for value, runner in enumerate(runners):
        runner.buffers["images"][...] = value
        runner.infer()
        assert (runner.buffers["boxes"] == 2 * value).all()
    runners[0].close()
    runners[1].infer()
    runners[1].close()
    runners[2].infer()
    runners[2].close()
    assert not fake.memory
