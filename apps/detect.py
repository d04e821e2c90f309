#!/usr/bin/env python3
"""Detect in a camera's frames:  python apps/detect.py --camera 0

One JSON object per frame on standard output; Ctrl-C ends the run with a summary on standard error.
"""

from __future__ import annotations

import argparse
import gc
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import edgesparse

gc.disable()  # what is imported and loaded is no garbage

FORMER = {"--data": "--names", "--pictures": "--save-images"}


class WrongUse(edgesparse.EdgeSparseError):
    exit_code = 2


def arguments() -> argparse.Namespace:
    for option in (argument.partition("=")[0] for argument in sys.argv[1:]):
        if option in FORMER:
            raise WrongUse(f"{option} is now {FORMER[option]}")
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0], allow_abbrev=False)
    sources = parser.add_mutually_exclusive_group()
    sources.add_argument("--camera", type=int, action="append", metavar="N", help="camera number; repeatable")
    sources.add_argument(
        "--source", action="append", help="/dev/video0, csi://0, rtsp://..., file, folder, demo; repeatable"
    )
    parser.add_argument(
        "--model", type=Path, default=Path("engines"), help="package, recipe or ONNX file [%(default)s]"
    )
    parser.add_argument("--conf", type=float, help="minimum confidence [the recipe's, else 0.25]")
    parser.add_argument("--iou", type=float, help="NMS overlap [the recipe's, else 0.7]")
    parser.add_argument("--max-det", type=int, help="most detections per frame [the recipe's, else 300]")
    parser.add_argument("--classes", metavar="NAME,...", help="detect only these classes, by name or number")
    parser.add_argument("--names", metavar="FILE", help="class names for an ONNX file without them: 'coco' or a file")
    parser.add_argument("--imgsz", type=int, nargs="+", metavar="N", help="require this input size (one side, or H W)")
    parser.add_argument("--half", action="store_true", help="require an FP16 engine")
    parser.add_argument("--int8", action="store_true", help="require an INT8 engine")
    parser.add_argument("--frames", type=int, metavar="N", help="stop after N frames")
    parser.add_argument("--jsonl", default="-", metavar="FILE", help="write JSON lines [standard output]")
    parser.add_argument("--quiet", action="store_true", help="write no JSON lines")
    parser.add_argument("--txt", type=Path, metavar="FOLDER", help="write YOLO text files")
    parser.add_argument("--coco", type=Path, metavar="FILE", help="write COCO JSON")
    parser.add_argument("--video", type=Path, metavar="FILE", help="write an annotated video, .mp4, .webm or .avi")
    parser.add_argument("--save-images", type=Path, metavar="FOLDER", help="write annotated images")
    parser.add_argument("--show", action="store_true", help="show a window; q closes it")
    parser.add_argument("--force", action="store_true", help="overwrite existing files")
    return parser.parse_args()


def require(detector: edgesparse.Detector, options: argparse.Namespace) -> None:
    """Raise WrongUse if the engine is not what the options require: they do not convert anything."""
    size = detector.spec.input.size
    needed = tuple(options.imgsz * 2 if len(options.imgsz) == 1 else options.imgsz) if options.imgsz else size
    if needed != size:
        sides = ["x".join(map(str, pair)) for pair in (size, needed)]
        raise WrongUse(f"--imgsz: found {sides[0]}, needed {sides[1]}: export the model at that size")
    for required, precision in ((options.half, "fp16"), (options.int8, "int8")):
        if required and detector.precision != precision:
            raise WrongUse(f"found an {detector.precision} engine, needed {precision}: build one from such a model")


def main() -> None:
    options = arguments()
    settings = {key: getattr(options, key) for key in ("conf", "iou", "max_det", "classes")}
    settings["source"] = list(map(str, options.source or options.camera or ()))
    outputs = {key: getattr(options, key) for key in ("txt", "coco", "video", "save_images", "show", "force")}
    outputs["jsonl"] = None if options.quiet else options.jsonl
    load = edgesparse.load  # the rest is imported while it loads the engine
    threading.Thread(target=lambda: (edgesparse.Loop, edgesparse.open_sinks), daemon=True).start()
    with load(options.model, names=options.names, **settings) as detector:
        gc.enable()
        require(detector, options)
        cameras = detector.run.all_cameras()
        if not cameras:
            raise WrongUse("no source: pass --camera 0 or --source, or set run.source in the recipe")
        with edgesparse.Loop.of(cameras, detector) as loop:
            with edgesparse.open_sinks(detector.spec.classes, fps=loop.rates(), **outputs) as loop.sinks:
                summary = loop.run(options.frames)
    print(summary, file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except edgesparse.EdgeSparseError as error:
        print(f"detect.py: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
