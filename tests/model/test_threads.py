"""Independent parts in threads: results in order, limited read-ahead, and BLAS threads restored."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from edgesparse.model.threads import THREADS, blas_on_one_core, in_threads


def test_results_come_in_order_whichever_is_ready_first() -> None:
    def slow_at_first(i: int) -> int:
        time.sleep(0.02 if i == 0 else 0)
        return i * i

    assert list(in_threads(slow_at_first, range(20))) == [i * i for i in range(20)]


def test_items_are_read_only_a_little_ahead() -> None:
    taken = []

    def items() -> Iterator[int]:
        for i in range(100):
            taken.append(i)
            yield i

    results = in_threads(str, items())
    assert next(results) == "0" and len(taken) <= THREADS + 1
    results.close()  # type: ignore[attr-defined]


def test_an_exception_in_a_part_reaches_the_caller() -> None:
    with pytest.raises(ZeroDivisionError):
        list(in_threads(lambda i: 1 // i, [1, 0, 1]))


def test_blas_threads_are_restored_afterwards() -> None:
    np.linalg.inv(np.eye(2))  # BLAS is loaded

    def threads() -> list[int]:
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    before = threads()
    with blas_on_one_core():
        assert before and set(threads()) == {1}
    assert threads() == before
