"""Choose a network's head: each head states its evidence, and the strongest wins."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import get_args

from pydantic import TypeAdapter, ValidationError

from edgesparse.config import Keypoints
from edgesparse.errors import ModelError
from edgesparse.head_table import HEADS, head_file
from edgesparse.runtime.heads.base import SHAPES, Evidence, Layout, Sample, Task
from edgesparse.runtime.heads.registry import head, heads
from edgesparse.wording import short

HEAD_KEY = "edgesparse.head"
"""Metadata key for the name of a model's head, written by `slim` for outputs that do not show it."""


def choose(layout: Layout, metadata: Mapping[str, str], sample: Sample | None = None) -> str:
    """Return the name of a network's head.

    `metadata` is the ONNX file's (Ultralytics writes `names`, `task`, ...). `sample` holds the outputs for any image:
    some families share a layout and differ only in their values, as YOLOX (undecoded) and YOLOv6 do. A file
    that names its head (HEAD_KEY) is trusted. Raises ModelError, with what was seen, for a network that is not a
    detector, or that belongs to no known family or to several.
    """
    task = metadata.get("task")
    if task is not None and task not in get_args(Task):
        known = ", ".join(get_args(Task))
        raise ModelError(f"the file's metadata has the task '{task}': needed one of {known}; export such a model")
    named = metadata.get(HEAD_KEY)
    if named is not None:
        if head_file(named) is not None:  # a model must not choose which code is run
            raise ModelError(f"the file's metadata names a head in a Python file, {short(named)}: only a recipe may")
        check(named, layout)
        _check_classes(named, layout, metadata)
        return named
    seen_by = of_task(evidence(layout, sample), metadata)
    strongest = max((seen.strength for seen in seen_by.values()), default=0)
    names = _counted([name for name, seen in seen_by.items() if seen.strength == strongest], layout, metadata)
    if len(names) == 1:
        _check_classes(names[0], layout, metadata)
        return names[0]
    if names:
        raise ModelError(
            f"the head could be {' or '.join(names)}: found {layout}; name one with 'head:' ('edgesparse recipe "
            "MODEL.onnx --image IMAGE' shows what each sees)"
        )
    raise ModelError(f"no known head: found {layout}; {_hint(layout)}")


def _counted(names: list[str], layout: Layout, metadata: Mapping[str, str]) -> list[str]:
    """Of several heads, those with as many classes as the file names; all heads if there are none."""
    classes = names_in(metadata) if len(names) > 1 else None
    return [name for name in names if classes and head(name).classes(layout) in (None, len(classes))] or names


def of_task(seen_by: Mapping[str, Evidence], metadata: Mapping[str, str]) -> dict[str, Evidence]:
    """Evidence for the task in the metadata. Without a task there, those other than detection need more evidence."""
    task = metadata.get("task")

    def counts(name: str, strength: int) -> bool:
        return head(name).task == task if task is not None else head(name).task == "detect" or strength >= SHAPES

    return {name: seen for name, seen in seen_by.items() if counts(name, seen.strength)}


def evidence(layout: Layout, sample: Sample | None = None) -> dict[str, Evidence]:
    """The heads that may read these outputs, by name, each with its evidence."""
    fitting = {name: candidate.evidence(layout, sample) for name, candidate in heads().items()}
    return {name: seen for name, seen in fitting.items() if seen is not None}


def check(name: str, layout: Layout) -> None:
    """Raise ModelError unless the head `name` can read these outputs."""
    candidate = head(name)
    try:
        fits = candidate.fits(layout)
        classes = candidate.classes(layout) if fits else 0
        if fits:
            candidate.decode(layout, 1.0, False)
    except LookupError:
        classes = 0
    if classes is not None and classes < 1:
        raise ModelError(f"head '{name}' cannot read this network: found {layout}; needed {candidate.outputs}")


def raw_maps(layout: Layout) -> tuple[str, ...]:
    """Names of outputs that only training needs: the feature maps that YOLOv5 and v7 write next to decoded boxes.

    They are [B, A, H, W, 5 + C] or [B, A * (5 + C), H, W] next to one output [B, N, 5 + C].
    """
    rows = [spec for spec in layout.outputs if len(spec.shape) == 3]
    rest = [spec for spec in layout.outputs if len(spec.shape) != 3]
    if len(rows) != 1 or not rest or not evidence(Layout((rows[0],), layout.size)):
        return ()
    width = rows[0].shape[-1]
    for spec in rest:
        by_anchor = len(spec.shape) == 5 and spec.shape[-1] == width
        stacked = len(spec.shape) == 4 and spec.shape[1] == 3 * width
        if not by_anchor and not stacked:
            return ()
    return tuple(spec.name for spec in rest)


def names_in(metadata: Mapping[str, str]) -> tuple[str, ...] | None:
    """Class names from the file's metadata: "{0: 'person', 1: ...}" as Ultralytics writes them, or a list.

    Keys may be numbers as text. None if there are no names. Raises ModelError if the keys leave classes out.
    """
    try:
        names = ast.literal_eval(metadata.get("names", ""))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    if isinstance(names, list):
        return tuple(map(str, names)) or None
    if not isinstance(names, dict) or not names:
        return None
    try:
        by_number = {int(key): str(name) for key, name in names.items()}
    except (ValueError, TypeError):
        return None
    missing = [str(number) for number in range(max(by_number) + 1) if number not in by_number]
    if missing or min(by_number) < 0 or len(by_number) < len(names):
        lacks = f"no name for class {', '.join(missing[:8])}" if missing else "keys that are no class numbers"
        raise ModelError(
            f"the file's metadata 'names' has {lacks}: needed keys 0 to {max(by_number)}, each once; "
            "export it again, or set 'classes:' in the recipe"
        )
    return tuple(by_number[number] for number in range(len(by_number)))


def keypoints_in(metadata: Mapping[str, str]) -> Keypoints | None:
    """The keypoints' shape from the file's metadata, `kpt_shape`: "[17, 3]" as Ultralytics writes it; None without."""
    try:
        return TypeAdapter(Keypoints).validate_python(ast.literal_eval(metadata.get("kpt_shape", "")))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError, ValidationError):
        return None


def _check_classes(name: str, layout: Layout, metadata: Mapping[str, str]) -> None:
    names, classes = names_in(metadata), head(name).classes(layout)
    if names and classes is not None and len(names) != classes:
        raise ModelError(
            f"the outputs ({layout}) have {classes} classes as {name}, the file's metadata names {len(names)}: "
            "is it a plain detector? A pose or rotated boxes are recognized by the metadata 'task', or named by 'head:'"
        )


def _hint(layout: Layout) -> str:
    ranks = [len(shape) for shape in layout.shapes]
    if 4 in ranks and 3 in ranks:
        return "this looks like a segmentation model of a layout that is not known; YOLOv8's and later ones are"
    if set(ranks) <= {4, 5}:
        return "these look like raw feature maps: export with the decoding in (YOLOv5/v7: without --train, with --grid)"
    if ranks == [2]:
        return "this looks like a classifier without a softmax: export it with one, so that each row adds up to 1"
    return f"name one of {', '.join(HEADS)} with 'head:' if it is one"
