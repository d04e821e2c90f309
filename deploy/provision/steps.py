"""The table of provisioning steps, and how they run."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from . import account, board, pulling, software, wheelhouse
from .system import REFUSED, Change, StepFailed, System

EDGESPARSE = f"{software.VENV}/bin/edgesparse"


@dataclass(frozen=True)
class Options:
    """The options of the command line. `bundle` is a file or an https address."""

    any_machine: bool = False
    offline: Path | None = None
    power_mode: str = ""
    keys: list[Path] = field(default_factory=list)
    settings: Path | None = None
    bundle: str = ""
    pull: Path | None = None
    anchor: Path | None = None
    no_pull: bool = False
    force: bool = False


@dataclass(frozen=True)
class Step:
    """`plan` yields the changes that the machine needs; each is applied before the next is determined."""

    name: str
    plan: Callable[[System, Options], Iterator[Change]]


def deploy(system: System, options: Options) -> Iterator[Change]:
    """Deploy the bundle, unless it is already running."""
    if not options.bundle:
        return
    restart = () if system.booted else ("--restart", "")
    command = (EDGESPARSE, "deploy", _source(options.bundle), *restart)
    plan = system.output(*command, "--check", "--json")
    if plan is None or json.loads(plan).get("changed", True):
        yield Change(
            f"deploy {options.bundle} (builds the engine, which takes minutes)",
            lambda: system.run(*command, remedy=f"sudo {shlex.join(command)}; sudo {EDGESPARSE} status"),
        )


def _source(bundle: str) -> str:
    return bundle if "://" in bundle else str(Path(bundle).resolve())


def self_test(system: System, options: Options) -> Iterator[Change]:
    """Check `edgesparse doctor` as the service's user, and the service's health. Changes nothing."""
    if not system.path(EDGESPARSE).exists():
        return iter(())
    command = ("runuser", "-u", account.USER, "--", EDGESPARSE, "doctor")
    output = system.run(*command, "--json", remedy=f"sudo {shlex.join(command)}")
    needed = ("GPU", "tensorrt", "pycuda.driver") if system.facts.get("l4t") else ()
    for finding in json.loads(output[output.index("{") :])["findings"]:
        if finding["state"] == "needed" or (finding["what"] in needed and finding["state"] != "ok"):
            raise StepFailed(f"{finding['what']}: {finding['found']}", finding["remedy"])
    if options.bundle and system.booted:
        status = json.loads(system.output(EDGESPARSE, "status", "--json") or "{}")
        if not status.get("healthy"):
            why = (status.get("service") or {}).get("why") or "it gives no reason"
            raise StepFailed(f"the service is not healthy: {why}", "journalctl -u edgesparse", REFUSED)
    return iter(())


def pull(system: System, options: Options) -> Iterator[Change]:
    """Poll for newer bundles, or end it; last, so that no poll changes what is being set up."""
    if options.no_pull:
        return pulling.end(system)
    return pulling.pull(system, options.pull, options.anchor, options.force)


STEPS = (
    Step("board", lambda system, options: board.recognize(system, options.any_machine)),
    Step("power mode", lambda system, options: board.power(system, options.power_mode)),
    Step("wheelhouse", lambda system, options: wheelhouse.verify(system, options.offline, options.keys)),
    Step("apt packages", lambda system, options: software.apt(system, options.offline)),
    Step("environment", lambda system, options: software.venv(system)),
    Step("edgesparse", lambda system, options: software.packages(system, options.offline)),
    Step("tensorrt", lambda system, options: software.tensorrt(system)),
    Step("pycuda", lambda system, options: software.pycuda(system, options.offline)),
    Step("user", lambda system, options: account.user(system)),
    Step("udev", lambda system, options: account.udev(system)),
    Step("folders", lambda system, options: account.folders(system)),
    Step("keys", lambda system, options: account.keys(system, options.keys, options.force)),
    Step("settings", lambda system, options: account.settings(system, options.settings, options.force)),
    Step("unit", lambda system, options: account.unit(system)),
    Step("deploy", deploy),
    Step("restart", lambda system, options: account.restart(system)),
    Step("self-test", self_test),
    Step("pull", pull),
)


def run_steps(system: System, options: Options, check: bool, say: Callable[[str], None]) -> Iterator[dict[str, object]]:
    """Yield an entry of the report per step.

    After a failure the remaining steps are `not reached`; a check still runs them, unless the board itself is refused.
    """
    ended = False
    for step in STEPS:
        entry = {"step": step.name, "state": "not reached", "changes": [], "seconds": 0.0}
        if not ended:
            entry = _run_step(step, system, options, check, say)
            ended = entry["state"] == "failed" and (not check or step is STEPS[0])
        yield entry


def _run_step(
    step: Step, system: System, options: Options, check: bool, say: Callable[[str], None]
) -> dict[str, object]:
    began, before = time.monotonic(), system.facts.pop("note", None)
    changes: list[str] = []
    entry: dict[str, object] = {"step": step.name, "changes": changes}
    try:
        for change in step.plan(system, options):
            changes.append(change.what)
            say(f"{step.name}: {change.what}")
            if not check:
                change.make()
        entry["state"] = ("would change" if check else "changed") if changes else "ok"
        if changes and not check:
            _verify(step, system, options)
    except StepFailed as error:
        entry.update(state="failed", why=error.why, remedy=error.remedy, code=error.code)
    note = system.facts.pop("note", before)
    if note:
        entry["note"] = note
    return {**entry, "seconds": round(time.monotonic() - began, 2)}


def _verify(step: Step, system: System, options: Options) -> None:
    """Run the step's plan again: nothing may be left to change."""
    left = next(step.plan(system, options), None)
    if left is not None:
        raise StepFailed(
            f"the change had no effect: {left.what}",
            "run it again; if that does not help, file an issue with this report",
        )
