"""Checks that an exported ONNX file still has the 2:4 pattern from training. Does not need PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from edgesparse.errors import SparsityError
from edgesparse.model.load import load
from edgesparse.sparsity.inspect import Inspection, inspect

LISTED = 5


def check_onnx(path: str | Path, *, require: bool = False, skip: Sequence[str] = ()) -> Inspection:
    """Inspect every layer of the ONNX file at `path`: eligible or not, 2:4 or not, groups that violate the pattern.

    With `require`, every eligible layer must be 2:4, except those whose node name matches a pattern (`*`, `?`) in
    `skip`: exporters write the module `head.out` as the node `/head/out/Conv`.
    Raises ModelError for a file that is not ONNX, SparsityError naming the layers that are not 2:4.
    """
    report = inspect(load(Path(path)))
    if require:
        _refuse_dense(Path(path).name, report, skip)
    return report


def _refuse_dense(name: str, report: Inspection, skip: Sequence[str]) -> None:
    due = [x for x in report.eligible if not any(fnmatchcase(x.name, pattern) for pattern in skip)]
    broken = [f"{x.name} ({x.violations} of {x.groups} groups)" for x in due if not x.sparse]
    if broken:
        listed = ", ".join(broken[:LISTED]) + (f" and {len(broken) - LISTED} more" if broken[LISTED:] else "")
        raise SparsityError(
            f"{name}: {len(broken)} of {len(due)} layers are not 2:4: {listed}; "
            "fold the masks before the export, or name layers that stay dense in skip"
        )
    if not due:
        raise SparsityError(f"{name}: no layer that could be 2:4 is left to check: use a wider model or a shorter skip")
