"""The options of `build`, and what it prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import squares
from commands import Command

from edgesparse.backends import null


@pytest.fixture
def recipe(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A recipe for the null backend, where FP16 takes a third of FP32's time."""
    size = [1, 3, squares.SIZE, squares.SIZE]
    plan = {
        "inputs": [["images", size, "float32"]],
        "outputs": [["output0", [1, 6, squares.CELLS], "float32"]],
        "builds": {"fp32": {"seconds": 0.003}, "fp16": {"seconds": 0.001}},
    }
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    monkeypatch.setenv(null.PLAN, str(tmp_path / "plan.json"))
    (tmp_path / "recipe.yaml").write_text("model: squares.onnx\nbuild: {backend: 'null'}\n")
    return "recipe.yaml"


def test_a_table_of_the_candidates_and_the_verdict(edgesparse: Command, recipe: str) -> None:
    ended = edgesparse("build", recipe)
    assert ended.code == 0
    rows = [line.split() for line in ended.out.splitlines()]
    assert ["fp32", "lost"] in [row[:2] for row in rows] and ["fp16", "kept"] in [row[:2] for row in rows]
    assert "no 2:4 candidates: no layer of the model is 2:4: run 'edgesparse prune'" in ended.out
    assert "details: report.html" in ended.out


def test_a_quick_build_has_fewer_candidates(edgesparse: Command, recipe: str) -> None:
    built = edgesparse("build", recipe, "--quick", "--json").json
    assert [candidate["name"] for candidate in built["candidates"]] == ["fp16"]
    ended = edgesparse("build", recipe, "--quick", "--only", "fp16")
    assert ended.code == 2 and "--only and --quick both say which candidates to build" in ended.message


def test_options_override_the_recipe(edgesparse: Command, recipe: str) -> None:
    built = edgesparse("build", recipe, "--only", "fp32", "--memory", "600 MB", "--time-limit", 100, "--json").json
    assert [candidate["name"] for candidate in built["candidates"]] == ["fp32"]
    assert built["budget_mb"] == 600 and built["candidates"][0]["outcome"] == "chosen"
    again = edgesparse("build", recipe, "--only", "fp32", "--memory", "600 MB", "--time-limit", 100, "--json").json
    assert again["reused"] and again["build_id"] == built["build_id"]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--only", "fp8"], 2, "command line: build.candidates.0: found 'fp8' (text), needed one of fp32, fp16, int8-"),
        (["--memory", "much"], 2, "command line: build.memory: found 'much' (text), needed a size such as 512"),
        (["--time-limit", "0"], 2, "Invalid value for '--time-limit': 0.0 is not in the range"),
        (["--require-sparse"], 1, "no 2:4 candidate could be built and run: 'edgesparse inspect MODEL.onnx' says why"),
        (["--only", "int8-qdq"], 1, "none of the candidates can be built: int8-qdq: INT8 needs images"),
        (
            ["--memory", "5 MB", "--only", "fp32"],
            3,
            "no candidate fits into a budget of 5 MB (build.memory): fp32 took",
        ),
    ],
)
def test_a_refusal_is_one_line(edgesparse: Command, recipe: str, options: list[str], code: int, message: str) -> None:
    ended = edgesparse("build", recipe, *options)
    assert ended.code == code and ended.message.startswith(message)


def test_keep_saves_the_files_that_engines_are_built_from(
    edgesparse: Command, recipe: str, model: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    squares.hold_integers(model)  # TensorRT 8.5 reads such constants as empty
    ended = edgesparse("build", recipe, "--keep", kept)
    assert ended.code == 0 and sorted(path.suffix for path in kept.iterdir()) == [".onnx", ".onnx"]
    assert set[str]().union(*map(squares.held, kept.iterdir())) == {"value"}
    again = edgesparse("build", recipe, "--keep", kept)
    assert again.code == 2 and again.message == f"--keep {kept} already exists: name another, or an empty folder"
    reused = edgesparse("build", recipe, "--keep", tmp_path / "other")
    assert reused.code == 0 and "nothing was built" in reused.err and not (tmp_path / "other").exists()
