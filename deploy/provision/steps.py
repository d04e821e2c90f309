"""The table of what provisioning does, in order, and the walk along it."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from . import account, board, software
from .system import REFUSED, Change, Failed, System

EDGESPARSE = f"{software.VENV}/bin/edgesparse"


@dataclass(frozen=True)
class Wanted:
    """What the command line asks for. `bundle` is a file or https://."""

    any_machine: bool = False
    offline: Path | None = None
    power_mode: str = ""
    keys: list[Path] = field(default_factory=list)
    settings: Path | None = None
    bundle: str = ""
    force: bool = False


@dataclass(frozen=True)
class Step:
    """`plan` looks at the machine and gives what it would change, one by one; each is made before it looks further."""

    name: str
    plan: Callable[[System, Wanted], Iterator[Change]]


def deploy(system: System, wanted: Wanted) -> Iterator[Change]:
    """The first bundle: checked, built here, tried, switched to. Of what runs already, nothing."""
    if not wanted.bundle:
        return
    restart = () if system.booted else ("--restart", "")
    command = (EDGESPARSE, "deploy", _source(wanted.bundle), *restart)
    would = system.ask(*command, "--check", "--json")
    if would is None or json.loads(would).get("changed", True):
        yield Change(
            f"deploy {wanted.bundle} (the engine is built: minutes)",
            lambda: system.run(*command, remedy=f"sudo {shlex.join(command)}; sudo {EDGESPARSE} status"),
        )


def _source(bundle: str) -> str:
    return bundle if "://" in bundle else str(Path(bundle).resolve())


def self_test(system: System, wanted: Wanted) -> Iterator[Change]:
    """`edgesparse doctor` as the service's user, and the service's own health; nothing is changed."""
    if not system.path(EDGESPARSE).exists():
        return iter(())
    command = ("runuser", "-u", account.USER, "--", EDGESPARSE, "doctor")
    said = system.run(*command, "--json", remedy=f"sudo {shlex.join(command)}")
    needed = ("GPU", "tensorrt", "pycuda.driver") if system.found.get("l4t") else ()
    for finding in json.loads(said[said.index("{") :])["findings"]:
        if finding["state"] == "needed" or (finding["what"] in needed and finding["state"] != "ok"):
            raise Failed(f"{finding['what']}: {finding['found']}", finding["remedy"])
    if wanted.bundle and system.booted:
        status = json.loads(system.ask(EDGESPARSE, "status", "--json") or "{}")
        if not status.get("healthy"):
            why = (status.get("service") or {}).get("why") or "it does not say why"
            raise Failed(f"the service is not healthy: {why}", "journalctl -u edgesparse", REFUSED)
    return iter(())


STEPS = (
    Step("board", lambda system, wanted: board.recognise(system, wanted.any_machine)),
    Step("power mode", lambda system, wanted: board.power(system, wanted.power_mode)),
    Step("apt packages", lambda system, wanted: software.apt(system, wanted.offline)),
    Step("environment", lambda system, wanted: software.venv(system)),
    Step("edgesparse", lambda system, wanted: software.packages(system, wanted.offline)),
    Step("tensorrt", lambda system, wanted: software.tensorrt(system)),
    Step("pycuda", lambda system, wanted: software.pycuda(system, wanted.offline)),
    Step("user", lambda system, wanted: account.user(system)),
    Step("udev", lambda system, wanted: account.udev(system)),
    Step("folders", lambda system, wanted: account.folders(system)),
    Step("keys", lambda system, wanted: account.keys(system, wanted.keys, wanted.force)),
    Step("settings", lambda system, wanted: account.settings(system, wanted.settings, wanted.force)),
    Step("unit", lambda system, wanted: account.unit(system)),
    Step("deploy", deploy),
    Step("restart", lambda system, wanted: account.restart(system)),
    Step("self-test", self_test),
)


def walk(system: System, wanted: Wanted, check: bool, say: Callable[[str], None]) -> Iterator[dict[str, object]]:
    """One entry of the report a step. A failure ends it, and the rest is `not reached`; a check looks at the rest too,
    unless the board itself is refused.
    """
    ended = False
    for step in STEPS:
        entry = {"step": step.name, "state": "not reached", "changes": [], "seconds": 0.0}
        if not ended:
            entry = _take(step, system, wanted, check, say)
            ended = entry["state"] == "failed" and (not check or step is STEPS[0])
        yield entry


def _take(step: Step, system: System, wanted: Wanted, check: bool, say: Callable[[str], None]) -> dict[str, object]:
    began, before = time.monotonic(), system.found.pop("note", None)
    changes: list[str] = []
    entry: dict[str, object] = {"step": step.name, "changes": changes}
    try:
        for change in step.plan(system, wanted):
            changes.append(change.what)
            say(f"{step.name}: {change.what}")
            if not check:
                change.make()
        entry["state"] = ("would change" if check else "changed") if changes else "ok"
        if changes and not check:
            _hold(step, system, wanted)
    except Failed as error:
        entry.update(state="failed", why=error.why, remedy=error.remedy, code=error.code)
    note = system.found.pop("note", before)
    if note:
        entry["note"] = note
    return {**entry, "seconds": round(time.monotonic() - began, 2)}


def _hold(step: Step, system: System, wanted: Wanted) -> None:
    """What was changed must be so now: the step, asked again, has nothing left to change."""
    left = next(step.plan(system, wanted), None)
    if left is not None:
        raise Failed(f"done, and yet to do: {left.what}", "run it again; if it stays so, report it with this report")
