"""INT8 step by step: what is rounded, fitted and kept, on networks with known results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import patterns
import pytest
from onnx import ModelProto, numpy_helper
from patterns import conv, relu, silu, weights
from small_models import Array, model, random, run

from edgesparse.errors import CalibrationError, ModelError
from edgesparse.int8.calibration import CalibrationOptions, calibrate
from edgesparse.int8.equalize import equalize
from edgesparse.int8.page import page
from edgesparse.int8.placement import QdqPlan
from edgesparse.int8.quantize import quantize
from edgesparse.int8.recover import CHANGED, RecoverOptions, recover
from edgesparse.int8.sensitivity import Sensitivity, cheap
from edgesparse.model.activations import Batches, spread, stream
from edgesparse.progress import Progress, quiet
from edgesparse.refinement import Refinement, Trained
from edgesparse.sparsity.mask import mask_2to4

C = 8
MAX = CalibrationOptions("max")


def batches(count: int = 8) -> Batches:
    mix = random(C, 3, seed=70)

    def restart() -> Iterator[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
        for i in range(count):
            yield np.einsum("cs,nshw->nchw", mix, random(1, 3, 4, 4, seed=400 + i)).astype(np.float32) + 0.3

    return restart


def network(sparse: bool = False, large: float = 1.0, smooth: bool = False) -> ModelProto:
    """Three convolutions, one of them depthwise, with ReLU between them, and the head. `large` scales one channel that
    a dense convolution reads, which only float can handle. `smooth`: SiLU before the depthwise one."""
    tensors: dict[str, Array] = {}
    for name in ("a", "c", "head"):
        tensors |= weights(name)
    tensors |= {"b.w": random(C, 1, 3, 3, seed=71), "b.b": random(C, seed=72)}
    for name in ("a.w", "a.b"):
        tensors[name] = tensors[name] * np.geomspace(1, 50, C, dtype=np.float32).reshape(
            -1, *[1] * (tensors[name].ndim - 1)
        )
    if sparse:
        tensors["c.w"] = tensors["c.w"] * mask_2to4(tensors["c.w"], 1)
    tensors["b.w"][0] *= large
    tensors["b.b"][0] = 5 * large
    tensors["c.w"][:, 0] /= large
    first = silu("a", "as") if smooth else [relu("a", "as")]
    nodes = [conv("a", "x", "a"), *first, conv("b", "as", "b", group=C, pads=[1, 1, 1, 1]), relu("b", "br")]
    nodes += [conv("c", "br", "c"), relu("c", "cr"), conv("head", "cr", "y")]
    return model(nodes, tensors, (1, C, 4, 4))


def lost(float_model: ModelProto, int8: ModelProto) -> float:
    pairs = [(run(float_model, x)[0], run(int8, x)[0]) for x in batches()()]
    old, new = (np.concatenate(each) for each in zip(*pairs, strict=True))
    return float(((old - new) ** 2).sum() / ((old - old.mean()) ** 2).sum())


def stored(source: ModelProto, name: str) -> Array:
    return numpy_helper.to_array(next(tensor for tensor in source.graph.initializer if tensor.name == name))


def test_each_step_comes_closer_and_the_parts_equal_the_whole() -> None:
    before = network()
    copy = ModelProto()
    copy.CopyFrom(before)
    result = recover(before, batches(), RecoverOptions(MAX))
    assert before == copy
    changes = [step.change for step in result.report.steps]
    assert changes[0] == 0 and 0 < changes[2] < 1.1 * changes[1]
    assert [e.tensor for e in result.report.equalized] == ["as"]
    assert [layer.name for layer in result.report.layers if layer.int8] == ["a", "b", "c"]
    assert all((layer.error is not None) == layer.int8 for layer in result.report.layers)
    again, _ = quantize(result.model, result.scales, keep=result.keep)
    assert again == result.quantized
    other, _ = quantize(result.model, result.scales, placement="sparse")
    assert lost(before, other) < 0.1
    assert lost(before, result.quantized) < 0.8 * lost(before, plainly(before))


def test_a_layer_that_reads_uneven_channels_behind_silu_stays_float() -> None:
    result = recover(network(smooth=True), batches(), RecoverOptions(MAX))
    assert [layer.name for layer in result.report.layers if layer.int8] == ["a", "c"] and result.keep == ("b",)
    (layer,) = (layer for layer in result.report.layers if layer.name == "b")
    assert "kept in float: the channels that it reads differ" in layer.why
    assert len(result.model.graph.node) == len(network(smooth=True).graph.node)


def plainly(source: ModelProto) -> ModelProto:
    """Only ranges and rounding to the nearest grid point."""
    return quantize(source, calibrate(source, batches(), CalibrationOptions("max")).scales)[0]


def test_every_layer_has_the_same_mean_as_in_float() -> None:
    even = equalize(network(), batches(), (), quiet).model
    result = recover(network(), batches(), RecoverOptions(MAX))
    plain, _ = quantize(even, result.scales)
    for name in ("b", "c"):
        expected, rounded, corrected = (means(source, name) for source in (even, plain, result.quantized))
        assert np.abs(corrected - expected).sum() < 0.6 * np.abs(rounded - expected).sum()


def means(source: ModelProto, name: str) -> Array:
    """The mean of each channel of a tensor."""
    return np.stack([values[name] for values in stream(source, batches(), [name])]).mean((0, 1, 3, 4))


def test_weights_and_the_head_stay_except_for_equalized_channels() -> None:
    result = recover(network(sparse=True), batches(), RecoverOptions(MAX))
    even = equalize(network(sparse=True), batches(), (), quiet).model
    for name in ("a.w", "b.w", "c.w", "head.w", "head.b"):  # the head keeps its bias too
        assert (stored(result.model, name) == stored(even, name)).all()


def test_errors_are_the_remaining_ones() -> None:
    even = equalize(network(), batches(), (), quiet).model
    result = recover(network(), batches(), RecoverOptions(MAX))
    for layer in [layer for layer in result.report.layers if layer.int8]:
        source = (even, result.quantized)
        old, new = (np.stack([v[layer.name] for v in stream(m, batches(), [layer.name])]) for m in source)
        left = (old - new).var((0, 1, 3, 4)).sum() / old.var((0, 1, 3, 4)).sum()
        assert layer.error == pytest.approx(left, rel=0.1)


@pytest.mark.parametrize(
    "pattern",
    [
        *(patterns.residual_silu, patterns.projected, patterns.concat, patterns.shared, patterns.transposed),
        *(patterns.sppf, patterns.neck, patterns.split, patterns.focus, patterns.gemm, patterns.distances),
    ],
)
def test_every_pattern_of_layers(pattern: Callable[[], ModelProto]) -> None:
    source = pattern()
    shape = [axis.dim_value for axis in source.graph.input[0].type.tensor_type.shape.dim]
    result = recover(source, lambda: (random(*shape, seed=i) for i in range(6)), RecoverOptions(MAX, table=True))
    first, nearest, corrected = (step.change for step in result.report.steps)
    assert first == 0 and corrected < 1.1 * nearest < 0.01


def test_layers_are_kept_float_until_the_drop_holds_and_no_more() -> None:
    before = network(large=300)
    score_of = lambda int8: 100 - 100 * lost(before, int8)  # noqa: E731
    free = recover(before, batches(), RecoverOptions(MAX), score=score_of)
    assert free.report.drop is not None and free.report.drop > 0.03 and free.keep == ()
    result = recover(before, batches(), RecoverOptions(MAX, max_drop=free.report.drop / 3), score=score_of)
    assert result.report.drop is not None and result.report.drop <= free.report.drop / 3
    assert result.keep == ("c",)
    kept = next(layer for layer in result.report.layers if layer.name == "c")
    assert not kept.int8 and kept.why.startswith("kept in float") and kept.alone is not None
    assert kept.alone == max(layer.alone or 0 for layer in result.report.layers)
    text = page("net", result.report)
    assert kept.why in text and "kept in float: 1 of 3" in text


def test_a_limit_may_be_the_score_itself() -> None:
    scores = iter([70.0, 80.0, 80.0])  # only the deciding steps are scored
    result = recover(network(), batches(), RecoverOptions(MAX, least=75), score=lambda source: next(scores))
    assert len(result.keep) == 1 and [step.score for step in result.report.steps] == [None, None, 70, 80]


def test_with_gains_a_layer_that_int8_does_not_make_faster_is_the_first_in_float() -> None:
    before = network(large=300)
    options = RecoverOptions(MAX, max_drop=0.5, gains={"a": 1.0, "b": 0.0, "c": 1.0})
    result = recover(before, batches(), options, score=lambda int8: 100 - 100 * lost(before, int8))
    assert sorted(result.keep) == ["b", "c"]


def test_a_trial_that_leaves_no_layer_in_int8_does_not_end_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last layers gain nothing and change nothing, so keeping four of eight layers float keeps all of them."""
    names = "abcdefgh"
    nodes = [conv(name, before, name) for before, name in zip("x" + names, names, strict=False)]
    tensors = {key: value for name in [*names, "head"] for key, value in weights(name).items()}
    source = model([*nodes, conv("head", "h", "y")], tensors, (1, C, 4, 4))
    ranked = [Sensitivity(name, 1, (9.0 - at) * (at < 4)) for at, name in enumerate(names)]
    monkeypatch.setattr("edgesparse.int8.recover.sensitivities", lambda *_: ranked)

    def score_of(tried: ModelProto) -> float:
        int8 = {each.input[0] for each in tried.graph.node if each.op_type == "QuantizeLinear"}
        return 100.0 if int8.isdisjoint({"x", "a", "b"}) else 0.0  # what the first three layers read

    options = RecoverOptions(MAX, max_drop=1, gains=dict.fromkeys("abcd", 1.0))
    assert set(recover(source, batches(), options, score=score_of).keep) == set(names) - {"d"}


