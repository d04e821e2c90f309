"""TensorRT's warnings, shortened: messages per tensor become one line, references to other logs are removed."""

from __future__ import annotations

import re
from collections.abc import Iterable

MOST = 50
"""Maximum number of lines per build."""
NAMED = 3
"""Maximum number of tensors named in a line."""

_NO_SCALE = re.compile(r"Missing scale and zero-point for tensor (.*), expect fall back")
_INT64 = re.compile(r"ONNX model has been generated with INT64 weights.*Attempting to cast down to INT32")
_CONVERTED = re.compile(r"^- (\d+) weights are affected by this issue: (.*?)\.?$")
_AROUND = re.compile(
    r"^(TensorRT encountered issues when converting weights|If this is not the desired behavior|Check verbose logs for)"
)
"""Lines around _CONVERTED that add nothing to it."""


def readable(lines: Iterable[str]) -> tuple[str, ...]:
    """One line per kind of warning, in order of appearance; at most MOST."""
    messages: dict[str, None] = {}
    without: dict[str, None] = {}
    for line in lines:
        if match := _NO_SCALE.search(line):
            without[match[1]] = None
        elif _INT64.search(line):
            messages["INT64 constants are read as INT32"] = None
        elif match := _CONVERTED.match(line):
            messages[f"{match[1]} weights lose precision in a lower type: {match[2][:1].lower()}{match[2][1:]}"] = None
        elif not _AROUND.match(line):
            messages[line] = None
    return (*([_unscaled(list(without))] if without else []), *messages)[:MOST]


def _unscaled(names: list[str]) -> str:
    """Tensors of the ONNX file come before those that TensorRT added."""
    names.sort(key=lambda name: name.startswith("(Unnamed Layer*"))
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    tensors = "tensor without a scale stays" if len(names) == 1 else "tensors without a scale stay"
    return f"{len(names)} {tensors} float: {', '.join(names[:NAMED])}{more}"
