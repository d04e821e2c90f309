"""The recipe: one YAML file that describes a detector and how to build, accept and run it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from edgesparse.backend_table import BACKENDS
from edgesparse.camera import MOST_CAMERAS, ClassFilter, Confidences, Source, check_together, of_sources
from edgesparse.camera import ONLY as ONLY
from edgesparse.camera import Camera as Camera
from edgesparse.classes import named_classes
from edgesparse.errors import ConfigError
from edgesparse.head_table import HEAD_ALIASES, HEADS, absolute_head, head_file, installed
from edgesparse.input_spec import Colour as Colour
from edgesparse.input_spec import DetectorSpec as DetectorSpec
from edgesparse.input_spec import Input as Input
from edgesparse.input_spec import InputSpec as InputSpec
from edgesparse.input_spec import Keypoints as Keypoints
from edgesparse.input_spec import Letterbox as Letterbox
from edgesparse.redaction import redact
from edgesparse.shadow import ShadowSettings
from edgesparse.tiles import TilesSetting
from edgesparse.typed import read_mapping, typed
from edgesparse.values import AnyPath, Batches, Memory, Positive, Unit, Version
from edgesparse.values import Batch as Batch
from edgesparse.values import Section as Section
from edgesparse.wording import nearest_file, short

Way = Literal["fp32", "fp16", "int8-table", "int8-qdq", "int8-qdq-sparse", "int8-tensorrt"]
"""Ways to lower the precision, cheap ones first. INT8 comes from our calibration table (`int8-table`), from Q/DQ
after the activations (`int8-qdq`), from Q/DQ directly after convolutions that may run 2:4 (`int8-qdq-sparse`), or from
TensorRT's own calibration (`int8-tensorrt`)."""
WAYS: tuple[Way, ...] = get_args(Way)
SPARSE, SLIM = "-2:4", "-slim"
"""Suffixes of a candidate that may use 2:4 kernels, and of one that is built from the rewritten network."""


def _candidate(name: str) -> str:
    if name.removesuffix(SPARSE).removesuffix(SLIM) not in WAYS:
        raise ValueError(f"one of {', '.join(WAYS)}, each also with '{SPARSE}' or '{SLIM}'")
    return name


CandidateName = Annotated[str, AfterValidator(_candidate)]


def _known(name: str, table: Iterable[str]) -> str:
    if name != "auto" and name not in table:
        known = "' or '".join(("auto", *table))
        raise PydanticCustomError("literal_error", "Input should be '{known}'", {"known": known})
    return name


def _head(name: str) -> str:
    name = HEAD_ALIASES.get(name, name)
    if name in HEADS or head_file(name) is not None:
        return name
    return _known(name, (*HEADS, *installed()))


BackendName = Annotated[str, AfterValidator(lambda name: _known(name, BACKENDS))]
"""`auto`, or a name in edgesparse/backend_table.py."""

HeadName = Annotated[str, AfterValidator(_head)]
"""`auto`, a name in edgesparse/head_table.py, one of its aliases, which becomes the name it stands for, a head of an
installed package, or a class in a file, `my_head.py:MyHead`."""


class Prepare(Section):
    """Changes to the ONNX graph before the build."""

    simplify: bool = True
    """Fold constants and drop nodes that compute nothing."""


class BuildSettings(Section):
    """What to build, and what the build may use."""

    backend: BackendName = "auto"
    """What builds and runs the engine: `tensorrt`, `tensorrt-rtx`, `onnxruntime`; `auto`: TensorRT if it works here."""
    batch: Batches = Batch(opt=1, max=1)
    """One number, or a range as {min: 1, opt: 4, max: 8}."""
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads; 0 is every core."""
    candidates: Literal["auto", "quick"] | tuple[CandidateName, ...] = "auto"
    """Candidates to build and compare; `auto`: all that make sense here; `quick`: the two that are usually fastest."""
    memory: Memory | None = None
    """Bytes that a build may use; default: the free memory minus a reserve."""
    time_limit: Positive | None = None
    """Seconds for the whole build; candidates not built by then are skipped."""
    level: Annotated[int, Field(ge=0, le=5)] | None = None
    """TensorRT's optimization level, 0 to 5: how long it searches for faster kernels; default: its own."""
    dla: Annotated[int, Field(ge=0, le=1)] | None = None
    """The DLA core to build for; layers that it cannot run use the GPU."""
    image: Literal["planes", "native"] = "planes"
    """How a TensorRT engine takes the image; `planes`: as the model has it; `native`: as its first layer reads it."""


