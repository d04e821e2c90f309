"""Runs every test of this folder in its own process, two at a time, and prints each result as it arrives.

    EDGESPARSE_RECORD=1 python tests/gpu/each.py [-k WORD] [--limit SECONDS] [--together 2]

For a first run on a new GPU or release: a crash or hang affects no other test, and each result is written to
last_run.json immediately. Each plan is built once: tests find it in the folder that EDGESPARSE_PLANS names.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

HERE = Path(__file__).resolve().parent
ALONE = ("many_times", "too_little_memory")
"""Parts of the names of tests that measure the memory of the whole GPU."""
PYTEST = [sys.executable, "-m", "pytest", "-W", "default", "-p", "no:cacheprovider"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-k", default="", help="As pytest's.")
    parser.add_argument("--limit", type=float, default=120, help="Seconds a test may take.")
    parser.add_argument("--together", type=int, default=2, help="Tests at once; builds slow each other down.")
    options = parser.parse_args()
    listed = _run([*PYTEST, "--collect-only", *(["-k", options.k] if options.k else []), str(HERE)], 120)
    names = [line for line in listed.stdout.splitlines() if "::" in line and not line.startswith(("ERROR", "FAILED"))]
    if not names:
        print(f"no tests: {listed.stdout[-2000:]}{listed.stderr[-2000:]}")
        return 2
    begun, failed = time.monotonic(), 0
    alone = [name for name in names if any(word in name for word in ALONE)]
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / f"{i}.json" for i, name in enumerate(names)}
        os.environ["EDGESPARSE_PLANS"] = folder
        for some, together in (([name for name in names if name not in alone], options.together), (alone, 1)):
            with ThreadPoolExecutor(together) as pool:
                work = {pool.submit(_run_one, name, options.limit, files[name]): name for name in some}
                for done in as_completed(work):
                    outcome, seconds, text = done.result()
                    failed += outcome not in ("passed", "skipped")
                    print(f"{time.monotonic() - begun:6.1f} s  {outcome:8} {seconds:5.1f} s  {work[done]}", flush=True)
                    _record(files[work[done]])
                    if outcome != "passed":
                        print(text, flush=True)
    print(f"{len(names)} tests, {failed} failed")
    return int(failed > 0)


def _run_one(name: str, limit: float, record: Path) -> tuple[str, float, str]:
    begun = time.monotonic()
    done = _run([*PYTEST, "--tb=short", "-rs", name], limit, {"EDGESPARSE_RECORD_FILE": str(record)})
    text = (done.stdout + done.stderr)[-1800:]
    outcome = {0: "passed", 1: "FAILED", -1: "TOO LONG"}.get(done.returncode, f"ENDED {done.returncode}")
    if outcome == "passed" and " passed" not in done.stdout:
        outcome = "skipped"
    return outcome, time.monotonic() - begun, text


def _record(file: Path) -> None:
    """Add a test's own record to last_run.json immediately, since the next test may be interrupted."""
    if not file.exists():
        return
    results, record = json.loads(file.read_text()), HERE / "last_run.json"
    before = json.loads(record.read_text()) if record.exists() else {}
    part = record.with_suffix(".part")
    part.write_text(json.dumps(before | results, indent=1, sort_keys=True) + "\n")
    part.replace(record)


def _run(command: list[str], limit: float, more: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    environment, root = {**os.environ, **(more or {})}, HERE.parents[1]
    with tempfile.TemporaryFile("w+") as out:
        try:
            code = subprocess.run(
                command, stdout=out, stderr=out, timeout=limit, cwd=root, env=environment, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            code = -1
        out.seek(0)
        return subprocess.CompletedProcess(command, code, out.read(), "")


if __name__ == "__main__":
    sys.exit(main())
