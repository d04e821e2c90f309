"""Arguments that no verb can use: each is refused in one line before any work, and nothing is written or
overwritten."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import squares
from commands import Command

FILES = ("empty.onnx", "empty.yaml", "binary.onnx", "binary.yaml", "binary.json", "binary.key", "list.yaml")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> Path:
    """A model, images, and every kind of invalid file."""
    squares.chained(tmp_path / "deep.onnx")
    (tmp_path / "images").mkdir()
    squares.coco_annotations(tmp_path / "images")
    for name in FILES:
        (tmp_path / name).write_bytes(b"" if name.startswith("empty") else bytes(range(256)) * 8)
    (tmp_path / "list.yaml").write_text("- a\n- b\n")
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


def contents(folder: Path) -> dict[str, bytes | None]:
    paths = [path for path in folder.rglob("*") if "engines" not in path.parts]
    return {str(path): path.read_bytes() if path.is_file() else None for path in paths}


MODELS = (*FILES[:4], "list.yaml", "folder.onnx", "images", "loop", "nowhere.onnx", "deep.onnx/x", "x" * 300, "")
VERBS = (
    ("inspect",),
    ("recipe", "-o", "-"),
    ("prune", "-o", "out.onnx"),
    ("quantize", "-o", "out.onnx", "--images", "images"),
    ("build",),
    ("evaluate", "--annotations", "images"),
    ("bench", "--source", "images"),
    ("run", "--source", "images"),
    ("bundle", "-o", "out.esb", "--key", "binary.key"),
    ("keys public",),
)


@pytest.mark.parametrize("verb", VERBS, ids=[verb[0] for verb in VERBS])
def test_a_target_that_is_none(edgesparse: Command, tmp_path: Path, verb: tuple[str, ...]) -> None:
    before = contents(tmp_path)
    for target in MODELS:
        ended = edgesparse(*verb[0].split(), target, *verb[1:])
        assert ended.code in (1, 2) and ended.message, target
        assert "report" not in ended.message, ended.message
    assert contents(tmp_path) == before


def test_a_model_whose_name_is_not_utf8(edgesparse: Command, tmp_path: Path) -> None:
    name = os.fsdecode(b"mod\xe9l.onnx")
    (tmp_path / "deep.onnx").rename(tmp_path / name)
    for arguments in (("recipe", name, "-o", "-"), ("run", name, "--source", "images")):
        ended = edgesparse(*arguments)
        assert ended.code == 2 and "mod\\xe9l" in ended.message
        assert "ONNX Runtime cannot open a name that is not UTF-8: rename it" in ended.message


PIPES = (
    ("build", "pipe.yaml"),
    ("build", "deep.onnx", "--names", "pipe"),
    ("check-labels", "pipe"),
    ("quantize", "deep.onnx", "-o", "out.onnx", "--images", "images", "--from-table", "pipe"),
)


@pytest.mark.parametrize("arguments", PIPES, ids=[case[0] for case in PIPES])
def test_a_pipe_that_nobody_writes_to_does_not_block(
    edgesparse: Command, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    os.link(tmp_path / "pipe", tmp_path / "pipe.yaml")
    ended = edgesparse(*arguments)
    assert ended.code == 2 and "not a regular file" in ended.message


CREATED = [
    ("recipe", "deep.onnx", "-o", "new/a/out"),
    ("inspect", "deep.onnx", "--html", "new/a/out"),
    ("slim", "deep.onnx", "-o", "new/a/out"),
    ("keys", "new", "new/a/out"),
]


@pytest.mark.parametrize("arguments", CREATED, ids=[case[0] for case in CREATED])
def test_missing_folders_of_outputs_are_created(
    edgesparse: Command, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    assert edgesparse(*arguments).code == 0 and [*(tmp_path / "new/a").glob("out*")]
    assert "cannot write to folder /proc/new: " in edgesparse(*arguments[:-1], "/proc/new/out").message


OVERWRITE = [
    (("prune", "deep.onnx", "-o", "deep.onnx"), "cannot write deep.onnx: it is an input"),
    (("prune", "deep.onnx", "-o", "images/../deep.onnx"), "it is an input"),
    (("quantize", "deep.onnx", "-o", "deep.onnx", "--images", "images"), "it is an input"),
    (("quantize", "deep.onnx", "-o", "o.onnx", "--images", "images", "--html", "o.onnx"), "the target of two outputs"),
    (("quantize", "deep.onnx", "-o", "t.onnx", "--images", "images", "--table", "t"), "the target of two outputs"),
    (("recipe", "deep.onnx", "-o", "deep.onnx"), "it is an input"),
    (("recipe", "deep.onnx", "-o", "images"), "images is a folder: name a file"),
    (("slim", "deep.onnx", "-o", "pipe", "--force"), "cannot write pipe: it is a pipe or a device; name a file"),
    (("inspect", "deep.onnx", "--html", "deep.onnx"), "it is an input"),
    (("bundle", "deep.onnx", "-o", "binary.key", "--key", "binary.key"), "it is an input"),
    (("bundle", "deep.onnx", "-o", "deep.onnx/x.esb", "--key", "binary.key"), "deep.onnx is a file: name a folder"),
    (("demo", "export", "images", "--count", "1"), "images exists and is not a demo export"),
    (("demo", "export", "deep.onnx", "--count", "1"), "deep.onnx exists and is not a demo export"),
    (("run", "deep.onnx", "--source", "images", "--jsonl", "x", "--coco", "x"), "x: it is the target of two outputs"),
]


@pytest.mark.parametrize(("arguments", "message"), OVERWRITE, ids=[" ".join(case[0]) for case in OVERWRITE])
def test_no_verb_overwrites_what_it_reads(
    edgesparse: Command, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    before = contents(tmp_path)
    ended = edgesparse(*arguments, "--force")
    assert ended.code == 2 and message in ended.message
    assert contents(tmp_path) == before


NUMBERS = [
    (("run", "deep.onnx", "--source", "images"), ("--conf", "--iou", "--max-det", "--frames"), ("nan", "-1", "")),
    (("bench", "deep.onnx", "--batch", "1"), ("--fps", "--max-age", "--seconds"), ("nan", "inf", "-1", "x")),
    (("build", "deep.onnx"), ("--time-limit",), ("nan", "inf", "-1", "0")),
    (("demo", "export", "out"), ("--count", "--seed"), ("-1", "1.5", "99999999999999999999")),
    (("demo", "export", "out", "--count", "1", "--size", "99"), ("--size 99",), ("0", "15", "99999999")),
    (("keys", "new", "out"), ("--days",), ("0", "-1", "99999999999")),
    (("rollback", "--root", "root"), ("--health-seconds",), ("nan", "inf", "0")),
    (("prune", "deep.onnx", "-o", "o.onnx", "--method", "reconstruct", "--images", "images"), ("--share",), ("nan",)),
    (("quantize", "deep.onnx", "-o", "o.onnx", "--images", "images"), ("--count", "--max-drop"), ("nan", "-1")),
    (("inspect", "deep.onnx"), ("--shape",), ("images=²", "images=0x3", "=1", "images=", "images=1x9999999999999")),
    (("inspect", "deep.onnx"), ("--device",), ("", " ", "nano")),
]


@pytest.mark.parametrize(("verb", "names", "values"), NUMBERS, ids=[f"{' '.join(n[0])} {n[1][0]}" for n in NUMBERS])
def test_numbers_that_make_no_sense(
    edgesparse: Command, tmp_path: Path, verb: tuple[str, ...], names: tuple[str, ...], values: tuple[str, ...]
) -> None:
    before = contents(tmp_path)
    for name in names:
        for value in values:
            ended = edgesparse(*verb, *name.split(), value)
            assert ended.code == 2 and re.search(r"Invalid value|needed|no board|unknown", ended.message), ended
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["--state", "--annotations", "--annotated-images"])
def test_prunes_inputs_are_checked_before_the_model_is_read(edgesparse: Command, tmp_path: Path, name: str) -> None:
    options = ("prune", "deep.onnx", "-o", "o.onnx", "--method", "reconstruct", "--images", "images")
    ended = edgesparse(*options, name, "binary.json")
    assert ended.code == 2 and ended.err.startswith("edgesparse: ")


@pytest.mark.parametrize("name", ["--jsonl", "--coco", "--video"])
def test_existing_outputs_of_run_are_refused_before_a_build(edgesparse: Command, tmp_path: Path, name: str) -> None:
    ended = edgesparse("run", "deep.onnx", "--source", "images", name, "binary.json")
    assert ended.err == "edgesparse: binary.json already exists: pass --force to overwrite it, or name another file\n"
    assert ended.code == 2 and not (tmp_path / "engines").exists()


@pytest.mark.parametrize(
    "source", ["nowhere.mp4", "binary.json", "folder.onnx", "images/*.gif", "empty.yaml", "x" * 300, "~no-user/a"]
)
def test_sources_of_run_are_checked_before_a_build(edgesparse: Command, tmp_path: Path, source: str) -> None:
    ended = edgesparse("run", "deep.onnx", "--source", "images", "--source", source)
    assert ended.code == 2 and ended.err.startswith("edgesparse: ") and not (tmp_path / "engines").exists()


def test_only_one_output_has_standard_output(edgesparse: Command) -> None:
    ended = edgesparse("run", "deep.onnx", "--source", "images", "--jsonl", "-", "--json")
    assert ended.code == 2 and ended.message.startswith("--json and --jsonl -: only one of them")


def test_the_hint_names_the_whole_command(edgesparse: Command) -> None:
    assert edgesparse("demo", "export", "x", "--count", "x").message.endswith("(see 'edgesparse demo export --help')")
    assert edgesparse("biuld").message.endswith("(see 'edgesparse --help')")
