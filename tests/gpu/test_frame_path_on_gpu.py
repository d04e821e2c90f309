"""The frame path on a real GPU: its kernels against OpenCV and NumPy, and whole detectors with either path."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import alone
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from objects import matched
from onnx import TensorProto, helper, numpy_helper
from test_tensorrt_on_gpu import in_a_process

from edgesparse.backends import BuildOptions, Runner, backend
from edgesparse.backends.base import Precision
from edgesparse.config import DetectorSpec, InputSpec, Run
from edgesparse.runtime.detector import Detector

HERE = Path(__file__).parent
SIZE = (128, 160)
CLASSES = ("a", "b", "c")


def network(path: Path, batch: int) -> Path:
    """[B, 3, 128, 160] to YOLOv8's [B, 7, 320 + 80 + 20]: one convolution per stride."""
    rng, nodes, stored, parts = np.random.default_rng(0), [], [], []
    for stride in (8, 16, 32):
        weight = rng.standard_normal((7, 3, stride, stride)) * 8 / stride
        weight[:4] = np.abs(weight[:4]) / stride
        stored.append(numpy_helper.from_array(weight.astype(np.float32), f"w{stride}"))
        stored.append(numpy_helper.from_array(np.array([20, 20, 5, 5, -5, -5, -5], np.float32), f"b{stride}"))
        name = f"c{stride}"
        nodes.append(
            helper.make_node("Conv", ["images", f"w{stride}", f"b{stride}"], [name], name, strides=[stride, stride])
        )
        count = SIZE[0] // stride * (SIZE[1] // stride)
        stored.append(numpy_helper.from_array(np.array([batch, 7, count]), f"s{stride}"))
        nodes.append(helper.make_node("Reshape", [name, f"s{stride}"], [f"r{stride}"], f"r{stride}"))
        parts.append(f"r{stride}")
    nodes.append(helper.make_node("Concat", parts, ["all"], "all", axis=2))
    stored += [
        numpy_helper.from_array(np.array(v), n) for n, v in (("zero", [0]), ("four", [4]), ("seven", [7]), ("one", [1]))
    ]
    nodes.append(helper.make_node("Slice", ["all", "zero", "four", "one"], ["boxes"], "boxes"))
    nodes.append(helper.make_node("Slice", ["all", "four", "seven", "one"], ["logits"], "logits"))
    nodes.append(helper.make_node("Relu", ["boxes"], ["sides"], "sides"))
    nodes.append(helper.make_node("Sigmoid", ["logits"], ["scores"], "scores"))
    nodes.append(helper.make_node("Concat", ["sides", "scores"], ["output0"], "out", axis=1))
    entry = helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, *SIZE])
    out = helper.make_tensor_value_info("output0", TensorProto.FLOAT, [batch, 7, 420])
    graph = helper.make_graph(nodes, "net", [entry], [out], stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def maps(path: Path) -> Path:
    """[1, 3, 128, 160] to the maps [1, 67, ...] of YOLOv8 that `slim` leaves: bins and class logits."""
    rng, nodes, stored, outputs = np.random.default_rng(0), [], [], []
    for stride in (8, 16, 32):
        weight = rng.standard_normal((67, 3, stride, stride)) * 8 / stride
        stored.append(numpy_helper.from_array(weight.astype(np.float32), f"w{stride}"))
        stored.append(numpy_helper.from_array(np.array([0] * 64 + [-5] * 3, np.float32), f"b{stride}"))
        names = ["images", f"w{stride}", f"b{stride}"]
        nodes.append(helper.make_node("Conv", names, [f"c{stride}"], f"c{stride}", strides=[stride, stride]))
        shape = [1, 67, SIZE[0] // stride, SIZE[1] // stride]
        outputs.append(helper.make_tensor_value_info(f"c{stride}", TensorProto.FLOAT, shape))
    entry = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, *SIZE])
    graph = helper.make_graph(nodes, "net", [entry], outputs, stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def plan(folder: Path, batch: int = 1) -> Path:
    """Built once for all tests that share a folder, since a build takes seconds."""
    kept = Path(os.environ.get("EDGESPARSE_PLANS", folder)) / f"frames-{batch}.engine"
    if not kept.exists():
        model = network(folder / "net.onnx", batch)
        built = backend("tensorrt").build(model, folder / "built.engine", BuildOptions(precision="fp32")).path
        shutil.copy(built, kept.with_suffix(".part"))
        kept.with_suffix(".part").rename(kept)
    return kept


def detector(path: Path, on_gpu: bool = True, head: str = "yolov8", **run: Any) -> Detector:
    runner: Runner = backend("tensorrt").load(path)
    if not on_gpu:
        runner.frames = lambda plan: []  # type: ignore[method-assign]
    spec = DetectorSpec(head=head, classes=CLASSES, input=InputSpec(size=SIZE))
    return Detector(runner, spec, Run(conf=0.3, max_det=1000, **run))


def test_kernels_give_opencvs_pixels_and_numpys_boxes() -> None:
    measured: dict[str, Any] = {}
    alone.run(measured.__setitem__)
    print(measured)
    pixels = measured["letterbox, steps of 1/255"]
    assert max(pixels["bgr"], pixels["rgb"]) <= 1.05 and max(pixels.values()) <= 2.05
    assert measured["batches, steps of 1/255"] <= 2.05 and measured["boxes, pixels"] <= 0.05
    for kind, worst in measured["tiles, steps of 1/255"].items():
        assert worst <= (1.05 if kind in ("bgr", "rgb") else 2.05), kind
    for kind, (worst, equal) in measured["crops, steps of 1/255 and share equal"].items():
        assert worst <= (1.05 if kind in ("bgr", "rgb") else 2.05) and equal > 0.98, (kind, worst, equal)
    assert measured["no boxes"] > 1000


@pytest.mark.parametrize("batch", [1, 4])
def test_detections_are_those_of_the_cpus_way(tmp_path: Path, batch: int) -> None:
    path = plan(tmp_path, batch)
    sizes = [(1080, 1920), (321, 161), (1920, 1080), (127, 160), (128, 159), (97, 33), (720, 1280), (480, 640)]
    total = 0
    with detector(path) as ours, detector(path, on_gpu=False) as right:
        assert ours.where == "the GPU, as one CUDA graph" and right.where == "the CPU"
        for turn in range(4):
            frames = [smooth(*sizes[(turn * batch + i) % 8], seed=turn + i) for i in range(batch)]
            for mine, other in zip(ours.detect(frames), right.detect(frames), strict=True):
                assert mine.class_id.tolist() == other.class_id.tolist()
                np.testing.assert_allclose(mine.xyxy, other.xyxy, atol=0.5)
                np.testing.assert_allclose(mine.confidence, other.confidence, atol=0.01)
                total += len(mine)
    assert total > 20


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_maps_of_a_rewritten_network_are_decoded_on_the_gpu(tmp_path: Path, precision: Precision) -> None:
    options = BuildOptions(precision=precision)
    path = backend("tensorrt").build(maps(tmp_path / "maps.onnx"), tmp_path / "maps.engine", options).path
    total = 0
    with detector(path, head="yolov8-maps") as ours, detector(path, on_gpu=False, head="yolov8-maps") as right:
        assert ours.where == "the GPU, as one CUDA graph"
        for seed in range(8):
            total += matched(*(detect(smooth(200 + 20 * seed, 300, seed)) for detect in (ours, right)))
    assert total > 20


def smooth(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    import cv2

    small = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), np.uint8)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def test_batches_overlap_and_come_back_in_order(tmp_path: Path) -> None:
    frames = [smooth(200 + 10 * i, 300, seed=i) for i in range(12)]
    with detector(plan(tmp_path)) as detect:
        right = [detect(frame).xyxy.tolist() for frame in frames]
        assert detect.depth >= 2
        results: list[Any] = []
        for frame in frames * 20:
            if detect.in_flight == detect.depth:
                results.append(detect.collect()[0].xyxy.tolist())
            detect.submit([frame])
        while detect.in_flight:
            results.append(detect.collect()[0].xyxy.tolist())
    assert results == right * 20


