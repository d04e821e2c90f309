"""Count the parts that each camera sees."""

from collections import Counter

import edgesparse


class Count(edgesparse.Sink):
    def __init__(self) -> None:
        self.by_camera: dict[str, Counter[str]] = {}

    def write(self, frame: edgesparse.Frame, detections: edgesparse.Detections) -> None:
        self.by_camera.setdefault(frame.source, Counter()).update(detections.names)

    def close(self) -> None:
        for camera, parts in sorted(self.by_camera.items()):
            print(camera, dict(parts))


with edgesparse.load("line.yaml") as detector, Count() as count:
    with edgesparse.Loop.of(detector.run.all_cameras(), detector, [count]) as loop:
        loop.run(limit=60)