def test_every_trial_sets_the_biases_for_its_own_layers() -> None:
    before, scored = network(large=300), list[ModelProto]()

    def score_of(int8: ModelProto) -> float:
        scored.append(int8)
        return 100 - 100 * lost(before, int8)

    result = recover(before, batches(), RecoverOptions(MAX, max_drop=0.5), score=score_of)
    assert result.keep == ("c",) and result.quantized in scored
    again = recover(before, batches(), RecoverOptions(MAX, keep=("c",)), score=score_of)
    assert again.quantized == result.quantized  # what --keep by hand makes of the same layers


def test_without_labels_layers_that_cost_nothing_and_change_most_stay_float(monkeypatch: pytest.MonkeyPatch) -> None:
    before = network(large=300)
    free = recover(before, batches(), RecoverOptions(MAX))
    assert free.keep == () and free.report.steps[-1].change > CHANGED  # none of its three layers is cheap
    monkeypatch.setattr("edgesparse.int8.sensitivity.FREE", 0.5)
    result = recover(before, batches(), RecoverOptions(MAX))
    assert result.keep == ("c",) and result.report.steps[-1].what == "kept in float: 1 of 3"
    assert result.report.steps[-1].change < free.report.steps[-1].change
    monkeypatch.setattr("edgesparse.int8.recover.CHANGED", 1.0)
    assert recover(before, batches(), RecoverOptions(MAX)).keep == ()


