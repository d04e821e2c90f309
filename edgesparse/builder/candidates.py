"""The candidates of a build: which make sense, in which order, and which can no longer win."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from edgesparse import device
from edgesparse.backends import Backend
from edgesparse.backends.base import Precision
from edgesparse.builder.prepare import Prepared
from edgesparse.config import SLIM, SPARSE, WAYS, Recipe, Way
from edgesparse.errors import BuildError
from edgesparse.predict import boards, roofline

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
"""The safest first."""
SLIM_WAYS: tuple[Way, ...] = ("fp16", "int8-qdq")
"""How the rewritten network is built: once in each lower precision, since every candidate takes the time of a build."""

QUICK_WAYS: tuple[Way, ...] = ("fp16", "int8-qdq")
"""How the candidates of a quick build are made."""


@dataclass(frozen=True)
class CandidatePlan:
    """A candidate before it is built: how precision is reduced, whether 2:4 kernels are allowed, and whether it is made
    of the rewritten network (compress.slim).
    """

    way: Way
    sparse: bool = False
    slim: bool = False

    @property
    def name(self) -> str:
        return self.way + (SLIM if self.slim else "") + (SPARSE if self.sparse else "")

    @property
    def precision(self) -> Precision:
        return next(p for p in PRECISIONS if self.way.startswith(p))

    @property
    def caution(self) -> tuple[int, bool]:
        """Sort key: smaller is safer, that is, more precise, then dense."""
        return PRECISIONS.index(self.precision), self.sparse


@dataclass(frozen=True)
class CandidatePlans:
    """`possible` candidates in build order, those that are usually fastest first; `impossible` are those that the
    recipe names and that cannot be built, with the reason; `notes` say what else could be built and what that requires.
    """

    possible: tuple[CandidatePlan, ...]
    impossible: tuple[tuple[CandidatePlan, str], ...] = ()
    notes: tuple[str, ...] = ()


def plan_candidates(recipe: Recipe, backend: Backend, prepared: Prepared) -> CandidatePlans:
    """Return the candidates of a recipe. Raises BuildError if none can be built."""
    if recipe.build.candidates in ("auto", "quick"):
        plans, notes = tuple(_auto(recipe, backend, prepared)), tuple(_notes(recipe, backend, prepared))
        plans = plans if recipe.build.candidates == "auto" else _quick(plans, recipe)
        return CandidatePlans(tuple(sorted(plans, key=_build_order)), notes=notes)
    requested = sorted(map(parse_plan, dict.fromkeys(recipe.build.candidates)), key=_build_order)
    obstacles = {plan: obstacle(plan, recipe, backend, prepared) for plan in requested}
    impossible = tuple((plan, reason) for plan, reason in obstacles.items() if reason)
    possible = tuple(plan for plan, reason in obstacles.items() if reason is None)
    if not possible:
        reasons = "; ".join(f"{plan.name}: {reason}" for plan, reason in impossible)
        raise BuildError(f"none of the candidates can be built: {reasons}")
    return CandidatePlans(possible, impossible)


def parse_plan(name: str) -> CandidatePlan:
    """Return the plan with a candidate's name."""
    dense = name.removesuffix(SPARSE)
    way = next(way for way in WAYS if way == dense.removesuffix(SLIM))
    return CandidatePlan(way, name.endswith(SPARSE), dense.endswith(SLIM))


def obstacle(plan: CandidatePlan, recipe: Recipe, backend: Backend, prepared: Prepared) -> str | None:
    """Return why a candidate cannot be built, or None if it can."""
    if prepared.quantized and plan.way != "int8-qdq":
        return "the model has Q/DQ pairs and is built unchanged: choose int8-qdq, or pass the float model"
    if plan.precision == "int8" and not prepared.quantized and recipe.calibrate.images is None:
        return "INT8 needs images: set calibrate.images"
    if plan.way not in backend.ways():
        return f"{backend.name} builds only {', '.join(backend.ways())} here"
    if plan.slim and prepared.slim is None:
        return "no rewrite of the network is predicted to make it faster"
    if plan.slim and plan.sparse:
        return "the rewritten network is built dense: some of its layers break the 2:4 pattern"
    if not plan.sparse:
        return None
    if plan.way == "fp32":
        return "no 2:4 kernels exist in FP32"
    if reason := backend.dense_because():
        return f"no 2:4 kernels: {reason}"
    if not prepared.sparse:
        return "no layer of the model is 2:4: run 'edgesparse prune'"
    return None


