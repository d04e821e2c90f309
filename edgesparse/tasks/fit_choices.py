"""What may be done with each layer and channel of a network: what it is predicted to save, what it was measured to do.

Each choice is measured alone, by how it changes the detector's boxes and confidences on images. Changes are taken to
add up, so the best choices for any allowed change are a knapsack problem, as in SPDY (Frantar and Alistarh, "SPDY:
Accurate Pruning with Speedup Guarantees", ICML 2022). How much change the score allows is found by trial.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from edgesparse import knapsack
from edgesparse.builder.objects import box_reader, object_masks
from edgesparse.compress.cost import int8_gains, sparse_gains
from edgesparse.compress.narrow import Narrowing, NarrowOptions
from edgesparse.compress.sites import Inapplicable
from edgesparse.compress.widths import Width
from edgesparse.errors import ModelError
from edgesparse.int8.calibration import CalibrationOptions
from edgesparse.int8.recover import RecoverOptions, changes
from edgesparse.progress import Progress
from edgesparse.sparsity.inspect import inspect
from edgesparse.sparsity.rebuild import FitData, States
from edgesparse.sparsity.reconstruct import ReconstructOptions, Task, sensitivity
from edgesparse.tasks.fit_network import Network, NotWorthIt, Settings, predicted
from edgesparse.tasks.inputs import read_model

INT8, SPARSE, CHANNELS = "INT8", "2:4", "channels"
WORTH = 0.01
"""The most that a kind of choice could save, as a share of the predicted time, below which it is not measured."""
FINER = 2**-0.5
"""Ratio of one allowed change to the next larger one."""
BUDGETS = 32
HOPELESS = 0.5
"""Sets of 2:4 layers and widths whose changes add up to more, as a share of the outputs' variance, are not tried."""
APART = 0.005
"""How much more a plan saves than the one before, as a share of the predicted time, to be listed."""


@dataclass(frozen=True)
class Plan:
    """One solution: layers in INT8, layers that are 2:4, and channels to remove, by number.

    `change`: of the outputs, as a share of their variance, added up. `ms`: predicted for the whole network.
    """

    int8: tuple[str, ...] = ()
    sparse: tuple[str, ...] = ()
    dropped: tuple[int, ...] = ()
    change: float = 0.0
    ms: float = 0.0


@dataclass(frozen=True)
class _Action:
    """What one choice of the knapsack does."""

    int8: tuple[str, ...] = ()
    sparse: tuple[str, ...] = ()
    dropped: tuple[int, ...] = ()


_Item = list[tuple[knapsack.Choice, _Action]]


