#!/usr/bin/env python3
"""Detect in a camera's frames:  python apps/detect.py --camera 0

One JSON object a frame on standard output; Ctrl-C ends with a summary on standard error.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import edgesparse
from edgesparse.errors import ConfigError, EdgeSparseError

if TYPE_CHECKING:
    from edgesparse.runtime.detector import Detector


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--camera", type=int, action="append", metavar="N", help="camera number; may be repeated")
    what.add_argument(
        "--source", action="append", help="/dev/video0, csi://0, rtsp://..., file, folder, demo; may be repeated"
    )
    parser.add_argument(
        "--model", type=Path, default=Path("engines"), help="package, recipe or ONNX file [%(default)s]"
    )
    parser.add_argument("--conf", type=float, help="least confidence [the recipe's, else 0.25]")
    parser.add_argument("--iou", type=float, help="NMS overlap [the recipe's, else 0.7]")
    parser.add_argument("--max-det", type=int, help="most detections a frame [300]")
    parser.add_argument("--classes", help="only these, by name or number, comma separated")
    parser.add_argument("--data", help="class names of an ONNX file: 'coco', a data set's YAML, or a text file")
    parser.add_argument(
        "--imgsz", type=int, nargs="+", metavar="N", help="insist on this input size (one side, or H W)"
    )
    parser.add_argument("--half", action="store_true", help="insist on an FP16 engine")
    parser.add_argument("--int8", action="store_true", help="insist on an INT8 engine")
    parser.add_argument("--frames", type=int, metavar="N", help="stop after N frames")
    parser.add_argument("--jsonl", default="-", help="where JSON lines go [standard output]")
    parser.add_argument("--quiet", action="store_true", help="no JSON lines")
    parser.add_argument("--txt", type=Path, help="folder for YOLO text files")
    parser.add_argument("--coco", type=Path, help="COCO JSON file")
    parser.add_argument("--video", type=Path, help="annotated video, .mp4 or .avi")
    parser.add_argument("--save-images", type=Path, help="folder for annotated images")
    parser.add_argument("--show", action="store_true", help="a window; q closes it")
    parser.add_argument("--force", action="store_true", help="overwrite outputs")
    return parser.parse_args()


def insist(detector: Detector, said: argparse.Namespace) -> None:
    """Raise unless the engine is what the flags ask for: they choose among engines, they don't convert one."""
    size = tuple(said.imgsz * 2 if len(said.imgsz) == 1 else said.imgsz) if said.imgsz else detector.spec.input.size
    if size != detector.spec.input.size:
        found = "x".join(map(str, detector.spec.input.size))
        raise ConfigError(f"--imgsz: found {found}, needed {'x'.join(map(str, size))}: export the model at that size")
    for wanted, precision in ((said.half, "fp16"), (said.int8, "int8")):
        if wanted and detector.precision != precision:
            raise ConfigError(f"found an {detector.precision} engine, needed {precision}: build one from such a model")


def main() -> None:
    said = arguments()
    settings = {key: getattr(said, key) for key in ("conf", "iou", "max_det", "classes")}
    settings["source"] = list(map(str, said.source or said.camera or ()))
    outputs = {key: getattr(said, key) for key in ("txt", "coco", "video", "save_images", "show", "force")}
    outputs["jsonl"] = None if said.quiet else said.jsonl
    with edgesparse.load(said.model, classes_file=said.data, **settings) as detector:
        insist(detector, said)
        if not detector.run.all_cameras():
            raise ConfigError("no source: pass --camera 0 or --source, or set run.source in the recipe")
        with edgesparse.Loop.of(detector.run.all_cameras(), detector) as loop:
            with edgesparse.open_sinks(detector.spec.classes, fps=loop.rates(), **outputs) as loop.sinks:
                summary = loop.run(said.frames)
    print(summary, file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except EdgeSparseError as error:
        print(f"detect.py: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
