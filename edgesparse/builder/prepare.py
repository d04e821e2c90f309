"""What a model detects and how, and the static, simplified model from which every candidate is built."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgesparse.backends import Backend, BuildOptions, Runner, TensorSpec, backend
from edgesparse.builder.child.memory import Budget
from edgesparse.builder.child.process import Workers
from edgesparse.classes import coco_names
from edgesparse.config import Batch, Camera, DetectorSpec, Recipe, Run
from edgesparse.disk import scratch
from edgesparse.errors import BuildError, ConfigError, ModelError
from edgesparse.head_table import absolute_head
from edgesparse.model import load as models
from edgesparse.model.check import require_finite
from edgesparse.predict.fusion import Work, fused_layers
from edgesparse.runtime.heads.base import Head, Layout
from edgesparse.runtime.heads.recognize import check, choose, keypoints_in, names_in, raw_maps
from edgesparse.runtime.heads.registry import head as head_of
from edgesparse.runtime.network_inputs import fixed_inputs, image_input
from edgesparse.sparsity.inspect import Inspection, inspect
from edgesparse.tiles import Tiles, parts_of

FULL_HD = 1920, 1080
"""Width and height of frames whose camera sets none."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """A model ready to be built.

    `fixed` has static shapes and is otherwise unchanged. The file `simplified` also has its constants folded, unless
    the recipe forbids it or the model has Q/DQ pairs. `layers` is the 2:4 inspection of `simplified`.
    """

    fixed: models.Model
    simplified: Path
    spec: DetectorSpec
    quantized: bool
    layers: Inspection
    slim: Path | None = None
    """The file with rewrites that are predicted to make it faster, if there are any."""
    _fused: dict[bool, tuple[Work, ...]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def source(self, slim: bool) -> Path:
        """Return the file that candidates are built from, or that of the rewritten network."""
        if not slim:
            return self.simplified
        assert self.slim is not None
        return self.slim

    def fused(self, slim: bool) -> tuple[Work, ...]:
        """Return the layers of `source(slim)` as a board runs them (predict/fusion.py). Each file is read once."""
        if slim not in self._fused:
            self._fused[slim] = fused_layers(models.load(self.source(slim)))
        return self._fused[slim]

    @property
    def sparse(self) -> bool:
        """Whether any layer is 2:4 and may run sparse."""
        return any(layer.state == "sparse" for layer in self.layers.layers)


@dataclass(frozen=True)
class Build:
    """A build in progress: the prepared model, the backend and workers, and the limits. `folder` holds the files that
    candidates are built from and the engines.
    """

    recipe: Recipe
    backend: Backend
    folder: Path
    prepared: Prepared
    workers: Workers
    budget: Budget


def detector_spec(model: models.Model, recipe: Recipe) -> DetectorSpec:
    """Return head, classes and input of `model` under `recipe`, without building anything. The model is loaded by ONNX
    Runtime; it runs once, on noise, if `head` is `auto`. Raises ModelError, ConfigError.
    """
    with open_static(model, recipe) as runner:
        info = models.info(model)
        layout = layout_of(runner, recipe, info)
        return specify(recipe, info, find_head(recipe, info, runner, layout), layout)


def with_batch(recipe: Recipe) -> Recipe:
    """Return the recipe with the batch that a frame and its tiles need, unless it sets `build.batch` itself.

    The frame's size is that of the cameras, or FULL_HD. A network whose batch cannot change keeps its own: it runs
    several times per frame. Raises ModelError, and ConfigError for too many tiles.
    """
    run = recipe.run
    tiled = [camera for camera in run.cameras or (None,) if _tiles(run, camera) is not None]
    if "batch" in recipe.build.model_fields_set or not tiled:
        return recipe
    model = models.load(recipe.model)
    size = recipe.input.size or models.info(model).size
    if size is None:
        return recipe
    most = 1
    for camera in tiled:
        tiles, (width, height) = _tiles(run, camera), (camera and camera.size) or FULL_HD
        assert tiles is not None
        most = max(most, 1 + len(parts_of(tiles, (height, width), size)))
    batch = Batch(min=most, opt=most, max=most)
    changed = recipe.model_copy(update={"build": recipe.build.model_copy(update={"batch": batch})})
    if fault := _without_batch(model, changed):
        _log.warning("a frame and its tiles are %d images, which the engine gets one by one: %s", most, fault)
        return recipe
    return changed


def _without_batch(model: models.Model, recipe: Recipe) -> str:
    """Return why the network cannot run with the recipe's batch; empty if it can, which one inference shows."""
    batch = recipe.build.batch.opt
    try:
        with open_static(model, recipe) as runner:
            sample_of(runner)
            single = [str(spec) for spec in runner.outputs if spec.shape[:1] != (batch,)]
    except (ModelError, BuildError) as error:
        return str(error)
    return f"its output {single[0]} does not grow with the batch" if single else ""


def _tiles(run: Run, camera: Camera | None) -> Tiles | None:
    tiles = (run if camera is None else run.seen_by(camera)).tiles
    return tiles if isinstance(tiles, Tiles) else None


