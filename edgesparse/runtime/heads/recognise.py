"""Which head a network has: from the shapes of its outputs, its metadata, and one sample of its values."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.base import TensorSpec
from edgesparse.errors import ModelError
from edgesparse.runtime.heads.families import HEADS, Layout, grid, strides_of


def choose(layout: Layout, metadata: Mapping[str, str], sample: Sequence[NDArray[Any]] | None = None) -> str:
    """The name of the head in HEADS.

    `metadata` is the ONNX file's (Ultralytics writes `names`, `task`, ...). `sample` holds outputs for any image:
    some layouts have one shape and are told apart by their values alone, as YOLOX's undecoded and YOLOv6's. Raises
    ModelError, with what was seen, for a network that is no detector, of no known family, or of several.
    """
    task = metadata.get("task", "detect")
    if task != "detect":
        raise ModelError(f"the file says its task is '{task}': needed a detector; export a 'detect' model")
    found = _by_shapes(layout)
    if sample is not None and found:
        found = _by_values(found, sample[0][0], layout)
    if len(found) == 1:
        _check_classes(found[0], layout, metadata)
        return found[0]
    if found:
        raise ModelError(f"the head could be {' or '.join(found)}: saw {_seen(layout)}; say which with 'head:'")
    raise ModelError(f"no known head: saw {_seen(layout)}; {_hint(layout.outputs)}")


def check(name: str, layout: Layout) -> None:
    """Raises ModelError when the head `name` cannot read these outputs."""
    try:
        fits = _fits(name, layout)
        classes = HEADS[name].classes(layout) if fits else 0
        HEADS[name].decode(layout, 1.0, False)
    except LookupError:
        classes = 0
    if classes is not None and classes < 1:
        raise ModelError(f"head '{name}' cannot read this network: saw {_seen(layout)}; needed {_needed(name)}")


def _fits(name: str, layout: Layout) -> bool:
    """Whether number, rank and direction of the outputs are this head's; grids may be others than the usual."""
    shapes = [spec.shape for spec in layout.outputs]
    if len(shapes) != 1:
        return name in {2: ("yolo-nas", "rtdetr"), 3: ("rtdetr",), 4: ("efficient-nms",)}.get(len(shapes), ())
    if len(shapes[0]) != 3 or name in ("yolo-nas", "efficient-nms"):
        return False
    along, across = (2, 1) if name == "yolov8" else (1, 2)
    on_grid = strides_of(shapes[0][along], layout.size) is not None
    if name.startswith("yolox"):
        return on_grid
    if name in ("end2end", "rtdetr-end2end"):
        return shapes[0][2] == 6
    return on_grid or strides_of(shapes[0][across], layout.size) is None


def names_in(metadata: Mapping[str, str]) -> tuple[str, ...] | None:
    """Class names from the file's metadata, as Ultralytics writes them: "{0: 'person', 1: ...}"."""
    try:
        names = ast.literal_eval(metadata.get("names", ""))
        if isinstance(names, dict):
            names = [names[key] for key in sorted(names)]
    except (ValueError, SyntaxError, TypeError):
        return None
    return tuple(map(str, names)) if isinstance(names, list) and names else None


def _by_shapes(layout: Layout) -> list[str]:
    shapes = [spec.shape for spec in layout.outputs]
    ranks = sorted(map(len, shapes))
    if len(shapes) == 4 and ranks == [2, 2, 2, 3] and any(s[-1] == 1 for s in shapes):
        return ["efficient-nms"]
    if (
        len(shapes) == 3
        and ranks == [2, 2, 3]
        and all(any(name in spec.name for spec in layout.outputs) for name in ("label", "box", "score"))
    ):
        return ["rtdetr"]
    if len(shapes) == 2 and ranks == [3, 3] and [s[-1] for s in shapes].count(4) >= 1:
        logits = any(name in spec.name for spec in layout.outputs for name in ("logit", "label"))
        on_grid = strides_of(shapes[0][1], layout.size) is not None
        return ["rtdetr"] if logits else ["yolo-nas"] if on_grid else []
    return _by_one_shape(shapes[0], layout.size) if len(shapes) == 1 and ranks == [3] else []


def _by_one_shape(shape: tuple[int, ...], size: tuple[int, int]) -> list[str]:
    _, rows, columns = shape
    if strides_of(columns, size) and 4 < rows <= columns:
        return ["yolov8"]
    # Stride 8 is asked for: cells of (16, 32) alone may be as many as a list has places, 300 for 192x320.
    if rows % 3 == 0 and 8 in (strides_of(rows // 3, size) or ()) and columns > 5:
        return ["yolov5"]
    if 8 in (strides_of(rows, size) or ()) and columns > 5:
        return ["yolov5", "yolox"]
    if columns == 6:
        return ["end2end"]
    return ["rtdetr"] if columns > 4 and rows <= 1000 else []


def _by_values(found: list[str], raw: NDArray[Any], layout: Layout) -> list[str]:
    """What is left of `found` when an image's first output is seen."""
    if found == ["yolov5", "yolox"]:
        if not _is_decoded(raw, layout):
            return ["yolox"]
        # YOLOv6 has no objectness and writes ones; its input is another than YOLOX's.
        return ["yolov5" if (raw[:, 4] == 1).all() else "yolox-decoded"]
    # A list in pixels that found nothing is all zero; relative boxes never are.
    if found == ["end2end"] and 0 < np.abs(raw[:, :4]).max() <= 1:
        whole = np.array_equal(raw[:, 5], np.rint(raw[:, 5]))
        return ["rtdetr-end2end" if whole else "rtdetr"]
    return found


def _is_decoded(raw: NDArray[Any], layout: Layout) -> bool:
    """Whether centres lie near their cells in pixels (decoded), rather than near 0 (offsets on the grid)."""
    strides = strides_of(len(raw), layout.size)
    assert strides is not None
    corner, stride = grid(layout.size, strides)
    from_cell = np.abs(raw[:, :2] - (corner + 0.5) * stride) / stride
    return bool(np.median(from_cell) < np.median(np.abs(raw[:, :2])))


def _check_classes(name: str, layout: Layout, metadata: Mapping[str, str]) -> None:
    names, classes = names_in(metadata), HEADS[name].classes(layout)
    if names and classes is not None and len(names) != classes:
        raise ModelError(
            f"the outputs ({_seen(layout)}) have {classes} classes as {name}, the file's metadata names {len(names)}: "
            "is it a plain detector? (poses, masks and rotated boxes are not supported)"
        )


def _seen(layout: Layout) -> str:
    return f"{', '.join(map(str, layout.outputs))} for an input of {'x'.join(map(str, layout.size))}"


def _hint(outputs: Sequence[TensorSpec]) -> str:
    ranks = [len(spec.shape) for spec in outputs]
    if 4 in ranks and 3 in ranks:
        return "this looks like a segmentation model: export a 'detect' one"
    if set(ranks) <= {4, 5}:
        return "these look like raw feature maps: export with the decoding in (YOLOv5/v7: without --train, with --grid)"
    if ranks == [2]:
        return "this looks like a classifier: needed a detector's boxes and scores"
    return f"name one of {', '.join(HEADS)} with 'head:' if it is one"


def _needed(name: str) -> str:
    text = HEADS[name].decode.__doc__ or ""
    return " ".join(text.split("\n\n")[0].split())
