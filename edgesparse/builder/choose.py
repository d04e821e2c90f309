"""Chooses a candidate, and describes what 2:4 gained."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from edgesparse.backends import BuildResult
from edgesparse.builder.attempts import Attempt
from edgesparse.builder.candidates import CandidatePlan
from edgesparse.builder.child.timing import equal
from edgesparse.errors import SparsityNotAchieved
from edgesparse.sparsity.inspect import InspectedLayer, Inspection

NAMED = 2
"""Layers named per reason in a verdict; the report lists all."""


@dataclass(frozen=True)
class Proof:
    """What 2:4 gained in a candidate. `layers` are the model's 2:4 layers, each with the reason why it does not run
    sparse; empty where it does.
    """

    attempt: Attempt
    twin: Attempt | None
    layers: tuple[tuple[InspectedLayer, str], ...]

    @property
    def picked(self) -> tuple[str, ...]:
        return sparse_layers(self.attempt.result)

    @property
    def eligible(self) -> int:
        """How many layers the builder considered; fused layers count once."""
        eligible = self.attempt.result.eligible if self.attempt.result else ()
        return max(len(eligible) or len(self.layers), len(self.picked))

    @property
    def ratio(self) -> float | None:
        """The dense twin's time divided by its own; None without a twin."""
        if self.twin is None or self.twin.timing is None or self.attempt.timing is None:
            return None
        return self.twin.timing.median_ms / self.attempt.timing.median_ms

    @property
    def gains(self) -> bool:
        """Whether it is faster than its twin by more than their spread."""
        if self.twin is None or self.twin.timing is None or self.attempt.timing is None:
            return True  # nothing to compare with
        return bool(self.picked) and (self.ratio or 0) > 1 and not equal(self.twin.timing, self.attempt.timing)

    def __str__(self) -> str:
        text = f"{self.attempt.plan.name}: {len(self.picked)} of {self.eligible} eligible layers run sparse"
        if self.ratio is not None and self.twin is not None:
            same = "" if self.gains else ", no gain beyond the spread" if self.picked else ", which is not due to 2:4"
            text += f"; {self.ratio:.2f}x against {self.twin.plan.name}{same}"
        return "; ".join((text, *_grouped(self.layers)))


def _grouped(layers: Sequence[tuple[InspectedLayer, str]]) -> Iterator[str]:
    """Group layers by reason, the most common first, without details in parentheses."""
    groups: dict[str, list[str]] = {}
    for layer, reason in layers:
        if reason:
            groups.setdefault(reason.partition(" (")[0], []).append(layer.name)
    for reason, names in sorted(groups.items(), key=lambda group: -len(group[1])):
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        yield f"{', '.join(names[:NAMED])}{more}: {reason}"


def sparse_layers(result: BuildResult | None) -> tuple[str, ...]:
    """Return the layers that run a 2:4 kernel. The builder's log is only used if the engine does not name kernels."""
    if result is None:
        return ()
    if any(layer.kernel for layer in result.layers):
        return tuple(layer.name for layer in result.layers if layer.sparse)
    return result.picked


def fastest(passed: Sequence[Attempt]) -> Attempt:
    """Return the fastest; among those that are as fast within the spread, the most precise, and dense before 2:4."""
    best = min(passed, key=milliseconds)
    assert best.timing is not None
    equals = [attempt for attempt in passed if attempt.timing is not None and equal(attempt.timing, best.timing)]
    return min([*equals, best], key=lambda attempt: (attempt.plan.caution, milliseconds(attempt)))


def settle(passed: Sequence[Attempt], describe: Callable[[Attempt], str]) -> Attempt:
    """Mark the chosen candidate, and why the others lost. `describe` says how well a candidate detects."""
    chosen = fastest(passed)
    best = min(passed, key=milliseconds)
    if len(passed) == 1:
        reason = "the only candidate"
    elif chosen is best:
        reason = "the fastest that passes"
    else:
        reason = f"as fast as {best.plan.name} within the spread, and safer"
    assert chosen.timing is not None
    for attempt in passed:
        assert attempt.timing is not None
        if equal(attempt.timing, chosen.timing):
            attempt.reason = f"as fast as {chosen.plan.name} within the spread, which is safer"
        else:
            attempt.reason = f"{milliseconds(attempt) / milliseconds(chosen):.2f} times as long as {chosen.plan.name}"
    return chosen.end("chosen", f"{reason}; {describe(chosen)}")


def proofs(attempts: Sequence[Attempt], layers: Inspection) -> tuple[Proof, ...]:
    """Return a proof per 2:4 candidate that runs."""
    by_plan = {attempt.plan: attempt for attempt in attempts if attempt.runs}
    return tuple(
        Proof(attempt, by_plan.get(CandidatePlan(plan.way)), tuple(_reasons(attempt, layers)))
        for plan, attempt in by_plan.items()
        if plan.sparse
    )


def require_sparse(chosen: Attempt, proofs: Sequence[Proof]) -> None:
    """Raise SparsityNotAchieved unless the chosen engine runs 2:4 kernels and is faster because of them."""
    proof = next((proof for proof in proofs if proof.attempt is chosen), None)
    if proof is not None and proof.picked and proof.gains:
        return
    if not proofs:
        raise SparsityNotAchieved("no 2:4 candidate could be built and run: 'edgesparse inspect MODEL.onnx' says why")
    raise SparsityNotAchieved(
        f"the fastest is {chosen.plan.name}, without a gain from 2:4 ({'; '.join(map(str, proofs))}): "
        "build without --require-sparse, or see docs/guide/not-faster.md"
    )


def _reasons(attempt: Attempt, layers: Inspection) -> Iterator[tuple[InspectedLayer, str]]:
    """Return each 2:4 layer of the model, with the reason why it does not run sparse."""
    result = attempt.result
    assert result is not None
    picked = set(sparse_layers(result))
    sparse = " + ".join([*picked, *(n for layer in result.layers if layer.name in picked for n in layer.onnx)])
    considered = " + ".join(result.eligible)
    for layer in layers.layers:
        if layer.state != "sparse":
            continue
        int8 = [doubt.removeprefix("INT8: ") for doubt in layer.doubts if doubt.startswith("INT8:")]
        size = [f" ({doubt})" for doubt in layer.doubts if not doubt.startswith("INT8:")]
        if _named(layer.name, sparse):
            yield layer, ""
        elif int8 and attempt.plan.precision == "int8":
            yield layer, f"stays dense because {int8[0]}"
        elif _named(layer.name, considered):
            yield layer, f"the sparse kernel lost{''.join(size)}"
        else:
            yield layer, f"stays dense because the builder did not consider it{''.join(size)}"


def _named(name: str, text: str) -> bool:
    """Whether TensorRT's layer name, which joins the names of fused layers, contains this whole name."""
    return re.search(rf"(?<![\w/.]){re.escape(name)}(?![\w/.])", text) is not None


def milliseconds(attempt: Attempt) -> float:
    """Median latency; infinite for an engine that does not run."""
    return attempt.timing.median_ms if attempt.timing else float("inf")