def prepare(recipe: Recipe, folder: Path) -> Prepared:
    """Write the files that candidates start from into `folder`. Raises ModelError, ConfigError."""
    model = models.load(recipe.model)
    require_finite(model)
    info = models.info(model)
    fixed = static_model(model, recipe.build.batch.opt, recipe.input.size or info.size)
    quantized = any(node.op_type == "DequantizeLinear" for node in fixed.graph.node)
    static, simplified = folder / "prepared.onnx", folder / "model.onnx"
    models.save(fixed, static)
    cpu = backend("onnxruntime")
    cpu.build(static, simplified, BuildOptions(recipe.build.threads, recipe.prepare.simplify))
    with cpu.load(simplified, recipe.build.threads) as runner:
        layout = layout_of(runner, recipe, info)
        spec = specify(recipe, info, find_head(recipe, info, runner, layout), layout)
    if quantized or not recipe.prepare.simplify:
        simplified = static
    else:
        _drop_unused_domains(simplified)
    return Prepared(fixed, simplified, spec, quantized, inspect(models.load(simplified)))


def static_model(model: models.Model, batch: int, size: tuple[int, int] | None) -> models.Model:
    """Return a copy with static shapes, without feature maps next to decoded boxes. Raises ModelError."""
    fixed = models.fix_shapes(model, batch, size)
    info = models.info(fixed)
    if info.size is None or any(None in shape for shape in info.outputs.values()):
        return fixed
    specs = tuple(TensorSpec(name, tuple(map(int, shape)), "") for name, shape in info.outputs.items())  # type: ignore[arg-type]
    dropped = raw_maps(Layout(specs, info.size))
    if dropped:
        kept = [value for value in fixed.graph.output if value.name not in dropped]
        del fixed.graph.output[:]
        fixed.graph.output.extend(kept)
        _log.warning("the outputs %s are feature maps for training: left out", ", ".join(dropped))
    return fixed


@contextmanager
def open_static(model: models.Model, recipe: Recipe) -> Iterator[Runner]:
    """Return an ONNX Runtime runner for `model` at the recipe's batch and input size. Raises ModelError."""
    size = recipe.input.size or models.info(model).size
    with scratch() as folder:
        path = folder / recipe.model.name
        models.save(static_model(model, recipe.build.batch.opt, size), path)
        try:
            runner = backend("onnxruntime").load(path, recipe.build.threads)
        except BuildError as error:
            raise ModelError(str(error).removeprefix(f"{folder}/")) from error
        with runner:
            yield runner


def layout_of(runner: Runner, recipe: Recipe, info: models.ModelInfo) -> Layout:
    """Return the layout by which heads are recognized."""
    shape = next(spec.shape for spec in runner.inputs if len(spec.shape) == 4)
    return Layout(runner.outputs, (shape[2], shape[3]), recipe.keypoints or keypoints_in(info.metadata))


def _drop_unused_domains(path: Path) -> None:
    """Remove ONNX Runtime's own operator sets, which it lists in every file it writes."""
    model = models.load(path)
    used = {node.domain for node in model.graph.node}
    kept = [entry for entry in model.opset_import if entry.domain in used | {"", "ai.onnx"}]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    models.save(model, path)


def find_head(recipe: Recipe, info: models.ModelInfo, runner: Runner, layout: Layout) -> str:
    """Return the recipe's head if it fits the outputs; with `auto`, the head they match. Raises ModelError."""
    if recipe.head == "auto":
        return choose(layout, info.metadata, sample_of(runner))
    head = absolute_head(recipe.head)
    check(head, layout)
    return head


def specify(recipe: Recipe, info: models.ModelInfo, head: str, layout: Layout) -> DetectorSpec:
    """Return class names and input from the recipe, otherwise from the model's metadata and the head's convention."""
    family = head_of(head)
    convention = family.convention.model_copy(update={"size": layout.size})
    classes = _classes(recipe, info, family, layout)
    keypoints = layout.keypoints if family.task == "pose" else None
    return DetectorSpec(head=head, classes=classes, input=recipe.input.resolve(convention), keypoints=keypoints)


def sample_of(runner: Runner) -> list[np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
    """Return the outputs for an image of noise, which suffice to tell decoded boxes from grid offsets."""
    buffers = runner.allocate()
    image = image_input(runner)
    buffers[image.name][...] = np.random.default_rng(0).random(image.shape).astype(image.dtype)
    for name, values in fixed_inputs(runner, image):
        buffers[name][...] = values
    runner.bind(buffers)
    runner.infer()
    return [buffers[spec.name].copy() for spec in runner.outputs]


def _classes(recipe: Recipe, info: models.ModelInfo, head: Head, layout: Layout) -> tuple[str, ...]:
    count = head.classes(layout)
    if isinstance(recipe.classes, tuple):
        names = recipe.classes
    elif recipe.classes == "coco":
        names = coco_names(head.coco_ids)
    else:
        stored = names_in(info.metadata)
        if stored is None and count is None:
            raise ModelError("found class names neither in the file nor in its outputs: set 'classes:' in the recipe")
        names = stored or tuple(map(str, range(count or 0)))
    if count is not None and len(names) != count:
        raise ConfigError(f"classes: found {len(names)} names, needed {count}, the model's number of classes")
    return names
