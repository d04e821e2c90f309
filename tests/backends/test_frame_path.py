"""The frame path on a GPU of our own making, kernels included (as the CPU's compiler makes them), against OpenCV."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from fake_gpu import Fake, host_kernels, plan, tensorrt
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgesparse.backends.cuda import kernels
from edgesparse.backends.cuda.images import read
from edgesparse.backends.cuda.layouts import IMAGES, taps
from edgesparse.backends.frames import PIXELS, Candidates, Found, Pixels, Place
from edgesparse.backends.tensorrt.runner import TensorRTRunner
from edgesparse.config import DetectorSpec, InputSpec, Run
from edgesparse.errors import BackendUnavailable, BuildError, SourceError
from edgesparse.runtime.detector import Detector
from edgesparse.runtime.heads.grid import cells
from edgesparse.runtime.heads.registry import head as head_of
from edgesparse.runtime.preprocess import Preprocessor

SIZE = (64, 96)
CLASSES = ("a", "b", "c")
CODES = {"bgr": None, "rgb": cv2.COLOR_RGB2BGR, "nv12": cv2.COLOR_YUV2BGR_NV12, "yuyv": cv2.COLOR_YUV2BGR_YUYV}
Frames = list[NDArray[np.uint8]]


@pytest.fixture(autouse=True)
def host_built_kernels(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    host_kernels()
    (tmp_path / "frames.cubin").write_bytes(b"kernels")
    monkeypatch.setattr(kernels, "cubin", lambda sm: tmp_path / "frames.cubin")
    yield
    gc.collect()
    assert not fake.memory and not fake.made and fake.streams == 0, "what was taken must be given back"


def detector(
    fake: Fake, folder: Path, batch: int = 1, dtype: str = "FLOAT", head: str = "yolov8", **run: Any
) -> Detector:
    count = cells(SIZE)
    shape = [batch, 4 + len(CLASSES), count] if head == "yolov8" else [batch, count, 5 + len(CLASSES)]
    tensors: dict[str, Any] = {"images": ["INPUT", [batch, 3, *SIZE], dtype], "output0": ["OUTPUT", shape, "FLOAT"]}
    if head == "yolo-nas":
        del tensors["output0"]
        tensors["boxes"] = ["OUTPUT", [batch, count, 4], "FLOAT"]
        tensors["scores"] = ["OUTPUT", [batch, count, len(CLASSES)], "FLOAT"]
    if head == "end2end":
        tensors["output0"] = ["OUTPUT", [batch, 30, 6], "FLOAT"]
    for name, (mode, dims, _) in tensors.items():
        if mode == "OUTPUT" and name not in fake.answers:
            fake.answers[name] = np.zeros(dims, np.float32)
    path = folder / "model.plan"
    path.write_bytes(plan(tensors=tensors))
    spec = run.pop("spec", InputSpec(size=SIZE))
    runner = TensorRTRunner(tensorrt(fake), path)
    return Detector(runner, DetectorSpec(head=head, classes=CLASSES, input=spec), Run(**run))


def still(height: int, width: int, pixels: Pixels = "bgr", seed: int = 0) -> NDArray[np.uint8]:
    """Any bytes at all: every value of luma and chroma, in range or not."""
    shape = {"nv12": (height * 3 // 2, width), "yuyv": (height, width, 2)}.get(pixels, (height, width, 3))
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def expected(frame: NDArray[np.uint8], pixels: Pixels, spec: InputSpec, dtype: str = "float32") -> NDArray[Any]:
    """What OpenCV makes of it."""
    code = CODES[pixels]
    out = np.zeros((1, 3, *SIZE), dtype)
    Preprocessor(spec, out)(frame if code is None else np.asarray(cv2.cvtColor(frame, code), np.uint8))
    return out[0]


@pytest.mark.parametrize("fake", [False], indirect=True, ids=["discrete"])
@given(
    st.integers(1, 150),
    st.integers(1, 200),
    st.sampled_from(PIXELS),
    st.sampled_from(["centre", "top-left", "stretch"]),
    st.sampled_from(["rgb", "bgr"]),
)
@example(63, 96, "bgr", "centre", "rgb")  # a pad of one pixel
@example(64, 95, "bgr", "centre", "rgb")
@example(190, 33, "bgr", "centre", "rgb")  # portrait
@example(192, 192, "nv12", "top-left", "bgr")
@example(128, 192, "bgr", "centre", "rgb")  # half, which OpenCV does another way
@example(64, 96, "yuyv", "centre", "rgb")
@example(1, 1, "bgr", "centre", "rgb")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pixels_are_opencvs(
    fake: Fake, tmp_path: Path, height: int, width: int, pixels: Pixels, letterbox: Any, colour: Any
) -> None:
    if pixels == "nv12":
        height += height % 2
    if pixels in ("nv12", "yuyv"):
        width += width % 2
    spec = InputSpec(size=SIZE, letterbox=letterbox, colour=colour)
    frame = still(height, width, pixels)
    with detector(fake, tmp_path, spec=spec) as detect:
        detect.detect([frame], pixels)
    assert fake.seen is not None
    error = np.abs(fake.seen[0] - expected(frame, pixels, spec)).max() * 255
    assert error <= (1.01 if pixels in ("bgr", "rgb") else 2.01)


@pytest.mark.parametrize(("trt", "dtype"), [("FLOAT", "float32"), ("INT8", "int8"), ("UINT8", "uint8")])
def test_values_are_scaled_as_the_network_wants_them(fake: Fake, tmp_path: Path, trt: str, dtype: str) -> None:
    spec = InputSpec(size=SIZE, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), pad=7)
    if dtype == "int8":
        spec = spec.model_copy(update={"scale": 0.5, "mean": (10, 20, 30), "std": (1, 0.5, 1)})
    frame = still(50, 70)
    with detector(fake, tmp_path, dtype=trt, spec=spec) as detect:
        detect(frame)
    assert fake.seen is not None and fake.seen.dtype == dtype
    right = expected(frame, "bgr", spec, dtype)
    np.testing.assert_allclose(fake.seen[0].astype(float), right.astype(float), atol=1e-5 if trt == "FLOAT" else 1)
    assert trt == "FLOAT" or np.mean(fake.seen[0] == right) > 0.99


@pytest.mark.parametrize("batch", range(1, 9))
def test_a_batch_takes_frames_of_any_size_and_kind(fake: Fake, tmp_path: Path, batch: int) -> None:
    sizes = [(64, 96), (30, 40), (200, 50), (99, 101), (2, 300), (64, 64), (77, 130), (480, 640)]
    kinds: list[Pixels] = ["bgr", "nv12", "yuyv", "bgr", "nv12", "yuyv", "bgr", "bgr"]
    spec = InputSpec(size=SIZE)
    with detector(fake, tmp_path, batch=batch) as detect:
        assert detect.where == "the GPU, as one CUDA graph"
        for turn in range(3):
            some = [(sizes[(i + turn) % 8], kinds[(i + turn) % 8]) for i in range(max(1, batch - turn))]
            frames = [still(*size, pixels=kind, seed=i) for i, (size, kind) in enumerate(some)]
            detect.detect(frames, [kind for _, kind in some])
            assert fake.seen is not None
            for i, (frame, (_, kind)) in enumerate(zip(frames, some, strict=True)):
                assert np.abs(fake.seen[i] - expected(frame, kind, spec)).max() * 255 <= 2.01, (turn, i)


def answers(head: str, batch: int, seed: int, share: float) -> dict[str, NDArray[np.float32]]:
    """Outputs in which about a share of the candidates reaches 0.5."""
    rng, count, classes = np.random.default_rng(seed), cells(SIZE), len(CLASSES)
    boxes = rng.uniform(0, 60, (batch, count, 4))
    if head == "yolox":
        boxes = rng.uniform(-1, 2, (batch, count, 4))
    scores = np.where(rng.random((batch, count, 1)) < share, rng.uniform(0.3, 1, (batch, count, classes)), 0.01)
    sure = rng.uniform(0.4, 1, (batch, count, 1))
    if head == "yolo-nas":
        boxes = np.sort(boxes.reshape(batch, count, 2, 2), 2).reshape(boxes.shape)  # corners
        return {"boxes": boxes.astype(np.float32), "scores": scores.astype(np.float32)}
    if head == "yolov8":
        return {"output0": np.concatenate([boxes, scores], 2).transpose(0, 2, 1).astype(np.float32)}
    return {"output0": np.concatenate([boxes, sure, scores], 2).astype(np.float32)}


HEADED = ["yolov8", "yolov5", "yolox", "yolox-decoded", "yolo-nas"]


@pytest.mark.parametrize("head", HEADED)
@pytest.mark.parametrize("every", [False, True])
def test_candidates_are_those_of_the_cpus_way(
    fake: Fake, tmp_path: Path, head: str, every: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Boxes, scores and classes, in the same order; and where there are more than there is room for."""
    monkeypatch.setattr("edgesparse.backends.cuda.slots.SUPPRESSED", 0)
    for batch, share, capacity in ((1, 0.2, 1024), (3, 0.0, 1024), (3, 0.3, 1024), (2, 0.9, 8)):
        monkeypatch.setattr("edgesparse.backends.cuda.slots.CAPACITY", capacity)
        fake.answers = answers(head, batch, seed=batch, share=share)
        with detector(fake, tmp_path, batch=batch, head=head, conf=0.5, multi_label=every) as detect:
            for _ in range(3):
                for found, right in zip(*both(detect, batch, fake), strict=True):
                    assert found.class_id.tolist() == right[2].tolist() and found.final == (len(found.xyxy) == 0)
                    np.testing.assert_allclose(found.confidence, right[1], rtol=1e-6)
                    np.testing.assert_allclose(found.xyxy, right[0], atol=0.01, rtol=1e-5)
                    assert share != 0.2 or len(found.xyxy)
        assert "compact_float32" in fake.kernels and head_of(head).strided is not None


