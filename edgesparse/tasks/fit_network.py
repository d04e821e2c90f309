"""The networks that `fit` starts from and leads to, and how fast each is predicted to be."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgesparse.builder.prepare import detector_spec
from edgesparse.compress import SlimOptions
from edgesparse.compress.cost import cost, int8_gains, sparse_gains
from edgesparse.compress.relu_places import places, with_relu_at
from edgesparse.config import DetectorSpec, Recipe
from edgesparse.errors import ConfigError
from edgesparse.model.load import Model, info, load, save
from edgesparse.predict import boards
from edgesparse.progress import Progress
from edgesparse.sparsity.inspect import inspect
from edgesparse.tasks.inputs import static_model
from edgesparse.tasks.slim import slim_file
from edgesparse.tasks.writing import write

SIDE = 0.8
"""Factor of the input's sides that is tried."""
GRID = 32
"""Multiple that a smaller input's sides are rounded to: the largest stride of these detectors."""


class NotWorthIt(Exception):
    """A choice cannot help this network; the message is the reason."""


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """What `fit` searches for.

    - `annotations`, `annotated_images`: labels to choose on; never those that the result is reported on. None for
    agreement with the float network, on as many other images again as it is chosen on.
    - `images`: images to calibrate and refit on; default: the recipe's `calibrate.images`; `count` are used, evenly
      spaced.
    - `device`: the board to predict for. `target_ms`: stop at this predicted latency.
    - `max_drop`: lose at most this many points of mAP (0 to 100); default 1, and 15 points of agreement.
    - `minutes`: start nothing and stop what is in progress after this time. `force`: replace an earlier result.
    - `students`: networks that were trained for the same task, such as one with ReLU, to start from as well.
    - `steps`: train the weights of each network with 2:4 layers for so many steps, after refitting.
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
    students: Sequence[str | Path] = ()
    steps: int = 0
    names: str | None = None
    force: bool = False


@dataclass(frozen=True)
class Settings:
    """The options of `fit`, the recipe to start from, images to calibrate on, and the folder of the networks' files."""

    options: FitOptions
    source: Recipe
    images: str
    folder: Path

    @property
    def board(self) -> boards.Board:
        return boards.board(self.options.device)


@dataclass(frozen=True)
class Network:
    """One network of the search: its float model with static shapes, its recipe, and its engine's precision.

    `quantized`: the model with Q/DQ. `floats`: layers that stay in FP16; `sparse`: layers that are 2:4. `ms` is
    predicted.
    """

    model: Path
    recipe: Recipe
    precision: str = "fp32"
    quantized: Path | None = None
    floats: tuple[str, ...] = ()
    sparse: tuple[str, ...] = ()
    ms: float = 0.0

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
        )


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
    """Predict the latency, as `predicted` does."""
    return predicted(load(network.model), settings.board, network.precision, network.floats, network.sparse)


def predicted(
    model: Model, board: boards.Board, precision: str, floats: Collection[str] = (), sparse: Collection[str] = ()
) -> float:
    """Predict milliseconds: layers `floats` of an INT8 engine in FP16, `sparse` 2:4 where TensorRT likely runs that.

    Float layers that follow each other are each taken to convert their output, so it is an upper bound.
    """
    ms = cost(model, board, precision).ms
    if floats:
        gains = int8_gains(model, board)
        ms += sum(max(gains.get(name, 0.0), 0.0) for name in floats)
    for kind, names in (("fp16", set(sparse) & set(floats)), (precision, set(sparse) - set(floats))):
        saved = sparse_gains(model, board, kind) if names else {}
        ms -= sum(saved.get(name, 0.0) for name in names)
    return ms


def least_milliseconds(network: Network, settings: Settings) -> float:
    """Predict the latency in INT8 with 2:4 in every layer where TensorRT likely runs that, with ReLU where it needs it.

    What a search from `network` may reach at best without removing channels.
    """
    model = load(network.model)
    model = with_relu_at(model, list(places(model)))
    layers = [layer.name for layer in inspect(model).layers]
    return predicted(model, settings.board, "int8", (), layers)


def starts(first: Network, settings: Settings, progress: Progress) -> Iterator[tuple[str, Network | NotWorthIt]]:
    """Yield the networks to start from, by name, or why one is not: the outer choices, each as it is and rewritten.

    Those are the original, a smaller input, and the students, whose activations may be others.
    """
    yield "", first
    yield "slim", slimmed(first, settings, "slim", progress)
    try:
        smaller = _smaller(first, settings)
        yield "smaller input", smaller
        yield "smaller input, slim", slimmed(smaller, settings, "smaller-slim", progress)
    except NotWorthIt as reason:
        yield "smaller input", reason
    for number, path in enumerate(settings.options.students):
        recipe = settings.source.model_copy(update={"model": Path(path)})
        student = base(recipe, settings, f"student-{number}")
        name = f"student {Path(path).name}"
        yield name, student
        yield f"{name}, slim", slimmed(student, settings, f"student-{number}-slim", progress)


def moved(network: Network, path: Path, **changes: Any) -> Network:
    """Return the network with its float model at `path`."""
    recipe = _recipe(network.recipe, path, network.recipe.head, network.recipe.input.size)
    return replace(network, model=path, recipe=recipe, **changes)


def _recipe(recipe: Recipe, model: Path, head: str, size: tuple[int, int] | None) -> Recipe:
    changes = {"model": model, "head": head, "input": recipe.input.model_copy(update={"size": size})}
    return recipe.model_copy(update=changes)


def _smaller(network: Network, settings: Settings) -> Network:
    """A smaller input, from the recipe's own model; only for models that take several sizes."""
    height, width = network.recipe.input.size or (0, 0)
    size = tuple(max(GRID, int(side * SIDE) // GRID * GRID) for side in (height, width))
    source = settings.source
    if size == (height, width):
        raise NotWorthIt(f"the input of {height}x{width} is as small as a grid of {GRID} allows")
    if info(load(source.model)).size is not None:
        raise NotWorthIt(f"the model's input is fixed at {height}x{width}: export it with dynamic sides")
    return base(_recipe(source, source.model, source.head, (size[0], size[1])), settings, "smaller")


def slimmed(network: Network, settings: Settings, name: str, progress: Progress) -> Network:
    """Rewrite the float network with `slim`, for INT8. Raises ModelError."""
    path = settings.folder / f"{name}.onnx"
    options = SlimOptions(head=network.recipe.head, device=settings.options.device, precision="int8")
    report = slim_file(network.recipe, path, options, force=True, progress=progress).report
    head = report.head or network.recipe.head
    return replace(network, model=path, recipe=_recipe(network.recipe, path, head, network.recipe.input.size))
