"""The command line, in this process and in its own."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import squares
from commands import Command, Ended, Started

from edgesparse.cli import main


@pytest.fixture
def edgesparse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], quick: None
) -> Iterator[Command]:
    """Run a command in the test's folder, in this process."""
    monkeypatch.chdir(tmp_path)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}

    def call(*arguments: str | Path) -> Ended:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert ended.value.code is None or isinstance(ended.value.code, int)
        return Ended(ended.value.code or 0, captured.out, captured.err)

    yield call
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Started]:
    """Start a command in its own process, after the program `before`; killed when the test ends."""
    running: list[subprocess.Popen[str]] = []

    def start(*arguments: str | Path, before: str = "", **options: Any) -> subprocess.Popen[str]:
        program = f"{before}\nfrom edgesparse.cli import main; main()"
        command = [sys.executable, "-c", program, *map(str, arguments)]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
        running.append(subprocess.Popen(command, cwd=tmp_path, **pipes))
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return squares.detector(tmp_path / "squares.onnx")