def both(detect: Detector, batch: int, fake: Fake) -> tuple[list[Found], list[Candidates]]:
    """What the slot found, and what NumPy finds in the same outputs."""
    frames = [still(*SIZE, seed=i) for i in range(batch)]
    detect._ring.submit([(frame, detect._places.of(frame, None)[0]) for frame in frames])
    found, _ = detect._ring.collect()
    plan, outputs = detect._ring._slots[0]._plan, [fake.answers[spec.name] for spec in detect.runner.outputs]  # type: ignore[attr-defined]
    return found, [plan.decode(outputs, i) for i in range(batch)]


@pytest.mark.parametrize("head", HEADED)
@pytest.mark.parametrize(
    "run",
    [
        {"conf": 0.5},
        {"conf": 0.5, "multi_label": True, "iou": 0.3},
        {"conf": {"default": 0.6, "a": 0.9}, "agnostic": True, "iou": 0.45},
        {"conf": 0.4, "classes": ("b", "c"), "max_det": 5},
        {"conf": 0.5, "iou": 0.0},
    ],
)
def test_suppression_keeps_what_opencvs_does(fake: Fake, tmp_path: Path, head: str, run: dict[str, Any]) -> None:
    """Up to 256 candidates it is the GPU's: the same boxes in the same order."""
    some = 0
    for seed, share in ((1, 0.3), (2, 0.7), (3, 0.05), (4, 0.0)):
        fake.answers = answers(head, 2, seed=seed, share=share)
        with detector(fake, tmp_path, batch=2, head=head, **run) as detect:
            frames = [still(*SIZE, seed=i) for i in range(2)]
            found = detect.detect(frames)
            for raw, right, one in zip(*both(detect, 2, fake), found, strict=True):
                assert raw.final == (count_of(detect, right) <= 256)
                expected = detect._detections(Found(*right), detect._places.of(frames[0], None)[1])
                assert one.class_id.tolist() == expected.class_id.tolist()
                np.testing.assert_allclose(one.confidence, expected.confidence, rtol=1e-6)
                np.testing.assert_allclose(one.xyxy, expected.xyxy, atol=0.01, rtol=1e-5)
                some += len(one)
    assert some > 10


