"""What each choice of `fit` alone saves, predicted, and changes, measured: by the detector's boxes and confidences."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property

import numpy as np

from edgesparse.builder.objects import box_reader, object_masks
from edgesparse.compress.cost import int8_gains, sparse_gains
from edgesparse.compress.narrow import Narrowing, NarrowOptions
from edgesparse.compress.relu_places import behind_layers, measure, relu_gains
from edgesparse.compress.widths import Width
from edgesparse.errors import ModelError
from edgesparse.int8.calibration import CalibrationOptions
from edgesparse.int8.recover import RecoverOptions, changes
from edgesparse.model.load import Model
from edgesparse.progress import Progress
from edgesparse.sparsity.inspect import inspect
from edgesparse.sparsity.rebuild import FitData, States
from edgesparse.sparsity.reconstruct import ReconstructOptions, Task, sensitivity
from edgesparse.tasks.fit_network import Network, NotWorthIt, Settings, predicted
from edgesparse.tasks.fit_relu import Swap, evened_by_relu, relu_refitted
from edgesparse.tasks.inputs import read_model

INT8, SPARSE, RELU, CHANNELS = "INT8", "2:4", "ReLU", "channels"
WORTH = 0.01
"""The most that a kind of choice could save, as a share of the predicted time, below which it is not measured."""


class Changes:
    """The choices of one network, each alone. Each kind is measured when it is first asked for, and stored in the
    folder.
    """

    def __init__(self, network: Network, settings: Settings, progress: Progress) -> None:
        self.settings, self.progress, self.board = settings, progress, settings.board
        self.scored = read_model(network.recipe, settings.images, settings.options.count, None, progress)
        self.model = self.scored.model
        self.folder = settings.folder / "choices"
        self.ms, self.int8_ms = (predicted(self.model, self.board, precision) for precision in ("fp16", "int8"))
        self.layers = {layer.name for layer in inspect(self.model).layers}
        self.gains = int8_gains(self.model, self.board)
        self.sparse_gains = {kind: sparse_gains(self.model, self.board, kind) for kind in ("fp16", "int8")}
        self.behind = behind_layers(self.model)
        self.relu_gains = {kind: relu_gains(self.model, self.board, kind) for kind in ("fp16", "int8")}

    def task(self) -> Task:
        """What is known about the detector; its masks can be read once."""
        spec, images = self.scored.spec, self.scored.images
        return Task(read=box_reader(spec), objects=object_masks(self.model, images, spec))

    @cached_property
    def int8(self) -> Mapping[str, float]:
        """The change by INT8 in each layer alone. Raises ModelError."""
        return self._int8_changes("alone", lambda: self.model, ())

    def _int8_changes(self, part: str, model: Callable[[], Model], keep: Collection[str]) -> dict[str, float]:
        state = States(self.folder, self.model, FitData(self.scored.images), "INT8").of(part)
        stored = state.get("changes")
        if stored is None:
            options = RecoverOptions(CalibrationOptions("mse", self.scored.spec.input), keep=keep)
            reader = box_reader(self.scored.spec)
            layers = changes(model(), self.scored.images, options, reader, self.progress)
            stored = {"names": np.array([x.name for x in layers]), "changes": np.array([x.change for x in layers])}
            state.put("changes", stored)
        return dict(zip(stored["names"].tolist(), stored["changes"].tolist(), strict=True))

    @cached_property
    def sparse(self) -> Mapping[str, float]:
        """The change by 2:4 in each layer alone, refitted. Raises ModelError, NotWorthIt."""
        gains = _most(self.sparse_gains)
        if sum(gains.values()) < WORTH * self.ms:
            raise NotWorthIt(
                f"2:4 in every layer where TensorRT is likely to run it saves {sum(gains.values()):.3f} ms "
                "(predicted); no sparse INT8 kernel fits a layer with SiLU"
            )
        return self._sparse_changes(gains)

    @cached_property
    def evened(self) -> Mapping[str, str]:
        """The depthwise layers that INT8 leaves out because the channels that they read differ, and the layer behind
        which ReLU would let them be evened out.
        """
        if self.obstacle(INT8):
            return {}
        front = {place: layer for layer, place in self.behind.items()}
        readers = evened_by_relu(self.model).items()
        return {name: front[place] for name, place in readers if name not in self.int8 and self.gains.get(name, 0) > 0}

    @cached_property
    def relu(self) -> Mapping[str, Swap]:
        """ReLU behind a layer, by layer, with the 2:4 and INT8 that need it. Raises ModelError, NotWorthIt."""
        if not self.behind:
            raise NotWorthIt("no layer has SiLU or HardSwish behind it")
        gains24, gains8 = _most(self.relu_gains), {name: self.gains[name] for name in self.evened}
        saved24, saved8 = sum(gains24.values()), sum(gains8.values())
        if max(saved24, saved8) < WORTH * self.ms:
            raise NotWorthIt(
                f"2:4 that needs ReLU saves {saved24:.3f} ms, and INT8 in depthwise layers that needs it "
                f"{saved8:.3f} ms, of {self.ms:.2f} (predicted)"
            )
        sparse = self._sparse_changes(gains24) if saved24 >= WORTH * self.ms else {}
        int8 = self._evened_changes() if saved8 >= WORTH * self.ms else {}
        layers = dict.fromkeys((*sparse, *(self.evened[name] for name in int8)))
        only, reader = [self.behind[name] for name in layers], box_reader(self.scored.spec)
        alone = measure(self.model, self.scored.images, reader, self.folder, self.progress, only)
        return {
            layer: Swap(
                self.behind[layer],
                alone[self.behind[layer]],
                {name: change for name, change in sparse.items() if name == layer},
                {name: change for name, change in int8.items() if self.evened[name] == layer},
            )
            for layer in layers
        }

    def _evened_changes(self) -> dict[str, float]:
        """The change by INT8 in each layer of `evened` alone, in the network with ReLU before all of them."""
        places = [self.behind[name] for name in dict.fromkeys(self.evened.values())]
        keep = self.layers - set(self.evened)

        def model() -> Model:
            return relu_refitted(self.scored, places, self.folder, self.progress)

        return self._int8_changes(f"behind ReLU, {self.evened}", model, sorted(keep))

    def _sparse_changes(self, gains: Mapping[str, float]) -> dict[str, float]:
        options = ReconstructOptions(gains=gains, state_dir=self.folder)
        ranked = sensitivity(self.model, self.scored.images, options, self.task(), self.progress)
        return {choice.name: choice.change for choice in ranked}

    @cached_property
    def narrowing(self) -> Narrowing:
        """What removes channels. Raises ModelError, naming the node, if they cannot be followed."""
        options = NarrowOptions(device=self.settings.options.device, state_dir=self.folder)
        return Narrowing(self.model, self.scored.images, options, self.task(), self.progress)

    @cached_property
    def widths(self) -> Sequence[Width]:
        """The change by each smaller width alone. Raises ModelError, NotWorthIt."""
        widths = self.narrowing.widths()
        if not widths:
            raise NotWorthIt(f"no layer is predicted to be faster with fewer channels on {self.board}")
        return widths

    def obstacle(self, kind: str) -> str:
        """Return why the network has no choices of this kind; empty if it has."""
        measured = {INT8: "int8", SPARSE: "sparse", RELU: "relu", CHANNELS: "widths"}
        try:
            if not getattr(self, measured[kind]):
                return "no layer is eligible"
        except (ModelError, NotWorthIt) as reason:
            return str(reason)
        return ""


def _most(gains: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return the largest of each layer's gains, by precision and layer."""
    names = {name: None for each in gains.values() for name in each}
    return {name: max(each.get(name, 0.0) for each in gains.values()) for name in names}
