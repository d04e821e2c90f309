"""The frame path's kernels on a real GPU without an engine: frames to network input, and raw outputs to boxes.

python tests/gpu/alone.py            # all checks in one process
python tests/gpu/alone.py --short    # a sample of everything; run this under compute-sanitizer
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from exported import ONE_IMAGE, RAW, raw_outputs
from parts import part_of, seen
from ties import paired

from edgesparse.backends.base import TensorSpec
from edgesparse.backends.cuda import slots
from edgesparse.backends.cuda.gpu import gpu
from edgesparse.backends.cuda.kernels import kernels
from edgesparse.backends.cuda.slots import CudaSlot, Engine
from edgesparse.backends.frames import Candidates, FrameBoxes, FramePlan, Pixels
from edgesparse.config import Colour, InputSpec, Letterbox
from edgesparse.runtime.boxes import valid_boxes
from edgesparse.runtime.heads.base import Layout
from edgesparse.runtime.heads.grid import cells
from edgesparse.runtime.heads.registry import head as head_of
from edgesparse.runtime.letterbox import Letterbox as Box
from edgesparse.runtime.nms import nms
from edgesparse.runtime.places import Places
from edgesparse.runtime.preprocess import Preprocessor
from edgesparse.tiles import Tiles

SIZE, CLASSES = (320, 416), 7
CODES: dict[Pixels, int | None] = {
    "bgr": None,
    "rgb": cv2.COLOR_RGB2BGR,
    "nv12": cv2.COLOR_YUV2BGR_NV12,
    "yuyv": cv2.COLOR_YUV2BGR_YUYV,
}
DETAILS = {"yolov8-seg": 8, "yolov8-pose": 6, "yolov8-obb": 1}
"""Values per box besides its corners: coefficients of a mask, x, y and confidence of two keypoints, an angle."""
BOXES = ("yolov8", "yolov5", "yolox", "yolo-nas", *(head for head in RAW if head not in ONE_IMAGE))
HEADS = (*BOXES, *DETAILS)
SHAPES = [(30, 40), (30, 90), (90, 30), (31, 40), (200, 416), (319, 101), (64, 96), (3, 4)]
"""Of frames smaller than the input."""
CROP = InputSpec(size=(224, 224), letterbox="crop")


class Alone:
    """A slot whose engine does nothing: `input` is what the letterbox wrote, `outputs` what the engine would have
    written. `boxes`: where the last frames were in the input."""

    def __init__(self, batch: int, head: str, spec: InputSpec, dtype: str, conf: float, every: bool) -> None:
        self.card, self.places = gpu(), Places(spec, image := TensorSpec("images", (batch, 3, *spec.size), dtype))
        keypoints = (2, 3) if head == "yolov8-pose" else None
        layout = Layout(outputs_of(head, batch, "float32", spec.size), spec.size, keypoints)
        with self.card.errors_of("stream"):
            stream = self.card.stream()
        engine = Engine("nothing", (image,), layout.outputs, stream, self._nothing)
        head_ = head_of(head)
        enough = np.full(CLASSES, conf, np.float32)
        plan = FramePlan("images", spec, head_.decode(layout, conf, every), head_.strided(layout), enough, every)
        plan = replace(plan, upright=head_.task != "obb", prototypes=head_.prototypes(layout))
        plan, self.boxes = replace(plan, in_frame=head not in DETAILS), list[Box]()
        self.plan, self.image = plan, image
        self.slot = CudaSlot(self.card, kernels(self.card), engine, plan)

    def _nothing(self, addresses: Mapping[str, int]) -> None:
        pass

    def run(self, frames: Sequence[Any], kinds: list[Pixels], tiles: Tiles | None = None) -> list[FrameBoxes]:
        """With tiles, each frame is followed by its parts."""
        arrays = [frame if isinstance(frame, np.ndarray) else self.slot.on_device(frame) for frame in frames]
        views = [(f, self.places.of(f, k, tiles)) for f, k in zip(arrays, kinds, strict=True)]
        self.boxes = [box for _, each in views for _, box in each]
        self.slot.start([(frame, place) for frame, each in views for place, _ in each])
        return self.slot.finish()

    def locked(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The frame in page-locked memory."""
        with self.card.errors_of("a frame"):
            buffer = self.card.host(frame.shape, "uint8")
        buffer[...] = frame
        return buffer

    def on_gpu(self, frame: NDArray[np.uint8], gap: int = 0) -> Any:
        """The frame as an array of pycuda, with this many bytes between rows."""
        from pycuda import gpuarray

        row = frame[:1].nbytes
        rows = np.full((len(frame), row + gap), 0xEE, np.uint8)
        rows[:, :row] = frame.reshape(len(frame), row)
        with self.card:
            memory = gpuarray.to_gpu(rows)
            strides = (row + gap, *frame.strides[1:])
            return gpuarray.GPUArray(frame.shape, np.uint8, base=memory, gpudata=memory.gpudata, strides=strides)

    @property
    def input(self) -> NDArray[Any]:
        out = np.empty(self.image.shape, self.image.dtype)
        with self.card.errors_of("reading"):
            self.card.driver.memcpy_dtoh(out, self.slot._tensors["images"])
        return out

    def write(self, name: str, values: NDArray[Any]) -> None:
        with self.card.errors_of("writing"):
            stream = self.slot._engine.stream
            self.card.driver.memcpy_htod_async(self.slot._tensors[name], np.ascontiguousarray(values), stream)
            stream.synchronize()


