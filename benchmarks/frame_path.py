"""The cost of pre- and post-processing: YOLOX-nano at 416 on 1080p frames, side by side with common implementations.

    python benchmarks/frame_path.py [--real ../shared/real] [--ultralytics PYTHON] [--trtutils PYTHON] [--save]

All use the same frames: edgesparse; the plain OpenCV and NumPy code of YOLOX's ONNX demo (yolox_demo.py), with its
thresholds and its own session, interleaved with edgesparse frame by frame, and alone for its processor time; and, with
--ultralytics (the interpreter of an environment that has it), Ultralytics' own pre- and post-processing in a separate
process. With --trtutils, also the preprocessing of trtutils on the CPU; its engines contain NMS. `between` is what a
call of the detector takes besides its stages. Prints JSON; --save writes it to benchmarks/results/frame_path.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import machine, save
from benchmarks.yolox_demo import CONF, IOU, SIZE, STRIDES, demo_postprocess, demo_preprocess, demo_session
from edgesparse.builder.targets import open_detector, ready
from edgesparse.config import Run

HERE = Path(__file__).resolve().parent


def frames_of(real: Path, count: int) -> list[NDArray[np.uint8]]:
    """Frames of both videos, upscaled to 1080p."""
    frames = []
    for name in ("one-by-one-person-detection.mp4", "bottle-detection.mp4"):
        video = cv2.VideoCapture(str(real / "video" / name))
        length = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
        for index in np.linspace(0.1 * length, 0.9 * length, count // 2, dtype=int):
            video.set(cv2.CAP_PROP_POS_FRAMES, int(index))
            frames.append(np.asarray(cv2.resize(video.read()[1], (1920, 1080)), np.uint8))
    return frames


def timed(action: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    start = time.perf_counter()
    result = action(*arguments)
    return result, 1e3 * (time.perf_counter() - start)


def measure(real: Path, rounds: int) -> dict[str, Any]:
    frames = frames_of(real, 24)
    package = ready(real / "models" / "yolox_nano.onnx", HERE / "scratch", names="coco")
    rows: dict[str, list[float]] = {
        key: [] for key in ("ours_before", "engine", "ours_after", "ours_between", "demo_before", "demo_after")
    }
    agree: list[bool] = []
    captured = np.empty_like(frames[0])
    session = demo_session(real / "models" / "yolox_nano.onnx")
    with open_detector(package, Run(conf=CONF, iou=IOU)) as detector:
        for number in range(rounds + 1):
            counts: dict[int, list[int]] = {index: [] for index in range(len(frames))}
            for index, frame in enumerate(frames):
                # Each gets a frame just captured into one buffer, as from a camera, and an output that the other has
                # not just brought into the cache.
                np.copyto(captured, frame)
                detections, whole = timed(detector, captured)
                before, engine, *after = detector.times / 1e6
                between = whole - before - engine - sum(after)
                other = (index + len(frames) // 2) % len(frames)
                np.copyto(captured, frames[other])
                (tensor, ratio), demo_before = timed(demo_preprocess, captured)
                output = session.run(None, {"images": tensor})[0]
                theirs, demo_after = timed(demo_postprocess, output, ratio)
                counts[index].append(len(detections))
                counts[other].append(0 if theirs is None else len(theirs))
                if number:  # the first round is warm-up
                    measured = before, engine, sum(after), between, demo_before, demo_after
                    for key, value in zip(rows, measured, strict=True):
                        rows[key].append(value)
            agree += [len(set(pair)) == 1 for pair in counts.values()]
        ours = processor_time(lambda: detector(frames[0]))
    return summary(rows, agree) | {
        "processor_milliseconds_at_10_frames_per_second": {"ours": ours, "demo": demo_processor_time(real, frames[0])},
    }


def summary(rows: dict[str, list[float]], agree: list[bool]) -> dict[str, Any]:
    p50 = {key: float(np.median(values)) for key, values in rows.items()}
    round_ours, round_demo = p50["ours_before"] + p50["ours_after"], p50["demo_before"] + p50["demo_after"]
    return {
        "milliseconds_p50": p50,
        "round_the_engine_share": round_ours / p50["engine"],
        "share_of_the_whole_call": (round_ours + p50["ours_between"]) / p50["engine"],
        "demo_over_edgesparse": round_demo / round_ours,
        "same_number_of_boxes": float(np.mean(agree)),
        "frames": len(rows["engine"]),
    }


def processor_time(detect: Callable[[], object], frames: int = 30) -> float:
    """Return milliseconds of processor time per frame, of all threads, where frames come ten per second."""
    for _ in range(5):
        detect()
    began = time.process_time()
    for _ in range(frames):
        detect()
        time.sleep(0.1)
    return 1e3 * (time.process_time() - began) / frames


def demo_processor_time(real: Path, frame: NDArray[np.uint8]) -> float:
    """The demo's session as its own code makes it, whose threads wait for the next frame by spinning."""
    session = onnxruntime.InferenceSession(str(real / "models" / "yolox_nano.onnx"))

    def detect() -> None:
        tensor, ratio = demo_preprocess(frame)
        demo_postprocess(session.run(None, {"images": tensor})[0], ratio)

    return processor_time(detect)


