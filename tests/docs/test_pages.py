"""Every command, Python block and YAML block in the README and the guide, run in order in a reader's folder."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from markdown_blocks import LANGUAGES, ROOT, blocks, run_block, run_command

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
RUN = [page for page in PAGES if any(block.marker != "not run" for block in blocks(page)) and page.name != "verbs.md"]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(scope="session")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the pages assume a reader has: a detector, labeled images, a short video."""
    folder = tmp_path_factory.mktemp("reader")
    shutil.copy(ROOT / "edgesparse" / "demo" / "parts_dense.onnx", folder / "detector.onnx")
    command = (
        "edgesparse demo export labels --count 8 && edgesparse run demo --source demo --frames 10 --video video.mp4"
    )
    run_command(["bash", "-c", command], folder, "the reader's folder")
    shutil.rmtree(folder / "engines")
    return folder


@pytest.mark.long
@pytest.mark.timeout(900)  # a page may prune and quantize several times: minutes of a busy core
@pytest.mark.parametrize("page", RUN, ids=name)
def test_what_a_page_shows_runs(page: Path, reader: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(reader, tmp_path / "reader")
    for block in blocks(page):
        run_block(block, folder)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_blocks_name_their_language(page: Path) -> None:
    unknown = [block.where for block in blocks(page) if block.language not in LANGUAGES]
    assert unknown == [], f"needed ```{' or ```'.join(sorted(LANGUAGES))}"


def test_no_command_hides_in_an_indented_block() -> None:
    """Indented blocks are not run: only fenced ones are."""
    command = re.compile(r"^ {4}(edgesparse|python|pip|sudo|scripts/)\b.*", re.MULTILINE)
    for page in PAGES:
        text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        assert command.findall(text) == [], name(page)


def test_most_of_the_guide_is_run() -> None:
    """Blocks marked as not run stay the exception: they need hardware or a network, or are run by another test."""
    verbs = [
        block for page in PAGES for block in blocks(page) if "edgesparse " in block.text and block.language == "sh"
    ]
    ran = [block for block in verbs if block.marker != "not run"]
    assert len(ran) >= 12
