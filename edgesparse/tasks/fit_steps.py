"""The steps that `fit` tries, each from one network to a faster one, with the verbs' own functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgesparse.builder.prepare import detector_spec
from edgesparse.compress import SlimOptions
from edgesparse.compress.cost import cost, int8_gains
from edgesparse.config import DetectorSpec, Recipe
from edgesparse.errors import ConfigError
from edgesparse.model.activations import input_name
from edgesparse.model.load import Model, info, load, save
from edgesparse.predict import boards, fusion, roofline
from edgesparse.progress import Progress
from edgesparse.sparsity.reconstruct_report import ReconstructReport
from edgesparse.tasks.inputs import static_model
from edgesparse.tasks.prune import PruneMethod, PruneOptions, PruneResult, prune_file
from edgesparse.tasks.quantize import QuantizeOptions, quantize_file
from edgesparse.tasks.slim import slim_file
from edgesparse.tasks.writing import write

FOR_PRUNING = 0.7
"""Share of the budget that pruning in float may use: INT8 costs the rest."""
SIDE = 0.8
"""Factor of the input's sides that is tried."""
GRID = 32
"""Multiple that a smaller input's sides are rounded to: the largest stride of these detectors."""
WORTH = 0.01
"""The most that 2:4 could save, as a share of the predicted time, below which it is not tried."""


class NotWorthIt(Exception):
    """A step cannot help this network; the message is the reason."""


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """What `fit` searches for.

    - `annotations`, `annotated_images`: labels to choose steps on; never those that the result is reported on. None for
    agreement with the float network, on as many other images again as it is chosen on.
    - `images`: images to calibrate and refit on; default: the recipe's `calibrate.images`; the first `count` are used.
    - `device`: the board to predict for. `target_ms`: stop at this predicted latency.
    - `max_drop`: lose at most this many points of mAP (0 to 100); default 1, and 15 points of agreement.
    - `minutes`: start nothing and stop the current step after this time. `force`: replace an earlier result.
    - `build`: build and time this many of the best networks on this machine; the fastest is the result.
    """

    annotations: str | Path | None = None
    annotated_images: str | Path | None = None
    images: str | Path | None = None
    count: int = 160
    device: str = "orin-nano-8gb"
    target_ms: float | None = None
    max_drop: float | None = None
    minutes: float | None = None
    build: int = 0
    names: str | None = None
    force: bool = False


@dataclass(frozen=True)
class Settings:
    """The options of `fit`, the recipe to start from, images to calibrate on, the folder of the steps' files, and the
    labels to choose steps on.
    """

    options: FitOptions
    source: Recipe
    images: str
    folder: Path
    annotations: str | Path | None = None
    annotated_images: str | Path | None = None

    @property
    def board(self) -> boards.Board:
        return boards.board(self.options.device)


@dataclass(frozen=True)
class Network:
    """One network of the search: its float model with static shapes, its recipe, and its engine's precision.

    `quantized`: the model with Q/DQ. `floats`: layers that stay in FP16; `sparse`: layers that are 2:4. `ms` is
    predicted, `score` measured.
    """

    model: Path
    recipe: Recipe
    precision: str = "fp32"
    quantized: Path | None = None
    floats: tuple[str, ...] = ()
    sparse: tuple[str, ...] = ()
    ms: float = 0.0
    score: float = 0.0

    def as_dict(self, folder: Path) -> dict[str, Any]:
        """Return JSON-compatible values, with paths relative to `folder`."""
        size = self.recipe.input.size
        return {
            "model": str(self.model.relative_to(folder)),
            "quantized": None if self.quantized is None else str(self.quantized.relative_to(folder)),
            "head": self.recipe.head,
            "size": None if size is None else list(size),
            "precision": self.precision,
            "floats": self.floats,
            "sparse": self.sparse,
            "ms": self.ms,
            "score": self.score,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any], recipe: Recipe, folder: Path) -> Network | None:
        """Return what `as_dict` stored, or None if its files are gone."""
        model, quantized = folder / values["model"], values["quantized"] and folder / values["quantized"]
        if not model.exists() or (quantized is not None and not quantized.exists()):
            return None
        return cls(
            model,
            _recipe(recipe, model, values["head"], values["size"] and tuple(values["size"])),
            values["precision"],
            quantized,
            tuple(values["floats"]),
            tuple(values["sparse"]),
            values["ms"],
            values["score"],
        )