placed = st.tuples(
    st.integers(0, 40),
    st.integers(0, 40),
    st.sampled_from([0, 2, 4, 10, 20]),
    st.sampled_from([0, 2, 4, 10, 20]),
    st.lists(st.sampled_from([0.0, 0.5, 0.5, 0.75, 0.9]), min_size=3, max_size=3),
)
"""Middle, width, height and scores of a candidate: often the same, so that much ties, and some without an area."""


@pytest.mark.parametrize("fake", [False], indirect=True, ids=["discrete"])
@given(
    st.lists(st.lists(placed, max_size=126), min_size=2, max_size=2),
    st.sampled_from([0.0, 0.25, 0.45, 0.5, 0.7, 1.0]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([1, 3, 300]),
)
@example([[(20, 20, 10, 10, [0.5, 0.5, 0.5])] * 126, []], 0.7, False, True, 300)
@example([[(i % 40, i % 37, 4, 2, [0.5, 0.9, 0.75])] * 1 for i in range(2)], 0.7, True, True, 300)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_suppression_of_what_ties(
    fake: Fake, tmp_path: Path, said: Any, iou: float, agnostic: bool, every: bool, most: int
) -> None:
    # Of two boxes without an area one goes, for OpenCV also where their classes differ.
    least = 0 if agnostic else 2
    some = [[(x, y, max(w, least), max(h, least), scores) for x, y, w, h, scores in rows] for rows in said]
    same_as_opencv(fake, tmp_path, some, iou=iou, agnostic=agnostic, multi_label=every, max_det=most, conf=0.5)


@pytest.mark.parametrize("fake", [False], indirect=True, ids=["discrete"])
@pytest.mark.parametrize("count", [255, 256, 257, 300])
def test_suppression_up_to_as_many_as_there_are_threads(fake: Fake, tmp_path: Path, count: int) -> None:
    random = np.random.default_rng(count)
    scores = np.zeros((126, 3))
    scores.reshape(-1)[:count] = random.choice([0.5, 0.6, 0.9], count)
    rows = [(*random.integers(0, 60, 2), *random.integers(1, 9, 2) * 2, list(row)) for row in scores]
    same_as_opencv(fake, tmp_path, [rows[::-1], rows], multi_label=True, conf=0.5, iou=0.45)


def same_as_opencv(fake: Fake, folder: Path, said: Any, **run: Any) -> None:
    """What the kernel keeps of these candidates of two images, and what the CPU's way does."""
    output = np.zeros((2, 7, cells(SIZE)), np.float32)
    for image_output, rows in zip(output, said, strict=True):
        for i, (*box, scores) in enumerate(rows):
            image_output[:, i] = (*box, *scores)
    fake.answers = {"output0": output}
    with detector(fake, folder, batch=2, **run) as detect, pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgesparse.runtime.nms.FEW", 0)
        box = detect._places.of(still(*SIZE), None)[1]
        for raw, right in zip(*both(detect, 2, fake), strict=True):
            assert raw.final == (count_of(detect, right) <= 256)
            ours, theirs = detect._detections(raw, box), detect._detections(Found(*right), box)
            assert ours.class_id.tolist() == theirs.class_id.tolist()
            assert ours.confidence.tolist() == theirs.confidence.tolist()
            np.testing.assert_allclose(ours.xyxy, theirs.xyxy, atol=1e-3)


def count_of(detect: Detector, right: Candidates) -> int:
    return int((right[1] >= detect._thresholds[right[2]]).sum())


def test_small_outputs_come_back_whole(fake: Fake, tmp_path: Path) -> None:
    rows = np.zeros((2, 30, 6), np.float32)
    rows[1, 3] = (10, 10, 20, 20, 0.9, 2)
    fake.answers = {"output0": rows}
    with detector(fake, tmp_path, batch=2, head="end2end") as detect:
        found = detect.detect([still(*SIZE), still(*SIZE)])
    assert [len(f) for f in found] == [0, 1] and found[1].class_id.tolist() == [2]
    assert set(fake.kernels) == {"letterbox_float32"}


def test_a_batch_is_one_launch_and_frames_in_the_buffer_are_not_copied(fake: Fake, tmp_path: Path) -> None:
    with detector(fake, tmp_path) as detect:
        frames = [detect.frame_buffer((50, 70, 3)) for _ in range(3)]
        for i, frame in enumerate(frames):
            frame[...] = still(50, 70, seed=i)
        for _ in range(2 * detect.depth):
            detect(frames[0])
        assert fake.renewed == 0, "nothing has changed since it was captured"
        launches, hosts, copies = fake.launches, fake.hosts, fake.copies
        for frame in itertools.islice(itertools.cycle(frames), 12):
            detect(frame)
            assert fake.seen is not None
            np.testing.assert_allclose(fake.seen[0], expected(frame, "bgr", InputSpec(size=SIZE)), atol=0.004)
        assert fake.launches == launches + 12 and fake.hosts == hosts
        assert 0 < fake.renewed <= 12 and fake.copies == copies, "the kernel reads a frame where it is"


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 12), st.integers(1, 40), st.integers(0, 3))
@example(3, 360, 0)
@example(6, 360, 0)
def test_the_rows_that_are_copied_hold_all_that_weigh_anything(times: int, height: int, more: int) -> None:
    lines = max(1, times * height - more)
    place = Place("bgr", lines, 5, 0, 0, height, 5)
    copied = np.zeros((lines, 5, 3), np.uint8)
    read(copied, place)[...] = 1
    found = taps(lines, height, False)
    weigh = np.concatenate([found["at"][found["near"] > 0], found["at"][found["far"] > 0] + 1])
    assert copied[np.clip(weigh, 0, lines - 1)].all()
    if not more and times > 2:
        assert copied.sum() == 15 * height * (1 if times % 2 else 2), "and no others"