class Calibrate(Section):
    """Images on which INT8 ranges are measured. Without images, INT8 is built only from a model that contains Q/DQ."""

    images: Path | None = None
    """A folder of images."""
    count: Annotated[int, Field(ge=1)] = 160
    """Maximum number of images to use, spread evenly over the folder."""


class Accept(Section):
    """The gate: a build that detects worse than this is refused."""

    annotations: Path | None = None
    """COCO JSON, the data.yaml of a YOLO data set, a folder with one of them, or a folder of images per class."""
    images: Path | None = None
    """Folder of the images of `annotations`; default: theirs. Alone, detections are compared with FP32's: weaker."""
    reference: Path | None = None
    """ONNX file that `max_map_drop` is measured against; default: the recipe's model, unchanged."""
    max_map_drop: Annotated[float, Field(ge=0)] | None = None
    """Points of mAP 50-95 (0..100) that the build may lose relative to the reference."""
    min_map: Annotated[float, Field(ge=0, le=100)] | None = None
    """Points of mAP 50-95 that the build must reach."""
    min_agreement: Unit = 0.9
    """Share (0..1) of FP32's boxes on images without labels that the build must also detect."""
    max_confidence_shift: Unit | None = None
    """Median change (0..1) of the confidences of FP32's boxes that is allowed on these images."""
    require_sparse: bool = False
    """Refuse a build whose engine runs no 2:4 kernels or is not faster because of them."""


class Run(Section):
    """How frames are read and detections filtered."""

    source: Source | None = None
    """A single camera; short for `cameras` with one entry."""
    cameras: Annotated[tuple[Camera, ...], Field(max_length=MOST_CAMERAS)] = ()
    """Several cameras that share one engine."""
    conf: Confidences = 0.25
    """Minimum confidence; or one per class, as {default: 0.25, person: 0.5}."""
    iou: Unit = 0.7
    """NMS: of two boxes of a class that overlap by more, the less confident one is dropped."""
    max_det: Annotated[int, Field(gt=0)] = 300
    """Maximum number of detections per frame."""
    classes: ClassFilter | None = None
    """Classes to report, by name or number; default: all."""
    agnostic: bool = False
    """Whether boxes of different classes suppress each other."""
    multi_label: bool = False
    """Whether a box is reported once for every class that reaches `conf`, not only for its best class."""
    tracking: bool | Literal["sort", "bytetrack"] = False
    """Whether to track objects from frame to frame, per camera: `sort` (the same as true), or `bytetrack`, which keeps
    objects whose confidence falls below `conf` for a while, down to 0.1."""

    tiles: TilesSetting = "none"
    """Parts of a large frame that are detected in too: `none`, `auto`, a size, or a mapping."""

    @model_validator(mode="after")
    def _one_way(self) -> Run:
        check_together(self.cameras, tracking=bool(self.tracking))
        if self.source is not None and self.cameras:
            raise ValueError("source or cameras, not both")
        return self

    def all_cameras(self) -> tuple[Camera, ...]:
        """Return `cameras`, or the one camera of `source`, or nothing."""
        return self.cameras or (() if self.source is None else (Camera(name=ONLY, source=self.source),))

    def redacted(self) -> Run:
        """Return a copy whose addresses have no credentials."""
        cameras = tuple(camera.model_copy(update={"source": redact(camera.source)}) for camera in self.cameras)
        return self.model_copy(update={"source": self.source and redact(self.source), "cameras": cameras})

    def seen_by(self, camera: Camera) -> Run:
        """Return a copy with the settings that this camera overrides."""
        own = {key: getattr(camera, key) for key in ("conf", "classes", "tiles") if getattr(camera, key) is not None}
        return self.model_copy(update=own)


Need = Literal["edgesparse", "l4t", "onnxruntime", "tensorrt", "tensorrt-rtx"]


class Deploy(Section):
    """What a device checks before and after it switches to a bundle of this recipe."""

    images: Path | None = None
    """Folder of images for the self-test; default: those of `accept`, or of `calibrate`."""
    count: Annotated[int, Field(ge=1, le=64)] = 8
    """Number of images in the bundle."""
    min_agreement: Unit = 0.7
    """Share (0..1) of the expected boxes that the engine must find, and of its own boxes that must be expected."""
    max_latency_ms: Positive | None = None
    """Limit for the median time from frame to detections, in milliseconds; default: none."""
    max_age_ms: Positive = 2000
    """Limit for the age of a camera's newest frame in the health window, in milliseconds."""
    max_error_share: Unit = 0.01
    """Errors that are allowed in the health window, as a share (0..1) of the frames."""
    shadow: ShadowSettings | None = None
    """Runs the new engine beside the active one before the switch; default: off."""
    needs: dict[Need, Version] = Field(default_factory=dict)
    """Minimum versions."""
    include_head: bool = False
    """Whether the Python file of a head of your own travels in the bundle, so that devices run it."""


