"""A commented recipe for a model."""

from __future__ import annotations

import tempfile
from pathlib import Path

import yaml

from edgesparse.backends import BuildOptions, backend
from edgesparse.build.select import specify
from edgesparse.config import DetectorSpec, parse
from edgesparse.errors import ConfigError
from edgesparse.graph import model as graph
from edgesparse.runtime.decode import names_in

_TEXT = """\
# What {model} is, and how edgesparse is to build and run it. Paths count from this file.
model: {model}

# How the outputs become boxes. Seen: {outputs}.
head: {head}

# Names in the order of the network's class ids: a list, a file with one a line, a data set's YAML, 'coco', or 'auto'
# (the names in the ONNX file).{classes_note}
classes: {classes}

# How a frame becomes the input: (pixel * scale - mean) / std, a channel at a time. Conventions of this family; check
# them against the way the network was trained, for a wrong one costs accuracy and raises no error.
input:
  size: [{height}, {width}]      # height, width
  letterbox: {letterbox}   # centre, top-left, or stretch (the frame's ratio is lost)
  pad: {pad}               # grey around the frame, 0..255
  colour: {colour}            # rgb or bgr
  scale: {scale}      # 0.00392156862745098 is 1/255
  mean: [{mean}]
  std: [{std}]

prepare:
  simplify: true         # fold constants, drop what computes nothing

build:
  backend: auto          # auto, onnxruntime
  batch: 1
  threads: 0             # CPU threads; 0 is every core

# Refuse a build that detects worse than this on labelled pictures.
accept: {{}}
#  annotations: labels/instances.json   # COCO JSON
#  images: labels/pictures              # where its pictures lie, if not beside it
#  max_map_drop: 1.0                    # points of mAP 50-95 under the model as it came (or under `reference:`)
#  min_map: 40.0                        # points of mAP 50-95

run:
  # source: 0            # camera, file, folder, 'pics/*.jpg', rtsp://...; --source on the command line wins
  conf: 0.25             # or one a class: {{default: 0.25, {first}: 0.5}}
  iou: 0.7               # NMS: boxes of a class that overlap by more are one
  max_det: 300
  # classes: [{first}]   # only these
  agnostic: false        # whether boxes of different classes suppress each other
"""


def write_recipe(path: Path, output: Path, head: str = "auto", force: bool = False) -> str:
    """Write the recipe for an ONNX file (nothing when `output` is '-') and return its text.

    Raises ModelError for what is no detector, ConfigError when `output` is there already.
    """
    if str(output) != "-" and output.exists() and not force:
        raise ConfigError(f"{output} is there already: pass --force to overwrite it, or -o another")
    text = _text(path, output, head)
    if str(output) != "-":
        try:
            output.write_text(text)
        except OSError as error:
            raise ConfigError(f"cannot write {output}: {error.strerror}") from None
    return text


def _text(path: Path, output: Path, head: str) -> str:
    said = graph.info(graph.load(path))
    spec, outputs = _look(path, head)
    named = names_in(said.metadata)
    classes, note = "auto", ""
    if named is None:
        classes, note = yaml.safe_dump(list(spec.classes), default_flow_style=True, width=1 << 20).strip(), _UNNAMED
        if len(spec.classes) == 80:
            classes, note = "coco", _AS_COCO
    model = path if output.parent.resolve() != path.parent.resolve() else Path(path.name)
    look = spec.input
    return _TEXT.format(
        model=model,
        head=spec.head,
        outputs=outputs,
        classes=classes,
        classes_note=note,
        height=look.size[0],
        width=look.size[1],
        letterbox=look.letterbox,
        pad=look.pad,
        colour=look.colour,
        scale=look.scale,
        mean=", ".join(f"{value:g}" for value in look.mean),
        std=", ".join(f"{value:g}" for value in look.std),
        first=spec.classes[0] if named else "'0'",
    )


_UNNAMED = "\n# The file names none: put the real names here."
_AS_COCO = "\n# The file names none; 80 classes are COCO's, most likely."


def _look(path: Path, head: str) -> tuple[DetectorSpec, str]:
    """Run the model once on noise to see what it gives."""
    recipe = parse({"model": str(path), "head": head}, str(path))
    model = graph.load(path)
    said = graph.info(model)
    engine = backend("onnxruntime")
    with tempfile.TemporaryDirectory() as folder:
        fixed = Path(folder) / path.name
        graph.save(graph.fix_shapes(model, 1, said.size), fixed)
        result = engine.build(fixed, Path(folder) / "model.onnx", BuildOptions())
        with engine.load(result.path) as runner:
            shape = next(spec.shape for spec in runner.inputs if len(spec.shape) == 4)
            spec = specify(recipe, said, runner, (shape[2], shape[3]))
            return spec, ", ".join(map(str, runner.outputs))
