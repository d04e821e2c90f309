"""No command ends in a traceback: unexpected streams, arguments and errors."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from commands import Command, Started

from edgesparse.cli import process


def shell(text: str, folder: Path) -> subprocess.CompletedProcess[bytes]:
    """Run a line of bash with `edgesparse` from this checkout; the exit code is that of the pipeline's first
    command."""
    program = f'edgesparse() {{ "{sys.executable}" -m edgesparse "$@"; }}; {text}; exit "${{PIPESTATUS[0]}}"'
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(["bash", "-c", program], cwd=folder, env=environment, capture_output=True, check=False)


def test_an_unexpected_error_is_one_line_and_a_report(
    edgesparse: Command, state: Path, monkeypatch: pytest.MonkeyPatch, model: Path
) -> None:
    def fail(*_: object) -> None:
        raise LookupError("a defect at rtsp://user:hunter2@camera/1\nsecond line")

    monkeypatch.setattr("edgesparse.tasks.inputs.check_sources", fail)
    ended = edgesparse("run", model, "--source", "rtsp://user:hunter2@camera/1")
    assert ended.code == 1
    assert ended.message.startswith(
        "unexpected LookupError (a defect at rtsp://camera/1 second line): this is a defect"
    )
    path = Path(ended.message.rpartition("attach ")[2])
    assert path.parent == state / "reports" and stat.S_IMODE(path.stat().st_mode) == 0o600
    text = path.read_text()
    assert "Traceback" in text and "in fail" in text and "--source rtsp://camera/1" in text
    assert "hunter2" not in text


def test_reports_do_not_pile_up(state: Path) -> None:
    (state / "reports").mkdir(exist_ok=True)
    for number in range(3 * process.REPORTS):
        (state / "reports" / f"error-20000101-0000{number:02d}-1.txt").touch()
    process.report(ValueError("x"), [])
    assert len(list((state / "reports").iterdir())) == process.REPORTS


def test_a_report_that_cannot_be_written_is_still_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_folders", lambda: [Path("/proc/nowhere")])
    assert "no file could be written" in process.report(ValueError("x"), [])


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_without_a_meaning_is_ignored(edgesparse: Command, number: signal.Signals) -> None:
    before = signal.getsignal(number)
    try:
        process.prepare_signals([])
        os.kill(os.getpid(), number)
    finally:
        signal.signal(number, before)


def test_what_the_system_refuses_is_one_line_with_the_file(
    edgesparse: Command, monkeypatch: pytest.MonkeyPatch, model: Path
) -> None:
    def fail(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "/srv/frames")

    monkeypatch.setattr("edgesparse.tasks.inputs.check_sources", fail)
    ended = edgesparse("run", model, "--source", "demo")
    assert (ended.code, ended.message) == (1, "cannot continue: /srv/frames: Permission denied")


def test_out_of_memory_is_one_line(edgesparse: Command, monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("edgesparse.tasks.inputs.check_sources", fail)
    ended = edgesparse("run", model, "--source", "0")
    assert (ended.code, ended.message) == (3, "out of memory: close other programs, or use a smaller model or batch")


@pytest.mark.parametrize("verb", ["--help", "doctor", "doctor --json"])
def test_a_reader_that_has_gone_is_no_error(tmp_path: Path, verb: str) -> None:
    done = shell(f"edgesparse {verb} | true", tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("verb", ["--help", "doctor --json"])
def test_a_closed_standard_output_is_one_line(tmp_path: Path, verb: str) -> None:
    done = shell(f"edgesparse {verb} >&-", tmp_path)
    assert (done.returncode, done.stderr) == (1, b"edgesparse: standard output is closed\n")


def test_with_all_streams_closed_files_are_what_they_should_be(tmp_path: Path) -> None:
    done = shell("edgesparse demo export set --count 1 <&- >&- 2>&-", tmp_path)
    assert done.returncode == 0
    assert (tmp_path / "set" / "instances.json").read_text().startswith("{")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([b"run", b"caf\xe9.onnx", b"--source", b"demo"], b"caf\\xe9.onnx"),
        ([b"run", b"demo", b"--source", b"caf\xe9.jpg"], b"caf\\xe9.jpg"),
        ([b"run", b"demo", b"--source", b"~nobody-of-that-name/x.jpg"], b"no source ~nobody"),
        ([b"run", b"demo", b"--source", b"x" * 5000], b"x"),
        ([b"run", b"demo", b"--frames", b"9" * 5000], b"--frames"),
        ([b"run", b"demo", b"--frames", b"\xc2\xb2"], b"--frames"),
        ([b"run", b"demo", b"--conf", b"1e999"], b"--conf"),
        ([b"run", b"demo", b"--conf", b"nan", b"--source", b"none.jpg"], b""),
        ([b"run", b"demo", b"--classes", b"9" * 5000, b"--source", b"none.jpg"], b""),
        ([b"build", b"x" * 5000 + b".yaml"], b"RECIPE"),
        ([b"build", b"demo", b"--store", b"x" * 5000], b""),
        ([b"inspect", b"caf\xe9.txt"], b"caf\\xe9.txt"),
        ([b"export", b"caf\xe9"], b"caf\\xe9"),
        ([b"deploy", b"https://" + b"a" * 70 + b".example/x.esb"], b""),
        ([b"deploy", b"https://[::1/x.esb"], b""),
        ([b"caf\xe9"], b"caf\\xe9"),
    ],
)
def test_arguments_as_nobody_means_them_are_one_line(tmp_path: Path, arguments: list[bytes], message: bytes) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [os.fsencode(sys.executable), b"-m", b"edgesparse", *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=60, check=False)
    assert done.returncode in (1, 2, 3), done.stderr
    assert b"Traceback" not in done.stderr and b"unexpected" not in done.stderr
    assert done.stderr.startswith(b"edgesparse: ") and done.stderr.count(b"\n") == 1, done.stderr
    assert message in done.stderr


def test_nohup_is_respected(started: Started, model: Path, tmp_path: Path) -> None:
    ignore = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    running = started("run", model, "--source", "demo", "--jsonl", "-", before=ignore)
    assert running.stdout is not None
    running.stdout.readline()
    running.send_signal(signal.SIGHUP)
    assert [running.stdout.readline().startswith("{") for _ in range(30)] == [True] * 30
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=60)
    assert running.returncode == 0


def test_a_service_outlives_a_reload_that_comes_before_it_listens(started: Started, tmp_path: Path) -> None:
    """A signal immediately after the start, long before the engine is loaded."""
    send = "import os, signal, edgesparse.cli.run as run; serve = run.run_service\n"
    send += "run.run_service = lambda *a: (os.kill(os.getpid(), signal.SIGHUP), serve(*a))"
    running = started("run", "nothing.onnx", "--service", before=send)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 2 and "nothing.onnx" in err, (running.returncode, err)
