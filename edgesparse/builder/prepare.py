"""From the recipe's model to one that every candidate starts from, and to what it detects and how."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgesparse.backends import BuildOptions, Runner, backend
from edgesparse.classes import coco_names
from edgesparse.config import DetectorSpec, Recipe
from edgesparse.errors import ConfigError, ModelError
from edgesparse.model import load as models
from edgesparse.runtime.heads.families import HEADS, Layout
from edgesparse.runtime.heads.recognise import check, choose, names_in
from edgesparse.sparsity.inspect import Inspection, inspect


@dataclass(frozen=True)
class Prepared:
    """`fixed` has static shapes and is as it came otherwise; the file `simplified` has constants folded too, unless
    the recipe says no or the model carries Q/DQ. `layers` is what `inspect` says of that one."""

    fixed: models.Model
    simplified: Path
    spec: DetectorSpec
    quantised: bool
    layers: Inspection

    @property
    def sparse(self) -> bool:
        """Whether a layer is 2:4 and may run so."""
        return any(layer.state == "sparse" for layer in self.layers.layers)


def prepare(recipe: Recipe, folder: Path) -> Prepared:
    """Raises ModelError, ConfigError."""
    model = models.load(recipe.model)
    said = models.info(model)
    fixed = models.fix_shapes(model, recipe.build.batch.opt, recipe.input.size or said.size)
    quantised = any(node.op_type == "DequantizeLinear" for node in fixed.graph.node)
    plain, simplified = folder / "prepared.onnx", folder / "model.onnx"
    models.save(fixed, plain)
    cpu = backend("onnxruntime")
    cpu.build(plain, simplified, BuildOptions(recipe.build.threads, recipe.prepare.simplify))
    with cpu.load(simplified, recipe.build.threads) as runner:
        shape = next(spec.shape for spec in runner.inputs if len(spec.shape) == 4)
        layout = Layout(runner.outputs, (shape[2], shape[3]))
        spec = specify(recipe, said, find_head(recipe, said, runner, layout), layout)
    if quantised or not recipe.prepare.simplify:
        simplified = plain
    else:
        _forget_domains(simplified)
    return Prepared(fixed, simplified, spec, quantised, inspect(models.load(simplified)))


def _forget_domains(path: Path) -> None:
    """ONNX Runtime names operator sets of its own in what it writes; nothing of it uses them."""
    model = models.load(path)
    used = {node.domain for node in model.graph.node}
    kept = [entry for entry in model.opset_import if entry.domain in used | {"", "ai.onnx"}]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    models.save(model, path)


def find_head(recipe: Recipe, said: models.ModelInfo, runner: Runner, layout: Layout) -> str:
    """The recipe's head if it fits, else the one that the outputs tell of. Raises ModelError."""
    if recipe.head == "auto":
        return choose(layout, said.metadata, _sample(runner))
    check(recipe.head, layout)
    return recipe.head


def specify(recipe: Recipe, said: models.ModelInfo, head: str, layout: Layout) -> DetectorSpec:
    """Classes and pre-processing: what the recipe says, else what model and convention say."""
    convention = HEADS[head].convention.model_copy(update={"size": layout.size})
    classes = _classes(recipe, said, HEADS[head].classes(layout))
    return DetectorSpec(head=head, classes=classes, input=recipe.input.resolve(convention))


def _sample(runner: Runner) -> list[np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
    """Outputs for an image of noise: enough to tell decoded boxes from offsets on a grid."""
    buffers = runner.allocate()
    noise = np.random.default_rng(0)
    for spec in runner.inputs:
        buffers[spec.name][...] = noise.random(spec.shape).astype(spec.dtype)
    runner.bind(buffers)
    runner.infer()
    return [buffers[spec.name].copy() for spec in runner.outputs]


def _classes(recipe: Recipe, said: models.ModelInfo, count: int | None) -> tuple[str, ...]:
    if isinstance(recipe.classes, tuple):
        names = recipe.classes
    elif recipe.classes == "coco":
        names = coco_names()
    else:
        found = names_in(said.metadata)
        if found is None and count is None:
            raise ModelError("neither the file nor its outputs tell the classes: set 'classes:' in the recipe")
        names = found or tuple(map(str, range(count or 0)))
    if count is not None and len(names) != count:
        raise ConfigError(f"classes: found {len(names)} names, the network has {count} classes: make them equal")
    return names