def test_cheap_layers_are_those_that_change_most_within_their_share_of_the_work() -> None:
    ranked = [Sensitivity(*each) for each in (("a", 10, 0.5), ("b", 1, 0.001), ("c", 21, 0.3), ("d", 20, 0.2))]
    assert cheap([*ranked, Sensitivity("rest", 948, 0.0)]) == ["a", "d"]


def test_named_layers_stay_float_with_their_weights() -> None:
    before = network()
    result = recover(before, batches(), RecoverOptions(MAX, keep=("c",)))
    assert result.keep == ("c",)
    assert (stored(result.model, "c.w") == stored(before, "c.w")).all()


def test_the_table_lists_all_tensors_that_lead_to_int8_layers() -> None:
    narrow = recover(network(), batches(), RecoverOptions(MAX))
    wide = recover(network(), batches(), RecoverOptions(MAX, table=True))
    assert set(narrow.scales) < set(wide.scales) and {"a", "b", "x"} <= set(wide.scales)
    assert "y" not in wide.scales and "c" not in wide.scales


def test_refused() -> None:
    with pytest.raises(CalibrationError, match="labeled data"):
        recover(network(), batches(), RecoverOptions(max_drop=1))
    with pytest.raises(ModelError, match="none of the model's 1 layers can be INT8"):
        head = model([conv("head", "x", "y")], weights("head"), (1, C, 4, 4))
        recover(head, batches())
    scores = iter([100.0] + [50.0] * 10)
    with pytest.raises(CalibrationError, match="no layer can be INT8 and leave 99"):
        recover(network(), batches(), RecoverOptions(MAX, max_drop=1), score=lambda source: next(scores))
    with pytest.raises(CalibrationError, match="no calibration images"):
        recover(network(), batches(0))


