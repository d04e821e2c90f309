"""The kernel on raw outputs as they are exported, built for the CPU, against NumPy's decoding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from exported import EXPORTED, ONE_IMAGE
from fake_gpu import Fake
from gpu_detector import SIZE, answers, both, detector, on_the_cpu, selecting, still

from edgesparse.runtime.heads.registry import head as head_of
from edgesparse.runtime.images import read_image
from edgesparse.runtime.preprocess import Preprocessor

pytestmark = [
    pytest.mark.usefixtures("host_built_kernels"),
    pytest.mark.parametrize("fake", [False], indirect=True, ids=["discrete"]),
]
PIXELS, SCORES = 0.05, 1e-4
"""How far boxes and scores may differ."""


@pytest.mark.parametrize("head", EXPORTED)
@pytest.mark.parametrize("multi_label", [False, True])
def test_boxes_are_those_of_numpy(
    fake: Fake, tmp_path: Path, head: str, multi_label: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the same order, for every image of a batch, also if they exceed the capacity."""
    for detect, batch, share in selecting(fake, tmp_path, head, multi_label, monkeypatch):
        for boxes, (xyxy, confidence, class_id) in zip(*both(detect, batch, fake), strict=True):
            assert boxes.class_id.tolist() == class_id.tolist() and bool(len(class_id)) == (share > 0)
            np.testing.assert_allclose(boxes.confidence, confidence, atol=SCORES)
            np.testing.assert_allclose(boxes.xyxy, xyxy, atol=PIXELS)
        assert detect.where == "the GPU, as one CUDA graph"
    assert {name for name in fake.kernels if not name.startswith("letterbox")} == {"maps_float32"}


@pytest.mark.parametrize("head", EXPORTED)
@pytest.mark.parametrize("faulty", [0.0, 0.02])
def test_detections_and_faults_are_those_of_the_cpu(fake: Fake, tmp_path: Path, head: str, faulty: float) -> None:
    """With NMS on the GPU; also where some values are not finite, negative, or above 1."""
    total, counted, batch = 0, 0, 1 if head in ONE_IMAGE else 2
    for seed in range(3):
        fake.answers, rng = answers(head, batch, seed=seed, share=0.2), np.random.default_rng(seed)
        for output in fake.answers.values():
            chosen = rng.random(output.shape) < faulty
            output[chosen] = rng.choice([np.nan, np.inf, -np.inf, -20.0, 1.5], int(chosen.sum()))
        with detector(fake, tmp_path, batch=batch, head=head, conf={"default": 0.5, "a": 0.6}) as detect:
            frames = [still(*SIZE, seed=i) for i in range(batch)]
            ours, dropped = detect.detect(frames), detect.dropped
            detect.faults.clear()
            theirs = on_the_cpu(detect, frames, fake)
            assert dropped == detect.dropped
            counted += dropped
        for mine, other in zip(ours, theirs, strict=True):
            assert mine.class_id.tolist() == other.class_id.tolist()
            np.testing.assert_allclose(mine.confidence, other.confidence, atol=SCORES)
            np.testing.assert_allclose(mine.xyxy, other.xyxy, atol=PIXELS)
            total += len(mine)
    assert total > 10 and (counted > 0) == (faulty > 0)


@pytest.mark.real
@pytest.mark.parametrize(("name", "head"), [("FastestDet", "fastestdet"), ("nanodet_m_416", "nanodet")])
def test_boxes_of_trained_networks_are_those_of_numpy(
    fake: Fake, tmp_path: Path, name: str, head: str, real: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgesparse.backends.cuda.slots.NMS_LIMIT", 0)
    session = onnxruntime.InferenceSession(str(real / "models" / f"{name}.onnx"))
    (image,), total = session.get_inputs(), 0
    spec = head_of(head).convention.model_copy(update={"size": tuple(image.shape[2:])})
    for path in sorted((real / "unlabelled").glob("*.jpg"))[:8]:
        tensor = np.zeros(image.shape, np.float32)
        Preprocessor(spec, tensor)(read_image(path), 0)
        names, values = [output.name for output in session.get_outputs()], session.run(None, {image.name: tensor})
        fake.answers = {name: np.asarray(array) for name, array in zip(names, values, strict=True)}
        with detector(fake, tmp_path, head=head, spec=spec, names=tuple(map(str, range(80))), conf=0.25) as detect:
            ((boxes,), ((xyxy, confidence, class_id),)) = both(detect, 1, fake)
        assert boxes.class_id.tolist() == class_id.tolist()
        np.testing.assert_allclose(boxes.confidence, confidence, atol=SCORES)
        np.testing.assert_allclose(boxes.xyxy, xyxy, atol=PIXELS)
        total += len(class_id)
    assert total > 20
