"""Registers, spills and shared memory of the frame path's kernels, as reported by the compiler; needs nvcc but no GPU.

python benchmarks/kernels.py [--sm 8.7 ...] [--save]
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import machine, save
from edgesparse.backends.cuda.kernels import compiled

ENTRY = re.compile(
    r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
    r".*?Used (\d+) registers(?:[^\n]*?(\d+) bytes smem)?",
    re.S,
)
THREADS, REGISTERS, MOST = 256, 65536, {"8.7": 1536, "9.0": 2048}
"""Threads per block, registers per multiprocessor, and the most threads that a multiprocessor holds."""


def measured(sm: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        _, output = compiled(sm, Path(folder) / "frames.cubin", ["-Xptxas", "-v"])
    report = {}
    for name, stack, stores, loads, registers, shared in ENTRY.findall(output):
        blocks = min(MOST.get(sm, 1536) // THREADS, REGISTERS // (-(-int(registers) // 8) * 8 * THREADS))
        report[name] = {
            "registers": int(registers),
            "stack_bytes": int(stack),
            "spill_bytes": int(stores) + int(loads),
            "shared_bytes": int(shared or 0),
            "threads_a_multiprocessor": blocks * THREADS,
        }
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sm", action="append", help="compute capability [8.7 and 9.0]")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    result = {"question": __doc__, **machine(), "kernels": {sm: measured(sm) for sm in options.sm or ["8.7", "9.0"]}}
    save("kernels", result, options.save)


if __name__ == "__main__":
    main()