@contextmanager
def alone(
    batch: int = 1,
    head: str = "yolov8",
    spec: InputSpec | None = None,
    dtype: str = "float32",
    conf: float = 0.5,
    every: bool = False,
) -> Iterator[Alone]:
    lone = Alone(batch, head, spec or InputSpec(size=SIZE), dtype, conf, every)
    try:
        yield lone
    finally:
        lone.slot.close()


def outputs_of(head: str, batch: int, dtype: str, size: tuple[int, int]) -> tuple[TensorSpec, ...]:
    count, classes = cells(size), CLASSES
    if head in RAW:
        empty = answers(head, batch, 0.0, seed=0)
        return tuple(TensorSpec(name, values.shape, dtype) for name, values in empty.items())
    if head == "yolo-nas":
        pair = (("boxes", (batch, count, 4)), ("scores", (batch, count, classes)))
        return tuple(TensorSpec(name, shape, dtype) for name, shape in pair)
    if head in DETAILS:
        table = TensorSpec("output0", (batch, 4 + classes + DETAILS[head], count), dtype)
        maps = TensorSpec("output1", (batch, DETAILS[head], size[0] // 4, size[1] // 4), dtype)
        return (table, maps) if head == "yolov8-seg" else (table,)
    shape = (batch, 4 + classes, count) if head == "yolov8" else (batch, count, 5 + classes)
    return (TensorSpec("output0", shape, dtype),)


def still(height: int, width: int, pixels: Pixels = "bgr", seed: int = 0) -> NDArray[np.uint8]:
    shape = {"nv12": (height * 3 // 2, width), "yuyv": (height, width, 2)}.get(pixels, (height, width, 3))
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def expected(frame: NDArray[np.uint8], pixels: Pixels, spec: InputSpec, dtype: str = "float32") -> NDArray[Any]:
    """The same input computed with OpenCV."""
    code = CODES[pixels]
    out = np.zeros((1, 3, *spec.size), dtype)
    Preprocessor(spec, out)(frame if code is None else np.asarray(cv2.cvtColor(frame, code), np.uint8))
    return out[0]


SIZES = [
    (1080, 1920),
    (1920, 1080),  # portrait
    (720, 1280),
    (319, 416),  # a pad of one row
    (320, 415),
    (321, 417),
    (480, 640),
    (2160, 3840),
    (1, 1),
    (3, 1001),
    (997, 2),
    (240, 312),
]
LOOKS: list[tuple[Letterbox, Colour]] = [("centre", "rgb"), ("top-left", "bgr"), ("stretch", "rgb")]


def letterbox() -> dict[str, float]:
    """Largest difference from OpenCV per pixel format, in steps of 1/255, over all sizes, letterboxes and colours."""
    worst: dict[str, float] = {}
    for kind, dtype in itertools.product(CODES, ("float32", "float16", "uint8", "int8")):
        for fit, colour in LOOKS:
            spec = InputSpec(size=SIZE, letterbox=fit, colour=colour, scale=0.5 if dtype == "int8" else 1 / 255)
            with alone(spec=spec, dtype=dtype) as lone:
                for height, width in SIZES if dtype == "float32" else SIZES[:4]:
                    even = (height + height % 2, width + width % 2) if kind in ("nv12", "yuyv") else (height, width)
                    frame = still(*even, kind)
                    lone.run([frame], [kind])
                    steps = 255 if dtype.startswith("float") else 1
                    error = np.abs(lone.input[0].astype(float) - expected(frame, kind, spec, dtype)).max() * steps
                    worst[kind] = max(worst.get(kind, 0.0), float(error))
    return worst


def batches() -> float:
    """The same for batches of 1 to 8 frames of mixed sizes and kinds, page-locked or not."""
    worst, kinds = 0.0, list(CODES)
    spec = InputSpec(size=SIZE)
    for batch in range(1, 9):
        with alone(batch, spec=spec) as lone:
            for turn in range(3):
                chosen = [kinds[(i + turn) % 4] for i in range(max(1, batch - turn))]
                frames = [
                    still(height + height % 2, width + width % 2, kind, seed=i)
                    for i, kind in enumerate(chosen)
                    for height, width in [SIZES[(i + 2 * turn) % len(SIZES)]]
                ]
                frames[::2] = map(lone.locked, frames[::2])
                lone.run(frames, chosen)
                written = lone.input
                for i, (frame, kind) in enumerate(zip(frames, chosen, strict=True)):
                    error = np.abs(written[i] - expected(frame, kind, spec)).max() * 255
                    worst = max(worst, float(error))
    return worst


def crops() -> dict[str, tuple[float, float]]:
    """Per pixel format, of frames cropped for a classifier: the largest difference from the CPU's antialiasing in steps
    of 1/255, and the smallest share of equal values in an image."""
    worst: dict[str, tuple[float, float]] = {}
    for kind, colour in itertools.product(CODES, ("rgb", "bgr")):
        spec = CROP.model_copy(update={"colour": colour})
        with alone(2, spec=spec) as lone:
            for height, width in SIZES:
                even = (height + height % 2, width + width % 2) if kind in ("nv12", "yuyv") else (height, width)
                frames = [still(*even, kind), lone.locked(still(*even, kind, seed=1))]
                lone.run(frames, [kind, kind])
                for i, frame in enumerate(frames):
                    steps = np.abs(lone.input[i] - expected(frame, kind, spec)) * 255
                    far, equal = worst.get(kind, (0.0, 1.0))
                    worst[kind] = max(far, float(steps.max())), min(equal, float(np.mean(steps < 0.01)))
    return worst


def in_gpu_memory() -> int:
    """Number of values that differ when frames are read in GPU memory, with gaps between rows and without, not in
    page-locked memory."""
    differ = 0
    for kind, spec in itertools.product(CODES, (InputSpec(size=SIZE), CROP)):
        with alone(3, spec=spec) as lone:
            for height, width in SIZES[::3]:
                even = (height + height % 2, width + width % 2) if kind in ("nv12", "yuyv") else (height, width)
                frame = still(*even, kind)
                lone.run([lone.locked(frame), lone.on_gpu(frame), lone.on_gpu(frame, 7)], [kind] * 3)
                differ += int((lone.input[1:] != lone.input[:1]).sum())
    return differ


TILES = (
    (10, Tiles(size=(416, 740))),
    (64, Tiles(size=(190, 260))),
    (3, Tiles(regions=((0, 0, 0.5, 1), (0.3, 0.4, 1, 1)))),
)
"""Batch, and tiles of a frame of 1080x1920."""


def tiled() -> dict[str, float]:
    """Largest difference from OpenCV in steps of 1/255 when one launch prepares a frame and its parts."""
    worst: dict[str, float] = {}
    for (batch, tiles), kind in itertools.product(TILES, CODES):
        with alone(batch, spec=InputSpec(size=SIZE)) as lone:
            frame = still(1080, 1920, kind, seed=batch)
            views = lone.places.of(frame, kind, tiles)
            assert 1 < len(views) <= batch, (batch, len(views))
            for where in (frame, lone.locked(frame)):
                lone.run([where], [kind], tiles)
                for written, (place, _) in zip(lone.input, views, strict=False):
                    right = expected(part_of(frame, kind, place.seen), kind, lone.plan.spec)
                    worst[kind] = max(worst.get(kind, 0.0), float(np.abs(written - right).max() * 255))
    return worst


def answers(head: str, batch: int, share: float, seed: int) -> dict[str, NDArray[np.float32]]:
    rng, count, classes = np.random.default_rng(seed), cells(SIZE), CLASSES
    if head in RAW:
        return raw_outputs(head, batch, classes, SIZE, rng, share)
    boxes = rng.uniform(-1, 2, (batch, count, 4)) if head == "yolox" else rng.uniform(0, 300, (batch, count, 4))
    scores = np.where(rng.random((batch, count, 1)) < share, rng.uniform(0.3, 1, (batch, count, classes)), 0.01)
    sure = rng.uniform(0.4, 1, (batch, count, 1))
    if head == "yolo-nas":
        boxes = np.sort(boxes.reshape(batch, count, 2, 2), 2).reshape(boxes.shape)  # corners
        outputs = {"boxes": boxes, "scores": scores}
    elif head in ("yolov8", *DETAILS):
        more = rng.uniform(-40, 80, (batch, count, DETAILS.get(head, 0)))
        outputs = {"output0": np.concatenate([boxes, scores, more], 2).transpose(0, 2, 1)}
        if head == "yolov8-seg":
            outputs["output1"] = rng.normal(size=(batch, DETAILS[head], SIZE[0] // 4, SIZE[1] // 4))
    else:
        outputs = {"output0": np.concatenate([boxes, sure, scores], 2)}
    return {name: np.ascontiguousarray(values, np.float32) for name, values in outputs.items()}


def compaction() -> float:
    """Largest distance in pixels between the kernel's boxes and NumPy's, in the frame or, with details, in the input;
    also of the details: coefficients, keypoints, angles. Raises if the rest differs, or the prototypes at all."""
    worst = 0.0
    for head, every in itertools.product(HEADS, (False, True)):
        for batch, share in ((1, 0.05), (3, 0.0), (8, 0.05), (8, 0.02), (2, 0.9)):
            with alone(batch, head, every=every) as lone:
                values = answers(head, batch, share, seed=batch)
                for name, array in values.items():
                    lone.write(name, array)
                for turn in range(3):
                    frames = [still(*SHAPES[(i + turn + batch) % 8]) for i in range(batch)]
                    for i, ours in enumerate(lone.run(frames, ["bgr"] * batch)):
                        worst = max(worst, difference(lone, values, i, ours, (head, every, batch, share, i)))
    return worst


def difference(lone: Alone, values: dict[str, Any], image: int, ours: FrameBoxes, case: object) -> float:
    right = lone.plan.decode([values[spec.name] for spec in lone.slot._engine.outputs], image)
    count = len(right[1])
    assert ours.final == (count <= slots.NMS_LIMIT and (lone.plan.upright or count == 0)), (case, count)
    if ours.final:
        kept = nms(right[0][:, :4], *right[1:], lone.plan.iou, lone.plan.max_det)
        right = right[0][kept], right[1][kept], right[2][kept]
    assert ours.in_frame == (ours.final and count > 0 and lone.plan.in_frame), (case, count)
    if ours.in_frame:
        right = seen(right, lone.boxes[image])
    if count and lone.plan.prototypes is not None:
        np.testing.assert_array_equal(ours.prototypes, values["output1"][image], str(case))
    mine, boxes = paired(ours, *right, case)
    return float(np.abs(mine - boxes).max(initial=0.0))


def rule() -> int:
    """Number of candidates that the kernel dropped as invalid boxes. Raises if NumPy's rule keeps different boxes."""
    dropped = 0
    for head, every in itertools.product(BOXES, (False, True)):
        with alone(2, head, every=every) as lone:
            for seed in range(4):
                values, rng = answers(head, 2, 0.005, seed), np.random.default_rng(seed)
                for name, array in values.items():
                    chosen = rng.random(array.shape) < 0.02
                    array[chosen] = rng.choice([np.nan, np.inf, -np.inf, -20.0, 1.5], int(chosen.sum()))
                    lone.write(name, array)
                for i, ours in enumerate(lone.run([still(30, 40)] * 2, ["bgr"] * 2)):
                    right = lone.plan.decoded([values[s.name] for s in lone.slot._engine.outputs], i)
                    valid = valid_boxes(*right[:3], CLASSES) & (right.confidence >= lone.plan.thresholds[0])
                    boxes, confidence, labels = (part[valid] for part in right[:3])
                    assert ours.final == (len(boxes) <= slots.NMS_LIMIT), (head, every, seed, i, len(boxes))
                    if not ours.final:
                        continue
                    kept = nms(boxes, np.minimum(confidence, 1), labels, lone.plan.iou, lone.plan.max_det)
                    shown: Candidates = (boxes[kept], np.minimum(confidence[kept], 1), labels[kept])
                    shown = seen(shown, lone.boxes[i]) if ours.in_frame else shown
                    pair = paired(ours, *shown, (head, every, seed, i))
                    np.testing.assert_allclose(*pair, atol=0.05, rtol=1e-5)
                    dropped += ours.dropped
    return dropped


def run(report: Callable[[str, Any], None]) -> None:
    report("letterbox, steps of 1/255", letterbox())
    report("batches, steps of 1/255", batches())
    report("values that differ in GPU memory", in_gpu_memory())
    report("tiles, steps of 1/255", tiled())
    report("crops, steps of 1/255 and share equal", crops())
    report("boxes, pixels", compaction())
    report("no boxes", rule())


def short() -> None:
    """A small sample of everything for compute-sanitizer: odd sizes, batches, overflow."""
    for dtype in ("float32", "float16", "uint8", "int8"):
        with alone(3, dtype=dtype) as lone:
            for sizes in ([(719, 1281), (1, 1), (321, 417)], [(3, 1001)], [(480, 640), (998, 2)]):
                lone.run([still(*size) for size in sizes], ["bgr"] * len(sizes))
    with alone(2) as lone:
        lone.run([still(360, 642, "nv12"), still(361, 642, "yuyv")], ["nv12", "yuyv"])
    for dtype, kind in itertools.product(("float32", "float16", "uint8", "int8"), CODES):
        with alone(2, spec=CROP, dtype=dtype) as lone:
            lone.run([still(302, 2, kind), lone.locked(still(360, 642, kind))], [kind, kind])
    with alone(10) as lone:
        lone.run([still(1080, 1920, "nv12")], ["nv12"], TILES[0][1])
        lone.run([lone.on_gpu(still(1080, 1920, "nv12"), 128)], ["nv12"], TILES[0][1])
    for head, every in itertools.product(HEADS, (False, True)):
        for share in (0.01, 0.1, 0.95):
            with alone(2, head, every=every) as lone:
                for name, array in answers(head, 2, share, seed=1).items():
                    lone.write(name, array)
                lone.run([still(30, 40)] * 2, ["bgr"] * 2)


if __name__ == "__main__":
    if "--short" in sys.argv:
        short()
        print("all ran")
    else:
        run(lambda name, value: print(name, value, flush=True))
