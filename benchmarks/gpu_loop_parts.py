"""The measurements of benchmarks/gpu_loop.py, one function per kind of part."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from benchmarks.gpu_loop_ways import Setup, Ways
from benchmarks.gpu_nets import relu_blocks
from benchmarks.gpu_setup import HD, SHOTS, image
from edgesparse.backends import BuildOptions, backend
from edgesparse.backends.base import Limits
from edgesparse.bench.throughput import run_busy
from edgesparse.config import Run, parse
from edgesparse.demo.scene import Scene
from edgesparse.runtime.detector import Detector
from edgesparse.stream.cameras import Feed, open_feeds
from edgesparse.stream.sources.memory import MemorySource

FLAT = 100_000


def build(net: str, batch: int, work: Path, name: str) -> dict[str, Any]:
    """Build an engine in FP16, of the files that `edgesparse build` would build it of."""
    from edgesparse.builder.prepare import prepare

    if net == "kernels":
        return kernels(work, name)
    with tempfile.TemporaryDirectory() as folder:
        if net == "parts":
            path = Path(str(resources.files("edgesparse").joinpath("demo/parts_2to4.onnx")))
            fields = {"model": str(path), "build": {"batch": {"min": batch, "opt": batch, "max": batch}}}
            model = prepare(parse(fields, "gpu_loop"), Path(folder)).simplified
        else:
            model = relu_blocks(Path(folder) / "model.onnx", net, batch)
        precision: Any = "fp16" if name == "tensorrt" else "fp32"
        options = BuildOptions(precision=precision, limits=Limits(level=1), detailed=False)
        out = work / f"{net}-{batch}.part"
        result = backend(name).build(model, out, options)
        result.path.rename(work / f"{net}-{batch}.engine")
    return {"seconds": round(result.seconds, 1)}


def kernels(work: Path, name: str) -> dict[str, Any]:
    """Compile the frame path's kernels, so that no part waits for them."""
    begun = time.monotonic()
    if name == "tensorrt":
        from edgesparse.backends.cuda import gpu as cuda
        from edgesparse.backends.cuda.kernels import kernels as compiled

        compiled(cuda.gpu())
    (work / "kernels-1.engine").touch()
    return {"seconds": round(time.monotonic() - begun, 1)}


def in_memory(setup: Setup, run: Run, detector: Detector) -> list[Feed]:
    feeds = []
    for i, camera in enumerate(run.all_cameras()):
        shots = [image(i)] if setup.still else [image(seed) for seed in range(SHOTS)]
        feeds.append(Feed(camera, MemorySource(shots, camera.name), run, detector.spec.classes))
    return feeds


def from_file(setup: Setup, run: Run, detector: Detector) -> list[Feed]:
    return open_feeds(run.all_cameras(), run, detector.spec.classes, patient=True)


def bare(setup: Setup, seconds: float = 0.7) -> float:
    """Frames per second of the engine alone: its graph, launched without pause."""
    if setup.backend != "tensorrt":
        with backend(setup.backend).load(setup.engine) as runner:
            return setup.batch * run_busy([runner], seconds)[1]
    from benchmarks.gpu_peers import Bare

    engine = Bare(setup.engine)
    engine.run()
    runs, begun = 0, time.perf_counter()
    while (now := time.perf_counter()) - begun < seconds:
        with engine._card:
            for _ in range(4):
                engine._graph.launch()
            engine._stream.synchronize()
        runs += 4
    return setup.batch * runs / (now - begun)


def near(setup: Setup, detector: Detector) -> list[Any]:
    """Frames of two batches in page-locked memory."""
    frames = [detector.frame_buffer(HD) for _ in range(2 * setup.batch)]
    for seed, frame in enumerate(frames):
        frame[...] = image(seed)
    return frames


def on_gpu(setup: Setup) -> list[Any]:
    """Frames of two batches in GPU memory, which is what any memory of a board is."""
    from pycuda import gpuarray

    from edgesparse.backends.cuda import gpu as cuda

    with cuda.gpu():
        return [gpuarray.to_gpu(image(seed)) for seed in range(2 * setup.batch)]


