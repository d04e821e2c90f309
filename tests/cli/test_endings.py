"""How a verb ends: signals, closed pipes, full disks."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
from commands import Started


def grown_from(size: int, rows: Path) -> None:
    deadline = time.monotonic() + 60
    while rows.stat().st_size <= size:
        assert time.monotonic() < deadline, "no more rows"
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=["Ctrl-C", "SIGTERM", "SIGHUP"])
def test_a_signal_ends_a_run_with_complete_outputs_and_a_summary(
    started: Started, model: Path, tmp_path: Path, number: signal.Signals
) -> None:
    rows = tmp_path / "out.jsonl"
    with rows.open("w") as output:
        process = started(
            *("run", model, "--source", "demo", "--jsonl", "-", "--coco", "out.json", "--video", "out.avi"),
            before="import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL)",  # nohup sets it to ignored
            stdout=output,
        )
    grown_from(0, rows)
    process.send_signal(signal.SIGUSR1)  # of no meaning here: nothing ends and nothing is lost
    grown_from(rows.stat().st_size, rows)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    lines = [json.loads(line) for line in rows.read_text().splitlines()]
    assert f"\n{len(lines)} frames" in err and "interrupted" in err and "Traceback" not in err
    boxes = json.loads((tmp_path / "out.json").read_text())
    assert len(boxes) == sum(len(line["detections"]) for line in lines)
    assert (tmp_path / "out.avi").stat().st_size > 0
    assert not list(tmp_path.glob(".*"))


def test_a_signal_during_a_build_leaves_no_package(started: Started, model: Path, tmp_path: Path) -> None:
    process = started("build", model, before="from edgesparse.builder import build; build.TIMING_SECONDS = 60.0")
    assert process.stderr is not None
    for line in process.stderr:
        if line == "timing fp32\n":
            break
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err.strip() == "edgesparse: interrupted"
    assert [path.name for path in (tmp_path / "engines/squares").iterdir()] == [".lock"]


def test_a_closed_pipe_ends_a_run_quietly(started: Started, model: Path) -> None:
    process = started("run", model, "--source", "demo", "--jsonl", "-")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(timeout=60) == 0
    assert "Error" not in err and "Exception" not in err and "closed" in err


@pytest.mark.parametrize("arguments", [["doctor"], ["doctor", "--json"], ["--help"]])
def test_a_full_standard_output_is_one_line(started: Started, arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        process = started(*arguments, stdout=full)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and err == "edgesparse: cannot continue: [Errno 28] No space left on device\n"
