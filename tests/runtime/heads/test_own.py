"""Heads from outside: a class in a user's file, and entry points of installed packages."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import own_heads
import pytest
from head_checks import layout

from edgesparse.builder.objects import box_reader
from edgesparse.config import DetectorSpec, InputSpec, parse
from edgesparse.errors import ConfigError, ModelError
from edgesparse.head_table import installed
from edgesparse.runtime.heads.base import Layout
from edgesparse.runtime.heads.own import head_identity
from edgesparse.runtime.heads.recognize import check, choose
from edgesparse.runtime.heads.registry import head, heads

AT = layout({"output0": (1, 6, 84)}, (64, 64))
RAW = [np.zeros((1, 6, 84), np.float32)]
RAW[0][0, :, 3] = 10, 20, 8, 6, 0.25, 0.75


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], str]:
    """Write a head with part of its source replaced, and return its name with the full path."""

    def write(old: str = "", new: str = "") -> str:
        assert old in own_heads.SOURCE
        source = own_heads.SOURCE.replace(old, new) if old else own_heads.SOURCE
        return f"{tmp_path}/{own_heads.write(tmp_path, source=source)}"

    return write


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "their_heads", raising=False)
    installed.cache_clear()
    yield lambda name, source=own_heads.SOURCE: own_heads.install(tmp_path, name, source)
    installed.cache_clear()


def decoded(name: str, conf: float = 0.3, at: Layout = AT) -> list[list[float]]:
    boxes, scores, labels = head(name).decode(at, conf)(RAW, 0)
    assert boxes.dtype == scores.dtype == np.float32 and labels.dtype == np.int64
    return np.column_stack([boxes, scores, labels]).tolist()


def test_a_class_in_a_file_is_a_head(write: Callable[..., str]) -> None:
    name = write()
    check(name, AT)
    assert decoded(name) == [[6, 17, 14, 23, 0.75, 1]]
    assert head(name).nms and head(name).convention.letterbox == "centre" and head(name).strided(AT) is None


COMPLETE = """
    def complete(self, layout):
        return lambda detections, candidates, prototypes, letterbox: candidates[0, 4] / NUMBER