ULTRALYTICS = """
import json, sys, time
import numpy as np, torch, ultralytics
from ultralytics.data.augment import LetterBox
from ultralytics.utils import ops
try:
    from ultralytics.utils.nms import non_max_suppression
except ImportError:
    from ultralytics.utils.ops import non_max_suppression
frames, raw = np.load(sys.argv[1]), np.load(sys.argv[2])
size, conf, iou, rounds = (416, 416), float(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5])
letterbox = LetterBox(size, auto=False, stride=32)
before, after = [], []
captured = np.empty_like(frames[0])
for number in range(rounds + 1):
    for frame, output in zip(frames, raw):
        np.copyto(captured, frame)
        frame = captured
        start = time.perf_counter()
        image = np.stack([letterbox(image=frame)])
        image = np.ascontiguousarray(image[..., ::-1].transpose((0, 3, 1, 2)))
        tensor = torch.from_numpy(image).float() / 255
        middle = time.perf_counter()
        prediction = torch.from_numpy(output)[None]
        start_after = time.perf_counter()
        for found in non_max_suppression(prediction, conf, iou, nc=80):
            found[:, :4] = ops.scale_boxes(size, found[:, :4], frame.shape)
        end = time.perf_counter()
        if number:
            before.append(1e3 * (middle - start)); after.append(1e3 * (end - start_after))
print(json.dumps({"ultralytics": ultralytics.__version__, "torch": torch.__version__,
                  "milliseconds_p50": {"before": float(np.median(before)), "after": float(np.median(after))}}))
"""


def measure_ultralytics(python: str, real: Path, rounds: int, ours: dict[str, Any]) -> dict[str, Any]:
    """Ultralytics' pre- and post-processing alone, on the same frames and the same network's outputs in YOLOv8's
    layout."""
    frames = frames_of(real, 24)
    session = onnxruntime.InferenceSession(str(real / "models" / "yolox_nano.onnx"))
    outputs = [as_yolov8(session.run(None, {"images": demo_preprocess(frame)[0]})[0][0]) for frame in frames]
    folder = HERE / "scratch"
    np.save(folder / "frames.npy", np.stack(frames))
    np.save(folder / "raw.npy", np.stack(outputs))
    script = folder / "peer.py"
    script.write_text(ULTRALYTICS)
    command = [
        python,
        str(script),
        str(folder / "frames.npy"),
        str(folder / "raw.npy"),
        str(CONF),
        str(IOU),
        str(rounds),
    ]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
    peer: dict[str, Any] = json.loads(report)
    mine = ours["milliseconds_p50"]
    peer["over_edgesparse"] = sum(peer["milliseconds_p50"].values()) / (mine["ours_before"] + mine["ours_after"])
    return peer


TRTUTILS = """
import importlib.metadata, importlib.util, json, logging, sys, time, types
import numpy as np
# Its package and its log import TensorRT, its preprocessing does not.
for name in ("trtutils", "trtutils.impls", "trtutils.impls.yolo"):
    module = types.ModuleType(name)
    root = importlib.util.find_spec("trtutils").submodule_search_locations[0] if name == "trtutils" else root
    module.__path__ = ["/".join([root, *name.split(".")[1:]])]
    sys.modules[name] = module
sys.modules["trtutils._log"] = log = types.ModuleType("trtutils._log")
log.LOG = logging.getLogger("trtutils")
from trtutils.impls.yolo._process import preprocess
frames, before = np.load(sys.argv[1]), []
captured = np.empty_like(frames[0])
for number in range(int(sys.argv[2]) + 1):
    for frame in frames:
        np.copyto(captured, frame)
        start = time.perf_counter()
        preprocess(captured, (416, 416), np.dtype(np.float32))
        if number:
            before.append(1e3 * (time.perf_counter() - start))
version = importlib.metadata.version("trtutils")
print(json.dumps({"trtutils": version, "milliseconds_p50": {"before": float(np.median(before))}}))
"""


def measure_trtutils(python: str, real: Path, rounds: int, ours: dict[str, Any]) -> dict[str, Any]:
    """trtutils' preprocessing alone, on the same frames."""
    folder = HERE / "scratch"
    np.save(folder / "frames.npy", np.stack(frames_of(real, 24)))
    script = folder / "trtutils_peer.py"
    script.write_text(TRTUTILS)
    command = [python, str(script), str(folder / "frames.npy"), str(rounds)]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
    peer: dict[str, Any] = json.loads(report)
    peer["over_edgesparse"] = peer["milliseconds_p50"]["before"] / ours["milliseconds_p50"]["ours_before"]
    return peer


def as_yolov8(raw: NDArray[np.float32]) -> NDArray[np.float32]:
    """YOLOX's raw rows [N, 85] as YOLOv8's [84, N]: decoded, class scores times objectness."""
    from edgesparse.runtime.heads.grid import grid

    corner, stride = grid(SIZE, STRIDES)
    boxes = np.concatenate([(raw[:, :2] + corner) * stride, np.exp(raw[:, 2:4]) * stride], 1)
    return np.ascontiguousarray(np.concatenate([boxes, raw[:, 4:5] * raw[:, 5:]], 1).T)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--real", type=Path, default=HERE.parents[1] / "shared" / "real")
    parser.add_argument("--ultralytics", metavar="PYTHON", help="an interpreter that has Ultralytics")
    parser.add_argument("--trtutils", metavar="PYTHON", help="an interpreter that has trtutils")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    result = {"question": __doc__, **machine(), **measure(options.real, options.rounds)}
    if options.ultralytics:
        result["ultralytics"] = measure_ultralytics(options.ultralytics, options.real, options.rounds, result)
    if options.trtutils:
        result["trtutils"] = measure_trtutils(options.trtutils, options.real, options.rounds, result)
    save("frame_path", result, options.save)


if __name__ == "__main__":
    main()
