"""Progress and messages on standard error."""

from __future__ import annotations

import sys

import pytest

from edgesparse.cli import show
from edgesparse.progress import duration


def test_without_a_terminal_each_step_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with show.progress() as advance:
        for done in range(100):
            advance("scoring", done, 100)
        advance("writing", 0, 0)
    assert capsys.readouterr().err == "scoring 0/100\nwriting\n"


def test_a_long_step_reports_the_time_left_every_ten_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    now = 1000.0
    lines = show.ProgressLines(lambda: now)
    for done in range(0, 101, 10):
        lines("scoring", done, 100)
        now += 12
    assert capsys.readouterr().err.splitlines()[:4] == [
        "scoring 0/100",
        "scoring 10/100, 2 min left",
        "scoring 20/100, 2 min left",
        "scoring 30/100, 1 min left",
    ]
    lines("rounding", 5, 10)
    assert capsys.readouterr().err == "rounding 5/10\n"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "1 s"), (29.4, "29 s"), (31, "1 min"), (3540, "59 min"), (7500, "2 h 5 min")]
)
def test_durations_in_words(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_on_a_terminal_progress_is_a_bar_that_disappears(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with show.progress() as advance:
        advance("scoring", 1, 2)
        advance("writing", 0, 0)
    captured = capsys.readouterr()
    assert "writing" in captured.err and "left" in captured.err and captured.out == ""


def test_messages_are_one_line_whatever_they_hold(capsys: pytest.CaptureFixture[str]) -> None:
    show.complain("a\n  b\tc")
    assert capsys.readouterr().err == "edgesparse: a b c\n"
