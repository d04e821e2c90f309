"""What FP16, INT8 and 2:4 could gain on a board, before anything is built: a roofline per fused layer.

A layer takes as long as its products at the tensor cores' rate or its bytes at the memory bandwidth, whichever is
longer, plus a fixed number of GPU clocks (Williams, Waterman, Patterson, "Roofline", CACM 52(4), 2009). Work is done in
whole tiles, and tiles in whole waves over the multiprocessors, so narrow and small layers cost more than their
products. Four fitted constants describe how much of the data sheet's rates an engine achieves;
docs/results/prediction.md has the error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import ceil
from typing import Any, Literal

from edgesparse.predict.boards import Board, Fitted, fitted
from edgesparse.predict.fusion import Work

BYTES = {"fp32": 4, "fp16": 2, "int8": 1}
TILE_ROWS, TILE_COLUMNS, TILE_DEPTH = 128, 64, 128
"""The tile of one multiprocessor: output positions, output channels, and bytes of input channels, for each
position of the kernel. Most names of TensorRT's convolution kernels have tiles of this size."""
LIKELY, SMALL = " where likely", "INT8 of a smaller input"
BOUNDS = {"math": "arithmetic", "memory": "memory traffic", "launch": "starting each layer"}
LIKELY_INPUTS = {"fp16": (96, 256), "int8": (192, 64)}
"""Fewest input channels of 1x1 convolutions, and of larger ones, that are likely to run 2:4."""
LIKELY_OUTPUTS = {"fp16": 1, "int8": 64}
"""Fewest output channels of these."""
SHORTER = 0.8
"""Factor of the input's sides, for the comparison with a smaller input."""
BAND = 0.25
"""How much longer than measured a prediction is at most: twice the error below which nine of ten held-out ones are."""
WORTH = 0.05
"""Smallest saving, as a share of the latency, worth pruning for: the error of the prediction is larger than less."""


@dataclass(frozen=True)
class LayerTime:
    """One fused layer in one precision: its time in `ms`, and what limits it: `math`, `memory` or `launch`."""

    name: str
    ms: float
    bound: str
    start_ms: float = 0.0
    """The part of `ms` that the layer costs regardless of its size."""


@dataclass(frozen=True)
class Prediction:
    """One way to run a model on one board, called `name`. `bound`: what takes most of its time."""

    name: str
    layers: tuple[LayerTime, ...]

    @property
    def ms(self) -> float:
        return sum(layer.ms for layer in self.layers)

    @property
    def bound(self) -> str:
        share = {bound: sum(layer.ms for layer in self.layers if layer.bound == bound) for bound in BOUNDS}
        return max(share, key=lambda bound: share[bound])


@dataclass(frozen=True)
class Gain:
    """The most milliseconds that 2:4 saves in one layer; `relu_ms`: in INT8 with ReLU instead of SiLU.

    `bound`: what limits the layer in dense FP16.
    """

    name: str
    bound: str
    fp16_ms: float
    int8_ms: float
    relu_ms: float


def predict(
    works: Sequence[Work],
    board: Board,
    precision: str,
    sparse: bool | Literal["likely"] = False,
    *,
    relu: bool = False,
    constants: Fitted | None = None,
) -> Prediction:
    """Predict the latency of the fused layers `works` on `board` in `fp32`, `fp16` or `int8`, with the batch of the
    shapes.

    With `sparse`, every layer that may run a 2:4 kernel does, at the GPU's sparse rate: the most that could be gained,
    since TensorRT picks the dense kernel wherever that is faster. In INT8, a layer may only if nothing or a ReLU is
    between it and the next Q; with `relu`, any layer may. "likely": only those layers run 2:4 for which TensorRT was
    seen to pick a sparse kernel (`likely_sparse`). `constants`: replace the fitted ones.
    """
    reached = constants or fitted()

    def is_sparse(work: Work) -> bool:
        if sparse == "likely":
            return likely_sparse(work, precision)
        return bool(sparse) and (work.sparse_int8 if precision == "int8" and not relu else work.sparse)

    name = f"{precision.upper()}{' 2:4' if sparse else ''}{' with ReLU' if relu else ''}"
    name += LIKELY if sparse == "likely" else ""
    return Prediction(name, tuple(_layer(work, board, precision, is_sparse(work), reached) for work in works))


def likely_sparse(work: Work, precision: str) -> bool:
    """Whether TensorRT is likely to pick a 2:4 kernel for a layer with 2:4 weights.

    Nothing smooth, such as SiLU, may follow: an Orin ran none of YOLOv5s's 39 layers, all with SiLU, 2:4 in FP16. The
    rest was derived from engines of an Orin-sized slice: a stride of 1, and enough channels.
    """
    strided = work.reads >= 3 * work.rows * work.channels  # a stride of 2 reads four values per output position
    if strided or not (work.sparse and work.sparse_int8):
        return False
    return work.channels >= LIKELY_INPUTS[precision][work.taps > 1] and work.columns >= LIKELY_OUTPUTS[precision]


def shrunk(works: Sequence[Work], side: float) -> list[Work]:
    """Return the layers for an input whose sides are `side` times as long: activations shrink, weights do not."""
    area = side * side
    return [
        replace(work, rows=ceil(work.rows * area), reads=ceil(work.reads * area), writes=ceil(work.writes * area))
        for work in works
    ]


def predict_all(works: Sequence[Work], board: Board) -> dict[str, Prediction]:
    """Predict by name: FP16 and INT8, each dense, 2:4 and 2:4 in likely layers; INT8 2:4 with ReLU; INT8 of a smaller
    input.
    """
    small = replace(predict(shrunk(works, SHORTER), board, "int8"), name=SMALL)
    predictions = (
        predict(works, board, "fp16"),
        predict(works, board, "fp16", True),
        predict(works, board, "int8"),
        predict(works, board, "int8", True),
        predict(works, board, "int8", True, relu=True),
        predict(works, board, "fp16", "likely"),
        predict(works, board, "int8", "likely"),
        small,
    )
    return {prediction.name: prediction for prediction in predictions}