def test_frames_in_the_buffer_are_the_same(tmp_path: Path) -> None:
    with detector(plan(tmp_path)) as detect:
        buffers = [detect.frame_buffer((200, 300, 3)) for _ in range(3)]
        for seed in range(9):
            frame = smooth(200, 300, seed)
            buffers[seed % 3][...] = frame
            assert detect(buffers[seed % 3]).xyxy.tolist() == detect(frame).xyxy.tolist()


def test_nothing_is_allocated_on_the_gpu_after_the_first_frames(tmp_path: Path) -> None:
    from edgesparse.backends.cuda.gpu import gpu

    frames = [smooth(*size, seed=1) for size in ((480, 640), (1080, 1920), (100, 50))]
    with detector(plan(tmp_path)) as detect:
        for frame in frames * 4:
            detect(frame)
        before = gpu().free()
        for frame in frames * 50:
            detect(frame)
        assert gpu().free() == before


def test_scratch_memory_is_shared_by_runners_that_take_turns(tmp_path: Path) -> None:
    import tensorrt as trt

    from edgesparse.backends.tensorrt.context import Scratch
    from edgesparse.backends.tensorrt.runner import TensorRTRunner

    path, scratch = plan(tmp_path), Scratch()
    spec = DetectorSpec(head="yolov8", classes=CLASSES, input=InputSpec(size=SIZE))
    frames = [smooth(200, 300, seed) for seed in range(6)]
    with detector(path) as detect:
        right = [detect(frame).xyxy.tolist() for frame in frames]
    both = [Detector(TensorRTRunner(trt, path, scratch=scratch), spec, Run(conf=0.3, max_det=1000)) for _ in range(2)]
    for frame, expected in zip(frames, right, strict=True):
        for each in both:
            assert each(frame).xyxy.tolist() == expected
    both[0].close()
    assert both[1](frames[0]).xyxy.tolist() == right[0] and len(scratch._blocks) <= 1
    both[1].close()
    assert not scratch._blocks


