"""`edgesparse build` of the default detector with every candidate, and again inside small memory budgets.

    python benchmarks/build_default.py [--only fp16 --only fp16-2:4] [--budget '1 GB'] [--state FOLDER] [--save]

Without --budget: all candidates (or those of --only), scored on images of the demo scene, with the report page. With
--budget, which may be repeated: a build inside each, with the peak that was measured. What is found is added to
benchmarks/results/build_default.json under its own name, so that the parts can be run one after the other.

--state names a folder in which the timing cache and INT8's preparation are kept from one part to the next; with another
--out a copy of it there, OUT/state, is used and added to: what a machine that keeps nothing hands to the next.
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
UNSEEN = 1_000_000
"""Seed of the first image that is scored on: far from those that the detector was trained on."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--backend", default="tensorrt")
    parser.add_argument("--target", type=Path, default=Path("demo"), help="recipe or model [the default detector]")
    parser.add_argument("--only", action="append", metavar="CANDIDATE")
    parser.add_argument("--budget", action="append", metavar="SIZE")
    parser.add_argument("--images", type=int, default=200, help="how many are scored on [%(default)s]")
    parser.add_argument("--time-limit", type=float, default=500, help="seconds for each build [%(default)s]")
    parser.add_argument("--level", type=int, help="build.level [as long as TensorRT does by itself]")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of results [benchmarks/results]")
    parser.add_argument("--state", type=Path, metavar="FOLDER", help="kept between calls [a temporary one]")
    parser.add_argument("--save", action="store_true")
    return parser.parse_args()


def recipe(said: argparse.Namespace, scene: Path | None, memory: str | None) -> Recipe:
    """The target's recipe with calibration images, labels and what the command line says."""
    plain = recipe_of(said.target)
    told = plain.model_dump(mode="json")
    told["build"] |= {"backend": said.backend, "memory": memory, "time_limit": said.time_limit, "level": said.level}
    told["build"] |= {"candidates": said.only} if said.only else {}
    told["calibrate"] |= {"images": str(ROOT / "calib_data")}
    if scene is not None:
        told["accept"] |= {"annotations": str(scene / "instances.json"), "images": str(scene / "images")}
    return parse(told, "build_default")


def once(said: argparse.Namespace, scene: Path | None, store: Path, memory: str | None) -> dict[str, Any]:
    """One build: what came out, or the error in its words."""
    begun, steps = time.monotonic(), Steps()
    try:
        built = build(recipe(said, scene, memory), store, force=True, progress=steps)
    except EdgeSparseError as error:
        return {"error": f"{type(error).__name__}: {error}", "seconds": round(time.monotonic() - begun, 1)}
    manifest = built.package.manifest
    if said.save and memory is None:
        shutil.copy(built.package.folder / "report.html", said.out / "build_default.html")
    return {"seconds": round(time.monotonic() - begun, 1), **found(manifest)}


def found(manifest: Manifest) -> dict[str, Any]:
    return {
        "verdict": list(manifest.verdict),
        "budget_mb": manifest.budget_mb,
        "budget_of": manifest.budget_of,
        "clocks": manifest.clocks,
        "fallback": manifest.fallback_precision,
        "candidates": [candidate(one) for one in manifest.candidates],
        "layers": [layer.model_dump() for layer in manifest.sparsity],
    }


def candidate(one: Candidate) -> dict[str, Any]:
    """Without its layers' kernels, but for the sparse ones."""
    said = one.model_dump(mode="json", exclude={"layers", "eligible"})
    sparse = [layer.kernel for layer in one.layers if layer.sparse]
    return {**said, "layers": len(one.layers), "eligible": len(one.eligible), "sparse_kernels": sparse}


class Steps:
    """Progress as a line a step on standard error, with the seconds."""

    def __init__(self) -> None:
        self._step, self._begun = "", time.monotonic()

    def __call__(self, step: str, done: int, total: int) -> None:
        if step != self._step:
            self._step = step
            print(f"{time.monotonic() - self._begun:7.1f} s  {step}", file=sys.stderr, flush=True)


def keep(said: argparse.Namespace, name: str, result: dict[str, Any]) -> None:
    """Print a result, and add it to the file at once: what comes later may be cut off."""
    print(json.dumps({name: result}, indent=1), flush=True)
    if not said.save:
        return
    path = said.out / "build_default.json"
    whole = json.loads(path.read_text()) if path.exists() else {}
    about = machine()
    when = {"date": about.pop("date"), "command": about.pop("command")}
    whole |= about | {"builds": {**whole.get("builds", {}), name: {**when, **result}}}
    path.write_text(json.dumps(whole, indent=2) + "\n")


def state_folder(said: argparse.Namespace, temporary: Path) -> Path:
    """Where the timing cache lies; what another machine left comes without its key, which marks packages."""
    if said.state is None:
        return temporary / "state"
    if said.out == RESULTS:
        return Path(said.state)
    used = Path(said.out) / "state"
    if said.state.is_dir() and said.state.resolve() != used.resolve():
        shutil.copytree(said.state, used, ignore=shutil.ignore_patterns("key"), dirs_exist_ok=True)
    return used


def main() -> None:
    said = arguments()
    said.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["EDGESPARSE_STATE"] = str(state_folder(said, Path(folder)).absolute())
        for memory in said.budget or [None]:
            scene = None
            if memory is None and find_spec("pycocotools"):
                scene = Path(folder) / "scene"
                export(scene, said.images, UNSEEN)
            name = f"{said.backend}, {memory or 'no budget'}, {' '.join(said.only or ['all'])}"
            keep(said, name, once(said, scene, Path(folder) / "engines", memory))


if __name__ == "__main__":
    main()
