"""A commented recipe for a model."""

from __future__ import annotations

import os
from pathlib import Path

from edgesparse import strict_yaml
from edgesparse.builder.prepare import find_head, layout_of, open_static, specify
from edgesparse.classes import coco_names
from edgesparse.config import DetectorSpec, parse
from edgesparse.errors import ConfigError
from edgesparse.files import make_folder, replace_text
from edgesparse.head_table import head_file
from edgesparse.model import load as models
from edgesparse.runtime.heads.recognize import names_in
from edgesparse.runtime.heads.registry import head as head_of

_TEXT = """\
# Describes {model} and how edgesparse builds and runs it. Paths are relative to this file.
model: {model}

# How the outputs are decoded. Found: {outputs}.
head: {head}

# Class names in the order of the class ids: a list, a file with one per line, a data set's YAML, 'coco', or 'auto'
# (the names in the ONNX file).{classes_note}
classes: {classes}

# How a frame becomes the input: (pixel * scale - mean) / std per channel. These are the conventions of this family.
# Compare them with the network's training: a wrong one costs accuracy and raises no error.
input:
  size: [{height}, {width}]      # height, width
  letterbox: {letterbox}   # centre, top-left, or stretch (changes the aspect ratio)
  pad: {pad}               # gray value around the frame, 0..255
  colour: {colour}            # rgb or bgr
  scale: {scale}      # 0.00392156862745098 is 1/255
  mean: [{mean}]
  std: [{std}]

prepare:
  simplify: true         # fold constants, remove nodes without effect

build:
  backend: auto          # auto (TensorRT where it works), tensorrt, tensorrt-rtx, onnxruntime
  batch: 1               # images per inference; with TensorRT also a range: {{min: 1, opt: 4, max: 8}}
  threads: 0             # CPU threads; 0 is every core
  candidates: auto       # all that make sense, or a list: [fp32, fp16, fp16-2:4, int8-table, int8-qdq-sparse-2:4]
  # memory: 2 GB         # limit for building [default: what is free, less a reserve]
  # time_limit: 1800     # seconds for the whole build; later candidates are skipped
  # level: 3             # how long TensorRT searches for faster kernels, 0 to 5

# INT8 needs a hundred or more images like those of the camera.
calibrate:
  # images: calibration_images
  count: 160             # at most so many, evenly spaced in the folder

# Refuse a build that detects worse than this on labeled images.
accept:
  # annotations: labels/instances.json   # COCO JSON, a YOLO data.yaml, or a folder with one of them
  # images: labels/images                # their folder, if not beside the annotations; without annotations,
                                         # detections are compared with FP32's, which is weaker
  # max_map_drop: 1.0                    # points of mAP 50-95 below the original model (or below `reference:`)
  # min_map: 40.0                        # points of mAP 50-95
  # min_agreement: 0.9                   # share of boxes that both must detect
  # max_confidence_shift: 0.05           # median change of confidences, since thresholds depend on them
  # require_sparse: true                 # refuse an engine that gains nothing from 2:4

run:
  # source: 0            # camera, file, folder, 'pics/*.jpg', rtsp://...; --source overrides it
  # cameras: [{{name: gate, source: 0, rate: 10}}, {{name: hall, source: 'rtsp://...'}}]   # in place of source
  conf: 0.25             # or per class: {{default: 0.25, {first}: 0.5}}
  iou: 0.7               # NMS merges boxes of a class that overlap by more
  max_det: 300
  # classes: [{first}]   # only detect these
  agnostic: false        # whether NMS ignores classes
"""


def write_recipe(
    path: Path, output: Path, head: str = "auto", size: tuple[int, int] | None = None, force: bool = False
) -> str:
    """Write the recipe for an ONNX file (no file when `output` is '-') and return its text.

    `head` and `size` (height, width) are for models that leave them open. Raises ModelError for a model that is not a
    detector, ConfigError if `output` exists.
    """
    if str(output) != "-" and output.exists() and not force:
        raise ConfigError(f"{output} already exists: pass --force to overwrite it, or another path with -o")
    text = _text(path, output, head, size)
    if str(output) != "-":
        _write(output, text)
    return text


def _write(output: Path, text: str) -> None:
    try:
        make_folder(output.parent)
        replace_text(output, text)
    except OSError as error:
        raise ConfigError(f"cannot write {output}: {error.strerror}") from None


def _text(path: Path, output: Path, head: str, size: tuple[int, int] | None) -> str:
    info, spec, outputs = _examine(path, head, size)
    named = names_in(info.metadata)
    classes, note = "auto", ""
    if named is None:
        classes, note = _yaml(list(spec.classes)), _UNNAMED
        if len(spec.classes) == len(coco_names(head_of(spec.head).coco_ids)):
            classes, note = "coco", _AS_COCO.format(count=len(spec.classes))
    look, own = spec.input, head_file(spec.head)
    return _TEXT.format(
        model=_yaml(_relative(path, output)),
        head=_yaml(spec.head if own is None else str(own._replace(path=Path(_relative(own.path, output))))),
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
        first=_yaml(spec.classes[0]),
    )


def _relative(path: Path, output: Path) -> str:
    """From the folder of the recipe `output`."""
    return os.path.relpath(path.parent.resolve() / path.name, output.parent.resolve())


_UNNAMED = "\n# The file has no names: put the real names here."
_AS_COCO = "\n# The file has no names: COCO's {count} are a guess."


def _yaml(value: str | list[str]) -> str:
    """Return a value as YAML on one line, quoted if necessary."""
    text = strict_yaml.dump([value], default_flow_style=True, width=1 << 20)
    return text.strip()[1:-1]


def _examine(path: Path, head: str, size: tuple[int, int] | None) -> tuple[models.ModelInfo, DetectorSpec, str]:
    """Return the model's own metadata, its spec, and a description of its outputs. Unnamed classes become COCO's."""
    recipe = parse({"model": str(path), "head": head, "input": {"size": size} if size else {}}, str(path))
    model = models.load(path)
    info = models.info(model)
    with open_static(model, recipe) as runner:
        layout = layout_of(runner, recipe, info)
        head = find_head(recipe, info, runner, layout)
        if names_in(info.metadata) is None and head_of(head).classes(layout) is None:
            recipe = recipe.model_copy(update={"classes": "coco"})
        return info, specify(recipe, info, head, layout), ", ".join(map(str, runner.outputs))
