"""The networks that can be measured in the slice, as named on the command line, and the engines built from each."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import onnx
from onnx import ModelProto

from benchmarks.orin_slice import networks
from benchmarks.orin_slice.engines import Options
from edgesparse.compress import slim


@dataclass(frozen=True)
class Variant:
    """One engine of a network: `name` such as `int8 2:4`, its model, and its build options."""

    name: str
    model: ModelProto
    options: Options


@dataclass(frozen=True)
class Case:
    """One network and the engines that are built from it."""

    text: str
    """As given on the command line."""
    name: str
    make: Callable[[], ModelProto]
    ways: tuple[str, ...]
    words: tuple[str, ...] = ()

    @cached_property
    def source(self) -> ModelProto:
        return self.make()

    def variants(self) -> Iterator[Variant]:
        """Dense before 2:4, INT8 before FP16: later builds find most tactics already timed."""
        sparse = networks.pruned(self.source) if any("2:4" in way for way in self.ways) else None
        for way in self.ways:
            pruned = way.endswith("2:4")
            base = way.removesuffix(" 2:4")
            model = sparse if pruned and sparse is not None else self.source
            qdq = base.startswith("int8-qdq")
            if qdq:
                model = networks.with_qdq(model, "sparse" if base.endswith("sparse") else "fuse")
            precision = "int8" if base.startswith("int8") else base
            heuristic, free, jit = "fast" in self.words, "free" in self.words, "nojit" not in self.words
            yield Variant(way, model, Options(precision, pruned, qdq, heuristic, free, jit))


PAIRS = ("int8", "int8 2:4", "fp16", "fp16 2:4")
QDQ = ("int8-qdq-fuse", "int8-qdq-fuse 2:4", "int8-qdq-sparse", "int8-qdq-sparse 2:4")


def cases(selected: list[str]) -> Iterator[Case]:
    """`chains[:TEXT]`, `qdq[:TEXT]`, `yolo:WIDTH:ACTIVATION[:way+way]`, `onnx:FILE[:way+way]`.

    Additional words for the last two: `fast`, `free` and `nojit` (engines.Options); for a YOLO also `b4` or another
    batch, and `slim` (edgesparse slim).

    Raises ValueError for any other word.
    """
    for text in selected:
        kind, *rest = text.split(":")
        if kind in ("chains", "qdq"):
            for chain in networks.CHAINS:
                if not rest or rest[0] in chain.name:
                    ways = PAIRS if kind == "chains" else QDQ
                    name = chain.name + (" Q/DQ" if kind == "qdq" else "")
                    yield Case(f"{kind}:{chain.name}", name, chain.model, ways)
        elif kind == "yolo":
            chosen = _ways(rest[2:]) or PAIRS
            batch = next((int(word[1:]) for word in rest if re.fullmatch(r"b\d+", word)), 1)
            make = partial(_yolo, rest[0], rest[1], batch, "slim" in rest)
            name = f"YOLOv8{rest[0]}-shaped {rest[1]} batch {batch} {'+'.join(chosen)}"
            name = " ".join([name, *(word for word in rest[2:] if word in ("fast", "free", "nojit", "slim"))])
            yield Case(text, name, make, chosen, tuple(rest[2:]))
        elif kind == "onnx":
            chosen = _ways(rest[1:]) or PAIRS
            name = f"{Path(rest[0]).stem} {'+'.join(chosen)}"
            yield Case(text, name, partial(onnx.load, rest[0]), chosen, tuple(rest[1:]))
        else:
            raise ValueError(f"no case {text!r}")


def _yolo(width: str, activation: str, batch: int, slimmed: bool) -> ModelProto:
    model = networks.yolov8(width, activation, batch=batch)
    return slim(model)[0] if slimmed else model


def _ways(words: list[str]) -> tuple[str, ...]:
    result = next((word for word in words if not re.fullmatch(r"fast|free|nojit|slim|b\d+", word)), "")
    return tuple(way.replace("_", " ").replace("24", "2:4") for way in result.split("+")) if result else ()
