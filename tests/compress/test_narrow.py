"""Which channels are removed, and in what order: those that the next layers miss least, for the time they save."""

from __future__ import annotations

from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto
from small_models import model, node, random, run

from edgesparse.compress.coupled import Block, Coupled
from edgesparse.compress.importance import change, fewer
from edgesparse.compress.narrow import Narrowing, NarrowOptions, narrow
from edgesparse.compress.widths import Width, as_arrays, counts, from_arrays, in_order
from edgesparse.errors import CalibrationError, SparsityError
from edgesparse.model.outputs import ReferenceOutputs
from edgesparse.progress import quiet
from edgesparse.sparsity.rebuild import FitData
from edgesparse.sparsity.reconstruct import Task
from edgesparse.tasks.inputs import as_recipe, static_model

BLOCK = Block((0, 1), ("a",), ())


def two_layers(width: int = 6, side: int = 4) -> ModelProto:
    """Two convolutions; what the first one's channels 1 and 3 hold is the same."""
    first = random(width, 3, 1, 1)
    first[3] = first[1]
    nodes = [
        node("Conv", ["x", "w0"], ["c0"], "first"),
        node("Relu", ["c0"], ["r0"]),
        node("Conv", ["r0", "w1", "b1"], ["y"], "second", pads=[1] * 4),
    ]
    tensors = {"w0": first, "w1": random(4, width, 3, 3, seed=1), "b1": random(4)}
    return model(nodes, tensors, (1, 3, side, side))


def batches(side: int = 4) -> list[np.ndarray]:
    return [random(1, 3, side, side, seed=seed) for seed in range(24)]


def test_a_channel_that_another_one_replaces_goes_first_and_costs_nothing() -> None:
    source, data = two_layers(), FitData(batches)
    reduced = fewer(source, Coupled(source).blocks[0], [5, 2], data)
    assert len(reduced[5].dropped) == 1 and set(reduced[5].dropped) < {1, 3}
    assert set(reduced[5].dropped) < set(reduced[2].dropped) and len(reduced[2].dropped) == 4
    outputs = ReferenceOutputs(source, data.batches)
    assert change(source, reduced[5], outputs) < 1e-4 < change(source, reduced[2], outputs)


def test_the_channels_that_stay_are_nearly_the_best_ones() -> None:
    source, data = two_layers(), FitData(batches)
    block = Coupled(source).blocks[0]
    outputs = ReferenceOutputs(source, data.batches)
    chosen = change(source, fewer(source, block, [3], data)[3], outputs)
    order = {}
    for dropped in combinations(block.ids, 3):
        swapped = Block((*(i for i in block.ids if i not in dropped), *dropped), block.writers, block.readers)
        places = block.readers[0].places[[block.ids.index(i) for i in swapped.ids]]
        only = Block(swapped.ids[3:], block.writers, (type(block.readers[0])("second", places[3:]),))
        order[dropped] = change(source, fewer(source, only, [0], data)[0], outputs)
    assert chosen <= np.quantile(list(order.values()), 0.2)


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 100)), min_size=1, max_size=8, unique_by=lambda v: v[0]))
def test_each_width_of_a_block_costs_more_per_millisecond_than_the_one_before(values: list[tuple[int, int]]) -> None:
    widths = [Width(BLOCK, i, (), saved, change) for i, (saved, change) in enumerate(values)]
    steps = in_order(widths)
    assert steps[-1].saved_ms == max(saved for saved, _ in values)
    points = [(0.0, 0.0), *((step.saved_ms, step.change) for step in steps)]
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairwise(points)]
    assert slopes == sorted(slopes) and [p[0] for p in points] == sorted(p[0] for p in points)
    # no width lies below the hull
    assert all(
        change >= np.interp(saved, [p[0] for p in points], [p[1] for p in points]) - 1e-9 for saved, change in values
    )


def test_stored_widths_are_read_back() -> None:
    widths = [Width(BLOCK, 1, (1,), 0.5, 0.25), Width(BLOCK, 0, (0, 1), 1.0, 2.0)]
    assert from_arrays(BLOCK, as_arrays(widths)) == widths and from_arrays(BLOCK, as_arrays([])) == []


def test_widths_are_on_a_grid_of_32_and_below_64_of_16() -> None:
    assert counts(128) == [0, 32, 64, 96] and counts(58) == [0, 16, 32, 48] and counts(16) == [0]


def test_a_share_of_the_predicted_time_is_saved_and_the_original_stays() -> None:
    source = two_layers(64, 64)
    before = source.SerializeToString()
    narrowed, report = narrow(source, lambda: batches(64)[:4], NarrowOptions(share=0.005))
    assert report.after_ms <= 0.995 * report.before_ms and source.SerializeToString() == before
    assert [(layer.name, layer.inputs, layer.outputs) for layer in report.layers] == [
        ("first", (3, 3), (64, 32)),
        ("second", (64, 32), (4, 4)),
    ]
    assert report.score is None and report.drop is None and report.layers[1].error is not None
    assert sum(layer.saved_ms for layer in report.layers) == pytest.approx(report.before_ms - report.after_ms)
    # three inputs determine all 64 channels up to ReLU, so 32 of them are enough
    x = batches(64)[0]
    assert np.abs(run(source, x)[0] - run(narrowed, x)[0]).mean() < 0.1 * run(source, x)[0].std()


def test_what_is_stored_of_one_board_is_not_used_for_another(tmp_path: Path) -> None:
    source, few = two_layers(64, 64), lambda: batches(64)[:2]
    boards = ("orin-nano-8gb", "orin-nano-4gb", "orin-nano-8gb")
    each = [Narrowing(source, few, NarrowOptions(device=name, state_dir=tmp_path), Task(), quiet) for name in boards]
    saved = [[width.saved_ms for width in narrowing.widths()] for narrowing in each]
    assert saved[0] == saved[2] and saved[0] < saved[1], "the slower board saves more"


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (NarrowOptions(), CalibrationError, "needs labeled data"),
        (NarrowOptions(share=1.0), SparsityError, "more than 0 and less than 1"),
        (NarrowOptions(max_drop=-1.0), SparsityError, "0 or more points"),
        (NarrowOptions(share=0.5), SparsityError, "no layer is predicted to be faster"),
    ],
)
def test_what_cannot_be_done_is_refused(options: NarrowOptions, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        narrow(two_layers(), batches, options)


def test_without_points_to_lose_nothing_is_removed_and_the_message_is_short() -> None:
    source = two_layers(64, 64)
    task = Task(score=lambda model: 50.0 if model.ByteSize() >= source.ByteSize() else 40.0)
    with pytest.raises(SparsityError, match=r"at a cost of 0\.03 points or less: allow more"):
        narrow(source, lambda: batches(64)[:4], NarrowOptions(max_drop=0.0304123), task)


@pytest.mark.real
@pytest.mark.parametrize("name", ["yolox_nano", "FastestDet"])
def test_channels_of_real_detectors_are_followed(real: Path, name: str) -> None:
    source, _ = static_model(as_recipe(real / "models" / f"{name}.onnx"))
    coupled = Coupled(source)
    assert sum(len(block.ids) for block in coupled.blocks) > 500
