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
def test_only_hoppers_kernels_wait_first_and_events_spin(tmp_path: Path) -> None:
    library = ("-shared", "-fPIC")
    compiled(tmp_path / "libcuda.so.1", HERE / "fake_driver.c", *library)
    program = compiled(tmp_path / "program", HERE / "fake_driver.c", "-DPROGRAM")
    toll = compiled(tmp_path / "libtoll.so", TOLL, *library)
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path), "LD_PRELOAD": str(toll), "TOLL_US": "250"}
    result = subprocess.run([str(program)], env=environment, capture_output=True, text=True, check=True)
    once = ["sm80_xmma_fprop 0 on stream 5", "toll 250000 on stream 5", "sm90_xmma_fprop 0 on stream 5"]
    other = ["toll 250000 on stream 7", "sm90_xmma_fprop 0 on stream 7"]
    assert result.stdout.splitlines() == [*once, *once, *other, "event 2"], "1 would be CU_EVENT_BLOCKING_SYNC"
