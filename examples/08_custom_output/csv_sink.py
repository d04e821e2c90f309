"""Write one row per detection to a CSV file, next to an annotated video."""

import csv
from pathlib import Path

import edgesparse


class CsvSink(edgesparse.Sink):
    """One row per detection: camera, frame, class, confidence, box in pixels."""

    def __init__(self, path: str | Path) -> None:
        self._file = Path(path).open("w", newline="")  # noqa: SIM115 - closed in close
        self._rows = csv.writer(self._file)
        self._rows.writerow(["camera", "frame", "class", "confidence", "left", "top", "right", "bottom"])

    def write(self, frame: edgesparse.Frame, detections: edgesparse.Detections) -> None:
        for detection in detections:
            box = [round(side, 1) for side in detection.xyxy]
            self._rows.writerow([frame.source, frame.index, detection.name, f"{detection.confidence:.3f}", *box])

    def close(self) -> None:
        self._file.close()


if __name__ == "__main__":
    with (
        edgesparse.load("demo", conf=0.5) as detector,
        edgesparse.open_source("demo") as source,
        edgesparse.open_sinks(detector.spec.classes, video=Path("boxes.mp4"), fps=source.fps, force=True) as sinks,
        CsvSink("detections.csv") as rows,
    ):
        print(edgesparse.run(source, detector, [*sinks, rows], limit=30))
