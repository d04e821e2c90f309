"""Register the head, then build and run a detector that needs it."""

from edgesparse.head_table import HEADS

HEADS["corner"] = "corner_head:CornerHead"

import edgesparse  # noqa: E402

with edgesparse.load("corners.onnx") as detector, edgesparse.open_source("../../calib_data/000000.jpg") as source:
    for frame in source:
        detections = detector(frame.image)
print(f"{len(detections)} detections with the head '{detector.spec.head}':", *detections.names)
assert len(detections) > 0
