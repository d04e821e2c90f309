"""CONTRIBUTING's promise: a head, source, sink, output, board or backend is one new file and one line in a table.

Each is added to a copy of the package, and used from the command line of that copy.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import own_heads
import pytest
import squares

ROOT = Path(__file__).parents[1]

SOURCE = '''"""A source of gray frames: `count://5` has five."""

import re
import time

import numpy as np

from edgesparse.stream.frames import Frame
from edgesparse.stream.sources.base import Source


class Counting(Source):
    def __init__(self, name: str, total: int) -> None:
        self.name, self.total, self._index = name, total, 0

    def read(self) -> Frame | None:
        if self._index == self.total:
            return None
        frame = Frame(np.full((48, 64, 3), self._index, np.uint8), time.monotonic_ns(), self._index, self.name)
        self._index += 1
        return frame

    def reopen(self) -> None:
        self._index = 0

    def close(self) -> None:
        pass


def open_counting(match: re.Match[str], options: object) -> Source:
    return Counting(match[0], int(match[1]))
'''
SINK = '''"""A sink that counts frames and detections in a file."""

from pathlib import Path

from edgesparse.runtime.detections import Detections
from edgesparse.stream.frames import Frame
from edgesparse.stream.sinks.base import Sink


class Tally(Sink):
    def __init__(self, path: str | Path) -> None:
        self._path, self._frames, self._boxes = Path(path), 0, 0

    def write(self, frame: Frame, detections: Detections) -> None:
        self._frames, self._boxes = self._frames + 1, self._boxes + len(detections)

    def close(self) -> None:
        self._path.write_text(f"{self._frames} frames, {self._boxes} boxes")
'''
OUTPUT = '''"""Detections to a log that others read by offset, as a Kafka topic is."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from edgesparse.service.outputs.base import FrameResult, Output, OutputContext, OutputSettings, OutputState


class LogSettings(OutputSettings):
    """Detections, one message per frame, partitioned by camera."""

    folder: Path
    """Folder of the topic."""
    partitions: Annotated[int, Field(ge=1, le=64)] = 2
    """Files that cameras are spread over."""


class Log(Output):
    settings_type = LogSettings

    def __init__(self, settings: LogSettings, context: OutputContext) -> None:
        self.state = OutputState("log")
        settings.folder.mkdir(parents=True, exist_ok=True)
        self._files = [(settings.folder / f"{n}.log").open("a") for n in range(settings.partitions)]

    def detections(self, result: FrameResult) -> None:
        file = self._files[sum(result.frame.source.encode()) % len(self._files)]
        print(result.text, file=file, flush=True)
        self.state.sent += 1

    def close(self) -> None:
        for file in self._files:
            file.close()
'''
BACKEND = '''"""ONNX Runtime under another name."""

from edgesparse.backends.onnxruntime import OnnxRuntimeBackend


class MirrorBackend(OnnxRuntimeBackend):
    name = "mirror"
