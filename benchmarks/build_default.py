"""`edgesparse build` of the default detector with every candidate, and again inside small memory budgets.

    python benchmarks/build_default.py [--only fp16 | --quick] [--budget '1 GB'] [--target FILE] [--state FOLDER]
        [--save]

Without --budget: all candidates (or those of --only), scored on images of the demo scene, with the report page. With
--target, a recipe or a model is built instead, and nothing is scored. With
--budget, which may be repeated: a build within each, with the measured peak. Each part's results are added to
benchmarks/results/build_default.json under a name of their own, so that parts can be run separately.

--state is a folder that keeps the timing cache and the INT8 calibration between parts. If --out is a different folder,
a copy in OUT/state is used and extended, for machines that keep nothing between parts.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import RESULTS, machine
from edgesparse.builder.build import build
from edgesparse.builder.targets import recipe_of
from edgesparse.config import Recipe, parse
from edgesparse.demo.export import export
from edgesparse.errors import EdgeSparseError
from edgesparse.package.manifest import Candidate, Manifest

ROOT = Path(__file__).resolve().parents[1]
DEFAULT = Path("demo")
UNSEEN = 1_000_000
"""Seed of the first image to score on, far from the training seeds."""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--backend", default="tensorrt")
    parser.add_argument("--target", type=Path, default=DEFAULT, help="recipe or model [the default detector]")
    parser.add_argument("--only", action="append", metavar="CANDIDATE")
    parser.add_argument("--quick", action="store_true", help="as `edgesparse build --quick`")
    parser.add_argument("--budget", action="append", metavar="SIZE")
    parser.add_argument("--images", type=int, default=200, help="number of images to score on [%(default)s]")
    parser.add_argument("--time-limit", type=float, default=500, help="seconds for each build [%(default)s]")
    parser.add_argument("--level", type=int, help="build.level [TensorRT's own]")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of results [benchmarks/results]")
    parser.add_argument("--state", type=Path, metavar="FOLDER", help="kept between calls [a temporary one]")
    parser.add_argument("--save", action="store_true")
    return parser.parse_args()


def recipe(arguments: argparse.Namespace, scene: Path | None, memory: str | None) -> Recipe:
    """Recipe of the target, with calibration images, labels and command-line options."""
    fields = recipe_of(arguments.target).model_dump(mode="json")
    fields["build"] |= {
        "backend": arguments.backend,
        "memory": memory,
        "time_limit": arguments.time_limit,
        "level": arguments.level,
    }
    candidates = "quick" if arguments.quick else arguments.only
    fields["build"] |= {"candidates": candidates} if candidates else {}
    fields["calibrate"] |= {"images": str(ROOT / "calib_data")}
    if scene is not None:
        fields["accept"] |= {"annotations": str(scene / "instances.json"), "images": str(scene / "images")}
    return parse(fields, "build_default")


def build_once(arguments: argparse.Namespace, scene: Path | None, store: Path, memory: str | None) -> dict[str, Any]:
    """One build: its result, or its error."""
    begun = time.monotonic()
    try:
        built = build(recipe(arguments, scene, memory), store, reuse="nothing", progress=Steps())
    except EdgeSparseError as error:
        return {"error": f"{type(error).__name__}: {error}", "seconds": round(time.monotonic() - begun, 1)}
    manifest = built.package.manifest
    if arguments.save and memory is None:
        shutil.copy(built.package.folder / "report.html", arguments.out / "build_default.html")
    return {"seconds": round(time.monotonic() - begun, 1), **summarize(manifest)}


def summarize(manifest: Manifest) -> dict[str, Any]:
    return {
        "verdict": list(manifest.verdict),
        "budget_mb": manifest.budget_mb,
        "budget_of": manifest.budget_of,
        "clocks": manifest.clocks,
        "fallback": manifest.fallback_precision,
        "phases": manifest.seconds,
        "candidates": [without_layers(candidate) for candidate in manifest.candidates],
        "layers": [layer.model_dump() for layer in manifest.sparsity],
    }


def without_layers(candidate: Candidate) -> dict[str, Any]:
    """A candidate with its layer count, and the kernels of its sparse layers only."""
    fields = candidate.model_dump(mode="json", exclude={"layers", "eligible"})
    sparse = [layer.kernel for layer in candidate.layers if layer.sparse]
    counts = {"layers": len(candidate.layers), "eligible": len(candidate.eligible)}
    return {**fields, **counts, "sparse_kernels": sparse}


class Steps:
    """Prints one line per step on standard error, with the elapsed seconds."""

    def __init__(self) -> None:
        self._step, self._begun = "", time.monotonic()

    def __call__(self, step: str, done: int, total: int) -> None:
        if step != self._step:
            self._step = step
            print(f"{time.monotonic() - self._begun:7.1f} s  {step}", file=sys.stderr, flush=True)


def keep(arguments: argparse.Namespace, name: str, result: dict[str, Any]) -> None:
    """Print a result and add it to the file immediately, in case a later part is interrupted."""
    print(json.dumps({name: result}, indent=1), flush=True)
    if not arguments.save:
        return
    path = arguments.out / "build_default.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    about = machine()
    when = {"date": about.pop("date"), "command": about.pop("command")}
    results |= about | {"builds": {**results.get("builds", {}), name: {**when, **result}}}
    path.write_text(json.dumps(results, indent=2) + "\n")


def state_folder(arguments: argparse.Namespace, temporary: Path) -> Path:
    """The folder of the timing cache. Another machine's key is not copied with it."""
    if arguments.state is None:
        return temporary / "state"
    if arguments.out == RESULTS:
        return Path(arguments.state)
    used = Path(arguments.out) / "state"
    if arguments.state.is_dir() and arguments.state.resolve() != used.resolve():
        shutil.copytree(arguments.state, used, ignore=shutil.ignore_patterns("key"), dirs_exist_ok=True)
    return used


def main() -> None:
    arguments = parse_arguments()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["EDGESPARSE_STATE"] = str(state_folder(arguments, Path(folder)).absolute())
        for memory in arguments.budget or [None]:
            scene = None
            if memory is None and arguments.target == DEFAULT and find_spec("pycocotools"):
                scene = Path(folder) / "scene"
                export(scene, arguments.images, UNSEEN)
            which = "quick" if arguments.quick else " ".join(arguments.only or ["all"])
            target = "" if arguments.target == DEFAULT else f", {arguments.target.stem}"
            name = f"{arguments.backend}, {memory or 'no budget'}, {which}{target}"
            keep(arguments, name, build_once(arguments, scene, Path(folder) / "engines", memory))


if __name__ == "__main__":
    main()
