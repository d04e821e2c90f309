"""Prints each object that crosses the line, with its number and class, and the totals of the run."""

import edgesparse


class Crossings(edgesparse.Sink):
    def write(self, frame: edgesparse.Frame, detections: edgesparse.Detections) -> None:
        for crossing in detections.counts.crossings if detections.counts else ():
            name = detections.classes[crossing.class_id]
            print(f"{name} #{crossing.track_id} crossed {crossing.line}: {crossing.direction}")

    def close(self) -> None:
        pass


with edgesparse.load("belt.yaml") as detector:
    with edgesparse.Loop.of(detector.run.all_cameras(), detector, [Crossings()]) as loop:
        print(loop.run(limit=40))
