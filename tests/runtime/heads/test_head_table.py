"""The table of heads: every line is a complete head, and a new head needs one file and one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgesparse import head_table
from edgesparse.config import parse
from edgesparse.errors import ConfigError
from edgesparse.head_table import HEAD_ALIASES, HEADS
from edgesparse.runtime.heads.recognize import evidence
from edgesparse.runtime.heads.registry import head, heads

FAMILIES = Path(head_table.__file__).parent / "runtime" / "heads"
SHARED = {"__init__", "base", "candidates", "grid", "objects", "own", "recognize", "registry"}
"""Modules next to the families that define no head."""


@pytest.mark.parametrize("name", HEADS)
def test_every_head_says_what_it_reads_how_it_is_exported_and_where_its_decoding_is_from(name: str) -> None:
    family = head(name)
    assert "[B, " in family.outputs and len(family.export) > 10 and len(family.source) > 10
    assert "\n" not in family.outputs + family.export + family.source


def test_every_family_has_its_file_and_its_tests() -> None:
    modules = {path.partition(":")[0].rpartition(".")[2] for path in HEADS.values()}
    assert modules == {path.stem for path in FAMILIES.glob("*.py")} - SHARED
    assert modules <= {path.stem.removeprefix("test_head_") for path in Path(__file__).parent.glob("test_head_*.py")}


def test_aliases_stand_for_heads_in_the_table() -> None:
    assert set(HEAD_ALIASES.values()) <= set(HEADS) and not set(HEAD_ALIASES) & set(HEADS)


def test_an_unknown_head_is_refused_with_those_that_exist() -> None:
    with pytest.raises(ConfigError, match="unknown head 'yolov99': use one of yolov5, yolov8"):
        head("yolov99")


OWN = '''
from edgesparse.runtime.heads.base import SHAPES, Evidence
from edgesparse.runtime.heads.end2end import EndToEnd

class Seven(EndToEnd):
    """A list with a seventh column."""

    outputs = "one output [B, N, 7]"

    def fits(self, layout):
        return layout.table is not None and layout.table[1] == 7

    def evidence(self, layout, sample):
        return Evidence(SHAPES, "seven columns") if self.fits(layout) else None
'''


def test_a_new_head_is_one_file_and_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from head_checks import layout

    (tmp_path / "seven_columns.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(HEADS, "seven", "seven_columns:Seven")
    assert parse({"model": "m.onnx", "head": "seven"}, "r.yaml").head == "seven"
    assert heads()["seven"].nms is False
    assert evidence(layout({"output": (1, 300, 7)}))["seven"].text == "seven columns"
