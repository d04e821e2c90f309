"""`edgesparse distill`: refusals before any work, and the whole training of a toy model."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from commands import Command

from benchmarks.orin_slice import networks
from edgesparse.tasks import distill


@pytest.fixture
def yolo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(networks.SCALES, "tiny", (1 / 3, 0.0625, 128))
    onnx.save(networks.yolov8("tiny", "silu", 64, 3), str(tmp_path / "yolo.onnx"))
    (tmp_path / "images").mkdir()
    for i in range(4):
        noise = np.random.default_rng(i).integers(0, 255, (48, 64, 3), np.uint8)
        cv2.imwrite(str(tmp_path / "images" / f"{i}.png"), noise)
    return tmp_path / "yolo.onnx"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--images", "images"), "nothing to learn: pass --relu"),
        (("--images", "nowhere", "--relu"), "nowhere"),
        (("--images", "images", "--relu", "--annotated-images", "images"), "needs --annotations"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(
    edgesparse: Command, yolo: Path, arguments: tuple[str, ...], reason: str
) -> None:
    ended = edgesparse("distill", yolo, "-o", "out.onnx", *arguments)
    assert ended.code == 2 and reason in ended.message and not yolo.with_name("out.onnx").exists()


def test_without_pytorch_the_machine_lacks_something(
    edgesparse: Command, yolo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distill, "find_spec", lambda name: None)
    ended = edgesparse("distill", yolo, "-o", "out.onnx", "--images", "images", "--relu")
    assert ended.code == 3 and "pip install 'edgesparse[train]'" in ended.message


@pytest.mark.torch
def test_a_student_is_trained_and_written(edgesparse: Command, yolo: Path) -> None:
    pytest.importorskip("torch", reason="torch: needs PyTorch").set_num_threads(1)
    ended = edgesparse(
        "distill", yolo, "-o", "out.onnx", "--images", "images", "--relu", "--minutes", "0.05", "--batch", "2"
    )
    assert ended.code == 0, ended.err
    assert "steps on 4 images, cpu" in ended.out and "wrote out.onnx" in ended.out
    student = onnx.load(str(yolo.with_name("out.onnx")))
    assert "Relu" in {node.op_type for node in student.graph.node}
    assert sorted(path.name for path in yolo.parent.iterdir()) == ["images", "out.onnx", "yolo.onnx"]