BROKEN = """
    import numpy as np
    sys.path.insert(0, sys.argv[2])
    from test_frame_path_on_gpu import detector, smooth
    from edgesparse.errors import BuildError
    detect = detector(path)
    frame = smooth(200, 300, 0)
    print(len(detect(frame)) > 0)
    with detect.runner._gpu as card:  # an address that was the GPU's and is no more
        gone = card.memory(1 << 28)
        address = int(gone)
        gone.free()
    for slot in detect._rounds._ring._slots:
        for image in slot._images:
            def wrong(*frame, image=image, take=image.take):
                take(*frame)
                image.base = address
            image.take = wrong
    for _ in range(2):
        try:
            detect.submit([frame])
            detect.collect()
        except BuildError as error:
            print(error)
    detect.close()
"""


def test_an_illegal_address_ends_the_runner_and_a_new_process_has_a_new_one(tmp_path: Path) -> None:
    path = plan(tmp_path)
    done = in_a_process(BROKEN, path, HERE)
    first, *errors = done.stdout.splitlines()
    assert first == "True" and len(errors) == 2, (done.returncode, done.stdout, done.stderr)
    assert all("restart it" in line for line in errors)
    with detector(path) as detect:
        assert len(detect(smooth(200, 300, 0))) > 0


@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "synccheck"])
def test_compute_sanitizer_finds_nothing_in_the_kernels(tool: str) -> None:
    program = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if program is None:
        pytest.skip("no compute-sanitizer")
    command = [program, "--tool", tool, "--error-exitcode", "9", sys.executable, str(HERE / "alone.py"), "--short"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    print(done.stdout[-1500:], done.stderr[-500:])
    if "Device not supported" in done.stdout:
        pytest.skip("compute-sanitizer does not support this machine")
    assert (done.returncode == 0 and "ERROR SUMMARY: 0 errors" in done.stdout) or "0 hazards" in done.stdout


@pytest.mark.parametrize("end", ["detect.close()", "", "kept = detect.frame_buffer((9, 9, 3))"])
def test_a_process_with_a_detector_ends_in_peace(tmp_path: Path, end: str) -> None:
    code = f"""
    sys.path.insert(0, sys.argv[2])
    from test_frame_path_on_gpu import detector, smooth
    detect = detector(path)
    detect.submit([smooth(200, 300, 0)])
    {end}
    """
    done = in_a_process(code, plan(tmp_path), HERE)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
