"""Pruning without training: closer than magnitude pruning, exactly 2:4, resumable, with clear refusals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper
from small_models import model, node, random, run

from edgesparse.errors import CalibrationError, EdgeSparseError, ModelError, SparsityError
from edgesparse.model.activations import Batches
from edgesparse.sparsity import rebuild
from edgesparse.sparsity.inspect import inspect
from edgesparse.sparsity.page import page
from edgesparse.sparsity.prune import prune
from edgesparse.sparsity.reconstruct import ReconstructOptions, Task, least_sensitive, reconstruct

C = 32


def correlated(*shape: int, count: int = 8) -> Batches:
    """Batches with channels (axis 1) that are mixtures of fewer sources, each with its own mean."""
    mix = random(shape[1], shape[1] // 4, seed=50)

    def batches() -> Iterator[np.ndarray[Any, np.dtype[np.float32]]]:
        for i in range(count):
            sources = random(shape[0], shape[1] // 4, *shape[2:], seed=100 + i)
            noise = random(*shape, seed=200 + i)
            yield (np.einsum("cs,ns...->nc...", mix, sources) + 0.3 * noise + 0.5).astype(np.float32)

    return batches


def convs(**attributes: Any) -> ModelProto:
    """Two convolutions with a ReLU and a depthwise one between; the last has no bias."""
    kernel = attributes.pop("kernel", (3, 3))
    tensors: dict[str, Any] = {
        "w1": random(C, C, *kernel, seed=1) / 10,
        "b1": random(C, seed=2),
        "w2": random(C, 1, 3, 3, seed=3) / 3,
        "w3": random(C, C, 1, 1, seed=4) / 5,
    }
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["a"], "first", **attributes),
        node("Relu", ["a"], ["r"]),
        node("Conv", ["r", "w2"], ["d"], "depthwise", group=C, pads=[1, 1, 1, 1]),
        node("Conv", ["d", "w3"], ["y"], "last"),
    ]
    return model(nodes, tensors, (1, C, 12, 12))


def products(kind: str) -> ModelProto:
    tensors = {"w1": random(C, 48, seed=1), "b": random(48, seed=2), "w2": random(48, C, seed=3)}
    if kind == "gemm":
        nodes = [node("Gemm", ["x", "w1", "b"], ["a"], "first", alpha=0.5, beta=2.0)]
    elif kind == "gemm transposed":
        tensors["w1"] = tensors["w1"].T
        nodes = [node("Gemm", ["x", "w1"], ["a"], "first", transB=1)]
    elif kind == "matmul, add":
        nodes = [node("MatMul", ["x", "w1"], ["m"], "first"), node("Add", ["b", "m"], ["a"])]
    else:
        nodes = [node("MatMul", ["x", "w1"], ["a"], "first")]
    nodes += [node("Relu", ["a"], ["r"]), node("MatMul", ["r", "w2"], ["y"], "last")]
    return model(nodes, {k: v for k, v in tensors.items() if k != "b" or kind in ("gemm", "matmul, add")}, (64, C))


CASES: dict[str, tuple[Callable[[], ModelProto], tuple[int, ...]]] = {
    "conv": (lambda: convs(pads=[1, 1, 1, 1]), (1, C, 12, 12)),
    "conv, strided, dilated, padded on one side": (
        lambda: convs(strides=[2, 1], dilations=[1, 2], pads=[0, 1, 2, 3]),
        (1, C, 12, 12),
    ),
    "conv, auto_pad": (lambda: convs(auto_pad="SAME_LOWER", strides=[2, 2]), (1, C, 12, 12)),
    "conv, oblong kernel": (lambda: convs(kernel=(1, 5)), (1, C, 12, 12)),
    **{kind: (lambda kind=kind: products(kind), (64, C)) for kind in ("gemm", "gemm transposed", "matmul")},  # type: ignore[misc]
    "matmul, add": (lambda: products("matmul, add"), (64, C)),
}


class Page(HTMLParser):
    """The bars, external links and text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.bars, self.outside, self.text = 0, 0, ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        message = dict(attrs)
        self.bars += tag == "a" and "height" in (message.get("style") or "")
        self.outside += any((message.get(name) or "").startswith("http") for name in ("src", "href"))

    def handle_data(self, data: str) -> None:
        self.text += data