def test_images_are_spread_over_all() -> None:
    captured = [float(batch[0, 0, 0, 0]) for batch in spread(batches(8), 3)()]
    every = [float(batch[0, 0, 0, 0]) for batch in batches(8)()]
    assert captured == every[::3]


def test_trained_weights_and_scales_are_the_result_if_they_are_better() -> None:
    calls = list[tuple[str, ...]]()

    def train(
        original: ModelProto, changed: ModelProto, qdq: QdqPlan, scales: Mapping[str, float], progress: Progress
    ) -> Trained:
        np.testing.assert_allclose(run(original, image)[0], run(network(), image)[0], rtol=1e-3, atol=1e-4)
        assert run(changed, image)[0].tolist() != run(original, image)[0].tolist(), "the biases are those for INT8"
        calls.append(tuple(qdq.readers))
        trained = ModelProto()
        trained.CopyFrom(changed)
        trained.producer_name = "trained"
        return Trained(trained, {name: 2 * scale for name, scale in scales.items()}, Refinement(7, 5, 1, 2.0, after))

    image, after = next(iter(batches()())), 1.5
    plain = recover(network(), batches(), RecoverOptions(MAX))
    result = recover(network(), batches(), RecoverOptions(MAX, train=train))
    assert result.model.producer_name == "trained" and result.report.training == Refinement(7, 5, 1, 2.0, 1.5)
    assert result.report.steps[-1].what == "weights and ranges trained"
    for name in calls[0]:
        assert result.scales[name] == 2 * plain.scales[name]
        limits = result.report.ranges[name]
        assert limits.method == "trained" and limits.amax == pytest.approx(2 * plain.report.ranges[name].amax)
    assert "trained 7 steps: error on images held out (1 of 5) 25 % lower" in page("x.onnx", result.report)
    after = 2.0
    result = recover(network(), batches(), RecoverOptions(MAX, train=train))
    assert result.model.producer_name != "trained" and result.scales == plain.scales
    after, points = 1.5, iter([90.0, 89.0, 89.5, 88.0])
    limited = RecoverOptions(MAX, max_drop=1.0, train=train)
    result = recover(network(), batches(), limited, score=lambda source: next(points))
    assert result.model.producer_name != "trained" and result.scales == plain.scales
    assert result.report.warnings[-1] == "trained weights not used: they leave 88.0 points, needed 89.0 points"
    assert result.report.drop == 0.5 and result.report.steps[-1].what == "biases corrected"
