"""The stand-in's engines on disk, shared by the processes that build."""

from __future__ import annotations

from pathlib import Path

from benchmarks.orin_slice.cases import cases
from benchmarks.orin_slice.measure import summary
from benchmarks.orin_slice.store import MISSING, Store


def test_one_process_takes_a_case_until_it_is_released(tmp_path: Path) -> None:
    first, second = cases(["yolo:n:relu", "yolo:s:relu"])
    mine, other = Store(tmp_path), Store(tmp_path)
    assert mine.claim(first) and not other.claim(first) and other.claim(second)
    mine.release(first)
    assert other.claim(first)


def test_what_is_stored_is_known_to_all(tmp_path: Path) -> None:
    (case,) = cases(["yolo:n:relu"])
    assert Store(tmp_path).facts(case, "int8 2:4") == MISSING
    Store(tmp_path).write(case, "int8 2:4", {"layers": 3}, b"plan")
    assert Store(tmp_path).facts(case, "int8 2:4") == {"layers": 3}
    assert Store(tmp_path).plan(case, "int8 2:4") == b"plan"


def test_a_new_measurement_replaces_that_of_the_same_network_and_slice() -> None:
    clocks = {"name": "a GPU", "clocks.sm": "1980 MHz", "driver_version": "1"}

    def row(network: str, sms: int, us: float, kernels: str = "orin") -> dict[str, object]:
        facts = {"engines": {"fp16": {"us": us}}, "clocks": clocks, "tensorrt": "8.5.3"}
        return {"network": network, "sms": sms, "kernels": kernels, **facts}

    measured = [row("a", 8, 3.0), row("a", 16, 4.0), row("b", 8, 5.0, "any")]
    rows = summary([row("a", 8, 1.0), row("b", 8, 2.0)], measured)["rows"]
    assert [(r["network"], r["sms"], r["engines"]["fp16"]["us"]) for r in rows] == [
        ("a", 8, 3.0),
        ("b", 8, 2.0),
        ("a", 16, 4.0),
        ("b", 8, 5.0),
    ]
