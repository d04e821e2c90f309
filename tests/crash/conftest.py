"""The helpers of tests/fleet and tests/service."""

from __future__ import annotations

import sys
from pathlib import Path

for room in ("fleet", "service"):
    sys.path.append(str(Path(__file__).resolve().parents[1] / room))
