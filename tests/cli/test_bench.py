"""`bench` under load."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
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
        (("--batch", "1", "--tiles", "auto"), 2, "--tiles applies to frames only: leave out --batch and --streams"),
        (("--tiles", "640,,"), 2, "--tiles: run.tiles: found '640,,' (text), needed none, auto, a size"),
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


def test_the_cost_of_tiles_is_shown(edgesparse: Command, model: Path) -> None:
    cv2.imwrite("frame.png", np.zeros((96, 192, 3), np.uint8))
    ended = edgesparse("bench", model, "--source", "frame.png", "--tiles", "64,0.1")
    assert ended.code == 0 and "tiles: 9 images per frame in 9 runs of the engine, " in ended.out
    assert "the whole frame alone" in ended.out and "build.batch: 9 takes one" in ended.out
    report = edgesparse("bench", "engines/squares", "--source", "frame.png", "--tiles", 64, "--json").json
    assert (report["tiles"]["images"], report["tiles"]["rounds"]) == (9, 9)
    assert report["tiles"]["whole"]["frames"] == 1 and report["tiles"]["whole"]["latency"]["total"]["p50"] > 0
