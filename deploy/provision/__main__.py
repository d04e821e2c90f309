"""The command line of scripts/provision: parses arguments, runs the steps, prints a report."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

from .steps import Options, run_steps
from .system import MACHINE_LACKS, WRONG_USE, StepFailed, System

REPORT = "/etc/edgesparse/provision.json"


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    result = argparse.ArgumentParser(
        prog="provision", description="Set this Jetson up to run edgesparse as a service. A second run changes nothing."
    )
    result.add_argument("--check", action="store_true", help="print what would change; change nothing")
    result.add_argument(
        "--offline", type=Path, metavar="FOLDER", help="install from a folder written by scripts/wheelhouse"
    )
    result.add_argument(
        "--key", type=Path, action="append", default=[], metavar="NAME.pub", help="trust bundles signed with this key"
    )
    result.add_argument("--settings", type=Path, metavar="FILE.yaml", help="install this device's settings")
    result.add_argument("--bundle", default="", metavar="FILE|https://", help="deploy this bundle")
    result.add_argument(
        "--pull", type=Path, metavar="FILE.env", help="poll the address in this file for newer bundles, by a timer"
    )
    result.add_argument("--anchor", type=Path, metavar="ROOT.json", help="trust this root of a repository at first")
    result.add_argument("--no-pull", action="store_true", help="end polling, and remove what --pull installed")
    result.add_argument("--power-mode", default="", metavar="NAME", help="set nvpmodel's mode, e.g. MAXN")
    result.add_argument(
        "--any-machine", action="store_true", help="accept a machine that is not a Jetson, for ONNX Runtime"
    )
    result.add_argument("--force", action="store_true", help="overwrite settings and keys")
    result.add_argument("--json", action="store_true", help="print the report as JSON")
    result.add_argument(
        "--report", metavar="FILE", help=f"write the report to this file [default: {REPORT}; none with --check]"
    )
    return result


def main(arguments: list[str] | None = None, system: System | None = None) -> int:
    """Run the steps. Returns 0 done, 1 refused, 2 wrong use, 3 the machine lacks something."""
    parsed = parser().parse_args(arguments)
    system = system or System()
    if parsed.no_pull and (parsed.pull or parsed.anchor):
        print("provision: found --no-pull with --pull or --anchor, needed one of them", file=sys.stderr)
        return WRONG_USE
    if not parsed.check and os.geteuid() != 0:
        print("provision: changes need root: sudo scripts/provision, or --check to see them", file=sys.stderr)
        return WRONG_USE
    options = Options(
        any_machine=parsed.any_machine,
        offline=parsed.offline and parsed.offline.resolve(),
        power_mode=parsed.power_mode,
        keys=parsed.key,
        settings=parsed.settings,
        bundle=parsed.bundle,
        pull=parsed.pull,
        anchor=parsed.anchor,
        no_pull=parsed.no_pull,
        force=parsed.force,
    )
    try:
        report = provision(system, options, parsed.check)
    except KeyboardInterrupt:
        print("provision: interrupted; run it again to continue", file=sys.stderr)
        return 130
    text = json.dumps(report, indent=1)
    file = (parsed.report and str(Path(parsed.report).absolute())) or ("" if parsed.check else REPORT)
    if file:
        try:
            system.write(file, text + "\n")
        except (OSError, StepFailed) as error:
            print(f"provision: cannot write the report: {error}; pass --report FILE, or --json", file=sys.stderr)
            return MACHINE_LACKS
    print(text if parsed.json else summary(report))
    return int(str(report["code"]))


def provision(system: System, options: Options, check: bool) -> dict[str, object]:
    """Run the steps and return the report: `ok`, `changed`, `code`, facts about the machine, and an entry per step."""
    began = time.time()
    steps = list(run_steps(system, options, check, lambda line: None if check else print(line, file=sys.stderr)))
    failed = [step for step in steps if step["state"] == "failed"]
    return {
        "ok": not failed,
        "check": check,
        "changed": any(step["changes"] for step in steps),
        "code": failed[0]["code"] if failed else 0,
        "time": int(began),
        "machine": dict(system.facts),
        "steps": steps,
    }


def summary(report: dict[str, object]) -> str:
    """Return the report for people: a row per step, and the remedy of a failed step."""
    steps: list[dict[str, object]] = report["steps"]  # type: ignore[assignment]
    rows = []
    for step in steps:
        detail = step.get("why") or "; ".join(map(str, step["changes"])) or ""  # type: ignore[call-overload]
        rows.append(f"{step['step']:<13} {step['state']:<12} {detail}".rstrip())
        rows += [
            f"{'':<13} {label}: {step[key]}" for key, label in (("note", "note"), ("remedy", "fix")) if key in step
        ]
    return "\n".join(rows)
