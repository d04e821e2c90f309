"""The rewritten network of a build: candidates are also built from it if it is predicted to be faster."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from edgesparse.backends import Backend
from edgesparse.builder.candidates import parse_plan, this_board
from edgesparse.builder.prepare import Prepared
from edgesparse.compress import SlimOptions, slim
from edgesparse.compress.rewrite import BOARD
from edgesparse.config import Recipe
from edgesparse.errors import EdgeSparseError
from edgesparse.model import load as models
from edgesparse.progress import Progress

LEAST = 0.02
"""The saving, as a share of the predicted time, below which more candidates are not worth it."""
_log = logging.getLogger(__name__)


def wants_slim(recipe: Recipe, backend: Backend, prepared: Prepared) -> bool:
    """Return whether the recipe allows candidates from a rewritten network, and this network can be rewritten."""
    chosen = recipe.build.candidates
    named = chosen == "auto" or (chosen != "quick" and any(parse_plan(name).slim for name in chosen))
    return named and backend.native_code and recipe.prepare.simplify and not prepared.quantized


def with_slim(prepared: Prepared, folder: Path, progress: Progress) -> Prepared:
    """Return `prepared` with the rewritten network, written into `folder`, if that is predicted to be faster.

    The decoding stays in the network, so that every candidate has the same outputs.
    """
    options = SlimOptions(prepared.spec.head, maps=False, device=this_board() or BOARD)
    try:
        model, report = slim(models.load(prepared.simplified), options, progress)
    except EdgeSparseError as error:
        _log.warning("no candidates of a rewritten network: %s", error)
        return prepared
    if report.after.ms > (1 - LEAST) * report.before.ms:
        return prepared
    path = folder / "slim.onnx"
    models.save(model, path)
    return replace(prepared, slim=path)
