"""The backend that stands in for hardware."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgesparse.backends import NAMES, BuildOptions, backend
from edgesparse.errors import BuildError, ConfigError

PLAN: dict[str, Any] = {
    "inputs": [["images", [1, 3, 4, 4], "float32"]],
    "outputs": [["a", [2], "float32"], ["b", [2, 2], "int64"]],
    "values": {"a": 0.5, "b": [[1, 2], [3, 4]]},
}


def written(path: Path, **more: Any) -> Path:
    path.write_text(json.dumps({**PLAN, **more}))
    return path


def test_it_answers_what_was_written_down(tmp_path: Path) -> None:
    with backend("null").load(written(tmp_path / "plan.json")) as runner:
        buffers = runner.allocate()
        runner.bind(buffers)
        runner.infer()
        assert buffers["a"].tolist() == [0.5, 0.5]
        assert buffers["b"].tolist() == [[1, 2], [3, 4]]


def test_it_fails_when_it_is_told_to(tmp_path: Path) -> None:
    with backend("null").load(written(tmp_path / "plan.json", fail_at=1)) as runner:
        runner.infer()
        with pytest.raises(BuildError, match="inference 1 failed"):
            runner.infer()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"inputs": 5, "outputs": []}', '{"inputs": [1], "outputs": []}'])
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(BuildError, match="not a file of the null backend"):
        backend("null").load(tmp_path / "plan.json")


def test_without_a_plan_it_builds_nothing_and_is_always_there(tmp_path: Path) -> None:
    null = backend("null")
    assert null.probe().ok
    assert null.refuses(null.identity()) is None and null.refuses({"null": "2.0"}) is not None
    with pytest.raises(BuildError, match="has no plan: name its JSON file in EDGESPARSE_NULL"):
        null.build(tmp_path / "model.onnx", tmp_path / "plan.json", BuildOptions())


def test_backends_go_by_their_names() -> None:
    assert [backend(name).name for name in NAMES] == list(NAMES)
    with pytest.raises(ConfigError, match="unknown backend 'tensorflow': use one of tensorrt, tensorrt-rtx, onn"):
        backend("tensorflow")
