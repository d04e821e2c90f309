"""The command line of scripts/provision: arguments in, steps walked, a report out."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

from .steps import Wanted, walk
from .system import MACHINE_LACKS, WRONG_USE, System

REPORT = "/var/lib/edgesparse/provision.json"


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="provision", description="Makes this Jetson run edgesparse as a service. Run again, it changes nothing."
    )
    found.add_argument("--check", action="store_true", help="say what would change, and change nothing")
    found.add_argument("--offline", type=Path, metavar="FOLDER", help="install from what scripts/wheelhouse filled")
    found.add_argument(
        "--key", type=Path, action="append", default=[], metavar="NAME.pub", help="trust this key's bundles"
    )
    found.add_argument("--settings", type=Path, metavar="FILE.yaml", help="this device's cameras and outputs")
    found.add_argument("--bundle", default="", metavar="FILE|https://", help="the first bundle to deploy")
    found.add_argument("--power-mode", default="", metavar="NAME", help="set nvpmodel's mode, as MAXN")
    found.add_argument("--any-machine", action="store_true", help="no Jetson: work through ONNX Runtime")
    found.add_argument("--force", action="store_true", help="overwrite settings and keys of the same name")
    found.add_argument("--json", action="store_true", help="print the report as JSON")
    found.add_argument("--report", metavar="FILE", help=f"where the report is kept ({REPORT}; none with --check)")
    return found


def main(arguments: list[str] | None = None, system: System | None = None) -> int:
    """Returns 0 done, 1 refused, 2 wrong use, 3 the machine lacks something."""
    options = parser().parse_args(arguments)
    system = system or System()
    if not options.check and os.geteuid() != 0:
        print("provision: changes need root: sudo scripts/provision, or --check to see them", file=sys.stderr)
        return WRONG_USE
    wanted = Wanted(
        any_machine=options.any_machine,
        offline=options.offline and options.offline.resolve(),
        power_mode=options.power_mode,
        keys=options.key,
        settings=options.settings,
        bundle=options.bundle,
        force=options.force,
    )
    try:
        report = provision(system, wanted, options.check)
    except KeyboardInterrupt:
        print("provision: stopped; run it again, it goes on where it was", file=sys.stderr)
        return 130
    text = json.dumps(report, indent=1)
    file = options.report or ("" if options.check else REPORT)
    if file:
        try:
            system.write(file, text + "\n")
        except OSError as error:
            print(f"provision: cannot write the report: {error}; pass --report FILE", file=sys.stderr)
            return MACHINE_LACKS
    print(text if options.json else summary(report))
    return int(str(report["code"]))


def provision(system: System, wanted: Wanted, check: bool) -> dict[str, object]:
    """Walks the steps and gives the report: `ok`, `changed`, `code`, what the machine is, and an entry a step."""
    began = time.time()
    steps = list(walk(system, wanted, check, lambda line: None if check else print(line, file=sys.stderr)))
    failed = [step for step in steps if step["state"] == "failed"]
    return {
        "ok": not failed,
        "check": check,
        "changed": any(step["changes"] for step in steps),
        "code": failed[0]["code"] if failed else 0,
        "time": int(began),
        "machine": dict(system.found),
        "steps": steps,
    }


def summary(report: dict[str, object]) -> str:
    """The report for people: a row a step, and what failed with what mends it."""
    steps: list[dict[str, object]] = report["steps"]  # type: ignore[assignment]
    rows = []
    for step in steps:
        said = step.get("why") or "; ".join(map(str, step["changes"])) or ""  # type: ignore[call-overload]
        rows.append(f"{step['step']:<13} {step['state']:<12} {said}".rstrip())
        rows += [
            f"{'':<13} {label}: {step[key]}" for key, label in (("note", "note"), ("remedy", "mend it")) if key in step
        ]
    return "\n".join(rows)
