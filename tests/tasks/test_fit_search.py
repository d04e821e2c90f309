"""The search of `fit`: never over the budget, and few networks, whatever the scores are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import squares

from edgesparse.config import parse
from edgesparse.errors import ModelError
from edgesparse.progress import quiet
from edgesparse.tasks import fit_network, fit_search
from edgesparse.tasks.fit_changes import CHANNELS, INT8, RELU, SPARSE
from edgesparse.tasks.fit_choices import Plan
from edgesparse.tasks.fit_network import FitOptions, Network, Settings
from edgesparse.tasks.fit_report import MAP
from edgesparse.tasks.fit_search import Search

FEWER = {
    (INT8,): 1.0,
    (INT8, SPARSE): 0.8,
    (INT8, CHANNELS): 0.9,
    (INT8, SPARSE, RELU): 0.75,
    (INT8, SPARSE, CHANNELS): 0.7,
    (INT8, SPARSE, RELU, CHANNELS): 0.65,
}
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
        return [Plan(("a",), change=c, ms=self.ms * FEWER[kinds] * (0.9 - 0.5 * c)) for c in changes.tolist()]

    def refused(self, *_: object) -> Iterator[tuple[str, Network]]:
        raise ModelError("side has no channels left")

    def of(self, first: Network, plan: Plan, choices: object) -> Iterator[tuple[str, Network]]:
        self.plans_tried.append(plan)
        self.drops[plan.ms] = 4 * plan.change**2 + self.rng.normal() * self.noise
        yield INT8, replace(first, precision="int8", ms=plan.ms)

    def score(self, network: Network, labels: object) -> float:
        return 50 - self.drops.get(network.ms, 0.0)


def search_with(fake: Fake, base: Network, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Search:
    monkeypatch.setattr(fit_search, "Choices", lambda *_: fake)
    monkeypatch.setattr(Search, "score", lambda _, network, labels: fake.score(network, labels))
    monkeypatch.setattr(fit_network, "starts", lambda *_: iter([("", base)]))
    monkeypatch.setattr(fit_network, "least_milliseconds", lambda *_: 0.5 * fake.ms)
    monkeypatch.setattr(fit_network, "milliseconds", lambda *_: fake.ms)
    judges = fit_search.Judges(None, None, MAP)  # type: ignore[arg-type]
    search = Search(base, settings, judges, SimpleNamespace(), quiet)  # type: ignore[arg-type]
    monkeypatch.setattr(search.stages, "of", fake.of)
    return search


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
    search = search_with(fake, base, replace(settings, options=options), monkeypatch)
    search.run()
    report, network = search.report({})
    within = [trial for trial in search.trials if trial.drop <= 1.0]
    assert search.best.drop <= 1.0 and network.ms == min(trial.network.ms for trial in within)
    assert report.drop == pytest.approx(search.best.drop) and report.drop <= 1.0
    assert len(fake.plans_tried) == len(search.trials) - 1 <= 6 * 7, "each set of choices takes few trials"
    if target is None and not noise:
        assert network.ms < 0.8 * full, "the sets with 2:4 are faster at the same change"
    if target is not None:
        assert all(trial.network.ms > target * full for trial in within if trial is not search.best)


def test_plans_that_cannot_be_made_are_listed_with_the_reason(
    start: tuple[Network, Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, settings = start
    fake = Fake(0, 0.0, fit_network.milliseconds(replace(base, precision="fp16"), settings))
    search = search_with(fake, base, settings, monkeypatch)
    monkeypatch.setattr(search.stages, "of", fake.refused)
    search.run()
    report, network = search.report({})
    assert network.precision == "fp16" and report.result.name == "FP16"
    assert {trial.why for trial in report.trials if trial.outcome == "dropped"} == {"side has no channels left"}


def test_relu_is_searched_with_2to4_where_some_layers_can_be_2to4_without_it() -> None:
    assert fit_search._sets((INT8, SPARSE, RELU)) == [(INT8,), (INT8, SPARSE), (INT8, SPARSE, RELU)]
    assert fit_search._sets((INT8, RELU, CHANNELS)) == [
        (INT8,),
        (INT8, RELU),
        (INT8, CHANNELS),
        (INT8, RELU, CHANNELS),
    ]
    assert fit_search._sets((SPARSE, RELU)) == [(SPARSE,), (SPARSE, RELU)]
