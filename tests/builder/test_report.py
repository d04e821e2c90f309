"""The page of a package: complete, hashed, and safe with any model name."""

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
    """Collects open tags, all tags, and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_report_has_the_build_its_inputs_and_the_reason(tmp_path: Path) -> None:
    model = squares.detector(tmp_path / "<img src=x onerror=alert(1)>&.onnx")
    labels = squares.coco_annotations(tmp_path)
    recipe = parse({"model": str(model), "accept": {"annotations": str(labels)}}, "recipe")
    package = build(recipe, tmp_path / "engines").package
    page = Page((package.folder / "report.html").read_text())
    assert page.open == [] and "img" not in page.seen and "script" not in page.seen
    manifest = package.manifest
    for text in (model.stem, manifest.build_id, manifest.source_sha256, "fp32", "100.0", "the only candidate"):
        assert text in page.text
    assert "yolov8, 2 classes" in page.text and "images (1, 3, 64, 64) uint8" in page.text
    (candidate,) = manifest.candidates
    assert candidate.seconds.keys() == {"prepare", "build", "test"} and candidate.seconds["test"] > 0
    assert manifest.seconds.keys() == {"model", "reference", "candidates", "timing"}
    assert sum(candidate.seconds.values()) <= manifest.seconds["candidates"] + 0.05
    assert "What the build cost" in page.text and "Reading and rewriting the model" in page.text
    assert manifest.files["report.html"] == sha256(package.folder / "report.html")
