"""What FP16, INT8 and 2:4 could gain on a board, before anything is built: a roofline per fused layer.

A layer takes as long as its products at the tensor cores' rate or its bytes at the memory bandwidth, whichever is
longer, plus a fixed number of GPU clocks (Williams, Waterman, Patterson, "Roofline", CACM 52(4), 2009). Products come
in whole tiles, and tiles in whole waves over the multiprocessors, so narrow and small layers cost more than their
products. Four fitted constants give what an engine reaches of the data sheet's rates; docs/results/prediction.md gives
the error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edgesparse.predict.boards import Board, Fitted, fitted
from edgesparse.predict.fusion import Work

BYTES = {"fp32": 4, "fp16": 2, "int8": 1}
TILE_ROWS, TILE_COLUMNS, TILE_DEPTH = 128, 64, 128
"""What one multiprocessor works on at a time: output positions, output channels, and bytes of input channels, for each
position of the kernel. Most names of TensorRT's convolution kernels have tiles of this size."""
BOUNDS = {"math": "arithmetic", "memory": "memory traffic", "launch": "starting each layer"}
WORTH = 0.05
"""A smaller saving, as a share of the latency, is not worth pruning for: the error of the prediction is larger."""


@dataclass(frozen=True)
class LayerTime:
    """One fused layer in one precision: its time in `ms`, and what limits it: `math`, `memory` or `launch`."""

    name: str
    ms: float
    bound: str


@dataclass(frozen=True)
class Prediction:
    """One way to run a network on one board, called `name`. `bound`: what takes most of its time."""

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
    """The most milliseconds that 2:4 saves in one layer; `relu_ms`: in INT8 with ReLU in place of SiLU.

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
    sparse: bool = False,
    *,
    relu: bool = False,
    constants: Fitted | None = None,
) -> Prediction:
    """Latency of the fused layers `works` on `board` in `fp32`, `fp16` or `int8`, with the batch of the shapes.

    With `sparse`, every layer that may run a 2:4 kernel does, at the GPU's sparse rate: the most that could be gained,
    since TensorRT picks the dense kernel wherever that is faster. In INT8 a layer may only if ReLU or nothing is
    between it and the next Q, or anywhere with `relu`. `constants`: used in place of the fitted ones.
    """
    reached = constants or fitted()

    def is_sparse(work: Work) -> bool:
        return sparse and (work.sparse_int8 if precision == "int8" and not relu else work.sparse)

    name = f"{precision.upper()}{' 2:4' if sparse else ''}{' with ReLU' if relu else ''}"
    return Prediction(name, tuple(_layer(work, board, precision, is_sparse(work), reached) for work in works))


def predict_all(works: Sequence[Work], board: Board) -> dict[str, Prediction]:
    """FP16 and INT8, each dense and 2:4, and INT8 2:4 with ReLU, by name."""
    predictions = (
        predict(works, board, "fp16"),
        predict(works, board, "fp16", True),
        predict(works, board, "int8"),
        predict(works, board, "int8", True),
        predict(works, board, "int8", True, relu=True),
    )
    return {prediction.name: prediction for prediction in predictions}


def least_ms(works: Sequence[Work], board: Board, precision: str, sparse: bool = False) -> float:
    """Milliseconds that the products alone take at the data sheet's rates, 2:4 wherever a layer may run it."""
    seconds = 0.0
    for work in works:
        if work.kind == "cuda":
            seconds += work.macs / _cuda_rate(board, precision)
        else:
            seconds += work.macs / board.rate(precision, sparse and work.sparse)
    return seconds * 1e3


def gains(predictions: Mapping[str, Prediction]) -> list[Gain]:
    """The layers that 2:4 makes faster, the greatest gain first, from what `predict_all` returns."""
    layers = [(layer.name, layer.bound) for layer in predictions["FP16"].layers]
    half, sparse_half, byte, sparse_byte, relu = ([layer.ms for layer in p.layers] for p in predictions.values())
    rows = zip(layers, half, sparse_half, byte, sparse_byte, relu, strict=True)
    saved = [Gain(name, bound, f - fs, i - s, i - r) for (name, bound), f, fs, i, s, r in rows]
    return sorted((gain for gain in saved if gain.fp16_ms or gain.relu_ms), key=lambda gain: -gain.fp16_ms)


def verdict(predictions: Mapping[str, Prediction]) -> list[str]:
    """What 2:4 could save, one line per engine, and whether pruning is worth it, from what `predict_all` returns."""
    lines, worth = [], []
    for dense, sparse in (("FP16", "FP16 2:4"), ("INT8", "INT8 2:4"), ("INT8", "INT8 2:4 with ReLU")):
        ms = predictions[dense].ms
        share = (ms - predictions[sparse].ms) / ms
        lines.append(f"{sparse}: saves at most {share * ms:.2f} of {ms:.2f} ms, {100 * share:.1f} %")
        worth += [sparse] if share > WORTH else []
    if worth:
        return [*lines, f"2:4 may pay off in {', '.join(worth)}: only a build on the board shows"]
    most = BOUNDS[predictions["FP16"].bound]
    return [*lines, f"2:4 does not pay off here: most of the time goes to {most}, of which 2:4 saves little"]


def as_dict(predictions: Mapping[str, Prediction], board: Board) -> dict[str, Any]:
    """For JSON."""
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
    return LayerTime(work.name, (max(math, memory) + launch) * 1e3, bound)


def _math_seconds(work: Work, board: Board, precision: str, sparse: bool, reached: Fitted) -> float:
    if work.kind == "cuda":
        return work.macs / (_cuda_rate(board, precision) * reached.depthwise)
    tiles = _blocks(work.rows, TILE_ROWS) * _blocks(work.columns, TILE_COLUMNS)
    channels, block = -(-work.depth // work.taps), TILE_DEPTH // BYTES[precision]
    depth = work.taps * _blocks(channels, block) * block
    products = _blocks(tiles, board.sms) * board.sms * TILE_ROWS * TILE_COLUMNS * depth
    return products / (board.rate(precision, sparse) * reached.math)


def _cuda_rate(board: Board, precision: str) -> float:
    """Peak multiply-accumulates per second of the CUDA cores; FP16 and INT8 go in pairs."""
    vector = 1 if precision == "fp32" else 2
    return board.gpu.cuda_cores * vector * board.sms * board.gpu_mhz * 1e6


def _sparse_size(precision: str) -> float:
    """Size of 2:4 weights relative to dense ones: half of the values, and a two-bit index for each."""
    bits = 8 * BYTES[precision]
    return 0.5 * (bits + 2) / bits


def _blocks(count: int, size: int) -> int:
    return -(-count // size)