class Choices:
    """The choices of one network. Each kind is measured when it is first asked for, and stored in the folder."""

    def __init__(self, network: Network, settings: Settings, progress: Progress) -> None:
        self.settings, self.progress, self.board = settings, progress, settings.board
        self.scored = read_model(network.recipe, settings.images, settings.options.count, None, progress)
        self.model = self.scored.model
        self.folder = settings.folder / "choices"
        self.narrowed_ms: dict[tuple[int, ...], float] = {}
        self.avoided = set[tuple[int, ...]]()
        self.ms, self.int8_ms = (predicted(self.model, self.board, precision) for precision in ("fp16", "int8"))
        self.layers = {layer.name for layer in inspect(self.model).layers}
        self.gains = int8_gains(self.model, self.board)
        self.sparse_gains = {kind: sparse_gains(self.model, self.board, kind) for kind in ("fp16", "int8")}

    def task(self) -> Task:
        """What is known about the detector; its masks can be read once."""
        spec, images = self.scored.spec, self.scored.images
        return Task(read=box_reader(spec), objects=object_masks(self.model, images, spec))

    @cached_property
    def int8(self) -> Mapping[str, float]:
        """The change by INT8 in each layer alone. Raises ModelError."""
        state = States(self.folder, self.model, FitData(self.scored.images), "INT8").of("alone")
        stored = state.get("changes")
        if stored is None:
            options = RecoverOptions(CalibrationOptions("mse", self.scored.spec.input))
            reader = box_reader(self.scored.spec)
            layers = changes(self.model, self.scored.images, options, reader, self.progress)
            stored = {"names": np.array([x.name for x in layers]), "changes": np.array([x.change for x in layers])}
            state.put("changes", stored)
        return dict(zip(stored["names"].tolist(), stored["changes"].tolist(), strict=True))

    @cached_property
    def sparse(self) -> Mapping[str, float]:
        """The change by 2:4 in each layer alone, refitted. Raises ModelError, NotWorthIt."""
        half, byte = self.sparse_gains["fp16"], self.sparse_gains["int8"]
        gains = {name: max(half.get(name, 0.0), byte.get(name, 0.0)) for name in {**half, **byte}}
        if sum(gains.values()) < WORTH * self.ms:
            raise NotWorthIt(
                f"2:4 in every layer where TensorRT is likely to run it saves {sum(gains.values()):.3f} ms "
                "(predicted); no sparse INT8 kernel fits a layer with SiLU"
            )
        options = ReconstructOptions(gains=gains, state_dir=self.folder)
        ranked = sensitivity(self.model, self.scored.images, options, self.task(), self.progress)
        return {choice.name: choice.change for choice in ranked}

    @cached_property
    def narrowing(self) -> Narrowing:
        """What removes channels. Raises ModelError, naming the node, if they cannot be followed."""
        options = NarrowOptions(device=self.settings.options.device, state_dir=self.folder)
        return Narrowing(self.model, self.scored.images, options, self.task(), self.progress)

    @cached_property
    def widths(self) -> Sequence[Width]:
        """The change by each smaller width alone. Raises ModelError, NotWorthIt."""
        widths = self.narrowing.widths()
        if not widths:
            raise NotWorthIt(f"no layer is predicted to be faster with fewer channels on {self.board}")
        return widths

    def obstacle(self, kind: str) -> str:
        """Return why the network has no choices of this kind; empty if it has."""
        try:
            if not (self.int8 if kind == INT8 else self.sparse if kind == SPARSE else self.widths):
                return "no layer is eligible"
        except (ModelError, NotWorthIt) as reason:
            return str(reason)
        return ""

    def plans(self, kinds: Collection[str]) -> list[Plan]:
        """Return the plans with choices of these kinds that save the most for what they change, fastest last."""
        items = [*self._layers(INT8 in kinds, SPARSE in kinds), *self._blocks(CHANNELS in kinds)]
        most = sum(max(choice.cost for choice, _ in item) for item in items)
        if set(kinds) != {INT8}:
            most = min(most, max(HOPELESS, sum(self.int8.values()) if INT8 in kinds else 0.0))
        plans, gained = list[Plan](), 0.0
        for number in reversed(range(BUDGETS)):
            self.progress("choosing", BUDGETS - 1 - number, BUDGETS)
            picks = knapsack.pick([[choice for choice, _ in item] for item in items], most * FINER**number)
            chosen = [item[at] for item, at in zip(items, picks, strict=True) if at is not None]
            if (gain := sum(choice.gain for choice, _ in chosen)) > gained + APART * self.ms:
                plan = self._plan(chosen)
                if plan.ms < min((each.ms for each in plans), default=self.ms):
                    plans.append(plan)
                    gained = gain
        return plans

    def avoid(self, plan: Plan) -> bool:
        """Choose no more the width of `plan` that changes most: as a whole, the plan lost more than its changes say.

        Returns whether there was one.
        """
        chosen = [width for width in self.widths if set(width.dropped) <= set(plan.dropped)] if plan.dropped else []
        left = [width for width in chosen if width.dropped not in self.avoided]
        if left:
            self.avoided.add(max(left, key=lambda width: width.change).dropped)
        return bool(left)

    def _layers(self, int8: bool, sparse: bool) -> Iterator[_Item]:
        """An item per layer: INT8, 2:4 in FP16, and both, whose changes are taken to add up."""
        changes8, changes24 = self.int8 if int8 else {}, self.sparse if sparse else {}
        for name in dict.fromkeys((*changes8, *changes24)):
            item: _Item = []
            if name in changes8:
                item.append(_choice(self.gains.get(name, 0.0), changes8[name], _Action(int8=(name,))))
            if name in changes24:
                half = self.sparse_gains["fp16"].get(name, 0.0)
                item.append(_choice(half, changes24[name], _Action(sparse=(name,))))
            if name in changes8 and name in changes24:
                both = self.gains.get(name, 0.0) + self.sparse_gains["int8"].get(name, 0.0)
                item.append(_choice(both, changes8[name] + changes24[name], _Action((name,), (name,))))
            yield item

    def _blocks(self, channels: bool) -> Iterator[_Item]:
        """An item per block of channels: its smaller widths."""
        by_block: dict[str, _Item] = {}
        for width in self.widths if channels else ():
            if width.dropped in self.avoided:
                continue
            choice = _choice(width.saved_ms, width.change, _Action(dropped=width.dropped))
            by_block.setdefault(width.block.name, []).append(choice)
        yield from by_block.values()

    def _plan(self, chosen: Sequence[tuple[knapsack.Choice, _Action]]) -> Plan:
        """Return these choices with the time of the whole network: savings of channels overlap."""
        blocks = sorted((pair for pair in chosen if pair[1].dropped), key=lambda pair: pair[0].cost / pair[0].gain)
        dropped = self._together([action.dropped for _, action in blocks])
        kept = [pair for pair in chosen if set(pair[1].dropped) <= set(dropped)]
        int8 = tuple(name for _, action in kept for name in action.int8)
        sparse = tuple(name for _, action in kept for name in action.sparse)
        model = self.narrowing.shape_without(dropped) if dropped else self.model
        floats = self.layers - set(int8)
        ms = predicted(model, self.board, "int8" if int8 else "fp16", floats if int8 else (), sparse)
        return Plan(int8, sparse, tuple(sorted(dropped)), sum(choice.cost for choice, _ in kept), ms)

    def _together(self, blocks: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
        """Return the channels of these blocks that can be removed together, where each saves time after the earlier."""
        dropped: tuple[int, ...] = ()
        ms = self.int8_ms
        for block in blocks:
            more = (*dropped, *block)
            if more not in self.narrowed_ms:
                try:
                    self.narrowed_ms[more] = predicted(self.narrowing.shape_without(more), self.board, "int8")
                except Inapplicable:
                    self.narrowed_ms[more] = float("inf")
            if self.narrowed_ms[more] < ms:
                dropped, ms = more, self.narrowed_ms[more]
        return dropped


def _choice(gain: float, change: float, action: _Action) -> tuple[knapsack.Choice, _Action]:
    return knapsack.Choice(max(gain, 0.0), max(change, 0.0)), action