'''
BOARD = """\
  tiny-board: {gpu: orin, memory_gb: 4, bus_bits: 64, modes: {MAXN: {sms: 2, gpu_mhz: 500, emc_mhz: 2133}}}
"""


class Checkout:
    """A copy of the package. Commands run in its folder, which Python searches before any other."""

    def __init__(self, root: Path) -> None:
        self.root = root
        shutil.copytree(ROOT / "edgesparse", root / "edgesparse", ignore=shutil.ignore_patterns("__pycache__"))
        self.environment = {**os.environ, "PYTHONPATH": str(root), "EDGESPARSE_STATE": str(root / "state")}

    def add(self, path: str, text: str) -> None:
        """The one new file."""
        file = self.root / "edgesparse" / path
        assert not file.exists()
        file.write_text(text)

    def enter(self, table: str, start: str, line: str, imports: str = "") -> None:
        """The one line in a table, right after the line that starts it, and the import that the line needs."""
        file = self.root / "edgesparse" / table
        lines = file.read_text().splitlines(keepends=True)
        (place,) = (number for number, text in enumerate(lines) if text.startswith(start))
        lines.insert(place + 1, line.rstrip("\n") + "\n")
        if imports:
            first = next(number for number, text in enumerate(lines) if text.startswith("from edgesparse."))
            lines.insert(first, imports + "\n")
        file.write_text("".join(lines))

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        ended = subprocess.run(
            self.command(*arguments),
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended

    @staticmethod
    def command(*arguments: str) -> list[str]:
        return [sys.executable, "-m", "edgesparse", *arguments]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_a_head(checkout: Checkout) -> None:
    """The head in tests/own_heads.py, which claims stronger evidence than YOLOv8's."""
    evidence = '    def evidence(self, layout, sample):\n        return edgesparse.Evidence(3, "rows")\n'
    checkout.add("runtime/heads/squares.py", own_heads.SOURCE + evidence)
    checkout.enter("head_table.py", "HEADS = {", '    "squares": "edgesparse.runtime.heads.squares:Squares",')
    squares.detector(checkout.root / "squares.onnx")
    assert "head: squares" in checkout.run("recipe", "squares.onnx", "-o", "-").stdout
    cv2.imwrite(str(checkout.root / "image.png"), squares.image([(1, 2, 0), (5, 5, 1)]))
    record = json.loads(checkout.run("run", "squares.onnx", "--source", "image.png", "--jsonl", "-").stdout)
    assert len(record["detections"]) == 2


def test_a_source(checkout: Checkout) -> None:
    checkout.add("stream/sources/counting.py", SOURCE)
    checkout.enter(
        "stream/sources/open.py",
        "KINDS",
        '    (r"count://(\\d+)", open_counting),',
        "from edgesparse.stream.sources.counting import open_counting",
    )
    lines = checkout.run("run", "demo", "--source", "count://5", "--jsonl", "-").stdout.splitlines()
    assert [json.loads(line)["source"] for line in lines] == ["count://5"] * 5


def test_a_sink(checkout: Checkout) -> None:
    checkout.add("stream/sinks/tally.py", SINK)
    checkout.enter(
        "stream/sinks/open.py",
        "SINKS",
        '    "tally": SinkKind(lambda path, o: Tally(path)),',
        "from edgesparse.stream.sinks.tally import Tally",
    )
    program = (
        "import edgesparse\n"
        "with edgesparse.load('demo') as detector, edgesparse.open_source('demo') as source:\n"
        "    with edgesparse.open_sinks(detector.spec.classes, tally='tally.txt') as sinks:\n"
        "        edgesparse.run(source, detector, sinks, limit=3)\n"
    )
    command = [sys.executable, "-c", program]
    subprocess.run(command, cwd=checkout.root, env=checkout.environment, check=True, timeout=120)
    assert (checkout.root / "tally.txt").read_text().startswith("3 frames, ")


def test_an_output(checkout: Checkout) -> None:
    """Its section is checked with the settings, and it gets detections from the running service."""
    checkout.add("service/outputs/log.py", OUTPUT)
    checkout.enter(
        "service/outputs/table.py", "OUTPUTS", '    "log": Log,', "from edgesparse.service.outputs.log import Log"
    )
    settings = checkout.root / "device.yaml"
    settings.write_text(
        "run: {cameras: [{name: belt, source: demo}]}\n"
        "service: {web: {enabled: false}, log: {folder: topic, partitions: 1}}\n"
    )
    command = checkout.command("run", "demo", "--service", "--settings", str(settings))
    with subprocess.Popen(command, cwd=checkout.root, env=checkout.environment, stderr=subprocess.PIPE) as service:
        try:
            deadline = time.monotonic() + 120
            while not _lines(checkout.root / "topic" / "0.log"):
                assert service.poll() is None and time.monotonic() < deadline
                time.sleep(0.2)
        finally:
            service.send_signal(signal.SIGTERM)
            service.communicate(timeout=30)
    record = json.loads(_lines(checkout.root / "topic" / "0.log")[0])
    assert record["camera"] == "belt" and "detections" in record


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def test_a_board(checkout: Checkout) -> None:
    checkout.enter("predict/boards.yaml", "boards:", BOARD)
    model = str(ROOT / "edgesparse" / "demo" / "parts_dense.onnx")
    assert "tiny-board" in checkout.run("inspect", model, "--device", "tiny-board").stdout


def test_a_backend(checkout: Checkout) -> None:
    checkout.add("backends/mirror.py", BACKEND)
    checkout.enter("backend_table.py", "BACKENDS = {", '    "mirror": "edgesparse.backends.mirror:MirrorBackend",')
    shutil.copy(ROOT / "edgesparse" / "demo" / "parts_dense.onnx", checkout.root / "detector.onnx")
    (checkout.root / "detector.yaml").write_text("model: detector.onnx\nbuild: {backend: mirror}\n")
    checkout.run("build", "detector.yaml")
    manifest = checkout.root / "engines" / "detector" / "current" / "manifest.json"
    assert json.loads(manifest.read_text())["backend"] == "mirror"