def least_ms(works: Sequence[Work], board: Board, precision: str, sparse: bool = False) -> float:
    """Return the milliseconds of the products alone at the data sheet's rates, 2:4 wherever a layer may run it."""
    seconds = 0.0
    for work in works:
        if work.kind == "cuda":
            seconds += work.macs / _cuda_rate(board, precision)
        else:
            seconds += work.macs / board.rate(precision, sparse and work.sparse)
    return seconds * 1e3


def gains(predictions: Mapping[str, Prediction]) -> list[Gain]:
    """Return the layers that 2:4 makes faster, largest gain first, from the result of `predict_all`."""
    layers = [(layer.name, layer.bound) for layer in predictions["FP16"].layers]
    names = ("FP16", "FP16 2:4", "INT8", "INT8 2:4", "INT8 2:4 with ReLU")
    half, sparse_half, byte, sparse_byte, relu = ([layer.ms for layer in predictions[name].layers] for name in names)
    rows = zip(layers, half, sparse_half, byte, sparse_byte, relu, strict=True)
    saved = [Gain(name, bound, f - fs, i - s, i - r) for (name, bound), f, fs, i, s, r in rows]
    return sorted((gain for gain in saved if gain.fp16_ms or gain.relu_ms), key=lambda gain: -gain.fp16_ms)


def verdict(predictions: Mapping[str, Prediction]) -> list[str]:
    """Describe what 2:4 could save, one line per engine, what else would, and whether pruning is worth it.

    `predictions`: the result of `predict_all`. The last line is the conclusion.
    """
    lines, worth = [], []
    for dense, sparse in (("FP16", "FP16 2:4"), ("INT8", "INT8 2:4"), ("INT8", "INT8 2:4 with ReLU")):
        ms = predictions[dense].ms
        share = (ms - predictions[sparse].ms) / ms
        likely = predictions.get(sparse + LIKELY)
        saves = f"{ms - likely.ms:.2f} to" if likely is not None else "at most"
        lines.append(f"{sparse}: saves {saves} {share * ms:.2f} of {ms:.2f} ms, at most {100 * share:.1f} %")
        worth += [sparse] if share > WORTH else []
    lines += _alternatives(predictions)
    if worth:
        return [*lines, f"2:4 may pay off in {', '.join(worth)}: only a build on the board shows"]
    most = BOUNDS[predictions["FP16"].bound]
    return [*lines, f"2:4 does not pay off here: most of the time goes to {most}, of which 2:4 saves little"]


def _alternatives(predictions: Mapping[str, Prediction]) -> list[str]:
    """Describe what takes time regardless of 2:4, and what a smaller input saves."""
    dense, small = predictions["INT8"], predictions[SMALL]
    started = sum(layer.start_ms for layer in dense.layers)
    return [
        f"INT8 with an input of {SHORTER:g} times the sides: saves {dense.ms - small.ms:.2f} of {dense.ms:.2f} ms",
        f"starting {len(dense.layers)} layers takes {started:.2f} ms of it: only fewer layers save that",
    ]


def as_dict(predictions: Mapping[str, Prediction], board: Board) -> dict[str, Any]:
    """Return JSON-compatible values."""
    times = {
        name: {"ms": round(p.ms, 4), "bound": p.bound, "layers": [asdict(layer) for layer in p.layers]}
        for name, p in predictions.items()
    }
    saved = [asdict(gain) for gain in gains(predictions)]
    return {"board": board.as_dict(), "predicted": times, "gains": saved, "verdict": verdict(predictions)}


def _layer(work: Work, board: Board, precision: str, sparse: bool, reached: Fitted) -> LayerTime:
    weights = work.weights * (_sparse_size(precision) if sparse else 1)
    math = _math_seconds(work, board, precision, sparse, reached)
    memory = (weights + work.reads + work.writes) * BYTES[precision] / (board.bandwidth * reached.memory)
    launch = reached.layer_clocks / (board.gpu_mhz * 1e6)
    bound = "launch" if launch > max(math, memory) else "math" if math > memory else "memory"
    return LayerTime(work.name, (max(math, memory) + launch) * 1e3, bound, launch * 1e3)


def _math_seconds(work: Work, board: Board, precision: str, sparse: bool, reached: Fitted) -> float:
    if work.kind == "cuda":
        return work.macs / (_cuda_rate(board, precision) * reached.depthwise)
    tiles = _blocks(work.rows, TILE_ROWS) * _blocks(work.columns, TILE_COLUMNS)
    block = TILE_DEPTH // BYTES[precision]
    depth = work.taps * _blocks(work.channels, block) * block
    products = _blocks(tiles, board.sms) * board.sms * TILE_ROWS * TILE_COLUMNS * depth
    return products / (board.rate(precision, sparse) * reached.math)


def _cuda_rate(board: Board, precision: str) -> float:
    """Return the CUDA cores' peak multiply-accumulates per second; FP16 and INT8 run in pairs."""
    vector = 1 if precision == "fp32" else 2
    return board.gpu.cuda_cores * vector * board.sms * board.gpu_mhz * 1e6


def _sparse_size(precision: str) -> float:
    """Return the size of 2:4 weights relative to dense ones: half of the values, and a two-bit index for each."""
    bits = 8 * BYTES[precision]
    return 0.5 * (bits + 2) / bits


def _blocks(count: int, size: int) -> int:
    return -(-count // size)
