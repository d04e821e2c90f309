"""Manifests are read as they were written; invalid ones are refused with the command that fixes them."""

from __future__ import annotations

import json
import re
import stat
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packages import manifest

from edgesparse.config import Run
from edgesparse.errors import PackageError
from edgesparse.package.manifest import ADDRESSES, FILE, Candidate, LayerRecord, Manifest, Score, read, sha256, write

text = st.text(string.ascii_letters + " äß\"'<\\\n", max_size=8)
number = st.floats(0, 1e6)
scores = st.none() | st.builds(Score, map=number, map50=number)
candidates = st.builds(
    Candidate,
    name=text,
    precision=st.sampled_from(["fp32", "int8"]),
    sparse=st.booleans(),
    outcome=st.sampled_from(["chosen", "lost", "refused", "failed", "skipped"]),
    reason=text,
    build_seconds=number,
    latency_ms=st.none() | number,
    device_mb=st.none() | number,
    score=scores,
    picked=st.lists(text, max_size=2).map(tuple),
    layers=st.lists(st.builds(LayerRecord, name=text, kernel=text, sparse=st.booleans()), max_size=2).map(tuple),
)
runs = st.builds(
    Run,
    conf=st.floats(0, 1) | st.dictionaries(text, st.floats(0, 1), max_size=2),
    classes=st.none() | st.lists(text, min_size=1, max_size=2).map(tuple),
)


def is_file_name(name: str) -> bool:
    return bool(re.fullmatch(r"[^/\0]{1,60}", name)) and name not in (".", "..")


changes = st.fixed_dictionaries(
    {},
    optional={
        "created": text,
        "identity": st.dictionaries(text, text, max_size=3),
        "labels_sha256": st.none() | text,
        "candidates": st.lists(candidates, max_size=2).map(tuple),
        "run": runs,
        "files": st.dictionaries(text.filter(is_file_name), text, max_size=3),
    },
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes)
def test_a_manifest_is_read_as_it_was_written(tmp_path: Path, change: dict[str, Any]) -> None:
    written = manifest(**change)
    write(tmp_path, written)
    assert read(tmp_path) == written
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


SECRET = "rtsp://admin:p4ss-e91@10.0.0.7:554/stream1?token=t0k-44"
SHOWN = "rtsp://10.0.0.7:554/stream1"


@pytest.mark.parametrize("run", [{"source": SECRET}, {"cameras": [{"name": "gate", "source": SECRET}]}])
def test_credentials_of_cameras_are_in_a_separate_file_for_the_owner(tmp_path: Path, run: dict[str, Any]) -> None:
    complete = manifest(run=Run.model_validate_json(json.dumps(run)))
    write(tmp_path, complete)
    assert read(tmp_path) == complete and read(tmp_path).signed_part() == complete.signed_part()
    for text in ((tmp_path / FILE).read_text(), complete.model_dump_json(), complete.signed_part().decode()):
        assert SHOWN in text and "p4ss" not in text and "t0k" not in text
    assert stat.S_IMODE((tmp_path / ADDRESSES).stat().st_mode) == 0o600
    write(tmp_path, manifest())
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


@pytest.mark.parametrize("text", ["", "[]", '{"camera": 5}', '{"camera": "rtsp://a:b@elsewhere/stream1"}'])
def test_damaged_or_foreign_addresses_change_nothing(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, manifest(run=Run(source=SECRET)))
    (tmp_path / ADDRESSES).write_text(text)
    assert read(tmp_path).run.source == SHOWN
    assert ("cameras are opened without credentials" in caplog.text) == (text == "")
    (tmp_path / ADDRESSES).unlink()
    assert read(tmp_path).run.source == SHOWN


def damaged(folder: Path, damage: Callable[[dict[str, Any]], object]) -> str:
    write(folder, manifest())
    content = json.loads((folder / FILE).read_text())
    damage(content)
    (folder / FILE).write_text(json.dumps(content))
    return refused(folder)


def refused(folder: Path) -> str:
    with pytest.raises(PackageError) as caught:
        read(folder)
    assert "\n" not in str(caught.value) and "edgesparse build" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content.pop("engine"), "is damaged at engine"),
        (lambda content: content.update(surplus=1), "is damaged at surplus"),
        (lambda content: content["inputs"][0].update(shape="1x3"), "is damaged at inputs.0.shape"),
        (lambda content: content["detector"]["input"].update(pad="round"), "is damaged at detector.input.pad"),
        (lambda content: content.update(format=1), "found format 1, needed 2"),
        (lambda content: content.clear(), "found format None, needed 2"),
    ],
)
def test_a_damaged_manifest_is_refused_with_the_key(
    tmp_path: Path, damage: Callable[[dict[str, Any]], object], message: str
) -> None:
    assert message in damaged(tmp_path, damage)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[]", b"null", b"7"])
def test_other_files_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / FILE).write_bytes(data)
    refused(tmp_path)


def test_a_folder_without_a_manifest_is_refused_with_the_command_that_builds(tmp_path: Path) -> None:
    assert "no package in" in refused(tmp_path)
    assert "no package in" in refused(tmp_path / "nowhere")


def test_the_precision_is_that_of_the_chosen_candidate() -> None:
    def candidate(precision: str, chosen: bool) -> Candidate:
        return Candidate(name="", precision=precision, outcome="chosen" if chosen else "lost", reason="")

    mixed: Manifest = manifest(candidates=(candidate("fp32", False), candidate("int8", True)))
    assert mixed.precision == "int8"
    assert manifest().precision == ""


def test_sha256_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert sha256(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
