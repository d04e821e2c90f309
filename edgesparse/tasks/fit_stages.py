"""Turns a plan into a network, in stages: channels removed, ReLU, layers 2:4, INT8. Each is stored, and done once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from edgesparse.model.load import load, save
from edgesparse.model.threads import blas_on_one_core
from edgesparse.progress import Progress
from edgesparse.sparsity.inspect import inspect
from edgesparse.sparsity.reconstruct import ReconstructOptions, Task, reconstruct
from edgesparse.tasks.fit_changes import CHANNELS, INT8, RELU, SPARSE
from edgesparse.tasks.fit_choices import Choices, Plan
from edgesparse.tasks.fit_costs import Costs
from edgesparse.tasks.fit_network import Network, Settings, milliseconds, moved
from edgesparse.tasks.fit_relu import relu_refitted
from edgesparse.tasks.inputs import read_model
from edgesparse.tasks.quantize import QuantizeOptions, quantize_file
from edgesparse.tasks.training import refiner
from edgesparse.tasks.writing import write


class Stages:
    """Makes networks, and remembers them in `costs`."""

    def __init__(self, settings: Settings, costs: Costs, progress: Progress) -> None:
        self.settings, self.costs, self.progress = settings, costs, progress

    def of(self, start: Network, plan: Plan, choices: Choices) -> Iterator[tuple[str, Network]]:
        """Yield each stage from `start` to the network of `plan`, by the kind of choice that it adds.

        Raises what `narrow`, `relu_refitted`, `reconstruct` and `quantize_file` raise.
        """
        network = replace(start, precision="fp16")
        if plan.dropped:
            key = self.costs.key(CHANNELS, plan.dropped, network, self.settings)
            network = self._stored(key, network) or self._put(key, self._narrowed(network, plan, choices, key))
            yield CHANNELS, network
        if plan.relu:
            key = self.costs.key(RELU, plan.relu, network, self.settings)
            network = self._stored(key, network) or self._put(key, self._with_relu(network, plan, key))
            yield RELU, network
        if plan.sparse:
            key = self.costs.key(SPARSE, plan.sparse, network, self.settings)
            network = self._stored(key, network) or self._put(key, self._sparse(network, plan, key))
            yield SPARSE, network
        if plan.int8:
            key = self.costs.key(INT8, (*plan.int8, "sparse", *network.sparse), network, self.settings)
            network = self._stored(key, network) or self._put(key, self._quantized(network, plan, choices, key))
            yield INT8, network

    def _stored(self, key: str, network: Network) -> Network | None:
        return self.costs.get(key, network)

    def _put(self, key: str, network: Network) -> Network:
        network = replace(network, ms=milliseconds(network, self.settings))
        self.costs.put(key, network)
        return network

    def _narrowed(self, network: Network, plan: Plan, choices: Choices, key: str) -> Network:
        path = self.settings.folder / f"{key[:12]}.onnx"
        with blas_on_one_core():
            model, _ = choices.narrowing.without(plan.dropped)
        write(path, lambda file: save(model, file))
        return moved(network, path)

    def _with_relu(self, network: Network, plan: Plan, key: str) -> Network:
        """Put ReLU where the plan says, except behind layers that went with their channels."""
        settings, path = self.settings, self.settings.folder / f"{key[:12]}.onnx"
        scored = read_model(network.recipe, settings.images, settings.options.count, None, self.progress)
        model = relu_refitted(scored, plan.relu, settings.folder / "choices", self.progress)
        write(path, lambda file: save(model, file))
        return moved(network, path)

    def _sparse(self, network: Network, plan: Plan, key: str) -> Network:
        """Make the layers of the plan 2:4 that still can be: without channels, some may be too narrow, or gone."""
        settings, path = self.settings, self.settings.folder / f"{key[:12]}.onnx"
        scored = read_model(network.recipe, settings.images, settings.options.count, None, self.progress)
        able = {layer.name for layer in inspect(scored.model).layers if layer.eligible}
        names = tuple(name for name in plan.sparse if name in able)
        if not names:
            return network
        task = Task()
        if settings.options.steps:
            count, steps = settings.options.count, settings.options.steps
            task = Task(refine=refiner(scored, str(settings.images), count, steps, self.progress))
        options24 = ReconstructOptions(layers=names, state_dir=settings.folder / "choices")
        model, _ = reconstruct(scored.model, scored.images, options24, task, self.progress)
        write(path, lambda file: save(model, file))
        return moved(network, path, sparse=names)

    def _quantized(self, network: Network, plan: Plan, choices: Choices, key: str) -> Network:
        settings, path = self.settings, self.settings.folder / f"{key[:12]}-int8.onnx"
        left = {layer.name for layer in inspect(load(network.model)).layers}
        options = QuantizeOptions(
            images=settings.images,
            count=settings.options.count,
            placement="sparse" if network.sparse else "fuse",
            keep=[name for name in (*choices.int8, *choices.evened) if name in left and name not in plan.int8],
            exact=True,
            calibration=settings.folder / f"{network.model.stem}-ranges.json",
            force=True,
        )
        report = quantize_file(network.recipe, path, options, self.progress).report
        floats = tuple(layer.name for layer in report.layers if not layer.int8)
        return replace(network, quantized=path, precision="int8", floats=floats)
