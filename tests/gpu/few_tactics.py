"""Builds that time few kernels, for results that do not depend on speed: boxes, layouts.

TensorRT 8.5.3 times thousands of kernels even for a small network. `few_tactics` offers it only the first of each
combination of types and layouts, so that a layer can still run in FP32, FP16 or INT8. The engine is slower than it
could be, and whether a layer runs 2:4 says nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from edgesparse.backends.tensorrt import build
from edgesparse.backends.tensorrt.config import configure


@contextmanager
def few_tactics(int8: bool = False) -> Iterator[None]:
    """Let the builds of this process time few kernels, where TensorRT lets a program choose them (8.5 to 10).

    `int8`: where a layer can run in INT8 it does, so that two engines of one calibration table round alike.
    """
    import tensorrt as trt

    if not hasattr(trt, "IAlgorithmSelector"):
        yield
        return

    class First(trt.IAlgorithmSelector):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IAlgorithmSelector.__init__(self)

        def select_algorithms(self, context: Any, choices: list[Any]) -> list[int]:
            first: dict[tuple[Any, ...], int] = {}
            ends = range(context.num_inputs + context.num_outputs)
            for i, choice in enumerate(choices):
                infos = (choice.get_algorithm_io_info(end) for end in ends)
                first.setdefault(tuple((info.dtype, info.tensor_format) for info in infos), i)
            small = [i for of_ends, i in first.items() if any(dtype == trt.int8 for dtype, _ in of_ends)]
            return small if int8 and small else list(first.values())

        def report_algorithms(self, contexts: list[Any], choices: list[Any]) -> None:
            pass

    kept = []

    def configured(*arguments: Any) -> Any:
        config = configure(*arguments)
        kept.append(First())  # the config does not keep it alive
        config.algorithm_selector = kept[-1]
        return config

    with patch.object(build, "configure", configured):
        yield
