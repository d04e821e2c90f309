"""A new engine beside the active one: the switch happens only if the recipe's limits hold there."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bundles
import pytest

from edgesparse.config import Deploy
from edgesparse.errors import DeployError
from edgesparse.fleet import beside
from edgesparse.fleet.beside import why_not
from edgesparse.fleet.health import ServiceStatus
from edgesparse.fleet.restart import ServiceControl
from edgesparse.shadow import REQUEST, ShadowRequest, ShadowResult, ShadowSettings

GOOD: dict[str, Any] = {
    "state": "done",
    "frames": 200,
    "boxes": 60,
    "recall": 0.97,
    "precision": 0.95,
    "latency_ms": 3.0,
    "memory_mb": 40.0,
}
RECIPE = "model: model/model.onnx\ndeploy: {max_latency_ms: 5, shadow: {frames: 200, boxes: 50}}\n"


def result(**changes: Any) -> ShadowResult:
    return ShadowResult(**{"id": "a" * 8, **GOOD, **changes})


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, None),
        (
            {"recall": 0.5},
            "found 50 % of its 60 boxes, and it has 95 % of the new one's, needed deploy.shadow.min_agree",
        ),
        ({"precision": 0.5}, "needed deploy.shadow.min_agreement 80 % of each"),
        ({"recall": None}, "the service reports no agreement"),
        ({"latency_ms": 9.0}, "found 9.0 ms per frame beside the active engine, needed deploy.max_latency_ms 5"),
        ({"frames": 3}, "found 3 frames with 60 boxes beside the active engine in 600 s, needed 200 with 50"),
        ({"boxes": 0, "recall": None}, "found 200 frames with 0 boxes"),
        (
            {"errors": 3, "why": "broken"},
            "found 3 errors in 203 frames beside the active engine (broken), needed deploy",
        ),
        ({"state": "failed", "why": "no memory"}, "the new engine failed beside the active engine: no memory"),
    ],
)
def test_each_limit_refuses_with_what_was_found_and_needed(changes: dict[str, Any], why: str | None) -> None:
    settings = ShadowSettings()
    reason = why_not(result(**changes), Deploy(max_latency_ms=5, shadow=settings), settings)
    assert reason is None if why is None else reason is not None and why in reason


@dataclass(frozen=True)
class Answering(ServiceControl):
    """A service that answers the request in `root` with each of `answers`, then with the last one."""

    root: Path = Path()
    answers: tuple[dict[str, Any] | None, ...] = (GOOD,)
    requests: list[ShadowRequest] = field(default_factory=list)
    running: bool = True

    def current_status(self) -> ServiceStatus | None:
        values = {"package": "x", "pid": 1, "started": 0, "ready": True, "healthy": True, "frames": 1, "errors": 0}
        if (self.root / REQUEST).exists():
            self.requests.append(ShadowRequest.model_validate_json((self.root / REQUEST).read_text()))
            answer = self.answers[min(len(self.requests), len(self.answers)) - 1]
            values["shadow"] = answer and {"id": self.requests[-1].id, **answer}
        return ServiceStatus(**values) if self.running else None

    def try_out(self, *_: object) -> str | None:
        return None


@pytest.fixture
def deploy(tmp_path: Path) -> Callable[..., Any]:
    """Deploy a version whose recipe asks for a shadow, on the device in `tmp_path`/device."""
    key = bundles.key(tmp_path)

    def go(version: str, *answers: dict[str, Any] | None, shadow: bool = True, **fields: Any) -> tuple[Any, Answering]:
        path, root = tmp_path / f"{version}.esb", tmp_path / "device"
        if not path.exists():
            bundles.signed(path, key, version, recipe=RECIPE)
        service = Answering(("true",), interval=0.01, root=root, answers=answers or (GOOD,), **fields)
        with bundles.opened(path) as source:
            return bundles.device(root, service, shadow=shadow).deploy(source), service

    return go


def test_a_switch_happens_after_the_new_engine_agreed_and_is_recorded(
    tmp_path: Path, deploy: Callable[..., Any]
) -> None:
    outcome, first = deploy("1.0")
    assert outcome.result == "deployed" and first.requests == [], "nothing runs that it could be compared with"
    loading = {"state": "loading"}
    outcome, service = deploy("2.0", None, loading, {"state": "running", "frames": 20}, GOOD)
    assert outcome.result == "deployed" and bundles.serving(tmp_path / "device") == "2.0"
    assert len(service.requests) == 4 and service.requests[0].settings.frames == 200
    assert service.requests[0].package == str((tmp_path / "device/slots/b/package").resolve())
    record = json.loads((tmp_path / "device/slots/b/slot.json").read_text())
    assert record["shadow"]["recall"] == 0.97 and record["shadow"]["memory_mb"] == 40.0
    assert not (tmp_path / "device" / REQUEST).exists()


def test_a_switch_is_refused_and_nothing_of_it_stays(tmp_path: Path, deploy: Callable[..., Any]) -> None:
    deploy("1.0")
    with pytest.raises(DeployError, match=r"2\.0 is refused: beside the active engine, the new one found 40 %"):
        deploy("2.0", {**GOOD, "recall": 0.4})
    root = tmp_path / "device"
    assert bundles.serving(root) == "1.0" and not (root / REQUEST).exists() and not (root / "deploy.json").exists()
    assert list((root / "slots/b").iterdir()) == []
    last = json.loads((root / "history.jsonl").read_text().splitlines()[-1])
    assert last["result"] == "refused" and "found 40 % of its 60 boxes" in last["why"]
    outcome, service = deploy("2.0", shadow=False)
    assert outcome.result == "deployed" and service.requests == [], "--no-shadow"


def test_a_service_that_is_away_or_does_not_answer_refuses_the_switch(
    deploy: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy("1.0")
    with pytest.raises(DeployError, match="the service writes no status, needed a running one"):
        deploy("2.0", running=False)
    monkeypatch.setattr(beside, "ANSWER_SECONDS", 0.05)
    with pytest.raises(DeployError, match="the service does not run the new engine beside its own"):
        deploy("2.0", None)
    with pytest.raises(DeployError, match="the service does not run the new engine beside its own"):
        deploy("2.0", {**GOOD, "frames": -1})
    monkeypatch.setattr(beside, "LOAD_SECONDS", -599.9)
    with pytest.raises(DeployError, match=r"did not finish beside the active one: raise deploy\.shadow\.seconds"):
        deploy("2.0", {"state": "running"})


def test_a_request_that_an_interrupted_deploy_left_is_withdrawn(tmp_path: Path, deploy: Callable[..., Any]) -> None:
    deploy("1.0")
    request = tmp_path / "device" / REQUEST
    request.write_text("{}")
    bundles.device(tmp_path / "device").recover()
    assert not request.exists()