Step = Callable[[Network, Settings, float, Progress], Network]
"""From a network, the settings, and the points of mAP that may still be lost, to another network."""


def base(recipe: Recipe, settings: Settings, name: str = "base") -> Network:
    """Write the recipe's model with static shapes and constants folded. Raises ConfigError, ModelError."""
    model, spec = static_model(recipe)
    if any(node.op_type == "DequantizeLinear" for node in model.graph.node):
        raise ConfigError(f"{recipe.model} holds Q/DQ: fit needs the float model, and quantizes it")
    path = settings.folder / f"{name}.onnx"
    write(path, lambda file: save(model, file))
    return Network(path, _recipe(recipe, path, spec.head, spec.input.size))


def scored(network: Network) -> tuple[Model, DetectorSpec]:
    """Return the model that decides on a network's score, and how it is read."""
    model = load(network.model)
    spec = detector_spec(model, network.recipe)
    return (model if network.quantized is None else load(network.quantized)), spec


def milliseconds(network: Network, settings: Settings) -> float:
    """Predict the latency: float layers of an INT8 engine in FP16, 2:4 where TensorRT is likely to run it.

    Float layers that follow each other are each taken to convert their output, so it is an upper bound.
    """
    model, board = load(network.model), settings.board
    ms = cost(model, board, network.precision).ms
    if network.floats:
        gains = int8_gains(model, board)
        ms += sum(max(gains.get(name, 0.0), 0.0) for name in network.floats)
    if network.sparse:
        ms -= sum(ms for name, ms in _sparse_gains(network, board).items() if name in network.sparse)
    return ms


def _sparse_gains(network: Network, board: boards.Board) -> dict[str, float]:
    """Return the milliseconds that 2:4 is likely to save in each layer, of those that are not in float."""
    model = load(network.model)
    size = detector_spec(model, network.recipe).input.size
    works = fusion.fused_layers(model, {input_name(model): (1, 3, *size)})
    dense = roofline.predict(works, board, network.precision)
    sparse = roofline.predict(works, board, network.precision, "likely")
    pairs = zip(dense.layers, sparse.layers, strict=True)
    return {before.name: before.ms - after.ms for before, after in pairs if before.name not in network.floats}


def _recipe(recipe: Recipe, model: Path, head: str, size: tuple[int, int] | None) -> Recipe:
    changes = {"model": model, "head": head, "input": recipe.input.model_copy(update={"size": size})}
    return recipe.model_copy(update=changes)


def _int8(network: Network, settings: Settings, left: float, progress: Progress) -> Network:
    return _quantized(replace(network, precision="int8"), "int8", settings, network.score - left, progress)


