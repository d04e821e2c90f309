"""What ReLU in place of SiLU could save: 2:4 in every layer in which only ReLU makes a sparse INT8 kernel likely.

    python benchmarks/relu_gains.py [--device orin-nano-8gb] [--real ../shared/real] [--save]

Predicted, dense in INT8 and with ReLU and 2:4 in all such layers: the most that `fit` could gain from ReLU. YOLOX-nano,
and YOLOv8's shapes at 640x640 with random weights; each as it is and rewritten by `slim`. What ReLU costs in mAP is
another question: benchmarks/ladder.py.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import ROOT, machine, save
from benchmarks.orin_slice import networks
from edgesparse.compress.relu_places import places, relu_gains
from edgesparse.config import parse
from edgesparse.model.load import load
from edgesparse.model.load import save as save_model
from edgesparse.progress import quiet
from edgesparse.tasks import fit_network
from edgesparse.tasks.fit_network import FitOptions, Network, Settings


def models(real: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the detectors, by name; YOLOv8's shapes are written into `folder`."""
    yield "YOLOX-nano", real / "models" / "yolox_nano.onnx"
    for width in networks.SCALES:
        path = folder / f"yolov8{width}.onnx"
        save_model(networks.yolov8(width, "silu"), path)
        yield f"YOLOv8{width}-shaped", path


def gain(network: Network, settings: Settings) -> dict[str, Any]:
    """The milliseconds of the network in INT8, and of it with ReLU and 2:4; in how many layers that is."""
    model = load(network.model)
    return {
        "INT8 ms": round(fit_network.predicted(model, settings.board, "int8"), 3),
        "with ReLU and 2:4 ms": round(fit_network.least_milliseconds(network, settings), 3),
        "layers": len(relu_gains(model, settings.board, "int8")),
        "activations": len(places(model)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="orin-nano-8gb")
    parser.add_argument("--real", type=Path, default=ROOT.parent / "shared" / "real")
    parser.add_argument("--save", action="store_true", help="Write results/relu_gains.json.")
    arguments = parser.parse_args()
    detectors = dict[str, Any]()
    with TemporaryDirectory() as name:
        folder = Path(name)
        for detector, path in models(arguments.real, folder):
            recipe = parse({"model": str(path), "classes": "coco"}, "recipe")
            settings = Settings(FitOptions(device=arguments.device), recipe, "", folder)
            base = fit_network.base(recipe, settings)
            slim = fit_network.slimmed(base, settings, "slim", quiet)
            detectors[detector] = {"as it is": gain(base, settings), "slim": gain(slim, settings)}
            print(detector, detectors[detector], flush=True)
    save("relu_gains", {**machine(), "board": arguments.device, "detectors": detectors}, arguments.save)


if __name__ == "__main__":
    main()
