"""TensorRT's warnings for people: what it says once a tensor becomes one line, advice to look elsewhere goes."""

from __future__ import annotations

import re
from collections.abc import Iterable

MOST = 50
"""Lines that are kept of a build."""
NAMED = 3
"""Tensors that a line names."""

_NO_SCALE = re.compile(r"Missing scale and zero-point for tensor (.*), expect fall back")
_INT64 = re.compile(r"ONNX model has been generated with INT64 weights.*Attempting to cast down to INT32")
_CONVERTED = re.compile(r"^- (\d+) weights are affected by this issue: (.*?)\.?$")
_AROUND = re.compile(
    r"^(TensorRT encountered issues when converting weights|If this is not the desired behavior|Check verbose logs for)"
)
"""Said around _CONVERTED, of which it alone tells something."""


def readable(lines: Iterable[str]) -> tuple[str, ...]:
    """A line for each kind of warning, in the order in which they came; at most MOST."""
    said: dict[str, None] = {}
    without: dict[str, None] = {}
    for line in lines:
        if found := _NO_SCALE.search(line):
            without[found[1]] = None
        elif _INT64.search(line):
            said["INT64 constants are read as INT32"] = None
        elif found := _CONVERTED.match(line):
            said[f"{found[1]} weights lose something in a lower type: {found[2][:1].lower()}{found[2][1:]}"] = None
        elif not _AROUND.match(line):
            said[line] = None
    return (*([_unscaled(list(without))] if without else []), *said)[:MOST]


def _unscaled(names: list[str]) -> str:
    """The ONNX file's own tensors before those that TensorRT made."""
    names.sort(key=lambda name: name.startswith("(Unnamed Layer*"))
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    tensors = "tensor without a scale stays" if len(names) == 1 else "tensors without a scale stay"
    return f"{len(names)} {tensors} float: {', '.join(names[:NAMED])}{more}"