class Recipe(Section):
    """The typed recipe file: what a detector is, and how it is built, accepted and run."""

    model: AnyPath
    """ONNX file, relative to the recipe."""
    head: HeadName = "auto"
    """How raw outputs become boxes; `auto`: recognized from the model. A head of your own: `my_head.py:MyHead`."""
    classes: str | tuple[str, ...] = "auto"
    """Class names in the order of the class ids: a list, a file, `coco`, or `auto` for those in the model."""
    keypoints: Keypoints | None = None
    """Keypoints of a pose and values of each, as [17, 3]; default: those in the model."""
    input: Input = Input()
    prepare: Prepare = Prepare()
    build: BuildSettings = BuildSettings()
    calibrate: Calibrate = Calibrate()
    accept: Accept = Accept()
    deploy: Deploy = Deploy()
    run: Run = Run()

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """Read a recipe file; relative paths in it start from its own folder. Raises ConfigError."""
        return load_recipe(Path(path))

    def build_key(self) -> str:
        """Return the sha256 of everything that determines what is built: without paths, `run` and `deploy`."""
        paths = {"annotations", "images", "reference"}
        elsewhere: Any = {"run": True, "deploy": True, "model": True, "accept": paths, "calibrate": {"images"}}
        values = self.model_dump(mode="json", exclude=elsewhere)
        if (file := head_file(self.head)) is not None:
            values["head"] = file.name
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def load_recipe(path: Path) -> Recipe:
    """Read a recipe file; relative paths in it start from its own folder. Raises ConfigError."""
    remedy = f"write one with 'edgesparse recipe MODEL.onnx -o {path}'"
    recipe = parse(read_mapping(path, "recipe", remedy, "at least 'model:'"), str(path))
    base = path.parent
    recipe = recipe.model_copy(update={"model": base / recipe.model, "classes": named_classes(recipe.classes, base)})
    recipe = recipe.model_copy(update={"head": absolute_head(recipe.head, base)})
    for section, name in _PATHS:
        part = getattr(recipe, section)
        if getattr(part, name) is not None:
            part = part.model_copy(update={name: base / getattr(part, name)})
            recipe = recipe.model_copy(update={section: part})
    own = head_file(recipe.head)
    code = {"head": own.path} if own is not None else {}
    files = {"model": recipe.model, **code, **{f"{s}.{name}": getattr(getattr(recipe, s), name) for s, name in _PATHS}}
    for name, file in files.items():
        what, exists = ("folder", os.path.isdir) if name in _FOLDERS else ("file", os.path.isfile)
        if name == "accept.annotations" and file and os.path.isdir(file):  # noqa: PTH112, False for impossible names
            continue
        if file is not None and not exists(file):
            raise ConfigError(f"{path}: {name}: no {what} {short(str(file), 300)}{nearest_file(file)}")
    return recipe


_PATHS = (
    ("accept", "annotations"),
    ("accept", "images"),
    ("accept", "reference"),
    ("calibrate", "images"),
    ("deploy", "images"),
)
_FOLDERS = ("accept.images", "calibrate.images", "deploy.images")


def parse(values: dict[str, Any], where: str) -> Recipe:
    """Validate a mapping as a recipe. Raises ConfigError, whose message starts with `where`."""
    return typed(Recipe, values, where, {"head": [*HEAD_ALIASES], "build.candidates": ["a list as [fp16, int8-qdq]"]})


def override(run: Run, changes: dict[str, Any], where: str = "command line") -> Run:
    """Return `run` with the values of the command line or of a device's settings; None leaves a value unchanged.

    `classes` may be comma-separated text, `source` a list. A source replaces the cameras, and cameras the source.
    """
    values = {key: value for key, value in changes.items() if value is not None}
    if isinstance(values.get("classes"), str):
        values["classes"] = [part.strip() for part in values["classes"].split(",")]
    if isinstance(values.get("source"), list | tuple):
        values |= of_sources(values.pop("source"))
    if values.keys() & {"source", "cameras"}:
        values = {"source": None, "cameras": [], **values}
    recipe = parse({"model": "", "run": {**run.model_dump(mode="json"), **values}}, where)
    return recipe.run