"""


def test_details_travel_with_its_boxes_when_it_completes_them(write: Callable[..., str]) -> None:
    wide = "np.concatenate([boxes, boxes[:, :1]], 1), scores.max(0)"
    with pytest.raises(ModelError, match=r"decode returned \(\(84, 5\), .*needed boxes \[n, 4\]"):
        decoded(write("boxes, scores.max(0)", wide))
    source = own_heads.SOURCE.replace("boxes, scores.max(0)", wide) + COMPLETE.replace("NUMBER", "2")
    name = write(own_heads.SOURCE, source)
    boxes, *_ = head(name).decode(AT, 0.3)(RAW, 0)
    assert boxes.tolist() == [[6, 17, 14, 23, 6]]
    complete = head(name).complete(AT)
    assert complete is not None and complete(None, boxes, None, None) == 3  # type: ignore[arg-type,comparison-overlap]
    broken = head(write(own_heads.SOURCE, source.replace("/ 2", "/ None"))).complete(AT)
    with pytest.raises(ModelError, match="complete raised TypeError"):
        broken(None, boxes, None, None)  # type: ignore[arg-type,misc]


def test_it_promises_a_score_per_class_only_when_it_says_so(write: Callable[..., str]) -> None:
    """Pruning reads every box for every class, in order, from heads that support it; this one ignores `multi_label`."""
    name = write()
    assert not head(name).per_class and head("yolov8").per_class
    assert box_reader(DetectorSpec(head=name, classes=("a", "b"), input=InputSpec(size=(64, 64)))) is None
    write("    def fits(", "    per_class = True\n\n    def fits(")
    assert head(name).per_class


def test_candidates_below_the_threshold_are_left_out_for_it(write: Callable[..., str]) -> None:
    assert decoded(write(), conf=0.8) == []


def test_a_file_that_changed_is_read_again(write: Callable[..., str]) -> None:
    name = write()
    before = head_identity(name)
    assert decoded(name) and head(name) is head(name)
    write("scores.max(0)", "scores.max(0) * 0.5")
    assert decoded(name)[0][4] == 0.375 and head_identity(name) != before


WRONG = {
    "no such class": (
        "class Squares(",
        "class Circles(",
        r"no class that derives from edgesparse.Head; heads in it: Circ",
    ),
    "no head": ("(edgesparse.Head)", "", "no class that derives from edgesparse.Head"),
    "no decode": ("def decode(self, layout", "def decide(self, layout", "lacks decode: write what"),
    "no Python": ("import edgesparse", "import edgesparse!", r"my_head.py cannot be run: SyntaxError: .*: fix it"),
    "a module that is missing": (
        "import numpy",
        "import nampy",
        "cannot be run: ModuleNotFoundError: No module named 'na",
    ),
}


@pytest.mark.parametrize(("old", "new", "message"), WRONG.values(), ids=WRONG.keys())
def test_what_is_no_head_is_refused_in_one_line(write: Callable[..., str], old: str, new: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        head(write(old, new))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"head: cannot read .*my_head.py: No such file"):
        head(f"{tmp_path}/my_head.py:Squares")


RAISING = {
    "fits": ("layout.table[0] > 4", "layout.tabel[0] > 4", "fits raised AttributeError"),
    "classes": ("layout.table[0] - 4", "int('four')", "classes raised ValueError"),
    "decode": (
        "def decode(outputs",
        "1 / 0\n        def decode(outputs",
        "decode raised ZeroDivisionError: division by",
    ),
    "decoding": ("scores.argmax(0)", "scores.argmost(0)", "decode raised AttributeError"),
    "a key that is not there": ("outputs[0][image]", "{}[image]", "decode raised KeyError"),
    "too few values": (
        "scores.max(0), scores.argmax(0)",
        "scores.max(0)",
        "decode raised ValueError: not enough values",
    ),
    "shapes": ("return boxes, ", "return boxes.T, ", r"decode returned \(\(4, 84\), .* needed boxes \[n, 4\]"),
}


@pytest.mark.parametrize(("old", "new", "message"), RAISING.values(), ids=RAISING.keys())
def test_an_error_in_it_names_the_head_and_the_method(
    write: Callable[..., str], old: str, new: str, message: str
) -> None:
    name = write(old, new)
    with pytest.raises(ModelError, match=rf"head '.*my_head.py:Squares': {message}") as caught:
        check(name, AT)
        decoded(name)
    assert "\n" not in str(caught.value)


def test_outputs_that_it_does_not_fit_are_refused_with_its_own_words(write: Callable[..., str]) -> None:
    with pytest.raises(ModelError, match=r"cannot read this network: found .*; needed one output \[B, 4 \+ C, N\]"):
        check(write(), layout({"a": (1, 10)}))


def test_an_entry_point_of_a_package_is_a_head_by_name(install: Callable[..., None]) -> None:
    install("their-squares")
    assert parse({"model": "m.onnx", "head": "their-squares"}, "r.yaml").head == "their-squares"
    assert decoded("their-squares") == [[6, 17, 14, 23, 0.75, 1]]
    assert head_identity("their-squares") == "their_heads:Squares 1.2" and head_identity("yolov8") is None
    with pytest.raises(ConfigError, match=r"use one of yolov5, .*, their-squares, or FILE\.py:CLASS"):
        head("their-circles")


def test_a_package_may_recognize_its_networks(install: Callable[..., None]) -> None:
    evidence = """
    def evidence(self, layout, sample):
        return edgesparse.Evidence(3, "seven rows") if layout.table == (7, 3) else None
"""
    install("their-squares", own_heads.SOURCE + evidence)
    assert choose(layout({"output0": (1, 7, 3)}), {}) == "their-squares"


def test_a_package_that_cannot_be_loaded_is_left_out_and_reported(
    install: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    install("their-squares", "raise RuntimeError('old NumPy')")
    assert "their-squares" not in heads()
    assert "head: 'their-squares' of their-heads cannot be loaded: RuntimeError: old NumPy: fix it" in caplog.text
    with pytest.raises(ConfigError, match="cannot be loaded"):
        head("their-squares")


def test_a_package_does_not_replace_a_head_that_is_here(
    install: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    install("yolov8")
    assert type(head("yolov8")).__module__ == "edgesparse.runtime.heads.yolov8" and not installed()
    assert "the head 'yolov8' of their-heads is left out: another one has that name" in caplog.text
