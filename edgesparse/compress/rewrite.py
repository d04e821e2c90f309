"""Rewrites that make a network faster; its outputs stay the same except for float rounding.

Each rewrite is tried wherever it applies, and kept if the network is predicted to run faster on a board. Nothing is
trained, and no images are needed.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, NamedTuple

from onnx import ModelProto

from edgesparse.compress.check import Change, Original
from edgesparse.compress.cost import Cost, cost
from edgesparse.compress.maps import FAMILIES, cut, set_head
from edgesparse.compress.moves import drop_moves, fold_focus
from edgesparse.compress.padding import pad_channels
from edgesparse.compress.parallel import merge_parallel
from edgesparse.compress.selections import fold_selections
from edgesparse.compress.sites import Inapplicable, Rewrite, Site, Way
from edgesparse.compress.upsample import move_resize
from edgesparse.errors import ModelError
from edgesparse.predict.boards import board
from edgesparse.progress import Progress, quiet

_log = logging.getLogger(__name__)
BOARD = "orin-nano-8gb"
REWRITES: dict[str, Rewrite] = {
    "moves": drop_moves,
    "focus": fold_focus,
    "selections": fold_selections,
    "upsample": move_resize,
    "parallel": merge_parallel,
    "padding": pad_channels,
}
"""In the order in which they are tried: a rewrite may build on an earlier one."""


@dataclass(frozen=True)
class Step:
    """One place where a rewrite was considered.

    `saved_ms`: predicted saving; negative if the rewrite was dropped because it costs more. `why`: what was done, or
    why it was not.
    """

    rewrite: str
    where: str
    kept: bool
    why: str
    saved_ms: float = 0.0
    saved_kernels: int = 0


@dataclass(frozen=True)
class SlimReport:
    """`before` and `after`: the predicted cost on `device` in `precision`. `head`: the head that reads the outputs.

    `change`: the largest difference of any box and score from the original's, on an image of noise.
    """

    device: str
    precision: str
    before: Cost
    after: Cost
    head: str | None
    change: Change
    steps: tuple[Step, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class SlimOptions:
    """What may be rewritten, and for which board. `head`: as in a recipe; `maps`: whether decoding may be removed.

    `device` and `precision` ("fp16", "int8"): what the prediction is for.
    """

    head: str = "auto"
    maps: bool = True
    device: str = BOARD
    precision: str = "int8"


def slim(
    model: ModelProto, options: SlimOptions = SlimOptions(), progress: Progress = quiet
) -> tuple[ModelProto, SlimReport]:
    """Return a rewritten copy of `model`, and what was done. Shapes must be static and constants folded.

    The copy's metadata names its head if that changed. Raises ConfigError for an unknown board or head, ModelError if
    a shape is not static or the result does not detect what the original does.
    """
    return _Slimming(model, options, progress).run()


class _Tried(NamedTuple):
    what: str
    model: ModelProto
    cost: Cost


class _Slimming:
    def __init__(self, model: ModelProto, options: SlimOptions, progress: Progress) -> None:
        self.model, self.options, self.progress = model, options, progress
        if any(node.op_type == "DequantizeLinear" for node in model.graph.node):
            raise ModelError(
                "the model carries Q/DQ, which belong to its layers: slim the float model, then quantize it"
            )
        self.board = board(options.device)
        self.cost = self.before = cost(model, self.board, options.precision)
        self.untouched, self.steps = model, list[Step]()
        self.head = None if options.head == "auto" else options.head

    def run(self) -> tuple[ModelProto, SlimReport]:
        if self.options.maps:
            self._cut()
        for number, (name, rewrite) in enumerate(REWRITES.items()):
            self.progress(f"rewriting: {name}", number, len(REWRITES))
            visited = set[str]()
            while (site := next((s for s in rewrite(self.model) if s.where not in visited), None)) is not None:
                visited.add(site.where)
                self._visit(name, site)
        change = self.original.change(self.model, self.head) if self.model is not self.untouched else Change(0.0, 0.0)
        if not change.small:
            raise ModelError(
                f"the rewritten network differs by {change.pixels:.3g} pixels and {change.score:.3g} in score: "
                "found more than rounding; use the original, and report this model"
            )
        device, precision = str(self.board), self.options.precision
        report = SlimReport(device, precision, self.before, self.cost, self.head, change, tuple(self.steps))
        return self.model, report

    @cached_property
    def original(self) -> Original:
        """The original network's outputs; it is run once, and only if something changes."""
        original = Original(self.untouched, self.options.head)
        self.head = self.head or original.head
        return original

    def _cut(self) -> None:
        """Remove the decoding if a head decodes the same boxes from the maps."""
        self.head = self.original.head
        head = FAMILIES.get(self.head or "")
        where = ", ".join(output.name for output in self.model.graph.output)
        if head is None:
            why = self.original.headless_because or f"no head reads the maps of {self.head}"
            self._note(Step("maps", where, False, why))
            return
        try:
            model = cut(self.model)
            change = self.original.change(model, head)
        except (ModelError, LookupError) as error:  # LookupError: maps that the head does not know
            self._note(Step("maps", where, False, f"{error}: the decoding stays in the model"))
            return
        result = cost(model, self.board, self.options.precision)
        saved = (self.cost.ms - result.ms, self.cost.kernels - result.kernels)
        if not change.small:
            why = f"{head} reads other boxes from the maps: they differ by {change.pixels:.3g} pixels"
            self._note(Step("maps", where, False, why))
        elif result.weighed < self.cost.weighed:
            self._note(Step("maps", where, True, f"decoded behind the engine by {head}", *saved))
            set_head(model, head)
            self.model, self.cost, self.head = model, result, head

    def _note(self, step: Step) -> None:
        self.steps.append(step)
        saved = f"{1e3 * step.saved_ms:.1f} microseconds, {step.saved_kernels} kernels"
        _log.debug("%s: %s: %s; %s", step.rewrite, step.where, step.why, saved)

    def _visit(self, name: str, site: Site) -> None:
        """Keep the site's best way if it makes the network faster."""
        results = [self._try(way) for way in site.ways]
        done = [result for result in results if isinstance(result, _Tried)]
        if not done:
            reason = "; ".join(dict.fromkeys(map(str, results)))
            self._note(Step(name, site.where, False, f"cannot be followed past {reason}"))
            return
        best = min(done, key=lambda result: result.cost.weighed)
        saved = (self.cost.ms - best.cost.ms, self.cost.kernels - best.cost.kernels)
        kept = best.cost.weighed < self.cost.weighed
        self._note(Step(name, site.where, kept, best.what if kept else f"{best.what}: not faster", *saved))
        if kept:
            self.model, self.cost = best.model, best.cost

    def _try(self, way: Way) -> _Tried | Inapplicable:
        try:
            model = way.apply()
        except Inapplicable as error:
            return error
        return _Tried(way.what, model, cost(model, self.board, self.options.precision))
