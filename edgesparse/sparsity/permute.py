"""Reorders channels before pruning to 2:4, to keep more magnitude, without changing the model's outputs.

The search is that of Pool and Yu, "Channel Permutations for N:M Sparsity", NeurIPS 2021: swap the two input channels
whose swap increases the kept magnitude most, until none does, and escape that optimum by random swaps a few times. Here
all swaps are evaluated at once, and those that share no group of four are applied together. The convolutions that write
and read a channel are reordered with it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, numpy_helper

from edgesparse.model.weights import Weight
from edgesparse.model.wiring import Wiring, reads
from edgesparse.progress import Progress, quiet
from edgesparse.sparsity.channels import Flow, Index, Use, follow
from edgesparse.sparsity.mask import GROUP, mask_2to4

Matrix = npt.NDArray[np.float32]
SWEEPS = 100
"""Most rounds of swaps; a few dozen are usual."""
KICKS, WORK = 40, 4e9
"""How often the search escapes a local optimum, and a limit on columns squared times rows over all escapes."""


@dataclass(frozen=True)
class Permutation:
    """Share of the magnitude that 2:4 keeps in the convolutions to prune, before and after, and the number of moved
    channels.
    """

    before: float
    after: float
    moved: int


def permute(model: ModelProto, layers: Collection[str], progress: Progress = quiet) -> Permutation:
    """Reorder channels of `model`, in place, so that 2:4 keeps more of the weights of the convolutions `layers`.

    Outputs stay the same except for rounding. Channels that reach a reshape, a product of activations or the graph's
    output stay in place, as do those of weights that are shared or quantized per channel.
    """
    flow = follow(Wiring(model.graph))
    find, users = flow.find, [(use, w) for use, w in flow.weights if use.axis == 1 and _name(use) in layers]
    target = np.arange(len(find))
    blocks = flow.blocks()
    for i, block in enumerate(blocks):
        progress("reordering channels", i, len(blocks))
        views = [view for use, weight in users if (view := _view(use, weight, block, find)) is not None]
        if not views:
            continue
        whole = len(block) // GROUP * GROUP
        order = search(np.concatenate(views)[:, :whole])
        target[np.array(block)[:whole]] = np.array(block)[order]
    before, total = _kept(users, lambda use: None)
    orders = {id(use): _order(use, find, target) for use in _uses(flow)}
    after, _ = _kept(users, lambda use: orders[id(use)])
    if after <= before:
        share = before / total if total else 1.0
        return Permutation(share, share, 0)
    _apply(flow, model, orders)
    return Permutation(before / total, after / total, int(np.count_nonzero(target != np.arange(len(target)))))


def search(weights: Matrix) -> Index:
    """Return an order of the columns of `weights` [rows, n], n a multiple of four, reached by swaps from the current
    one.

    It increases the sum, over rows and groups of four columns, of the two largest magnitudes. A few random swaps lead
    out of each local optimum and are kept where the result is better. Deterministic.
    """
    columns = np.ascontiguousarray(np.abs(weights, dtype=np.float32).T)
    n = len(columns)
    best = _Descent(columns, np.arange(n), np.zeros(n // GROUP), np.zeros(n), np.zeros((n, n)))
    best.descend(range(n // GROUP))
    random = np.random.default_rng(0)
    for _ in range(int(min(KICKS, WORK / (n * columns.size)))):
        trial = best.copy()
        trial.descend(trial.kick(random))
        if trial.kept.sum() > best.kept.sum():
            best = trial
    return best.order


@dataclass
class _Descent:
    """The columns of a matrix (stored as rows) in an `order`, and its value.

    `kept`: what each group of four keeps, summed over rows. For each place, `top` is the largest of the other three in
    its group, summed, and `joined` what is kept in addition with each column there: the larger of that column and the
    second largest of the three, summed.
    """

    columns: Matrix
    order: Index
    kept: npt.NDArray[np.float64]
    top: npt.NDArray[np.float64]
    joined: npt.NDArray[np.float64]

    def copy(self) -> _Descent:
        return _Descent(self.columns, self.order.copy(), self.kept.copy(), self.top.copy(), self.joined.copy())

    def descend(self, stale: Iterable[int]) -> None:
        """Swap until no swap gains; `stale` are the groups that have changed."""
        scratch = np.empty_like(self.columns)
        for _ in range(SWEEPS):
            for group in stale:
                self._weigh(group, scratch)
            stale = self._swap()
            if not stale:
                break

    def kick(self, random: np.random.Generator) -> set[int]:
        """Swap a few places at random. Returns the groups that changed."""
        swaps = max(2, len(self.order) // 16)
        places = random.permutation(len(self.order))[: 2 * swaps]
        first, second = places[: len(places) // 2], places[len(places) // 2 : len(places) // 2 * 2]
        self.order[first], self.order[second] = self.order[second], self.order[first]
        return set((places // GROUP).tolist())

    def _weigh(self, group: int, scratch: Matrix) -> None:
        members = slice(GROUP * group, GROUP * group + GROUP)
        four = self.columns[self.order[members]]
        for place in range(GROUP):
            a, b, c = (four[other] for other in range(GROUP) if other != place)
            low, high = np.minimum(a, b), np.maximum(a, b)
            self.top[members.start + place] = np.maximum(high, c).sum()
            second = np.maximum(low, np.minimum(high, c))
            self.joined[members.start + place] = np.maximum(self.columns, second, out=scratch).sum(axis=1)
        self.kept[group] = self.top[members.start] + self.joined[members.start, self.order[members.start]]

    def _swap(self) -> set[int]:
        """Apply the best swaps that share no group. Returns the groups that changed."""
        group = np.arange(len(self.order)) // GROUP
        entering = self.top[:, None] + self.joined[:, self.order]
        gain = entering + entering.T - self.kept[group][:, None] - self.kept[group][None, :]
        gain[group[:, None] == group[None, :]] = 0
        ranked = np.argsort(gain, axis=None)[::-1][: 4 * len(group)]
        least = 1e-6 * float(self.kept.sum())
        changed: set[int] = set()
        for a, b in zip(*np.unravel_index(ranked, gain.shape), strict=True):
            if gain[a, b] <= least:
                break
            if group[a] not in changed and group[b] not in changed:
                self.order[a], self.order[b] = self.order[b], self.order[a]
                changed |= {int(group[a]), int(group[b])}
        return changed


def _view(use: Use, weight: Weight, block: list[int], find: Index) -> Matrix | None:
    """Return the weights that read `block`'s channels, [rows, channels]; None if its groups of four are not aligned
    there.
    """
    place = {pair: i for i, pair in enumerate(use.channels.pairs(find))}
    rows = []
    for version in dict.fromkeys(use.channels.versions.tolist()):
        at = np.array([place.get((channel, version), -1) for channel in block])
        fours = at[: len(at) // GROUP * GROUP].reshape(-1, GROUP)
        if (at >= 0).all() and (fours % GROUP == np.arange(GROUP)).all() and (np.diff(fours) == 1).all():
            taken = np.moveaxis(weight.values, weight.axis, -1)[..., at]
            rows.append(taken.reshape(-1, len(block)).astype(np.float32))
    return np.concatenate(rows) if rows else None


def _uses(flow: Flow) -> list[Use]:
    return [use for use, _ in flow.weights] + flow.stored


def _order(use: Use, find: Index, target: Index) -> Index | None:
    """Return the old places of the channels in their new order; None if no channel moves."""
    pairs = use.channels.pairs(find)
    if all(target[channel] == channel for channel, _ in pairs):
        return None
    place = {pair: i for i, pair in enumerate(pairs)}
    moves = [(channel, int(target[channel]), version) for channel, version in pairs]
    return np.array([i if new == old else place[(new, version)] for i, (old, new, version) in enumerate(moves)])


def _kept(users: list[tuple[Use, Weight]], order_of: Callable[[Use], Index | None]) -> tuple[float, float]:
    """Return the magnitude that 2:4 keeps in the weights of `users`, with input channels in order, and the total."""
    kept = total = 0.0
    for use, weight in users:
        order, values = order_of(use), np.abs(weight.values, dtype=np.float32)
        values = values if order is None else values.take(order, weight.axis)
        kept += float((values * mask_2to4(values, weight.axis)).sum())
        total += float(values.sum())
    return kept, total


def _apply(flow: Flow, model: ModelProto, orders: dict[int, Index | None]) -> None:
    moved: dict[str, npt.NDArray[np.generic]] = {}
    for use, weight in flow.weights:
        order = orders[id(use)]
        if order is not None:
            seen = weight.in_layer(moved.get(weight.source, weight.stored))
            moved[weight.source] = weight.in_storage(seen.take(order, use.axis))
    for source, values in moved.items():
        flow.wiring.store(source, values)
    for use in flow.stored:
        order = orders[id(use)]
        value = flow.wiring.constant(use.node.input[use.position])
        if order is not None and value is not None and (value != value.flat[0]).any():
            # biases and scales may be shared with layers whose channels do not move, so each user gets a copy
            name = f"{use.node.output[0]}.permuted.{use.position}"
            model.graph.initializer.append(numpy_helper.from_array(value.take(order, use.axis), name))
            use.node.input[use.position] = name
    drop_unread(model)


def drop_unread(model: ModelProto) -> None:
    """Remove the stored tensors that no node reads."""
    read = {name for node in model.graph.node for name in reads(node)} | {out.name for out in model.graph.output}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    if len(kept) < len(model.graph.initializer):
        del model.graph.initializer[:]
        model.graph.initializer.extend(kept)


def _name(use: Use) -> str:
    return use.node.name or use.node.output[0]
