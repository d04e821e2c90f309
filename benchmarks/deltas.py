"""How large is a delta between two bundles of a detector?

    python benchmarks/deltas.py MODEL.onnx IMAGES [--save]

The bundle is what `edgesparse bundle` makes of the model and eight images of IMAGES for the self-test. Then a threshold
changes, a zone, the recipe; or the network is retrained, which is imitated: normal noise is added to each weight, as a
share of the standard deviation of its tensor, dense and with a 2:4 mask that stays. No network was trained for this.
--save writes results/deltas.json.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import yaml
import zstandard
from onnx import numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import machine, save
from edgesparse.fleet import contents, keys
from edgesparse.fleet.delta import Target, make
from edgesparse.fleet.fetch import LocalFile
from edgesparse.progress import quiet

ZONE = {"door": [[0.1, 0.1], [0.9, 0.1], [0.9, 0.9]]}
MOVES = (1e-4, 1e-3, 1e-2)


def retrained(model: Path, out: Path, share: float, sparse: bool) -> Path:
    """Write the model with noise on its weights: `share` of each tensor's standard deviation; `sparse`: 2:4."""
    network, random = onnx.load(model), np.random.default_rng(1)
    for tensor in network.graph.initializer:
        old = numpy_helper.to_array(tensor)
        if old.dtype != np.float32 or old.size < 64:
            continue
        new = (old + share * old.std() * random.standard_normal(old.shape)).astype(np.float32)
        if sparse and old.size % 4 == 0:
            dropped = np.argsort(np.abs(old.reshape(-1, 4)), axis=1)[:, :2]
            fours = new.reshape(-1, 4)
            np.put_along_axis(fours, dropped, 0, axis=1)
            new = fours.reshape(old.shape)
        tensor.CopyFrom(numpy_helper.from_array(new, tensor.name))
    out.parent.mkdir(exist_ok=True)
    onnx.save(network, out)
    return out


def bundled(folder: Path, name: str, model: Path, **recipe: Any) -> Path:
    """Write a bundle of the model with these parts of a recipe."""
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump({"model": str(model), "deploy": {"images": str(folder / "images")}, **recipe}))
    out = folder / f"{name}.esb"
    contents.make(file, out, keys.read_private(folder / "factory.key"))
    return out


def compare(folder: Path, old: Path, new: Path) -> dict[str, Any]:
    """Return sizes in bytes, and seconds; `whole_zstd`: the new bundle compressed alone, `patch_from`: with the old one
    as dictionary."""
    private, out = keys.read_private(folder / "factory.key"), folder / "delta.esd"
    begin = time.monotonic()
    with LocalFile(old, [private.public]) as first, LocalFile(new, [private.public]) as second:
        files = [source.complete(folder, quiet) for source in (first, second)]
        make(files[0], first.head, files[1], second.head, Target(out, private, quiet))
    seconds, whole = time.monotonic() - begin, new.stat().st_size
    raw = zstandard.ZstdCompressionDict(old.read_bytes(), dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    patch = zstandard.ZstdCompressionParameters.from_level(19, window_log=25, enable_ldm=True)
    alone, against = (
        zstandard.ZstdCompressor(level=19).compress(new.read_bytes()),
        zstandard.ZstdCompressor(dict_data=raw, compression_params=patch).compress(new.read_bytes()),
    )
    return {
        "bundle": whole,
        "delta": out.stat().st_size,
        "percent": round(100 * out.stat().st_size / whole, 2),
        "whole_zstd_percent": round(100 * len(alone) / whole, 2),
        "patch_from_percent": round(100 * len(against) / whole, 2),
        "seconds": round(seconds, 2),
    }


def measure(model: Path, images: Path, folder: Path) -> dict[str, Any]:
    """Return a result per change."""
    keys.new(folder / "factory", None)
    (folder / "images").symlink_to(images)
    results = {}
    old = bundled(folder, "old", model)
    for name, recipe in (
        ("threshold", {"run": {"conf": 0.4}}),
        ("zone", {"run": {"cameras": [{"name": "gate", "source": "/dev/video0", "zones": ZONE}]}}),
        ("recipe", {"calibrate": {"count": 100}, "build": {"threads": 2}}),
    ):
        results[name] = compare(folder, old, bundled(folder, name, model, **recipe))
    for sparse in (False, True):
        kind = "2:4" if sparse else "dense"
        old = bundled(folder, f"old-{sparse}", retrained(model, folder / "0" / model.name, 0, sparse))
        for share in MOVES:
            moved = retrained(model, folder / "1" / model.name, share, sparse)
            results[f"{kind}, weights moved by {share:g}"] = compare(folder, old, bundled(folder, "new", moved))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--save", action="store_true")
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = measure(parsed.model.absolute(), parsed.images.absolute(), Path(folder))
    save("deltas", {**machine(), "model": parsed.model.name, "results": results}, parsed.save)


if __name__ == "__main__":
    main()
