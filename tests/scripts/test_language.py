"""The phrases and names that scripts/check refuses."""

from __future__ import annotations

import ast
from pathlib import Path

import language
import pytest


@pytest.mark.parametrize(
    ("instead", "text"),
    [
        ("per", "30 frames a " + "second"),
        ("fix", "what m" + "ends it"),
        ("image", "a pict" + "ure"),
        ("interleaved", "timed by t" + "urns"),
    ],
)
def test_a_phrase_is_found_with_its_line_and_what_to_write_instead(instead: str, text: str) -> None:
    ((number, what),) = language.slips(f"First.\n{text}\n")
    assert number == 2
    assert what == f"write '{instead}': {text}"


def test_plain_text_passes() -> None:
    assert not list(language.slips("30 frames per second are stored in an image.\n"))


def test_every_kind_of_name_is_checked() -> None:
    code = "def made(given): found = 1\nfor one in x: self.said = 2\n"
    assert {name for name, _ in language.bound_names(ast.parse(code))} == {"made", "given", "found", "one", "said"}
    assert sorted(number for number, _ in language.name_slips(code)) == [1, 1, 1, 2, 2]


def test_a_slip_in_any_file_of_the_project_fails_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text("Chosen an" + "ew.\n")
    monkeypatch.setattr(language, "ROOT", tmp_path)
    monkeypatch.setattr(language, "files", lambda: [page])
    assert language.main() == 1
    assert capsys.readouterr().err.startswith("page.md:1: write 'again'")
