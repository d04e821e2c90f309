"""TensorRT with a release's real bindings and a fake library that records the calls of a build."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tensorrt
from doubles import Double, Plan, module

from edgesparse.backends.base import BuildOptions, BuildResult
from edgesparse.backends.tensorrt import build

MAJOR, MINOR = (int(part) for part in tensorrt.__version__.split(".")[:2])
WEAK = MAJOR < 11
TABLE = b"TRT-1-MinMaxCalibration\nimages: 3c010a14\nout: 3c8103e0\n"
JSON = json.dumps({"Layers": [{"Name": "c", "LayerType": "CaskConvolution", "TacticName": "sm80_xmma_fprop_sparse_x"}]})


class World:
    """One TensorRT with a network of one convolution, which records the calls of a build."""

    def __init__(self, folder: Path, shape: tuple[int, ...] = (1, 3, 8, 8), kinds: str = "CONVOLUTION") -> None:
        self.folder, self.shape, self.kinds = folder, shape, kinds.split()
        self.lines: list[tuple[str, str]] = []
        self.configs: list[Double] = []
        self.parses, self.loads, self.dla_cores, self.half, self.quantized_image = True, True, 1, False, False
        self.layout = "LINEAR"
        self.plan: Any = Plan(b"the plan")
        self.fails_with_cache = self.fails_at_a_low_level = self.interrupted = False
        self.served: list[Any] = []
        self.seen: list[tuple[str, int, int]] = []
        self.trt = module(Builder=self._builder, OnnxParser=self._parser, Runtime=self._runtime)

    def build(self, options: BuildOptions, sm: str = "8.7") -> BuildResult:
        out = self.folder / "model.engine"
        return build.build(self.trt, Path("model.onnx"), out, options, sm, lambda *step: self.seen.append(step))

    @property
    def config(self) -> Double:
        return self.configs[-1]

    @property
    def flags(self) -> set[str]:
        return {flag.name for (flag,) in self.config.called("set_flag")}

    def _builder(self, logger: Any) -> Double:
        assert isinstance(logger, tensorrt.ILogger)
        self.logger = logger
        does = {
            "create_network": self._network,
            "create_builder_config": self._config,
            "create_optimization_profile": lambda: Double("IOptimizationProfile"),
            "build_serialized_network": self._built,
        }
        return Double("Builder", does, num_DLA_cores=self.dla_cores)

    def _network(self, flags: int) -> Double:
        self.creation_flags = flags
        kind = tensorrt.DataType.HALF if self.half else tensorrt.DataType.FLOAT
        if self.quantized_image:
            kind = tensorrt.DataType.INT8
        self.image = tensor = Double("ITensor", name="images", shape=self.shape, dtype=kind)
        layers = [
            Double("ILayer", {"get_output": tensor}, type=getattr(tensorrt.LayerType, kind), num_outputs=1)
            for kind in self.kinds
        ]
        does = {"get_input": tensor, "get_layer": lambda i: layers[i]}
        self.network = Double("INetworkDefinition", does, num_inputs=1, num_layers=len(layers), name="")
        return self.network

    def _parser(self, network: Double, logger: Any) -> Double:
        wrong = Double("ParserError", {"desc": "In node 3:\n unknown operator"})
        does = {"parse_from_file": lambda path: self.parses, "get_error": wrong}
        return Double("OnnxParser", does, num_errors=0 if self.parses else 1)

    def _config(self) -> Double:
        sources = sum(1 << int(source) for source in tensorrt.TacticSource.__members__.values())
        config = Double(
            "IBuilderConfig",
            {
                "get_tactic_sources": sources,
                "set_tactic_sources": True,
                "add_optimization_profile": 0,
                "create_timing_cache": self._cache,
                "set_timing_cache": self._use_cache,
                "get_timing_cache": lambda: self.cache,
            },
        )
        self.configs.append(config)
        return config

    def _cache(self, data: bytes) -> Double:
        return Double("ITimingCache", {"serialize": Plan(data + b"+timed"), "combine": True})

    def _use_cache(self, cache: Double, ignore_mismatch: bool) -> bool:
        self.cache = cache
        return True

    def _built(self, network: Double, config: Double) -> Any:
        for severity, text in self.lines:
            self.logger.log(getattr(tensorrt.ILogger, severity), text)
        monitor = getattr(config, "progress_monitor", None)
        if monitor is not None:
            monitor.phase_start("Building Engine", None, 2)
            monitor.step_complete("Building Engine", 0)
            monitor.phase_finish("Building Engine")
        calibrator = getattr(config, "int8_calibrator", None)
        if calibrator is not None:
            self._calibrate(calibrator)
        if self.fails_with_cache and self.cache.serialize() != b"+timed":
            self.logger.log(tensorrt.ILogger.ERROR, "9: [pluginV2Builder.cpp::x::1] Error Code 9: Myelin")
            return None
        if self.fails_at_a_low_level and len(self.configs) == 1:
            text = "10: [optimizer.cpp::x::1] Error Code 10: (Could not find any implementation for node c.)"
            self.logger.log(tensorrt.ILogger.ERROR, text)
            return None
        return self.plan

    def _calibrate(self, calibrator: Any) -> None:
        table = calibrator.read_calibration_cache()
        self.served.append(table)
        size = calibrator.get_batch_size()
        while table is None and (batch := calibrator.get_batch(["images"])) is not None:
            self.served.append((size, *batch))
        calibrator.write_calibration_cache(b"TRT-1-EntropyCalibration2\nimages: 3c010a14\n")

    def _runtime(self, logger: Any) -> Double:
        memory = (
            "device_memory_size_v2" if hasattr(tensorrt.ICudaEngine, "device_memory_size_v2") else "device_memory_size"
        )
        inspector = Double("EngineInspector", {"get_engine_information": JSON})
        does = {
            "create_engine_inspector": inspector,
            "get_tensor_name": "images",
            "get_tensor_mode": tensorrt.TensorIOMode.INPUT,
            "get_tensor_dtype": lambda name: self.image.dtype,
            "get_tensor_format": lambda name: getattr(tensorrt.TensorFormat, self.layout),
        }
        engine = Double("ICudaEngine", does, name=self.network.name, num_io_tensors=1, **{memory: 4096})
        return Double("Runtime", {"deserialize_cuda_engine": lambda data: engine if self.loads else None})
