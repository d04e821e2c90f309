"""The frame path on the fake GPU, with kernels built for the CPU: what overlaps, what is copied, what fails."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from fake_gpu import Fake
from gpu_detector import SIZE, answers, detector, expected, still

from edgesparse.backends.cuda import kernels
from edgesparse.backends.cuda.layouts import IMAGES
from edgesparse.config import InputSpec
from edgesparse.errors import BackendUnavailable, BuildError, SourceError
from edgesparse.runtime.detector import Detector

pytestmark = pytest.mark.usefixtures("host_built_kernels")


def test_small_outputs_come_back_whole(fake: Fake, tmp_path: Path) -> None:
    rows = np.zeros((2, 30, 6), np.float32)
    rows[1, 3] = (10, 10, 20, 20, 0.9, 2)
    fake.answers = {"output0": rows}
    with detector(fake, tmp_path, batch=2, head="end2end") as detect:
        detections = detect.detect([still(*SIZE), still(*SIZE)])
    assert [len(f) for f in detections] == [0, 1] and detections[1].class_id.tolist() == [2]
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
        before = (set(fake.memory), fake.hosts, set(fake.created))
        turn()
        assert before == (set(fake.memory), fake.hosts, set(fake.created))


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
        raise BackendUnavailable("no nvcc in PATH: install it")

    monkeypatch.setattr(kernels, "cubin", missing)
    monkeypatch.setattr("edgesparse.backends.cuda.gpu._gpus", [])
    with detector(fake, tmp_path, conf=0.5) as detect:
        assert detect.where == "the CPU" and detect.depth == 1
        detections = detect(frame)
    assert "no nvcc in PATH: install it" in caplog.text
    np.testing.assert_allclose(detections.xyxy, right.xyxy, atol=0.5)
    assert len(detections) == len(right) > 0 and detections.class_id.tolist() == right.class_id.tolist()


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
    with pytest.raises(BuildError, match=r"running model.plan: CUDA reports: .*illegal memory.*restart it$"):
        detect.collect()
    with pytest.raises(BuildError, match=r"cannot be launched: CUDA reports: .*illegal memory.*restart it$"):
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
    """As in a build, which times the engine before it scores it."""
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


def test_a_second_detector_takes_over_the_runner_of_one_that_was_released(fake: Fake, tmp_path: Path) -> None:
    fake.answers = answers("yolov8", 1, 1, 0.2)
    first, frame = detector(fake, tmp_path, conf=0.5), still(40, 50)
    right = first(frame)
    first.release()
    left = len(fake.memory)
    with pytest.raises(RuntimeError):
        first.submit([frame])
    for _ in range(3):
        second = Detector(first.runner, first.spec, first.run)
        assert second.depth == 2 and second(frame).xyxy.tolist() == right.xyxy.tolist()
        second.release()
        assert len(fake.memory) == left
        contexts = first.runner._held["contexts"]  # type: ignore[attr-defined]
        assert len(contexts) == (1 if fake.integrated else 2), "used again"
    first.runner.close()


@pytest.mark.parametrize("height", [50, 192, 256])
def test_a_gpu_with_its_own_memory_copies_the_rows_it_reads_of_a_batch(fake: Fake, tmp_path: Path, height: int) -> None:
    """192 and 256 rows become 64: one of three, and two of four, are copied."""
    fake.answers = answers("yolov8", 2, 1, 0.2)
    with detector(fake, tmp_path, batch=2) as detect:
        near = detect.frame_buffer((height, 96, 3))
        for seed in range(3):
            near[...] = still(height, 96, seed=seed)
            copies = fake.copies
            detect.detect([near, other := still(height, 96, seed=seed + 9)])
            assert fake.seen is not None and (fake.copies >= copies + 2) == (not fake.integrated)
            for seen, frame in zip(fake.seen, (near, other), strict=True):
                np.testing.assert_allclose(seen, expected(frame, "bgr", InputSpec(size=SIZE)), atol=0.004)


def test_without_memory_for_copies_frames_are_read_where_they_are(
    fake: Fake, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fake.answers = answers("yolov8", 2, 1, 0.2)
    with caplog.at_level("INFO"), detector(fake, tmp_path, batch=2) as detect:
        fake.room = 100
        frames = [still(50, 70, seed=seed) for seed in range(2)]
        for _ in range(3):
            detect.detect(frames)
            assert fake.seen is not None
            np.testing.assert_allclose(fake.seen[0], expected(frames[0], "bgr", InputSpec(size=SIZE)), atol=0.004)
    assert ("no GPU memory for copies of frames" in caplog.text) == (not fake.integrated)
