"""Which candidate wins, and what was found out about 2:4, in words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from edgesparse.backends import BuildResult
from edgesparse.builder.attempts import Tried
from edgesparse.builder.candidates import Plan
from edgesparse.builder.child.timing import equal
from edgesparse.errors import SparsityNotAchieved
from edgesparse.sparsity.inspect import Inspection, Layer

NAMED = 2
"""Layers that a verdict names for each reason; the report has all."""


@dataclass(frozen=True)
class Proof:
    """What 2:4 came to in a candidate. `ratio`: its dense twin's time over its own; None without a twin. `gains`:
    whether it is faster than the twin by more than they spread."""

    tried: Tried
    twin: Tried | None
    layers: tuple[tuple[Layer, str], ...]
    """Each layer that is 2:4 and eligible, and why it does not run sparse: empty where it does."""

    @property
    def picked(self) -> tuple[str, ...]:
        return sparse_layers(self.tried.result)

    @property
    def eligible(self) -> int:
        """Layers that the builder considered; what it fused counts once."""
        said = self.tried.result.eligible if self.tried.result else ()
        return max(len(said) or len(self.layers), len(self.picked))

    @property
    def ratio(self) -> float | None:
        if self.twin is None or self.twin.timing is None or self.tried.timing is None:
            return None
        return self.twin.timing.median_ms / self.tried.timing.median_ms

    @property
    def gains(self) -> bool:
        if self.twin is None or self.twin.timing is None or self.tried.timing is None:
            return True  # there is nothing to be slower than
        return bool(self.picked) and (self.ratio or 0) > 1 and not equal(self.twin.timing, self.tried.timing)

    def __str__(self) -> str:
        said = f"{self.tried.plan.name}: {len(self.picked)} of {self.eligible} eligible layers run sparse"
        if self.ratio is not None and self.twin is not None:
            same = "" if self.gains else ", no gain beyond the spread" if self.picked else ", which is not 2:4's doing"
            said += f"; {self.ratio:.2f}x against {self.twin.plan.name}{same}"
        return "; ".join((said, *_grouped(self.layers)))


def _grouped(layers: Sequence[tuple[Layer, str]]) -> Iterator[str]:
    """The reasons, the commonest first, each with the layers that it holds for; details in brackets left out."""
    groups: dict[str, list[str]] = {}
    for layer, reason in layers:
        if reason:
            groups.setdefault(reason.partition(" (")[0], []).append(layer.name)
    for reason, names in sorted(groups.items(), key=lambda group: -len(group[1])):
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        yield f"{', '.join(names[:NAMED])}{more}: {reason}"


def sparse_layers(result: BuildResult | None) -> tuple[str, ...]:
    """The layers whose kernel is a 2:4 one; what the log says counts only where the engine does not tell kernels."""
    if result is None:
        return ()
    if any(layer.kernel for layer in result.layers):
        return tuple(layer.name for layer in result.layers if layer.sparse)
    return result.picked


def fastest(passed: Sequence[Tried]) -> Tried:
    """The fastest; of those that are equally fast within the spread, the most precise, dense before 2:4."""
    best = min(passed, key=milliseconds)
    assert best.timing is not None
    equals = [tried for tried in passed if tried.timing is not None and equal(tried.timing, best.timing)]
    return min([*equals, best], key=lambda tried: (tried.plan.caution, milliseconds(tried)))


def settle(passed: Sequence[Tried], how: Callable[[Tried], str]) -> Tried:
    """Mark who is chosen and why the others are not; `how` says how one detects."""
    chosen = fastest(passed)
    best = min(passed, key=milliseconds)
    if len(passed) == 1:
        why = "the only candidate"
    elif chosen is best:
        why = "the fastest that passes"
    else:
        why = f"as fast as {best.plan.name} within the spread, and safer"
    assert chosen.timing is not None
    for tried in passed:
        assert tried.timing is not None
        if equal(tried.timing, chosen.timing):
            tried.reason = f"as fast as {chosen.plan.name} within the spread, which is safer"
        else:
            tried.reason = f"{milliseconds(tried) / milliseconds(chosen):.2f} times as long as {chosen.plan.name}"
    return chosen.ends("chosen", f"{why}; {how(chosen)}")


def proofs(tried: Sequence[Tried], layers: Inspection) -> tuple[Proof, ...]:
    """One of each 2:4 candidate that runs."""
    by_plan = {one.plan: one for one in tried if one.runs}
    return tuple(
        Proof(one, by_plan.get(Plan(plan.way)), tuple(_reasons(one, layers)))
        for plan, one in by_plan.items()
        if plan.sparse
    )


def require_sparse(chosen: Tried, found: Sequence[Proof]) -> None:
    """Raises SparsityNotAchieved unless the chosen engine runs 2:4 kernels and gains by them."""
    proof = next((proof for proof in found if proof.tried is chosen), None)
    if proof is not None and proof.picked and proof.gains:
        return
    if not found:
        raise SparsityNotAchieved("no 2:4 candidate could be built and run: 'edgesparse inspect MODEL.onnx' says why")
    raise SparsityNotAchieved(
        f"the fastest is {chosen.plan.name}, without a gain by 2:4 ({'; '.join(map(str, found))}): "
        "build without --require-sparse, or see docs/guide/not-faster.md"
    )


def _reasons(tried: Tried, layers: Inspection) -> Iterator[tuple[Layer, str]]:
    """Each layer that is 2:4, with why it does not run sparse."""
    assert tried.result is not None
    picked = set(sparse_layers(tried.result))
    sparse = " + ".join([*picked, *(n for layer in tried.result.layers if layer.name in picked for n in layer.onnx)])
    considered = " + ".join(tried.result.eligible)
    for layer in layers.layers:
        if layer.state != "sparse":
            continue
        int8 = [doubt.removeprefix("INT8: ") for doubt in layer.doubts if doubt.startswith("INT8:")]
        size = [f" ({doubt})" for doubt in layer.doubts if not doubt.startswith("INT8:")]
        if _named(layer.name, sparse):
            yield layer, ""
        elif int8 and tried.plan.precision == "int8":
            yield layer, f"stays dense because {int8[0]}"
        elif _named(layer.name, considered):
            yield layer, f"the sparse kernel lost{''.join(size)}"
        else:
            yield layer, f"stays dense because the builder did not consider it{''.join(size)}"


def _named(name: str, text: str) -> bool:
    """Whether the whole name stands in TensorRT's, which joins those of what it fused."""
    return re.search(rf"(?<![\w/.]){re.escape(name)}(?![\w/.])", text) is not None


def milliseconds(tried: Tried) -> float:
    """Median latency; endless for what does not run."""
    return tried.timing.median_ms if tried.timing else float("inf")
