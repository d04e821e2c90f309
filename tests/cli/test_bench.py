"""`bench` under load."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import Command


def test_throughput_of_batches_and_streams(edgesparse: Command, model: Path) -> None:
    options = ("--batch", "1,2", "--streams", "1,2", "--seconds", "0.02", "--candidates", "fp32")
    ended = edgesparse("bench", model, *options, "--html", "load.html")
    assert ended.code == 0 and "cameras dense (fp32, batch" in ended.out and ended.out.count("fp32  ") == 4
    assert "<svg" in Path("load.html").read_text() and not Path("engines").exists()
    report = edgesparse("bench", model, *options, "--fps", 20, "--json").json
    assert [(row["batch"], row["streams"]) for row in report["loads"]] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert all(row["cameras"] > 0 and 0 < row["p50"] <= row["p99"] for row in report["loads"])
    edgesparse("build", model)
    report = edgesparse("bench", "engines/squares", "--streams", 2, "--seconds", "0.02", "--json").json
    assert [(row["batch"], row["streams"]) for row in report["loads"]] == [(1, 2)]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--batch", "0"), 2, "--batch: found 0, needed whole numbers from 1 to 64"),
        (("--streams", "two"), 2, "--streams: found two"),
        (("--html", "page.html"), 2, "--html and --candidates need --batch or --streams"),
        (("--batch", "1", "--html", "squares.onnx"), 2, "squares.onnx already exists: pass --force"),
        (("--batch", "1", "--candidates", "fp12"), 2, "'fp12'"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    edgesparse: Command, model: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    ended = edgesparse("bench", model, *arguments)
    assert ended.code == code and message in ended.message


def test_a_package_is_measured_at_its_own_batch(edgesparse: Command, model: Path) -> None:
    edgesparse("build", model)
    ended = edgesparse("bench", "engines/squares", "--batch", "2")
    assert ended.code == 2 and "--batch: found 2, needed 1, the package's batch" in ended.message