def path(setup: Setup, detector: Detector, frames: Sequence[Any], seconds: float = 0.7) -> float:
    """Frames per second of the detector alone, with every slot busy."""
    count, begun = 0, time.perf_counter()
    while (now := time.perf_counter()) - begun < seconds:
        if detector.in_flight == detector.depth:
            detector.collect()
        first = count % 2 * setup.batch
        detector.submit(frames[first : first + setup.batch])
        count += 1
    while detector.in_flight:
        detector.collect()
    return setup.batch * count / (now - begun)


def against(setup: Setup, result: dict[str, Any], ways: Sequence[str], before: float) -> dict[str, Any]:
    """Ratios to the faster of two measurements of the bare engine, one before and one after the loop's."""
    engine = max(before, bare(setup))
    for way in ways:
        if "frames_a_second" in result.get(way, {}):
            result[way]["of_the_engine"] = round(result[way]["frames_a_second"] / engine, 4)
    return {"engine_frames_a_second": round(engine, 1), "batch": setup.batch, **result}


def memory(setup: Setup, until: float) -> dict[str, Any]:
    run, before = setup.run(), bare(setup)
    with setup.detector(run) as detector:
        ways = Ways(setup, run, detector, in_memory)
        result: dict[str, Any] = {"where": detector.where, "depth": detector.depth}
        result["detector_alone_frames_a_second"] = round(path(setup, detector, near(setup, detector)), 1)
        if setup.backend == "tensorrt":
            with_gpu_frames = path(setup, detector, on_gpu(setup))
            result["detector_alone_frames_in_gpu_memory_frames_a_second"] = round(with_gpu_frames, 1)
        share = max(2.0, min(3.0, (until - time.monotonic() - 6) / 2))
        result["run"] = ways.as_run(share)
        result["service"] = ways.as_service(share)
        if time.monotonic() < until - 4:
            result["allocated_bytes"] = ways.allocated()
    return against(setup, result, ("run", "service"), before)


def flat(setup: Setup, until: float) -> dict[str, Any]:
    run, before = setup.run(), bare(setup)
    with setup.detector(run) as detector:
        ways = Ways(setup, run, detector, in_memory)
        result = {"service": ways.as_service(until - time.monotonic() - 4, FLAT)}
    return against(setup, result, ("service",), before)


def files(setup: Setup, video: Path | None, until: float) -> dict[str, Any]:
    """Every camera is the same file. `decoding_alone`: frames per second of the same sources without a detector."""
    with tempfile.TemporaryDirectory() as folder:
        if video is None and shutil.which("ffmpeg") is None:
            return {"error": "not run: no ffmpeg to encode a file with, and no --video"}
        run, before = setup.run(str((video or encoded(Path(folder))).absolute())), bare(setup)
        with setup.detector(run) as detector:
            result: dict[str, Any] = {"decoding_alone": round(decoding(from_file(setup, run, detector)), 1)}
            result["cores"] = len(os.sched_getaffinity(0))
            result["run"] = Ways(setup, run, detector, from_file).as_run(min(5.0, until - time.monotonic() - 4))
        if "frames_a_second" in result["run"]:
            result["run"]["of_decoding"] = round(result["run"]["frames_a_second"] / result["decoding_alone"], 4)
        return against(setup, result, ("run",), before)


def encoded(folder: Path) -> Path:
    out, scene = folder / "scene.mp4", Scene(0, height=HD[0], width=HD[1])
    command = f"ffmpeg -loglevel error -f rawvideo -pix_fmt bgr24 -s {HD[1]}x{HD[0]} -r 30 -i - -c:v libx264 "
    command += f"-preset veryfast -crf 27 -pix_fmt yuv420p -g 30 {out}"
    with subprocess.Popen(command.split(), stdin=subprocess.PIPE) as coder:
        assert coder.stdin is not None
        for _ in range(200):
            coder.stdin.write(scene.render()[0].tobytes())
        coder.stdin.close()
    return out


def decoding(feeds: Sequence[Feed], seconds: float = 2.0) -> float:
    for feed in feeds:
        feed.source.read()
    count, begun = 0, time.perf_counter()
    while (now := time.perf_counter()) - begun < seconds:
        read = [feed.source.read() is not None for feed in feeds]
        count += sum(read)
        if not any(read):
            break
    for feed in feeds:
        feed.source.close()
    return count / (now - begun)
