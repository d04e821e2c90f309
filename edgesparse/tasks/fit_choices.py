"""What may be done with each layer and channel of a network together: the sets that save most for what they change.

Each choice is measured alone (`fit_changes`). Changes are taken to add up, so the best choices for any allowed change
are a knapsack problem, as in SPDY (Frantar and Alistarh, "SPDY: Accurate Pruning with Speedup Guarantees", ICML 2022).
How much change the score allows is found by trial.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from edgesparse import knapsack
from edgesparse.compress.relu_places import with_relu_at
from edgesparse.compress.sites import Inapplicable
from edgesparse.progress import Progress
from edgesparse.tasks.fit_changes import CHANNELS, INT8, RELU, SPARSE, Changes
from edgesparse.tasks.fit_network import Network, Settings, predicted
from edgesparse.tasks.fit_relu import Swap

FINER = 2**-0.5
"""Ratio of one allowed change to the next larger one."""
BUDGETS = 32
HOPELESS = 0.5
"""Sets of ReLU, 2:4 and widths whose changes add up to more, as a share of the outputs' variance, are not tried."""
APART = 0.005
"""How much more a plan saves than the one before, as a share of the predicted time, to be listed."""


@dataclass(frozen=True)
class Plan:
    """One solution: layers in INT8, layers that are 2:4, tensors whose activation ReLU replaces, and channels to
    remove, by number.

    `change`: of the outputs, as a share of their variance, added up. `ms`: predicted for the whole network.
    """

    int8: tuple[str, ...] = ()
    sparse: tuple[str, ...] = ()
    relu: tuple[str, ...] = ()
    dropped: tuple[int, ...] = ()
    change: float = 0.0
    ms: float = 0.0


@dataclass(frozen=True)
class _Action:
    """What one choice of the knapsack does."""

    int8: tuple[str, ...] = ()
    sparse: tuple[str, ...] = ()
    relu: tuple[str, ...] = ()
    dropped: tuple[int, ...] = ()


_Choice = tuple[knapsack.Choice, _Action]
_Item = list[_Choice]


class Choices(Changes):
    """The choices of one network together: plans, and what is learned from trials of them."""

    def __init__(self, network: Network, settings: Settings, progress: Progress) -> None:
        super().__init__(network, settings, progress)
        self.narrowed_ms: dict[tuple[int, ...], float] = {}
        self.avoided = set[tuple[int, ...]]()

    def plans(self, kinds: Collection[str]) -> list[Plan]:
        """Return the plans with choices of these kinds that save the most for what they change, fastest last."""
        items = [*self._layers(kinds), *self._blocks(CHANNELS in kinds)]
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

    def _layers(self, kinds: Collection[str]) -> Iterator[_Item]:
        """An item per layer: INT8, 2:4 in FP16, and both, whose changes are taken to add up; each also with ReLU behind
        the layer, and what that allows.
        """
        changes8, changes24 = self.int8 if INT8 in kinds else {}, self.sparse if SPARSE in kinds else {}
        swaps = self.relu if RELU in kinds else {}
        for name in dict.fromkeys((*changes8, *changes24, *swaps)):
            item = list(self._alone(name, changes8, changes24, self.sparse_gains))
            if (swap := swaps.get(name)) is not None:
                with_relu = list(self._alone(name, changes8, swap.sparse, self.relu_gains))
                item += [_with(swap, choice) for choice in with_relu if choice[1].sparse]
                if INT8 in kinds and swap.int8:
                    gain = sum(self.gains[reader] for reader in swap.int8)
                    behind = _choice(gain, sum(swap.int8.values()), _Action(int8=tuple(swap.int8)))
                    item += [_with(swap, behind), *(_with(swap, _both(choice, behind)) for choice in with_relu)]
            yield item

    def _alone(
        self,
        name: str,
        changes8: Mapping[str, float],
        changes24: Mapping[str, float],
        gains24: Mapping[str, Mapping[str, float]],
    ) -> Iterator[_Choice]:
        """The choices of one layer: INT8, 2:4 in FP16, and both."""
        if name in changes8:
            yield _choice(self.gains.get(name, 0.0), changes8[name], _Action(int8=(name,)))
        if name in changes24:
            yield _choice(gains24["fp16"].get(name, 0.0), changes24[name], _Action(sparse=(name,)))
        if name in changes8 and name in changes24:
            both = self.gains.get(name, 0.0) + gains24["int8"].get(name, 0.0)
            yield _choice(both, changes8[name] + changes24[name], _Action((name,), (name,)))

    def _blocks(self, channels: bool) -> Iterator[_Item]:
        """An item per block of channels: its smaller widths."""
        by_block: dict[str, _Item] = {}
        for width in self.widths if channels else ():
            if width.dropped in self.avoided:
                continue
            choice = _choice(width.saved_ms, width.change, _Action(dropped=width.dropped))
            by_block.setdefault(width.block.name, []).append(choice)
        yield from by_block.values()

    def _plan(self, chosen: Sequence[_Choice]) -> Plan:
        """Return these choices with the time of the whole network: savings of channels overlap."""
        blocks = sorted((pair for pair in chosen if pair[1].dropped), key=lambda pair: pair[0].cost / pair[0].gain)
        dropped = self._together([action.dropped for _, action in blocks])
        kept = [pair for pair in chosen if set(pair[1].dropped) <= set(dropped)]
        int8 = tuple(name for _, action in kept for name in action.int8)
        sparse = tuple(name for _, action in kept for name in action.sparse)
        relu = tuple(name for _, action in kept for name in action.relu)
        model = with_relu_at(self.narrowing.shape_without(dropped) if dropped else self.model, relu)
        floats = self.layers - set(int8)
        ms = predicted(model, self.board, "int8" if int8 else "fp16", floats if int8 else (), sparse)
        return Plan(int8, sparse, relu, tuple(sorted(dropped)), sum(choice.cost for choice, _ in kept), ms)

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


def _choice(gain: float, change: float, action: _Action) -> _Choice:
    return knapsack.Choice(max(gain, 0.0), max(change, 0.0)), action


def _both(first: _Choice, second: _Choice) -> _Choice:
    """Return two choices together, of which the second has INT8 only."""
    (gained, action), (added, more) = first, second
    return _choice(gained.gain + added.gain, gained.cost + added.cost, replace(action, int8=(*action.int8, *more.int8)))


def _with(swap: Swap, choice: _Choice) -> _Choice:
    """Return a choice together with the ReLU that it needs."""
    (gained, action), place = choice, swap.place
    return _choice(gained.gain, gained.cost + swap.change, replace(action, relu=(place,)))
