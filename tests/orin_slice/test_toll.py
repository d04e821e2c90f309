"""The library that makes Hopper's own kernels lose, loaded between a test program and a driver that prints launches."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TOLL = HERE.parents[1] / "benchmarks" / "orin_slice" / "toll.c"


def compiled(out: Path, source: Path, *options: str) -> Path:
    subprocess.run(["gcc", "-w", str(source), "-o", str(out), *options, "-ldl"], check=True)
    return out


@pytest.mark.compiler
@pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc")
def test_only_hoppers_kernels_read_slower_events_spin_and_attributes_are_read_once(tmp_path: Path) -> None:
    library = ("-shared", "-fPIC")
    compiled(tmp_path / "libcuda.so.1", HERE / "fake_driver.c", *library)
    program = compiled(tmp_path / "program", HERE / "fake_driver.c", "-DPROGRAM")
    toll = compiled(tmp_path / "libtoll.so", TOLL, *library)
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path), "LD_PRELOAD": str(toll), "TOLL_MS": "250"}
    result = subprocess.run([str(program)], env=environment, capture_output=True, text=True, check=True)
    ampere, hopper = (2 * [f"sm{n}_xmma_fprop on stream 5"] for n in (80, 90))
    timed = [*ampere, "4 ms", *hopper, "504 ms"]
    answered, failed = ["attribute 0", *2 * ["100 error 0"]], 2 * ["attribute 7", "107 error 1"]
    lines = result.stdout.splitlines()
    assert lines[:7] == [*answered, *failed], "an answer is kept, an error is not"
    assert lines[7:] == ["event 2", "event 2", *timed, *timed], "1 would be CU_EVENT_BLOCKING_SYNC"
