"""An interrupted build continues with the candidates that it had finished."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import pytest
import squares
from null_plans import Plan

from edgesparse.builder.attempts import TIME_IS_UP
from edgesparse.builder.build import Reuse, build
from edgesparse.config import Recipe, parse
from edgesparse.device import state_folder
from edgesparse.package.manifest import Manifest

pytestmark = pytest.mark.usefixtures("quick")
CANDIDATES = ["fp16", "fp16-2:4", "fp32"]
"""In build order."""


class Killed(BaseException):
    """Stands in for the end of the process."""


class Steps:
    """Progress that kills the build at the step whose text starts with `at`."""

    def __init__(self, at: str = "never") -> None:
        self.at, self.names = at, list[str]()

    def __call__(self, step: str, done: int, total: int) -> None:
        self.names.append(step)
        if step.startswith(self.at):
            raise Killed

    @property
    def built(self) -> list[str]:
        return list(dict.fromkeys(step.split()[1] for step in self.names if step.startswith("building ")))

    @property
    def resumed(self) -> list[str]:
        end = ": taken from an interrupted build"
        return [step.removesuffix(end) for step in self.names if step.endswith(end)]


def recipe(model: Path, **settings: Any) -> Recipe:
    settings["build"] = {"backend": "null", "candidates": CANDIDATES, **settings.get("build", {})}
    return parse({"model": str(model), "classes": list(squares.NAMES), **settings}, "recipe")


def run(target: Recipe, steps: Steps, reuse: Reuse = "candidates") -> Manifest:
    return build(target, target.model.parent / "engines", reuse=reuse, progress=steps).package.manifest


def entries() -> list[Path]:
    return sorted((state_folder() / "unfinished").glob("[!.]*"))


@pytest.fixture
def killed(sparse_model: Path, planned: Plan) -> Recipe:
    """A recipe whose build was killed at its third candidate."""
    planned({"fp32": {"seconds": 0.009}, "fp16": {"seconds": 0.003}, "fp16-2:4": {"seconds": 0.006}})
    target, steps = recipe(sparse_model), Steps("building fp32")
    with pytest.raises(Killed):
        run(target, steps)
    assert len(entries()) == 2
    return target


def test_it_continues_with_what_is_missing(killed: Recipe) -> None:
    steps = Steps()
    manifest = run(killed, steps)
    assert steps.resumed == ["fp16", "fp16-2:4"] and steps.built == ["fp32"]
    outcomes = {candidate.name: candidate.outcome for candidate in manifest.candidates}
    assert outcomes == {"fp32": "lost", "fp16": "chosen", "fp16-2:4": "lost"}
    assert entries() == [], "nothing is left once a build has ended"


def test_one_that_ended_in_the_last_comparison_builds_nothing_again(sparse_model: Path, planned: Plan) -> None:
    """All candidates were done, but the package was not."""
    planned({"fp32": {"seconds": 0.009}, "fp16": {"seconds": 0.003}, "fp16-2:4": {"seconds": 0.006}})
    target, steps = recipe(sparse_model), Steps()
    with pytest.raises(Killed):
        run(target, Steps("timing interleaved"))
    run(target, steps)
    assert steps.resumed == CANDIDATES and steps.built == [] and entries() == []


def test_without_the_option_everything_is_built_again(killed: Recipe) -> None:
    steps = Steps()
    run(killed, steps, "package")
    assert steps.resumed == [] and steps.built == CANDIDATES


def test_other_inputs_are_other_candidates(killed: Recipe, tmp_path: Path) -> None:
    steps = Steps()
    other = squares.detector(tmp_path / "other.onnx")
    run(recipe(other, build={"candidates": ["fp32"]}), steps)
    assert steps.resumed == []


def test_other_boxes_in_the_same_data_set_are_other_candidates(
    sparse_model: Path, planned: Plan, tmp_path: Path
) -> None:
    """A folder, as the option takes it, whose boxes are in other files than data.yaml."""
    (tmp_path / "set").mkdir()
    (tmp_path / "set/data.yaml").write_text(f"names: {list(squares.NAMES)}\nval: .\n")
    cv2.imwrite(str(tmp_path / "set/1.png"), squares.image([(1, 1, 0), (4, 4, 1)]))
    (tmp_path / "set/1.txt").write_text("0 0.1875 0.1875 0.125 0.125\n")
    planned({"fp32": {"seconds": 0.009}, "fp16": {"seconds": 0.003}, "fp16-2:4": {"seconds": 0.006}})
    target = recipe(sparse_model, accept={"annotations": str(tmp_path / "set")})
    with pytest.raises(Killed):
        run(target, Steps("building fp32"))
    (tmp_path / "set/1.txt").write_text("1 0.5625 0.5625 0.125 0.125\n")
    steps = Steps()
    run(target, steps)
    assert steps.resumed == [] and steps.built == CANDIDATES


@pytest.mark.parametrize("damage", ["engine", "record", "cut", "text"])
def test_a_damaged_entry_is_built_again(killed: Recipe, damage: str) -> None:
    for entry in entries():
        record = entry / "record.json"
        if damage == "engine":
            (entry / "engine").write_bytes(b"other")
        elif damage == "record":
            content = json.loads(record.read_text())
            record.write_text(json.dumps({**content, "finished": {}}))
        else:
            record.write_text(record.read_text()[:40] if damage == "cut" else "[]")
    steps = Steps()
    manifest = run(killed, steps)
    assert steps.resumed == [] and steps.built == CANDIDATES
    assert next(c for c in manifest.candidates if c.name == "fp16").outcome == "chosen"


def test_what_the_time_limit_left_out_is_built_later(sparse_model: Path, planned: Plan) -> None:
    planned({"fp32": {"seconds": 0.004}, "fp16": {"sleep": 0.0}})
    target = recipe(sparse_model, build={"time_limit": 1e-6})
    with pytest.raises(Exception, match=TIME_IS_UP):
        run(target, Steps())
    assert run(recipe(sparse_model), Steps()).candidates


def test_a_state_folder_that_cannot_be_written_costs_no_build(
    sparse_model: Path, planned: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned({"fp32": {"seconds": 0.004}})
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("edgesparse.builder.resume.state_folder", lambda: tmp_path / "file")
    assert run(recipe(sparse_model), Steps()).engine
