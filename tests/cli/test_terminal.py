"""Terminal output: tables that keep words whole, the progress of `run`, shell completion."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from commands import Command
from hypothesis import given
from hypothesis import strategies as st

from edgesparse.cli import show, verbs
from edgesparse.cli.run import NO_OUTPUT
from edgesparse.cli.run_progress import RunProgress, run_progress
from edgesparse.runtime.detections import Detections
from edgesparse.stream.cameras import CameraStatus
from edgesparse.stream.frames import Frame

COLUMNS = ("candidate", "", "reason", "ms")
ROWS = (("fp16", "refused", "the accuracy is 3.1 points below the limit", 1.5), ("int8", "kept", "fastest", 0.75))


def on_terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)


def test_a_table_in_a_pipe_has_a_line_per_row(capsys: pytest.CaptureFixture[str]) -> None:
    long = ("x" * 300, "kept", "because " * 50, 1.0)
    show.table("title", COLUMNS, (*ROWS, long), numbers=1)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and lines[4].split()[0] == "x" * 300 and "\x1b" not in "".join(lines)


def test_a_title_may_be_longer_than_its_table(capsys: pytest.CaptureFixture[str]) -> None:
    title = "predicted on a board in a power mode (1020 MHz, 102 GB/s)"
    show.table(title, ("", "ms"), [("a", 1.0)], numbers=1)
    assert capsys.readouterr().out.splitlines()[0] == title


@pytest.mark.parametrize("columns", [20, 40, 80])
def test_words_stay_whole_on_a_narrow_terminal(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_terminal(monkeypatch, columns)
    show.table("title", COLUMNS, ROWS, numbers=1)
    words = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).split()
    assert {"refused", "accuracy", "points", "fastest", "1.50", "0.75"} <= set(words)


WORD = st.text("abcdefghij", min_size=1, max_size=30)


@given(st.lists(st.tuples(WORD, st.lists(WORD, max_size=4).map(" ".join)), min_size=1, max_size=4), st.integers(10, 80))
def test_no_word_is_ever_broken(rows: list[tuple[str, str]], width: int) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch, CliRunner().isolation() as (out, *_):
        on_terminal(monkeypatch, width)
        show.table("", ("first", "second"), rows)
        text = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue().decode())
    assert {word for row in rows for value in row for word in value.split()} <= set(text.split())


def test_states_have_colors_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    on_terminal(monkeypatch, 120)
    show.table("title", COLUMNS, ROWS, numbers=1)
    out = capsys.readouterr().out
    assert "\x1b[31mrefused" in out and "\x1b[32mkept" in out


def watch(progress: RunProgress, frames: int, boxes: int = 0) -> None:
    detections = Detections(np.zeros((boxes, 4), np.float32), np.zeros(boxes, np.float32), np.zeros(boxes, np.int64))
    row = np.full(8, 35_000_000, np.int64)
    for index in range(frames):
        frame = Frame(np.zeros((2, 2, 3), np.uint8), 0, index, "demo")
        progress.frame(CameraStatus("door", "demo"), frame, detections, row)


def test_progress_of_a_file_and_of_a_camera() -> None:
    now, shown = 100.0, list[str]()
    progress = RunProgress(lambda progress: shown.append(str(progress)), lambda: now)
    progress.total = 300
    watch(progress, 1)
    now += 4
    watch(progress, 100, boxes=2)
    progress.update([])
    assert shown == ["101 of 300 frames, 25.0 per second, 200 detections, 8 s left"]
    progress.total, progress.live = None, True
    progress.update([CameraStatus("door", "demo", "live"), CameraStatus("yard", "0", "away")])
    assert shown[1] == "101 frames, 25.0 per second, 200 detections, 35 ms old, yard is away"


def test_without_a_terminal_progress_is_a_line_every_ten_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with run_progress(shared=False) as progress:
        for _ in range(44):
            now += 0.5
            progress.update([])
    assert capsys.readouterr().err.splitlines() == ["0 frames, 0.0 per second, 0 detections"] * 2


def test_a_run_without_an_output_says_so_and_one_with_an_output_does_not(
    edgesparse: Command, model: Path, images: Path
) -> None:
    assert NO_OUTPUT in edgesparse("run", model, "--source", images).err
    assert NO_OUTPUT not in edgesparse("run", model, "--source", images, "--jsonl", "boxes.jsonl").err
    assert NO_OUTPUT not in edgesparse("run", model, "--source", images, "--json").err


def completions(*words: str) -> list[str]:
    """Completions that bash gets after these words, by click's protocol."""
    protocol = {"COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    environ = {"_EDGESPARSE_COMPLETE": "bash_complete", **protocol}
    command = [sys.executable, "-m", "edgesparse"]
    done = subprocess.run(command, env={**os.environ, **environ}, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_the_shell_completes_verbs_boards_packages_and_files(
    edgesparse: Command, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edgesparse("build", model)
    context = verbs.make_context("edgesparse", ["run", "x"])
    for verb in ("run", "serve"):
        command = verbs.get_command(context, verb)
        assert command is not None
        target = next(param for param in command.params if param.name == "target")
        offered = [item.value for item in target.shell_complete(context, "")]
        assert offered == ["demo", "engines/squares", ""]
    inspect = verbs.get_command(context, "inspect")
    assert inspect is not None
    device = next(param for param in inspect.params if param.name == "device")
    assert "orin-nano-8gb" in [item.value for item in device.shell_complete(context, "orin-n")]
    assert completions("edgesparse", "insp") == ["plain,inspect"]