def test_of_a_frame_elsewhere_only_those_rows_are_copied(fake: Fake, tmp_path: Path) -> None:
    frame = still(3 * SIZE[0], 3 * SIZE[1])
    with detector(fake, tmp_path) as detect:
        for _ in range(2 * detect.depth):
            detect(frame)
        (image,) = detect._ring._slots[0]._images  # type: ignore[attr-defined]
        staged = image.source.reshape(frame.shape)
        assert (staged[1::3] == frame[1::3]).all() and not staged[::3].any() and not staged[2::3].any()
        assert fake.seen is not None
        np.testing.assert_allclose(fake.seen[0], expected(frame, "bgr", InputSpec(size=SIZE)), atol=0.004)


def test_a_batch_that_a_kernel_cannot_take_is_prepared_by_the_cpu(
    fake: Fake, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with detector(fake, tmp_path, batch=IMAGES + 1) as detect:
        assert detect.where == "the CPU" and "its batch is 65, more than 64" in caplog.text


def test_nothing_is_allocated_once_sizes_are_known(fake: Fake, tmp_path: Path) -> None:
    sizes = [(50, 70), (64, 96), (120, 30)]
    with detector(fake, tmp_path, batch=2) as detect:

        def turn() -> None:
            for a, b in itertools.permutations(sizes, 2):
                detect.detect([still(*a), still(*b)])

        for _ in range(detect.depth):
            turn()
        before = (set(fake.memory), fake.hosts, set(fake.made))
        turn()
        assert before == (set(fake.memory), fake.hosts, set(fake.made))


def test_batches_come_back_in_order(fake: Fake, tmp_path: Path) -> None:
    with detector(fake, tmp_path) as detect:
        assert detect.depth == 2
        detect.submit([still(10, 10)])
        detect.submit([still(20, 10)])
        with pytest.raises(RuntimeError, match="2 batches are in flight, as many as there are slots"):
            detect.submit([still(30, 10)])
        with pytest.raises(RuntimeError, match="2 batches are in flight: collect"):
            detect(still(30, 10))
        assert [len(detect.collect()) for _ in range(2)] == [1, 1] and detect.in_flight == 0
        detect.submit([still(10, 10)])


def test_a_frame_that_is_refused_takes_no_slot(fake: Fake, tmp_path: Path) -> None:
    with detector(fake, tmp_path) as detect:
        odd = still(9, 9, "nv12")
        for bad, kind in ((still(10, 10)[:0], None), (odd, "nv12"), (odd, None), (still(10, 10, "yuyv"), "rgb")):
            with pytest.raises(SourceError, match="frame is"):
                detect.submit([bad], kind)  # type: ignore[arg-type]
        assert detect.in_flight == 0 and len(detect(still(10, 10))) == 0


def test_without_nvcc_the_cpu_does_the_same(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fake.answers = answers("yolov8", 1, 1, 0.2)
    frame = still(120, 90)
    with detector(fake, tmp_path, conf=0.5) as detect:
        right = detect(frame)

    def missing(sm: str) -> Path:
        raise BackendUnavailable("no nvcc on the PATH: install it")

    monkeypatch.setattr(kernels, "cubin", missing)
    monkeypatch.setattr("edgesparse.backends.cuda.gpu._found", [])
    with detector(fake, tmp_path, conf=0.5) as detect:
        assert detect.where == "the CPU" and detect.depth == 1
        found = detect(frame)
    assert "no nvcc on the PATH: install it" in caplog.text
    np.testing.assert_allclose(found.xyxy, right.xyxy, atol=0.5)
    assert len(found) == len(right) > 0 and found.class_id.tolist() == right.class_id.tolist()


@pytest.mark.parametrize("missing", ["uncapturable", "opaque"])
def test_without_capture_it_runs_step_by_step(fake: Fake, tmp_path: Path, missing: str) -> None:
    setattr(fake, missing, True)
    fake.answers = answers("yolov8", 1, 1, 0.2)
    with detector(fake, tmp_path, conf=0.5) as detect:
        for seed in range(5):
            frame = still(40 + seed, 50, seed=seed)
            assert len(detect(frame)) > 0 and fake.seen is not None
            np.testing.assert_allclose(fake.seen[0], expected(frame, "bgr", InputSpec(size=SIZE)), atol=0.004)
        assert detect.where.startswith("the GPU, step by step (") and fake.launches == 0


def test_an_error_in_mid_flight_is_one_line_and_the_rest_is_dropped(fake: Fake, tmp_path: Path) -> None:
    detect = detector(fake, tmp_path)
    detect(still(10, 10))
    detect.submit([still(10, 10)])
    detect.submit([still(10, 10)])
    fake.broken = "an illegal memory access was encountered"
    with pytest.raises(BuildError, match=r"running model.plan: CUDA says: .*illegal memory.*start it again$"):
        detect.collect()
    with pytest.raises(BuildError, match=r"cannot be launched: CUDA says: .*illegal memory.*start it again$"):
        detect.submit([still(10, 10)])
    detect.close()
    detect.close()


def test_closing_while_busy_waits(fake: Fake, tmp_path: Path) -> None:
    detect = detector(fake, tmp_path)
    detect.submit([still(10, 10)])
    detect.close()
    with pytest.raises(RuntimeError):
        detect.submit([still(10, 10)])


@pytest.mark.parametrize("captured", [True, False])
def test_its_runner_can_be_timed_and_run_beside_it(fake: Fake, tmp_path: Path, captured: bool) -> None:
    """As a build does: it times what it is about to score."""
    fake.uncapturable = not captured
    fake.answers = answers("yolov8", 1, 1, 0.2)
    with detector(fake, tmp_path, conf=0.5) as detect:
        frames = [still(40, 50, seed=seed) for seed in range(3)]
        right = [detect(frame).xyxy.tolist() for frame in frames]
        runner = detect.runner
        runner.infer()
        assert runner.latency() >= 0
        for _ in range(2):
            runner.buffers["images"][...] = 0.5  # type: ignore[attr-defined]
            runner.infer()
            assert fake.seen is not None and (fake.seen == 0.5).all()
            assert runner.buffers["output0"].max() > 0  # type: ignore[attr-defined]
            for frame, boxes in zip(frames, right, strict=True):
                assert detect(frame).xyxy.tolist() == boxes
                np.testing.assert_allclose(fake.seen[0], expected(frame, "bgr", InputSpec(size=SIZE)), atol=0.004)
