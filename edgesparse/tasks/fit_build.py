"""Builds and times the best networks of `fit` on this machine: predictions rank, measurements decide."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgesparse.builder.build import build
from edgesparse.config import Accept
from edgesparse.errors import EdgeSparseError
from edgesparse.progress import Progress
from edgesparse.tasks.fit_network import Network


@dataclass(frozen=True)
class Timing:
    """The fastest engine of a network that passes the recipe's gate: its candidate's name and median milliseconds.

    `ms` is None if there is none, and `engine` says why.
    """

    engine: str
    ms: float | None = None


def time_best(
    networks: Mapping[str, Network], accept: Accept, count: int, folder: Path, progress: Progress
) -> dict[str, Timing]:
    """Build and time the `count` networks that are predicted to be fastest, as packages in `folder`, by name.

    Networks of the same float model have the same engines, so they count once.
    """
    return {name: _timed(networks[name], accept, folder, progress) for name in _best(networks, count)}


def _best(networks: Mapping[str, Network], count: int) -> Iterable[str]:
    models: dict[Path, str] = {}
    for name in sorted(networks, key=lambda name: networks[name].ms):
        models.setdefault(networks[name].model, name)
    return list(models.values())[:count]


def _timed(network: Network, accept: Accept, folder: Path, progress: Progress) -> Timing:
    recipe = network.recipe.model_copy(update={"model": network.model.absolute(), "accept": accept})
    try:
        manifest = build(recipe, folder, make_current=False, progress=progress).package.manifest
    except EdgeSparseError as error:
        return Timing(str(error))
    chosen = next(candidate for candidate in manifest.candidates if candidate.chosen)
    return Timing(chosen.name, chosen.latency_ms)
