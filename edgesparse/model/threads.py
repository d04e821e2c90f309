"""Uses several cores for many small matrices: independent parts run in separate threads, with BLAS on one core in each.

OpenBLAS splits every product and every system of equations between the cores, however small, and its threads spin while
they wait for each other: for matrices of a few hundred rows that costs several times the CPU and saves little time.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import TypeVar

from threadpoolctl import threadpool_limits

THREADS = min(4, os.cpu_count() or 1)
"""At most four: each thread holds its own data, and boards with many cores run out of memory first."""
Item = TypeVar("Item")
Result = TypeVar("Result")


def blas_on_one_core() -> AbstractContextManager[object]:
    """Return a context in which BLAS uses one core in the whole process."""
    limits: AbstractContextManager[object] = threadpool_limits(1, user_api="blas")
    return limits


def in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield `function` of each of `items`, in order, computed in THREADS threads. `items` is read only slightly ahead:
    memory holds at most one item more than there are threads.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        waiting: deque[Future[Result]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
