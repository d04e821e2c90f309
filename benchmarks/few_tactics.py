"""Builds that time few kernels: for results that do not depend on speed, such as boxes and scores.

TensorRT 8.5.3 times tens of thousands of kernels for a detector, which takes minutes. `few_tactics` offers it only the
first of each combination of types and layouts, so that a layer can still run in FP32, FP16 or INT8. The engine is
slower than it could be, and whether a layer runs 2:4 says nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from edgesparse.backends.tensorrt import build


@contextmanager
def few_tactics() -> Iterator[None]:
    """Let the builds of this process time few kernels, where TensorRT lets a program choose them (8.5 to 10)."""
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
            return list(first.values())

        def report_algorithms(self, contexts: list[Any], choices: list[Any]) -> None:
            pass

    configure, kept = build.configure, []

    def configured(*arguments: Any) -> Any:
        config = configure(*arguments)
        kept.append(First())  # the config does not keep it alive
        config.algorithm_selector = kept[-1]
        return config

    build.configure = configured
    try:
        yield
    finally:
        build.configure = configure
