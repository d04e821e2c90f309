"""Promise: text from a device, a model or a file is shown on pages and terminals, and never run."""

from __future__ import annotations

import json
import re
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import packages
import pytest
from click.testing import CliRunner
from jinja2 import Environment, FileSystemLoader

from edgesparse.builder import report
from edgesparse.cli.status import status
from edgesparse.config import DetectorSpec, InputSpec
from edgesparse.package.manifest import Candidate, LayerRecord, LayerVerdict

EVIL = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>{{7*7}}\x1b[2J\x00"
TEMPLATES = Path(__file__).parents[2] / "deploy" / "ansible" / "roles" / "edgesparse" / "templates"
TAGS = {
    *("html", "meta", "title", "style", "h1", "h2", "p", "div", "span", "b", "i", "em", "ul", "li", "table", "thead"),
    *("tbody", "tr", "th", "td", "small", "details", "summary", "code", "a", "head", "body", "br", "main", "section"),
}


class Markup(HTMLParser):
    """The tags of a page and the names of their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def check(page: str) -> None:
    markup = Markup(page)
    assert markup.tags <= TAGS, markup.tags - TAGS
    assert not {name for name in markup.attributes if name.startswith("on") or name in ("src", "srcdoc", "action")}
    assert "49" not in page


def test_the_report_of_a_build_escapes_every_name_and_reason() -> None:
    layer = LayerRecord(name=EVIL, kernel=EVIL, sparse=True, onnx=(EVIL,), device=EVIL, precision=EVIL)
    candidate = Candidate(
        name=EVIL,
        precision="fp16",
        sparse=True,
        outcome="chosen",
        reason=EVIL,
        latency_ms=1.5,
        eligible=(EVIL,),
        picked=(EVIL,),
        layers=(layer,),
        degraded=(EVIL,),
        warnings=(EVIL,),
        command=EVIL,
    )
    manifest = packages.manifest(
        model=EVIL,
        created=EVIL,
        machine={"model": EVIL, "gpu": EVIL, "cpu": EVIL},
        identity={EVIL: EVIL},
        candidates=(candidate, candidate.model_copy(update={"outcome": "failed", "precision": "int8"})),
        verdict=(EVIL,),
        sparsity=(LayerVerdict(name=EVIL, state="sparse", sparse=True, why=EVIL),),
        clocks=EVIL,
        detector=DetectorSpec(head="yolov8", classes=(EVIL,), input=InputSpec(size=(64, 64))),
    )
    check(report.page(manifest))


def row(**values: Any) -> dict[str, Any]:
    keys = re.findall(r"row\.(\w+)", (TEMPLATES / "fleet.html.j2").read_text())
    return {**dict.fromkeys(keys), **values}


def fleet_page(*rows: dict[str, Any]) -> str:
    """The page as Ansible renders it, which does not escape by itself."""
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=False)
    environment.filters["strftime"] = lambda form, seconds, utc: time.strftime(form, time.gmtime(seconds))
    environment.globals["now"] = lambda utc: _Now()
    return environment.get_template("fleet.html.j2").render(rows=rows)


class _Now:
    def strftime(self, form: str) -> str:
        return time.strftime(form, time.gmtime(0))


@pytest.mark.parametrize("key", [key for key in row() if key not in ("since", "canary")])
def test_the_fleets_page_escapes_whatever_a_device_says(key: str) -> None:
    page = fleet_page(row(host="good", state="healthy"), row(**{"host": "bad", "state": "healthy", key: EVIL}))
    check(page)
    assert page.count("<tr>") == 3 and "good" in page


def test_a_terminal_is_not_commanded_by_what_a_device_says(tmp_path: Path) -> None:
    slot = tmp_path / "slots" / "a" / "slot.json"
    slot.parent.mkdir(parents=True)
    record = {"bundle": EVIL, "name": EVIL, "version": EVIL, "time": 1, "committed": 2.0**36, "backend": EVIL}
    slot.write_text(json.dumps(record))
    (tmp_path / "current").symlink_to("slots/a")
    (tmp_path / "status.json").write_text(json.dumps({"why": EVIL, "frames": EVIL, "healthy": EVIL, "package": []}))
    events = [{"time": 2.0**36, "verb": EVIL, "why": EVIL}, {"time": True, "why": [EVIL]}]
    (tmp_path / "history.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    arguments = ["--root", str(tmp_path), "--status", str(tmp_path / "status.json")]
    for more in ([], ["--json"]):
        done = CliRunner().invoke(status, [*arguments, *more])
        assert done.exit_code == 0, done.exception
        assert "alert(1)" in done.output and "\x1b" not in done.output and "\x00" not in done.output
