"""The search of `fit`: never over the budget, and few networks, whatever the scores are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import squares

from edgesparse.config import parse
from edgesparse.progress import quiet
from edgesparse.tasks import fit_network, fit_search
from edgesparse.tasks.fit_choices import CHANNELS, INT8, SPARSE, Plan
from edgesparse.tasks.fit_network import FitOptions, Network, Settings
from edgesparse.tasks.fit_report import MAP
from edgesparse.tasks.fit_search import Search

FEWER = {(INT8,): 1.0, (INT8, SPARSE): 0.8, (INT8, CHANNELS): 0.9, (INT8, SPARSE, CHANNELS): 0.7}
"""The predicted time of each set of choices, in parts of INT8's."""


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> tuple[Network, Settings]:
    folder = tmp_path_factory.mktemp("search")
    recipe = parse({"model": str(squares.detector(folder / "squares.onnx"))}, "recipe")
    settings = Settings(FitOptions(max_drop=1.0), recipe, "", folder)
    return fit_network.base(recipe, settings), settings


class Fake:
    """A network's choices, and what stands for making and scoring networks: drops that rise with the change, noisily.

    `noise`: of a drop, in points.
    """

    def __init__(self, seed: int, noise: float, ms: float) -> None:
        self.rng, self.noise, self.ms, self.plans_tried = np.random.default_rng(seed), noise, ms, list[Plan]()
        self.drops: dict[float, float] = {}

    def obstacle(self, kind: str) -> str:
        return ""

    def avoid(self, plan: Plan) -> bool:
        return False

    def plans(self, kinds: tuple[str, ...]) -> list[Plan]:
        changes = np.sort(self.rng.uniform(0, 1, 30))
        return [Plan(("a",), (), (), c, self.ms * FEWER[kinds] * (0.9 - 0.5 * c)) for c in changes.tolist()]

    def of(self, first: Network, plan: Plan, choices: object) -> Iterator[tuple[str, Network]]:
        self.plans_tried.append(plan)
        self.drops[plan.ms] = 4 * plan.change**2 + self.rng.normal() * self.noise
        yield INT8, replace(first, precision="int8", ms=plan.ms)

    def score(self, network: Network, labels: object) -> float:
        return 50 - self.drops.get(network.ms, 0.0)


@pytest.mark.parametrize("target", [None, 0.6])
@pytest.mark.parametrize("noise", [0.0, 0.5])
@pytest.mark.parametrize("seed", range(5))
def test_the_budget_is_never_exceeded_and_the_fastest_within_it_is_chosen(
    start: tuple[Network, Settings], seed: int, noise: float, target: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, settings = start
    full = fit_network.milliseconds(replace(base, precision="fp16"), settings)
    fake = Fake(seed, noise, full)
    options = replace(settings.options, target_ms=None if target is None else target * full)
    monkeypatch.setattr(fit_search, "Choices", lambda *_: fake)
    monkeypatch.setattr(Search, "score", lambda _, network, labels: fake.score(network, labels))
    monkeypatch.setattr(fit_network, "starts", lambda *_: iter([("", base)]))
    monkeypatch.setattr(fit_network, "predicted", lambda *_: 0.5 * full)
    monkeypatch.setattr(fit_network, "milliseconds", lambda *_: full)
    judges = fit_search.Judges(None, None, MAP)  # type: ignore[arg-type]
    search = Search(base, replace(settings, options=options), judges, SimpleNamespace(), quiet)  # type: ignore[arg-type]
    monkeypatch.setattr(search.stages, "of", fake.of)
    search.run()
    report, network = search.report({})
    within = [trial for trial in search.trials if trial.drop <= 1.0]
    assert search.best.drop <= 1.0 and network.ms == min(trial.network.ms for trial in within)
    assert report.drop == pytest.approx(search.best.drop) and report.drop <= 1.0
    assert len(fake.plans_tried) == len(search.trials) - 1 <= 4 * 7, "each set of choices takes few trials"
    if target is None and not noise:
        assert network.ms < 0.8 * full, "the sets with 2:4 are faster at the same change"
    if target is not None:
        assert all(trial.network.ms > target * full for trial in within if trial is not search.best)
