"""The page beside a package: whole, hashed, and safe whatever the model calls itself."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest
import squares

from edgesparse.builder.build import build
from edgesparse.config import parse
from edgesparse.package.manifest import sha256

pytestmark = pytest.mark.usefixtures("quick")


class Page(HTMLParser):
    """Tags that are open, tags that were seen, and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.said = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.said += data


def test_the_report_says_what_was_built_from_what_and_why(tmp_path: Path) -> None:
    model = squares.detector(tmp_path / "<img src=x onerror=alert(1)>&.onnx")
    labels = squares.labelled(tmp_path)
    recipe = parse({"model": str(model), "accept": {"annotations": str(labels)}}, "recipe")
    package = build(recipe, tmp_path / "engines").package
    page = Page((package.folder / "report.html").read_text())
    assert page.open == [] and "img" not in page.seen and "script" not in page.seen
    said = package.manifest
    for text in (model.stem, said.build_id, said.source_sha256, "fp32", "100.0", "the only candidate"):
        assert text in page.said
    assert "yolov8, 2 classes" in page.said and "images (1, 3, 64, 64) uint8" in page.said
    assert said.files["report.html"] == sha256(package.folder / "report.html")