def _smaller(network: Network, settings: Settings, left: float, progress: Progress) -> Network:
    """A smaller input, from the recipe's own model; only for models that take several sizes."""
    height, width = network.recipe.input.size or (0, 0)
    size = tuple(max(GRID, int(side * SIDE) // GRID * GRID) for side in (height, width))
    source = settings.source
    if size == (height, width):
        raise NotWorthIt(f"the input of {height}x{width} is as small as a grid of {GRID} allows")
    if info(load(source.model)).size is not None:
        raise NotWorthIt(f"the model's input is fixed at {height}x{width}: export it with dynamic sides")
    smaller = base(_recipe(source, source.model, source.head, (size[0], size[1])), settings, "smaller")
    smaller = replace(smaller, precision=network.precision)
    return _quantized(smaller, "smaller", settings, network.score - left, progress)


def _slim(network: Network, settings: Settings, left: float, progress: Progress) -> Network:
    return _quantized(slimmed(network, settings, progress), "slim", settings, network.score - left, progress)


def slimmed(network: Network, settings: Settings, progress: Progress) -> Network:
    """Rewrite the float network with `slim`, for the precision that it runs in."""
    precision = "int8" if network.precision == "int8" else "fp16"
    path = settings.folder / "slim.onnx"
    options = SlimOptions(head=network.recipe.head, device=settings.options.device, precision=precision)
    report = slim_file(network.recipe, path, options, force=True, progress=progress).report
    head = report.head or network.recipe.head
    return replace(network, model=path, recipe=_recipe(network.recipe, path, head, network.recipe.input.size))


def _channels(network: Network, settings: Settings, left: float, progress: Progress) -> Network:
    path, _ = _pruned(network, settings, left, progress, "channels")
    recipe = _recipe(network.recipe, path, network.recipe.head, network.recipe.input.size)
    network = replace(network, model=path, recipe=recipe)
    return _quantized(network, "channels", settings, network.score - left, progress)


def _sparse(network: Network, settings: Settings, left: float, progress: Progress) -> Network:
    gains = {name: ms for name, ms in _sparse_gains(network, settings.board).items() if ms > 0}
    most = sum(gains.values())
    if most < WORTH * network.ms:
        raise NotWorthIt(
            f"2:4 in every layer where TensorRT is likely to run it saves {most:.3f} ms (predicted); no sparse INT8 "
            "kernel fits a layer with SiLU"
        )
    path, result = _pruned(network, settings, left, progress, "reconstruct", gains)
    assert isinstance(result.report, ReconstructReport)
    sparse = tuple(layer.name for layer in result.report.layers if layer.state == "sparse")
    recipe = _recipe(network.recipe, path, network.recipe.head, network.recipe.input.size)
    network = replace(network, model=path, recipe=recipe, sparse=sparse)
    return _quantized(network, "sparse", settings, network.score - left, progress)


def _pruned(
    network: Network,
    settings: Settings,
    left: float,
    progress: Progress,
    method: PruneMethod,
    gains: Mapping[str, float] | None = None,
) -> tuple[Path, PruneResult]:
    if left <= 0:
        raise NotWorthIt("nothing is left of the points that may be lost")
    options, path = settings.options, settings.folder / f"{method}.onnx"
    chosen = PruneOptions(
        method=method,
        images=settings.images,
        count=options.count,
        max_drop=FOR_PRUNING * left,
        device=options.device if gains is None else None,
        gains=gains,
        annotations=settings.annotations,
        annotated_images=settings.annotated_images,
        state=settings.folder / f"{method}-state",
        force=True,
    )
    return path, prune_file(network.recipe, path, chosen, progress)


def _quantized(network: Network, name: str, settings: Settings, least: float, progress: Progress) -> Network:
    """Quantize the float model again, unless the engine is FP16.

    If it scores less than `least` points, those layers stay in float that lose most for the time they save.
    """
    if network.precision != "int8":
        return network
    path = settings.folder / f"{name}-int8.onnx"
    options = QuantizeOptions(
        images=settings.images,
        count=settings.options.count,
        placement="sparse" if network.sparse else "fuse",
        min_map=least,
        calibration=settings.folder / f"{name}-ranges.json",
        device=settings.options.device,
        annotations=settings.annotations,
        annotated_images=settings.annotated_images,
        force=True,
    )
    report = quantize_file(network.recipe, path, options, progress).report
    floats = tuple(layer.name for layer in report.layers if not layer.int8)
    return replace(network, quantized=path, floats=floats)


STEPS: dict[str, Step] = {
    "INT8": _int8,
    "smaller input": _smaller,
    "slim": _slim,
    "channels": _channels,
    "2:4": _sparse,
}
