"""The parts of TensorRT's runtime that a Runner calls, on the fake GPU."""

from __future__ import annotations

import ctypes
import json
from enum import Enum
from types import SimpleNamespace
from typing import Any

import numpy as np
from fake_gpu import Fake
from numpy.typing import NDArray

from edgesparse.backends.tensorrt.context import DTYPES
from edgesparse.backends.tensorrt.image_format import LAYOUTS


class TensorIOMode(Enum):
    INPUT, OUTPUT = 1, 2


def plan(**settings: Any) -> bytes:
    """A plan for the fake: `tensors` (name -> [mode, shape, type]) and other settings of Engine."""
    return json.dumps(settings).encode()


SMALL = {"images": ["INPUT", [2, 3], "FLOAT"], "boxes": ["OUTPUT", [2, 3], "HALF"], "count": ["OUTPUT", [], "INT32"]}
"""Its engine computes boxes = 2 * images and count = the number of runs."""


class Engine:
    def __init__(self, fake: Fake, settings: dict[str, Any]) -> None:
        self.fake, self.settings, self.tensors = fake, settings, settings["tensors"]
        self.num_io_tensors, self.name = len(self.tensors), settings.get("name", "")
        self.device_memory_size = settings.get("activations", 1000)
        self.released = False
        self.create_execution_context_without_device_memory = self._bare_context  # until release 11

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode[self.tensors[name][0]]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.tensors[name][1])

    def get_tensor_dtype(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(name=self.tensors[name][2])

    def get_tensor_format(self, name: str) -> SimpleNamespace:
        is_input = self.tensors[name][0] == "INPUT"
        return SimpleNamespace(name=self.settings.get("format", "LINEAR") if is_input else "LINEAR")

    def get_tensor_location(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(name=self.settings.get("location", "DEVICE"))

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        return [tuple(dims) for dims in self.settings["profile"]]

    def create_execution_context(self) -> Context | None:
        return None if self.settings.get("no_context") else Context(self)

    def _bare_context(self) -> Context:
        context = Context(self)
        context.device_memory = 0
        return context


class Context:
    def __init__(self, engine: Engine) -> None:
        self.engine, self.addresses, self.runs = engine, dict[str, int](), 0
        self.device_memory: int | None = None
        self.shapes = {name: engine.get_tensor_shape(name) for name in engine.tensors}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        for other, (mode, old, _) in self.engine.tensors.items():
            if mode == "OUTPUT" and old[:1] == [-1] and not self.engine.settings.get("unknown"):
                self.shapes[other] = (shape[0], *old[1:])
        return not self.engine.settings.get("refuses_shape", False)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return not self.engine.settings.get("refuses_address", False)

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == 77 and set(self.addresses) == set(self.engine.tensors)
        if self.engine.settings.get("refuses_run"):
            return False
        addresses = dict(self.addresses)  # a graph keeps the addresses of its capture
        self.engine.fake.enqueue(lambda: self._run(addresses))
        return True

    def _run(self, addresses: dict[str, int]) -> None:
        assert self.device_memory is None or self.device_memory in self.engine.fake.memory
        self.runs += 1
        images = self._view("images", addresses)
        self.engine.fake.seen = images.copy()
        for name, answer in self.engine.fake.answers.items():
            self._view(name, addresses)[...] = answer
        for name, (mode, *_) in self.engine.tensors.items():
            if mode == "OUTPUT" and name not in self.engine.fake.answers:
                self._view(name, addresses)[...] = self.runs if name == "count" else 2 * images

    def _view(self, name: str, addresses: dict[str, int]) -> NDArray[Any]:
        dtype, shape = np.dtype(DTYPES[self.engine.tensors[name][2]]), self.shapes[name]
        if name == "images" and (channels := LAYOUTS[self.engine.settings.get("format", "LINEAR")]):
            shape = (shape[0], *shape[2:], channels)
        size = int(np.prod(shape)) * dtype.itemsize
        memory = (ctypes.c_uint8 * size).from_address(addresses[name])
        return np.frombuffer(memoryview(memory), dtype).reshape(shape)


def tensorrt(fake: Fake) -> Any:
    """A module whose Runtime loads the plans of `plan` and refuses everything else."""

    class ILogger:
        pass

    class Runtime:
        def __init__(self, logger: Any) -> None:
            self.logger = logger

        def deserialize_cuda_engine(self, data: Any) -> Engine | None:
            fake.dla = getattr(self, "DLA_core", None)
            try:
                return Engine(fake, json.loads(bytes(data)))
            except ValueError:
                self.logger.log(SimpleNamespace(name="ERROR"), "1: [stdArchiveReader.cpp::x::31] Magic tag is wrong")
                return None

    return SimpleNamespace(ILogger=ILogger, Runtime=Runtime, __version__="8.5.3")
