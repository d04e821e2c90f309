"""Which ways of building a model make sense, in which order, and when one cannot win any more."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from edgesparse import device
from edgesparse.backends import Backend
from edgesparse.backends.base import Precision
from edgesparse.builder.prepare import Prepared
from edgesparse.config import SPARSE, WAYS, Recipe, Way
from edgesparse.errors import BuildError
from edgesparse.model import load as models
from edgesparse.predict import boards
from edgesparse.predict.fusion import fused_layers
from edgesparse.predict.roofline import predict

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
"""From the safest on."""


@dataclass(frozen=True)
class Plan:
    """One candidate before it is built: how precision is lowered, and whether 2:4 kernels are allowed."""

    way: Way
    sparse: bool = False

    @property
    def name(self) -> str:
        return self.way + (SPARSE if self.sparse else "")

    @property
    def precision(self) -> Precision:
        return next(p for p in PRECISIONS if self.way.startswith(p))

    @property
    def caution(self) -> tuple[int, bool]:
        """What is smaller is safer: more precise, then dense."""
        return PRECISIONS.index(self.precision), self.sparse


@dataclass(frozen=True)
class Plans:
    """`wanted` in the order in which they are built, cheap ones first; `impossible` are those that the recipe names
    and cannot be, with the reason; `notes` say what else could be built, and what for that is missing."""

    wanted: tuple[Plan, ...]
    impossible: tuple[tuple[Plan, str], ...] = ()
    notes: tuple[str, ...] = ()


def plan(recipe: Recipe, engine: Backend, prepared: Prepared) -> Plans:
    """The candidates of a recipe. Raises BuildError when there is none."""
    if recipe.build.candidates == "auto":
        wanted = tuple(_auto(recipe, engine, prepared))
        return Plans(wanted, notes=tuple(_notes(recipe, engine, prepared)))
    asked = sorted((parse(name) for name in dict.fromkeys(recipe.build.candidates)), key=_order)
    reasons = {one: why_not(one, recipe, engine, prepared) for one in asked}
    impossible = tuple((one, reason) for one, reason in reasons.items() if reason)
    wanted = tuple(one for one, reason in reasons.items() if reason is None)
    if not wanted:
        found = "; ".join(f"{one.name}: {reason}" for one, reason in impossible)
        raise BuildError(f"none of the candidates can be built: {found}")
    return Plans(wanted, impossible)


def parse(name: str) -> Plan:
    """The plan of a candidate's name."""
    way = next(way for way in WAYS if way == name.removesuffix(SPARSE))
    return Plan(way, name.endswith(SPARSE))


def why_not(one: Plan, recipe: Recipe, engine: Backend, prepared: Prepared) -> str | None:
    """Why a candidate cannot be built, in words; None when it can."""
    if prepared.quantized and one.way != "int8-qdq":
        return "the model carries Q/DQ, so it is built as it is: name int8-qdq, or give the float model"
    if one.precision == "int8" and not prepared.quantized and recipe.calibrate.images is None:
        return "INT8 needs images: set calibrate.images"
    if one.way not in engine.ways():
        return f"{engine.name} knows only {', '.join(engine.ways())} here"
    if not one.sparse:
        return None
    if one.way == "fp32":
        return "there are no 2:4 kernels in FP32"
    if reason := engine.dense_because():
        return f"no 2:4 kernels: {reason}"
    if not prepared.sparse:
        return "no layer of the model is 2:4: 'edgesparse prune' makes them"
    return None


def _auto(recipe: Recipe, engine: Backend, prepared: Prepared) -> Iterator[Plan]:
    """All that make sense; on the CPU, where 2:4 gains nothing and INT8 little, the model as it came."""
    if not engine.native_code:
        yield Plan("int8-qdq" if prepared.quantized else "fp32")
        return
    both = [Plan(way, sparse) for way in WAYS for sparse in (False, True)]
    able = [one for one in both if why_not(one, recipe, engine, prepared) is None]
    # Without 2:4 this placement only costs: it is built as the twin that the sparse one is measured against.
    yield from (one for one in able if one.way != "int8-qdq-sparse" or Plan(one.way, True) in able)


def _notes(recipe: Recipe, engine: Backend, prepared: Prepared) -> Iterator[str]:
    if not engine.native_code:
        return
    for one, what in ((Plan("fp16", True), "2:4"), (Plan("int8-qdq"), "INT8")):
        reason = why_not(one, recipe, engine, prepared)
        if reason and not (prepared.quantized and what == "2:4"):
            yield f"no {what} candidates: {reason}"


def _order(one: Plan) -> tuple[int, bool]:
    return WAYS.index(one.way), one.sparse


def least_ms(one: Plan, prepared: Prepared) -> float | None:
    """Milliseconds that the candidate takes at least on this board; None on machines without a data sheet.

    Its products at the full rate of the data sheet, and nothing for memory and starts: no engine is faster.
    """
    name = _board()
    if name is None:
        return None
    ideal = {"math": 1.0, "memory": math.inf, "layer_clocks": 0.0}
    fused = fused_layers(models.load(prepared.simplified))
    return predict(fused, boards.board(name), one.precision, one.sparse, relu=True, constants=ideal).ms


def _board() -> str | None:
    """The data sheet's name of this machine, as `orin-nano-8gb`."""
    machine = device.probe()
    found = re.search(r"(AGX Orin|Orin NX|Orin Nano)", machine.model)
    if found is None:
        return None
    family = found[1].lower().replace(" ", "-")
    named = [name for name in boards.board_names() if name.startswith(family)]
    sizes = {name: boards.board(name).memory_gb for name in named}
    # The system sees somewhat less than what is soldered on.
    return min((name for name in named if sizes[name] * 1e9 >= machine.memory), key=lambda n: sizes[n], default=None)
