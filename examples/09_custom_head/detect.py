"""Detect with the custom head and with edgesparse's own, and compare."""

import numpy as np

import edgesparse

image = "../../calib_data/000000.jpg"
with edgesparse.load("fastest.yaml") as own, edgesparse.load("fastest.onnx") as built_in:
    detections, expected = own(image), built_in(image)
print(f"{len(detections)} detections:", *detections.names)
assert len(detections) > 3
np.testing.assert_allclose(detections.xyxy, expected.xyxy, atol=0.05)
np.testing.assert_allclose(detections.confidence, expected.confidence, atol=1e-4)
