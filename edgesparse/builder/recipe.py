"""A commented recipe for a model."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from edgesparse import strict_yaml
from edgesparse.builder.prepare import find_head, layout_of, open_static, specify
from edgesparse.config import DetectorSpec, parse
from edgesparse.errors import ConfigError
from edgesparse.model import load as models
from edgesparse.runtime.heads.recognize import names_in
from edgesparse.runtime.heads.registry import head as head_of

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
  backend: auto          # auto (TensorRT where it works), tensorrt, tensorrt-rtx, onnxruntime
  batch: 1               # images at once; with TensorRT also a range: {{min: 1, opt: 4, max: 8}}
  threads: 0             # CPU threads; 0 is every core
  candidates: auto       # all that make sense, or some: [fp32, fp16, fp16-2:4, int8-table, int8-qdq-sparse-2:4]
  # memory: 2 GB         # what building may take; left out: what is free, less a reserve
  # time_limit: 1800     # seconds for all of it; what is not built by then is left out
  # level: 3             # how long TensorRT looks for faster kernels, 0 to 5

# INT8 needs images like those that the camera will see; a hundred or more.
calibrate:
  # images: calibration_images
  count: 160             # most that are used, spread over the folder

# Refuse a build that detects worse than this on labelled images.
accept:
  # annotations: labels/instances.json   # COCO JSON
  # images: labels/images                # the folder of the images, if not beside the annotations; without
                                         # annotations, detections are compared with FP32's, which is weaker
  # max_map_drop: 1.0                    # points of mAP 50-95 under the model as it came (or under `reference:`)
  # min_map: 40.0                        # points of mAP 50-95
  # min_agreement: 0.9                   # share of boxes that both must find
  # require_sparse: true                 # refuse an engine that gains nothing by 2:4

run:
  # source: 0            # camera, file, folder, 'pics/*.jpg', rtsp://...; --source on the command line wins
  # cameras: [{{name: gate, source: 0, rate: 10}}, {{name: hall, source: 'rtsp://...'}}]   # several, in place of source
  conf: 0.25             # or one a class: {{default: 0.25, {first}: 0.5}}
  iou: 0.7               # NMS: boxes of a class that overlap by more are one
  max_det: 300
  # classes: [{first}]   # only these
  agnostic: false        # whether boxes of different classes suppress each other
"""


def write_recipe(
    path: Path, output: Path, head: str = "auto", size: tuple[int, int] | None = None, force: bool = False
) -> str:
    """Write the recipe for an ONNX file (nothing when `output` is '-') and return its text.

    `head` and `size` (height, width) are for models that do not tell. Raises ModelError for what is no detector,
    ConfigError when `output` is there already.
    """
    if str(output) != "-" and output.exists() and not force:
        raise ConfigError(f"{output} is there already: pass --force to overwrite it, or -o another")
    text = _text(path, output, head, size)
    if str(output) != "-":
        _write(output, text)
    return text


def _write(output: Path, text: str) -> None:
    part = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        part.write_text(text)
        part.replace(output)
    except OSError as error:
        raise ConfigError(f"cannot write {output}: {error.strerror}") from None
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _text(path: Path, output: Path, head: str, size: tuple[int, int] | None) -> str:
    info, spec, outputs = _examine(path, head, size)
    named = names_in(info.metadata)
    classes, note = "auto", ""
    if named is None:
        classes, note = _yaml(list(spec.classes)), _UNNAMED
        if len(spec.classes) == 80:
            classes, note = "coco", _AS_COCO
    look = spec.input
    return _TEXT.format(
        model=_yaml(os.path.relpath(path.parent.resolve() / path.name, output.parent.resolve())),
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
        first=_yaml(spec.classes[0]),
    )


_UNNAMED = "\n# The file names none: put the real names here."
_AS_COCO = "\n# The file names none: COCO's 80 are a guess."


def _yaml(value: str | list[str]) -> str:
    """On one line, quoted where it must be."""
    text = strict_yaml.dump([value], default_flow_style=True, width=1 << 20)
    return text.strip()[1:-1]


def _examine(path: Path, head: str, size: tuple[int, int] | None) -> tuple[models.ModelInfo, DetectorSpec, str]:
    """The model's own description, its spec, and its outputs in words. Classes without any name become COCO's."""
    recipe = parse({"model": str(path), "head": head, "input": {"size": size} if size else {}}, str(path))
    model = models.load(path)
    info = models.info(model)
    with open_static(model, recipe) as runner:
        layout = layout_of(runner)
        head = find_head(recipe, info, runner, layout)
        if names_in(info.metadata) is None and head_of(head).classes(layout) is None:
            recipe = recipe.model_copy(update={"classes": "coco"})
        return info, specify(recipe, info, head, layout), ", ".join(map(str, runner.outputs))