def loss(dense: ModelProto, other: ModelProto, batches: Batches) -> float:
    pairs = [(run(dense, x)[0], run(other, x)[0]) for x in batches()]
    return float(sum(((a - b) ** 2).sum() for a, b in pairs) / sum(((a - a.mean()) ** 2).sum() for a, _ in pairs))


def weights(source: ModelProto) -> dict[str, np.ndarray[Any, Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in source.graph.initializer}


@pytest.mark.parametrize("case", CASES)
def test_every_kind_of_layer_is_2to4_and_far_closer_than_by_magnitude(case: str) -> None:
    make, shape = CASES[case]
    dense, batches = make(), correlated(*shape)
    before = dense.SerializeToString()
    result, report = reconstruct(dense, batches)
    assert dense.SerializeToString() == before
    onnx.checker.check_model(result)
    assert [layer.state for layer in inspect(result).eligible] == ["sparse", "sparse"]
    assert {layer.name for layer in report.layers if layer.pruned} == {"first", "last"}
    assert report.share == 1
    magnitude = make()
    prune(magnitude)
    assert loss(dense, result, batches) < 0.5 * loss(dense, magnitude, batches)
    assert loss(dense, result, batches) == pytest.approx(report.layers[-1].error, rel=0.5, abs=1e-3)


@pytest.mark.parametrize("case", ["conv", "gemm", "matmul, add"])
def test_the_mean_of_the_first_layers_output_stays(case: str) -> None:
    make, shape = CASES[case]
    dense, batches = make(), correlated(*shape)
    for step in dense.graph.node:  # behind another activation, its outputs are fitted as they are
        step.op_type = "Identity" if step.op_type == "Relu" else step.op_type
    result, _ = reconstruct(dense, batches, ReconstructOptions(layers=["first"], reorder=False))
    for source in (dense, result):
        source.graph.output[0].name = "a"
    axes = (0, *range(2, len(shape)))
    means = [np.mean([run(source, x)[0].mean(axes) for x in batches()], 0) for source in (dense, result)]
    np.testing.assert_allclose(means[0], means[1], atol=5e-3)


def test_layers_behind_a_pruned_layer_are_refitted_and_those_before_it_stay() -> None:
    dense, batches = convs(), correlated(1, C, 12, 12)
    old, new = (
        weights(dense),
        weights(reconstruct(dense, batches, ReconstructOptions(layers=["last"], reorder=False))[0]),
    )
    assert all(np.array_equal(old[name], new[name]) for name in ("w1", "b1", "w2"))
    result, report = reconstruct(dense, batches, ReconstructOptions(layers=["first"], reorder=False))
    assert [(layer.name, layer.pruned) for layer in report.layers] == [
        ("first", True),
        ("depthwise", False),
        ("last", False),
    ]
    assert report.share == 0.9  # nine of ten kernel positions
    assert np.count_nonzero(weights(result)["w3"]) == C * C
    assert not np.array_equal(weights(result)["w2"], old["w2"])


def test_an_interrupted_run_continues_to_the_same_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dense, batches = convs(), correlated(1, C, 12, 12)
    whole, _ = reconstruct(dense, batches)
    fitted: list[str] = []
    real, stop_after = rebuild.fit_layer, 1

    def counted(*arguments: Any) -> Any:
        if len(fitted) == stop_after:
            raise KeyboardInterrupt
        fitted.append(arguments[2].node.name)
        return real(*arguments)

    monkeypatch.setattr(rebuild, "fit_layer", counted)
    with pytest.raises(KeyboardInterrupt):
        reconstruct(dense, batches, ReconstructOptions(state_dir=tmp_path))
    stop_after = 9
    again, _ = reconstruct(dense, batches, ReconstructOptions(state_dir=tmp_path))
    assert len(fitted) == 3 and len(set(fitted)) == 3
    assert again.SerializeToString() == whole.SerializeToString()
    assert (
        reconstruct(dense, batches, ReconstructOptions(state_dir=tmp_path))[0].SerializeToString()
        == whole.SerializeToString()
    )
    assert len(fitted) == 3
    assert not list(tmp_path.rglob("*.npy")) and not list(tmp_path.rglob("*.part"))


def test_a_saved_state_of_other_images_is_not_continued(tmp_path: Path) -> None:
    dense = convs()
    reconstruct(dense, correlated(1, C, 12, 12), ReconstructOptions(state_dir=tmp_path))
    other = correlated(1, C, 12, 12, count=4)
    result, _ = reconstruct(dense, other, ReconstructOptions(state_dir=tmp_path))
    assert result.SerializeToString() == reconstruct(dense, other)[0].SerializeToString()


def chain(layers: int = 4) -> ModelProto:
    """A chain of convolutions; the second has little influence, so it is the least sensitive."""
    tensors = {f"w{i}": random(C, C, 1, 1, seed=i) / 5 for i in range(layers)}
    names = ["x", *(f"t{i}" for i in range(layers - 1)), "y"]
    nodes = [node("Conv", [names[i], f"w{i}"], [names[i + 1]], f"conv{i}") for i in range(layers)]
    tensors["w1"] *= np.where(np.arange(C) % 4 < 2, 1, 1e-3).astype(np.float32)[:, None, None]
    return model(nodes, tensors, (1, C, 8, 8))


def test_a_share_takes_the_least_sensitive_layers() -> None:
    result, report = reconstruct(chain(), correlated(1, C, 8, 8), ReconstructOptions(share=0.25))
    assert report.share == pytest.approx(0.25)
    assert [layer.name for layer in report.layers if layer.pruned] == ["conv1"]
    assert [layer.name for layer in inspect(result).layers if layer.sparse] == ["conv1"]
    options = ReconstructOptions(share=0.25)
    assert least_sensitive(chain(), correlated(1, C, 8, 8), options, Task()) == ["conv1"]
    besides = replace(options, also={"conv1": 9.0})
    assert least_sensitive(chain(), correlated(1, C, 8, 8), besides, Task()) != ["conv1"]


@pytest.mark.parametrize(("max_drop", "count"), [(0, 0), (15, 1), (25, 2), (100, 4)])
def test_a_limit_on_the_drop_takes_as_many_layers_as_it_allows(max_drop: float, count: int) -> None:
    def score(source: ModelProto) -> float:
        return 90 - 10 * sum(layer.sparse for layer in inspect(source).layers)

    result, report = reconstruct(
        chain(), correlated(1, C, 8, 8), ReconstructOptions(max_drop=max_drop), Task(score=score)
    )
    assert sum(layer.sparse for layer in inspect(result).layers) == count
    assert report.share == count / 4
    assert report.dense_score == 90 and report.score == 90 - 10 * count


def test_a_share_that_costs_too_much_is_refused() -> None:
    def score(source: ModelProto) -> float:
        return 90 - 10 * sum(layer.sparse for layer in inspect(source).layers)

    with pytest.raises(SparsityError, match=r"50% of the eligible MACs at 2:4 costs 20\.0 points, 5 are allowed"):
        reconstruct(chain(), correlated(1, C, 8, 8), ReconstructOptions(max_drop=5, share=0.5), Task(score=score))


def test_sensitivity_is_weighed_against_the_gain() -> None:
    gains = {"conv0": 0.0, "conv1": 1e-9, "conv2": 1.0, "conv3": 1.0}
    _, report = reconstruct(chain(), correlated(1, C, 8, 8), ReconstructOptions(share=0.5, gains=gains))
    assert [layer.name for layer in report.layers if layer.pruned] == ["conv2", "conv3"]
    assert [layer.why for layer in report.layers[:2]] == [
        "2:4 gains nothing here",
        "changes the outputs too much for what it saves",
    ]
    with pytest.raises(SparsityError, match="layers that gain from 2:4 make up 75% of the eligible MACs"):
        reconstruct(chain(), correlated(1, C, 8, 8), ReconstructOptions(share=0.8, gains=gains))
    with pytest.raises(SparsityError, match="layers that gain from 2:4 make up 0% of the eligible MACs"):
        reconstruct(chain(), correlated(1, C, 8, 8), ReconstructOptions(share=0.8, gains={}))


def test_positions_with_objects_are_closer() -> None:
    dense, batches = convs(pads=[1, 1, 1, 1]), correlated(1, C, 12, 12)
    corner = np.zeros((1, 12, 12), np.float32)
    corner[:, :4, :4] = 1
    plain, weighed = (reconstruct(dense, batches, task=Task(objects=objects))[0] for objects in (None, [corner] * 8))

    def error(source: ModelProto) -> float:
        return sum(float(((run(dense, x)[0] - run(source, x)[0])[..., 1:3, 1:3] ** 2).sum()) for x in batches())

    assert error(weighed) < 0.95 * error(plain)


def test_the_report_lists_every_layer_with_its_reason() -> None:
    dense, batches = convs(), correlated(1, C, 12, 12)
    prune(dense, ["last"])
    _, report = reconstruct(dense, batches, ReconstructOptions(layers=["first"]))
    message = [(layer.name, layer.state, layer.why.split(": ")[0]) for layer in report.layers]
    assert message == [
        ("first", "sparse", "requested"),
        ("depthwise", "ineligible", "depthwise convolution"),
        ("last", "sparse", "2:4 before"),
    ]
    parsed = Page()
    parsed.feed(page("net <1>", report))
    assert parsed.bars == 2 * len(report.layers) and parsed.outside == 0
    assert "net <1>" in parsed.text and "2:4 before" in parsed.text and "100 % of the eligible" in parsed.text


def test_progress_ends_at_the_total() -> None:
    events: list[tuple[str, int, int]] = []
    reconstruct(
        chain(), correlated(1, C, 8, 8), ReconstructOptions(share=0.5), progress=lambda *message: events.append(message)
    )
    assert list(dict.fromkeys(what for what, _, _ in events)) == [
        "measuring sensitivity",
        "reordering channels",
        "reconstructing",
    ]
    result = [(at, total) for what, at, total in events if what == "reconstructing"]
    assert result == [(i, result[0][1]) for i in range(result[0][1] + 1)]


def test_reordered_channels_are_closer_still() -> None:
    dense, batches = convs(), correlated(1, C, 12, 12)
    without, reordered = (reconstruct(dense, batches, ReconstructOptions(reorder=way))[0] for way in (False, True))
    assert loss(dense, reordered, batches) < loss(dense, without, batches)


@pytest.mark.parametrize("kind", ["ConvTranspose", "Gemm of a matrix", "shared"])
def test_layers_that_cannot_be_refitted_stay_as_they_are(kind: str) -> None:
    nodes = [node("Conv", ["x", "w"], ["a"], "first")]
    tensors = {"w": random(C, C, 1, 1), "v": random(C, C, 1, 1, seed=1), "c": random(C, C, seed=2)}
    if kind == "ConvTranspose":
        nodes.append(node("ConvTranspose", ["a", "v"], ["y"]))
    elif kind == "shared":
        nodes += [node("Conv", ["a", "v"], ["b"]), node("Conv", ["b", "v"], ["y"])]
    else:
        tensors = {"w": tensors["w"], "v": random(C, C), "c": tensors["c"]}
        nodes += [node("Reshape", ["a", "s"], ["m"]), node("Gemm", ["m", "v", "c"], ["y"])]
        tensors["s"] = np.array([C, C])
    dense, batches = model(nodes, tensors, (1, C, 4, C // 4)), correlated(1, C, 4, C // 4)
    result, report = reconstruct(dense, batches, ReconstructOptions(layers=["first"], reorder=False))
    assert [layer.name for layer in report.layers if layer.error is not None] == ["first"]
    old, new = weights(dense), weights(result)
    assert {"v"} <= old.keys() & new.keys()
    assert all(np.array_equal(old[name], new[name]) for name in old.keys() & new.keys() if name != "w")


def test_a_matrix_product_with_its_weights_on_the_left_is_pruned() -> None:
    nodes = [node("Gemm", ["w", "x"], ["y"], "left", transB=1)]
    dense, batches = model(nodes, {"w": random(48, C)}, (64, C)), correlated(64, C)
    result, _ = reconstruct(dense, batches)
    assert inspect(result).layers[0].state == "sparse"
    magnitude = model(nodes, {"w": random(48, C)}, (64, C))
    prune(magnitude)
    assert loss(dense, result, batches) < 0.5 * loss(dense, magnitude, batches)


@pytest.mark.parametrize(("before", "now"), [("first", "last"), ("last", "first")])
def test_layers_that_are_2to4_already_stay_2to4(before: str, now: str) -> None:
    dense, batches = convs(), correlated(1, C, 12, 12)
    prune(dense, [before])
    result, _ = reconstruct(dense, batches, ReconstructOptions(layers=[now]))
    assert [layer.state for layer in inspect(result).eligible] == ["sparse", "sparse"]


def shared() -> ModelProto:
    nodes = [node("Conv", ["x", "w"], ["a"], "one"), node("Conv", ["a", "w"], ["y"], "two")]
    return model(nodes, {"w": random(C, C, 1, 1)}, (1, C, 8, 8))


def non_finite() -> ModelProto:
    source = convs()
    weight = weights(source)["w3"].copy()
    weight[3, 4] = np.nan
    source.graph.initializer[3].CopyFrom(numpy_helper.from_array(weight, "w3"))
    return source


def sparse() -> ModelProto:
    source = convs()
    prune(source)
    return source


@pytest.mark.parametrize(
    ("make", "options", "kind", "message"),
    [
        (shared, {}, SparsityError, "one: shares its weights with two"),
        (non_finite, {}, ModelError, "last: weights hold NaN or infinity"),
        (sparse, {}, SparsityError, "all 2 layers to prune are already 2:4"),
        (convs, {"layers": ["frist"]}, ModelError, "did you mean 'first'"),
        (convs, {"max_drop": 1}, CalibrationError, "needs labeled data"),
        (convs, {"layers": "auto"}, CalibrationError, "needs labeled data"),
        (convs, {"share": 1.5}, SparsityError, "share 1.5"),
        (convs, {"max_drop": -1.0}, SparsityError, "max drop -1"),
    ],
)
def test_impossible_requests_are_refused_in_one_line(
    make: Callable[[], ModelProto], options: dict[str, Any], kind: type[EdgeSparseError], message: str
) -> None:
    with pytest.raises(kind) as error:
        reconstruct(make(), correlated(1, C, 12, 12), ReconstructOptions(**options))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_no_images_are_refused() -> None:
    with pytest.raises(CalibrationError, match="no calibration images"):
        reconstruct(convs(), list)


def test_half_precision_weights_stay_half_precision() -> None:
    tensors = {"w": random(C, C, 1, 1).astype(np.float16), "b": random(C).astype(np.float16)}
    dense = model([node("Conv", ["x", "w", "b"], ["y"], "conv")], tensors, (1, C, 8, 8), dtype=onnx.TensorProto.FLOAT16)
    result, _ = reconstruct(dense, correlated(1, C, 8, 8))
    assert all(value.dtype == np.float16 for value in weights(result).values())
    assert inspect(result).layers[0].sparse


def test_the_real_network_keeps_most_of_its_first_outputs(real: Path) -> None:
    dense = onnx.load(str(real / "models" / "yolox_nano.onnx"))
    names = [layer.name for layer in inspect(dense).eligible][:4]
    batches = lambda: [128 + 50 * random(1, 3, 416, 416, seed=i) for i in range(2)]  # noqa: E731
    result, report = reconstruct(dense, batches, ReconstructOptions(layers=names))
    assert [layer.name for layer in inspect(result).layers if layer.state == "sparse"] == names
    assert all((layer.error or 0) < 0.2 for layer in report.layers if layer.pruned)
