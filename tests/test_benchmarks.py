"""Benchmarks are rarely run, and by hand: they are imported here, and scripts/check checks their types."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx.numpy_helper import from_array

import edgesparse
from edgesparse.runtime.evaluate import Answers, score
from edgesparse.runtime.heads.base import Task
from edgesparse.runtime.labels.read import Labels

ROOT = Path(__file__).parents[1]
IMPORT_ALL = """
import importlib, json, sys
failed = {}
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except BaseException as error:
        failed[name] = repr(error)
print(json.dumps(failed))
"""


def test_a_case_of_the_ladder_that_is_measured_again_leaves_the_other_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import common, ladder

    before = {"date": "2020-01-01", "yolox_nano": {"rungs": [1]}, "parts": {"rungs": [2]}, "stepwise": {"parts": {}}}
    (tmp_path / "ladder.json").write_text(json.dumps(before))
    for module in (common, ladder):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    monkeypatch.setattr(ladder, "PLOT", tmp_path / "ladder.svg")
    monkeypatch.setattr(ladder, "plot", lambda results: " ".join(results))
    monkeypatch.setattr(ladder, "measure", lambda case, arguments: {"rungs": [3]})
    monkeypatch.setattr(sys, "argv", ["ladder.py", "--case", "parts", "--save"])
    ladder.main()
    after = json.loads((tmp_path / "ladder.json").read_text())
    assert (after["yolox_nano"], after["stepwise"]) == (before["yolox_nano"], before["stepwise"])
    assert after["parts"]["rungs"] == [3] and after["date"] != before["date"]
    assert (tmp_path / "ladder.svg").read_text() == "yolox_nano parts"


def test_a_detector_that_could_not_be_measured_again_keeps_its_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import int8_detectors

    before = {"int8": {"change": 0.1}, "pruned": {"change": 0.2}}
    (tmp_path / "int8_detectors.json").write_text(json.dumps({"rows": {"yolox_nano": before}}))
    monkeypatch.setattr(int8_detectors, "RESULTS", tmp_path)
    now = {"int8": {"change": 0.3}, "pruned": {"error": "no yolox_nano-half.onnx"}}
    after = int8_detectors.merged({"yolox_nano": now})["yolox_nano"]
    assert after == {"int8": now["int8"], "pruned": before["pruned"]}


def test_a_case_of_which_one_part_failed_is_measured_again(tmp_path: Path) -> None:
    from benchmarks.int8_detectors import stored

    parts: list[dict[str, Any]] = [{"error": "killed"}, {"seconds": 1}]
    left = iter(parts)
    rows = [stored(tmp_path, "yolox_nano", "peers", "", lambda: {"ModelOpt": next(left)}) for _ in range(3)]
    assert [row["ModelOpt"] for row in rows] == [*parts, parts[-1]]


def test_the_head_is_every_node_that_leads_to_no_layer_in_int8() -> None:
    from benchmarks.int8_detectors import head_of

    weights = [from_array(np.ones((4, 4, 1, 1), np.float32), name) for name in ("w1", "w2")]
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], "body"),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Conv", ["b", "w2"], ["c"], "output"),
        helper.make_node("Sigmoid", ["c"], ["y"], "sigmoid"),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 8, 8]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "detector", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    assert sorted(head_of(model)) == ["output", "relu", "sigmoid"]


@pytest.mark.parametrize("task", ["segment", "pose", "obb"])
def test_what_is_drawn_in_scenes_of_tasks_scores_100_on_their_labels(task: Task, tmp_path: Path) -> None:
    from benchmarks import task_scenes

    coco = pytest.importorskip("pycocotools.mask")
    task_scenes.export(tmp_path, task, 5, 6)
    labels, answers = Labels(tmp_path / "instances.json", tmp_path / "images"), Answers(task)
    for image in range(1, 7):
        drawn = task_scenes.scene(task, 4 + image)
        answers.sizes[image] = task_scenes.WIDTH, task_scenes.HEIGHT
        for i, label in enumerate(drawn.classes):
            mask = drawn.owner == i + 1
            encoded = coco.encode(np.asfortranarray(mask, np.uint8))
            points = (
                np.concatenate([drawn.keypoints[i], np.ones((17, 1))], 1).ravel().tolist() if task == "pose" else []
            )
            shapes = {"segmentation": encoded, "keypoints": points, "rotated": drawn.boxes[i].tolist()}
            key = {"segment": "segmentation", "pose": "keypoints", "obb": "rotated"}[task]
            answers.rows.append([image, 0, 0, 1, 1, 0.9, label])
            answers.shapes.append({key: shapes[key]})
    names = task_scenes.CLASSES[task]
    result = score(labels, answers, names, labels.match(names))
    assert result.map == pytest.approx(100, abs=0.01) and len(result.classes) == len(names)


@pytest.mark.parametrize("task", ["segment", "pose", "obb"])
def test_networks_of_tasks_can_be_trained_and_are_recognized(task: Task, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch: needs PyTorch")
    from benchmarks.task_networks import SIZE, TaskNetwork, export, loss
    from benchmarks.trained_tasks import arrays, varied

    torch.manual_seed(0)
    net = TaskNetwork(task)
    batch = {name: torch.from_numpy(x) for name, x in varied(arrays(task, range(2)), np.random.default_rng(0)).items()}
    losses: Any = loss(net, batch)
    losses.sum().backward()
    gradients: list[Any] = [weight.grad for weight in net.parameters()]
    assert losses.isfinite().all() and all(values.isfinite().all() for values in gradients)
    export(net, tmp_path / "network.onnx")
    with edgesparse.load(tmp_path / "network.onnx", store=tmp_path / "engines") as detector:
        detector(np.zeros((180, 240, 3), np.uint8))
        assert detector.spec.head == {"segment": "yolov8-seg", "pose": "yolov8-pose", "obb": "yolov8-obb"}[task]
        assert detector.spec.input.size == SIZE


def test_every_benchmark_can_be_imported() -> None:
    """Without TensorRT, pycuda or PyTorch, which are only imported where they are used, or by a module of networks."""
    names = sorted(f"benchmarks.{path.stem}" for path in (ROOT / "benchmarks").glob("*.py"))
    if find_spec("torch") is None:
        names.remove("benchmarks.task_networks")
    command = [sys.executable, "-c", IMPORT_ALL, *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    failed = "\n".join(f"{name}: {error}" for name, error in json.loads(done.stdout).items())
    assert len(names) > 1 and not failed, failed
