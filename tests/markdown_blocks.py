"""Code blocks of Markdown pages, and how each is run: what a page shows must work, or say why it is not run.

A comment right above a block changes what happens to it:

    <!-- not run: REASON -->       it is left out
    <!-- file: NAME -->            its text becomes that file, after it has been checked
    <!-- exit code: N -->          its last command ends with that code
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import yaml

from edgesparse.config import parse
from edgesparse.service.settings import settings_type
from edgesparse.typed import typed

ROOT = Path(__file__).parents[1]
LANGUAGES = {"sh", "python", "yaml", "text"}
_BLOCK = re.compile(
    r"(?:^ *<!-- (?P<marker>[^\n]*?) -->\n)?^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^ *```$", re.M | re.S
)
_MARKER = re.compile(r"(not run|file|exit code): *(\S.*)")
SECONDS = 280


@dataclass(frozen=True)
class Block:
    """A fenced block, and the line of the page that it starts on."""

    page: Path
    line: int
    language: str
    text: str
    marker: str
    value: str

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """Every fenced block of a page. Raises ValueError for a marker that means nothing."""
    sequence = []
    text = page.read_text()
    for match in _BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("indent")) + 1
        marker, value = "", ""
        if match["marker"]:
            known = _MARKER.fullmatch(match["marker"])
            if known is None:
                raise ValueError(f"{page.name}:{line}: found the marker '{match['marker']}', needed one of {__doc__}")
            marker, value = known[1], known[2]
        sequence.append(Block(page, line, match["language"], textwrap.dedent(match["text"]), marker, value))
    return sequence


def run_block(block: Block, folder: Path) -> None:
    """Run a block in a folder. Raises AssertionError with what it printed."""
    if block.marker == "not run" or block.language == "text":
        return
    if block.language == "yaml":
        check_yaml(block)
    if block.marker == "file":
        (folder / block.value).write_text(block.text)
    elif block.language == "sh":
        expected = int(block.value) if block.marker == "exit code" else 0
        run_command(["bash", "-euo", "pipefail", "-c", block.text], folder, block.where, expected)
    elif block.language == "python":
        script = folder / f"block_{block.line}.py"
        script.write_text(block.text)
        run_command([sys.executable, script.name], folder, block.where)


def run_command(command: list[str], folder: Path, where: str, expected: int = 0) -> str:
    """Standard output of a command that ends with the expected code."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    result = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert result.returncode == expected, f"{where}: exit code {result.returncode}\n{result.stdout}{result.stderr}"
    return result.stdout


def check_yaml(block: Block) -> None:
    """A block with `service:` is settings, any other a recipe or a part of one."""
    content = yaml.safe_load(block.text)
    if "service" in content:
        typed(settings_type(), content.pop("service"), block.where)
    if content:
        parse({"model": "detector.onnx", **content}, block.where)
