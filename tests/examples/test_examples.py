"""Every command of every numbered example, run in order in a copy of its folder."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from markdown_blocks import LANGUAGES, ROOT, blocks, run_block

EXAMPLES = sorted((ROOT / "examples").glob("[0-9]*"))


@pytest.mark.long
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_the_commands_of_an_example_run(example: Path, tmp_path: Path) -> None:
    """The copy is next to the package and the images that examples read through ../.."""
    for name in ("edgesparse", "calib_data"):
        (tmp_path / name).symlink_to(ROOT / name)
    folder = shutil.copytree(example, tmp_path / "examples" / example.name)
    for block in blocks(example / "README.md"):
        run_block(block, folder)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_an_example_runs_all_it_shows(example: Path) -> None:
    """Nothing in an example is skipped, and each of its Python files is run."""
    shown = blocks(example / "README.md")
    assert [block.where for block in shown if block.marker == "not run" or block.language not in LANGUAGES] == []
    commands = "\n".join(block.text for block in shown)
    for path in example.glob("*.py"):
        assert f"python {path.name}" in commands or f" {path.name}:" in commands, f"nothing runs {path.name}"


def test_examples_are_numbered_without_gaps_and_listed() -> None:
    assert [int(example.name[:2]) for example in EXAMPLES] == list(range(1, len(EXAMPLES) + 1))
    listed = re.findall(r"\((\w+)/README\.md\)", (ROOT / "examples" / "README.md").read_text())
    assert listed == [example.name for example in EXAMPLES]