def _auto(recipe: Recipe, backend: Backend, prepared: Prepared) -> Iterator[CandidatePlan]:
    """Return all that make sense; on the CPU, where 2:4 gains nothing and INT8 little, only the unchanged model."""
    if not backend.native_code:
        yield CandidatePlan("int8-qdq" if prepared.quantized else "fp32")
        return
    both = [CandidatePlan(way, sparse) for way in WAYS for sparse in (False, True)]
    possible = [plan for plan in both if obstacle(plan, recipe, backend, prepared) is None]
    # Dense, this placement only costs time: it is built as the twin to measure the 2:4 engine against.
    yield from (plan for plan in possible if plan.way != "int8-qdq-sparse" or CandidatePlan(plan.way, True) in possible)
    slimmed = [CandidatePlan(way, slim=True) for way in SLIM_WAYS]
    yield from (plan for plan in slimmed if obstacle(plan, recipe, backend, prepared) is None)


def _quick(plans: tuple[CandidatePlan, ...], recipe: Recipe) -> tuple[CandidatePlan, ...]:
    """Those that are usually fastest, 2:4 where the network is; with their dense twins if a gain has to be proven.
    All of them if they are not among `plans`.
    """
    pairs = [[CandidatePlan(way, sparse) for sparse in (False, True)] for way in QUICK_WAYS]
    usable = [[plan for plan in pair if plan in plans] for pair in pairs]
    kept = [plan for pair in usable for plan in (pair if recipe.accept.require_sparse else pair[-1:])]
    return tuple(kept) or plans


def _notes(recipe: Recipe, backend: Backend, prepared: Prepared) -> Iterator[str]:
    if not backend.native_code:
        return
    for plan, what in ((CandidatePlan("fp16", True), "2:4"), (CandidatePlan("int8-qdq"), "INT8")):
        reason = obstacle(plan, recipe, backend, prepared)
        if reason and not (prepared.quantized and what == "2:4"):
            yield f"no {what} candidates: {reason}"


def _build_order(plan: CandidatePlan) -> tuple[bool, int, int, bool]:
    """INT8 before FP16 before FP32, so that those that can no longer win are skipped; dense before 2:4."""
    return plan.slim, -PRECISIONS.index(plan.precision), WAYS.index(plan.way), plan.sparse


def listing_order(plan: CandidatePlan) -> tuple[bool, int, bool]:
    """The order in which candidates are listed: the safest precision first."""
    return plan.slim, WAYS.index(plan.way), plan.sparse


def least_ms(plan: CandidatePlan, prepared: Prepared) -> float | None:
    """Return a lower bound of the candidate's latency in ms on this board; None on machines without a data sheet.

    It is the prediction less its error (roofline.BAND), and no less than its products take at the data sheet's rate.
    """
    name = this_board()
    if name is None:
        return None
    fused, board = prepared.fused(plan.slim), boards.board(name)
    predicted = roofline.predict(fused, board, plan.precision, plan.sparse).ms / (1 + roofline.BAND)
    return max(predicted, roofline.least_ms(fused, board, plan.precision, plan.sparse))


def this_board() -> str | None:
    """Return this machine's name in boards.yaml, such as `orin-nano-8gb`."""
    machine = device.probe()
    match = re.search(r"(AGX Orin|Orin NX|Orin Nano)", machine.model)
    if match is None:
        return None
    family = match[1].lower().replace(" ", "-")
    named = [name for name in boards.board_names() if name.startswith(family)]
    sizes = {name: boards.board(name).memory_gb for name in named}
    # The system reports slightly less memory than the module has.
    return min((name for name in named if sizes[name] * 1e9 >= machine.memory), key=lambda n: sizes[n], default=None)
