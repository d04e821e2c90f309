"""What exporters really write, where it was once read wrongly: each was seen in a file of the exporter it names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edgesparse.backends import TensorSpec
from edgesparse.model.load import load
from edgesparse.runtime.heads.families import HEADS, Layout, grid
from edgesparse.runtime.heads.recognise import check, choose
from edgesparse.sparsity.inspect import inspect


def layout(size: tuple[int, int], *shapes: tuple[int, ...], names: tuple[str, ...] = ("output0", "output1")) -> Layout:
    return Layout(tuple(TensorSpec(name, shape, "float32") for name, shape in zip(names, shapes, strict=False)), size)


def test_yolov8_with_p2_has_a_stride_of_4() -> None:
    assert choose(layout((320, 320), (1, 84, 8500)), {}) == "yolov8"


@pytest.mark.parametrize("size", [(480, 640), (192, 320)])
def test_a_list_of_300_is_no_grid_of_300_cells(size: tuple[int, int]) -> None:
    """480x640 has 300 cells of stride 32, 192x320 has 300 of strides 16 and 32."""
    assert choose(layout(size, (1, 300, 6)), {}) == "end2end"
    assert choose(layout(size, (1, 300, 84)), {}) == "rtdetr"


def listed(first: list[float], last: float) -> list[NDArray[np.float32]]:
    return [np.array([[[*first, 0.9, last], [*first, 0.8, last]]], np.float32)]


@pytest.mark.parametrize(
    ("sample", "head"),
    [
        (listed([10, 20, 300, 400], 7), "end2end"),
        (listed([0, 0, 0, 0], 0), "end2end"),
        (listed([0.5, 0.5, 0.25, 0.125], 7), "rtdetr-end2end"),
        (listed([0.5, 0.5, 0.25, 0.125], 0.3), "rtdetr"),
    ],
    ids=["YOLOv10", "a built-in NMS that found nothing", "RT-DETR from 8.4 on", "RT-DETR of two classes, before"],
)
def test_lists_of_six_columns_are_told_apart_by_a_sample(sample: list[NDArray[np.float32]], head: str) -> None:
    assert choose(layout((640, 640), (1, 2, 6)), {}, sample) == head


def test_rtdetr_end2end_is_relative_centre_and_size_in_a_stretched_frame() -> None:
    at = layout((320, 640), (1, 2, 6))
    xyxy, confidence, class_id = HEADS["rtdetr-end2end"].decode(at, 0.85, False)(listed([0.5, 0.5, 0.25, 0.5], 7), 0)
    np.testing.assert_allclose(xyxy, [[240, 80, 400, 240]])
    np.testing.assert_allclose(confidence, [0.9])
    assert class_id.tolist() == [7]
    assert HEADS["rtdetr-end2end"].convention.letterbox == "stretch"
    check("rtdetr-end2end", at)


@pytest.mark.parametrize(("objectness", "head"), [(1.0, "yolov5"), (0.5, "yolox-decoded")], ids=["YOLOv6", "YOLOX"])
def test_decoded_yolox_keeps_its_own_input(objectness: float, head: str) -> None:
    """Both are [B, cells, 5 + C] in pixels, but YOLOX wants BGR 0..255 at the top left."""
    size = (64, 96)
    corner, stride = grid(size, (8, 16, 32))
    raw = np.concatenate([(corner + 0.5) * stride, np.full((len(corner), 8), 0.5, np.float32)], 1)
    raw[:, 4] = objectness
    at = layout(size, (1, *raw.shape))
    assert choose(at, {}, [raw[None]]) == head
    check(head, at)
    colour = HEADS[head].convention.colour
    assert colour == ("bgr" if head == "yolox-decoded" else "rgb")


def test_logits_may_be_called_labels() -> None:
    """As RF-DETR does."""
    assert choose(layout((384, 384), (1, 300, 4), (1, 300, 91), names=("dets", "labels")), {}) == "rtdetr"


def test_nodes_out_of_order_are_sorted(tmp_path: Path) -> None:
    """As in the FP16 files of Ultralytics 8.4: the Casts at the input stand last, which ONNX's checker refuses."""
    inner = helper.make_graph(
        [helper.make_node("Add", ["half", "half"], ["twice"])],
        "branch",
        [],
        [helper.make_tensor_value_info("twice", TensorProto.FLOAT16, None)],
    )
    nodes = [
        helper.make_node("If", ["yes"], ["doubled"], then_branch=inner, else_branch=inner),
        helper.make_node("Cast", ["doubled"], ["output0"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["images"], ["half"], to=TensorProto.FLOAT16),
    ]
    graph = helper.make_graph(
        nodes,
        "half",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor("yes", TensorProto.BOOL, [], [True])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "half.onnx")
    assert [node.op_type for node in load(tmp_path / "half.onnx").graph.node] == ["Cast", "If", "Cast"]


def test_a_weight_whose_shape_is_read_is_shared_with_nobody() -> None:
    """As torch.onnx.export writes convolutions with dynamo=True, optimize=False."""
    nodes = [
        helper.make_node("Shape", ["weight"], ["sizes"]),
        helper.make_node("Conv", ["images", "weight"], ["output0"], name="conv"),
    ]
    graph = helper.make_graph(
        nodes,
        "shape",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 64, 8, 8])],
        [
            helper.make_tensor_value_info("output0", TensorProto.FLOAT, [1, 64, 8, 8]),
            helper.make_tensor_value_info("sizes", TensorProto.INT64, [4]),
        ],
        [helper.make_tensor("weight", TensorProto.FLOAT, [64, 64, 1, 1], [0.0, 0.0, 1.0, 2.0] * 1024)],
    )
    (layer,) = inspect(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])).layers
    assert (layer.reason, layer.state) == (None, "sparse")
