"""The recipe: one YAML file that says what a detector is and how it is to be built, accepted and run."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from edgesparse.camera import ONLY as ONLY
from edgesparse.camera import Camera as Camera
from edgesparse.camera import Confidences, Source, of_sources
from edgesparse.classes import named_classes
from edgesparse.errors import ConfigError
from edgesparse.head_table import HEAD_ALIASES, HEADS
from edgesparse.typed import read_mapping, typed
from edgesparse.values import Batch as Batch
from edgesparse.values import Batches, Divisors, Memory, Positive, Size, Triple, Unit, Version
from edgesparse.values import Section as Section
from edgesparse.wording import nearest_file, redact

Letterbox = Literal["centre", "top-left", "stretch"]
Colour = Literal["rgb", "bgr"]
BackendName = Literal["auto", "onnxruntime", "tensorrt", "tensorrt-rtx", "null"]
Way = Literal["fp32", "fp16", "int8-table", "int8-qdq", "int8-qdq-sparse", "int8-tensorrt"]
"""How precision is lowered, cheap ways first. INT8 by a calibration table of ours, by Q/DQ behind the activations
(`int8-qdq`), by Q/DQ right behind the convolutions that may run 2:4 (`int8-qdq-sparse`), by TensorRT's calibration."""
WAYS: tuple[Way, ...] = get_args(Way)
SPARSE = "-2:4"
"""Ending of a candidate's name that may use 2:4 kernels."""


def _candidate(name: str) -> str:
    if name.removesuffix(SPARSE) not in WAYS:
        raise ValueError(f"one of {', '.join(WAYS)}, each also with '{SPARSE}'")
    return name


CandidateName = Annotated[str, AfterValidator(_candidate)]


def _head(name: str) -> str:
    name = HEAD_ALIASES.get(name, name)
    if name != "auto" and name not in HEADS:
        known = "' or '".join(("auto", *HEADS))
        raise PydanticCustomError("literal_error", "Input should be '{known}'", {"known": known})
    return name


HeadName = Annotated[str, AfterValidator(_head)]
"""`auto`, a name in edgesparse/head_table.py, or one of its aliases, which becomes the name it stands for."""


class InputSpec(Section):
    """How a frame becomes the network's input: `(pixel * scale - mean) / std`, a channel at a time, after resizing."""

    size: Size
    """Height and width in pixels."""
    letterbox: Letterbox = "centre"
    pad: Annotated[int, Field(ge=0, le=255)] = 114
    colour: Colour = "rgb"
    scale: float = 1 / 255
    mean: Triple = (0.0, 0.0, 0.0)
    std: Divisors = (1.0, 1.0, 1.0)


class Input(Section):
    """What the recipe says of InputSpec; what it leaves out comes from the model and from the head's convention."""

    size: Size | None = None
    letterbox: Letterbox | None = None
    pad: Annotated[int, Field(ge=0, le=255)] | None = None
    colour: Colour | None = None
    scale: float | None = None
    mean: Triple | None = None
    std: Divisors | None = None

    def resolve(self, convention: InputSpec) -> InputSpec:
        return convention.model_copy(update=self.model_dump(exclude_none=True))


class DetectorSpec(Section):
    """All that is needed to turn frames into inputs and raw outputs into detections."""

    head: str
    classes: tuple[str, ...]
    input: InputSpec


class Prepare(Section):
    """What is done to the ONNX graph before it is built."""

    simplify: bool = True


class BuildSettings(Section):
    backend: BackendName = "auto"
    batch: Batches = Batch(opt=1, max=1)
    """One number, or a range as {min: 1, opt: 4, max: 8}."""
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads; 0 is every core."""
    candidates: Literal["auto"] | tuple[CandidateName, ...] = "auto"
    """What is built and compared; `auto` is all that make sense."""
    memory: Memory | None = None
    """Bytes that a build may take; left out: what is free, less a reserve."""
    time_limit: Positive | None = None
    """Seconds for the whole build; what has not been built by then is left out."""
    level: Annotated[int, Field(ge=0, le=5)] | None = None
    """How long TensorRT tries to find faster kernels, 0 to 5; left out: as long as it does by itself."""
    dla: Annotated[int, Field(ge=0, le=1)] | None = None
    """The DLA core to build for, with the GPU for what it cannot do."""


class Calibrate(Section):
    """Images that INT8 ranges are measured on. Without any, INT8 is built only from a model that carries Q/DQ."""

    images: Path | None = None
    """A folder of images."""
    count: Annotated[int, Field(ge=1)] = 160
    """Most images that are used, spread evenly over the folder."""


class Accept(Section):
    """A build is refused unless it detects this well on labelled images."""

    annotations: Path | None = None
    """COCO JSON."""
    images: Path | None = None
    """Folder of the labelled images; left out: the folder of the annotations. Without `annotations`: images without
    labels, on which detections are compared with FP32's, which is weaker than a score."""
    reference: Path | None = None
    """ONNX that `max_map_drop` is measured against; left out: the recipe's model as it came."""
    max_map_drop: Annotated[float, Field(ge=0)] | None = None
    """Points of mAP 50-95 (0..100) that the build may lose against the reference."""
    min_map: Annotated[float, Field(ge=0, le=100)] | None = None
    """Points of mAP 50-95 that the build must reach."""
    min_agreement: Unit = 0.9
    """Share of FP32's boxes on images without labels that the build must find too."""
    require_sparse: bool = False
    """Refuse a build whose engine runs no 2:4 kernel, or gains nothing by it."""


class Run(Section):
    source: Source | None = None
    """The short form of one camera."""
    cameras: tuple[Camera, ...] = ()
    """Several cameras on one engine."""
    conf: Confidences = 0.25
    iou: Unit = 0.7
    max_det: Annotated[int, Field(gt=0)] = 300
    classes: tuple[str, ...] | None = None
    agnostic: bool = False
    """Whether boxes of different classes suppress each other."""
    multi_label: bool = False
    """Whether a box counts once for every class that reaches `conf`, not only for its best."""
    tracking: bool = False
    """Whether an object keeps its number from frame to frame, a camera."""

    @model_validator(mode="after")
    def _one_way(self) -> Run:
        names = [camera.name for camera in self.cameras]
        if len(set(names)) < len(names):
            raise ValueError(f"cameras of different names, found {', '.join(names)}")
        if self.source is not None and self.cameras:
            raise ValueError("source or cameras, not both")
        return self

    def all_cameras(self) -> tuple[Camera, ...]:
        """`cameras`, or the one of `source`; none where neither is said."""
        return self.cameras or (() if self.source is None else (Camera(name=ONLY, source=self.source),))

    def redacted(self) -> Run:
        """With addresses as they may be shown: without credentials."""
        cameras = tuple(camera.model_copy(update={"source": redact(camera.source)}) for camera in self.cameras)
        return self.model_copy(update={"source": self.source and redact(self.source), "cameras": cameras})

    def seen_by(self, camera: Camera) -> Run:
        """With what that camera has of its own."""
        own = {key: getattr(camera, key) for key in ("conf", "classes") if getattr(camera, key) is not None}
        return self.model_copy(update=own)


Need = Literal["edgesparse", "l4t", "onnxruntime", "tensorrt", "tensorrt-rtx"]


class Deploy(Section):
    """What a device holds a bundle of this recipe to, before it switches and after."""

    images: Path | None = None
    """A folder of images for the self-test; left out: those of `accept`, or of `calibrate`."""
    count: Annotated[int, Field(ge=1, le=64)] = 8
    """How many of them travel."""
    min_agreement: Unit = 0.7
    """Share of the expected boxes that the engine must find on them, and of its own that must be expected."""
    max_latency_ms: Positive | None = None
    """Median from frame to detections; left out: any."""
    max_age_ms: Positive = 2000
    """How old a camera's newest frame may be in the health window."""
    max_error_share: Unit = 0.01
    """Errors that are allowed there, as a share of the frames."""
    needs: dict[Need, Version] = Field(default_factory=dict)
    """Least versions."""


class Recipe(Section):
    """What a detector is, and how it is built, accepted and run: the recipe file, typed."""

    model: Path
    head: HeadName = "auto"
    classes: str | tuple[str, ...] = "auto"
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
        """sha256 of all that decides what is built: not where the files lie, nor `run` and `deploy`."""
        paths = {"annotations", "images", "reference"}
        elsewhere: dict[str, Any] = {
            "run": True,
            "deploy": True,
            "model": True,
            "accept": paths,
            "calibrate": {"images"},
        }
        said = self.model_dump(mode="json", exclude=elsewhere)
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def load_recipe(path: Path) -> Recipe:
    """Read a recipe; its paths count from its own folder. Raises ConfigError in one line."""
    remedy = f"write one with 'edgesparse recipe MODEL.onnx -o {path}'"
    said = read_mapping(path, "recipe", remedy, "at least 'model:'")
    recipe = parse(said, str(path))
    base = path.parent
    recipe = recipe.model_copy(update={"model": base / recipe.model, "classes": named_classes(recipe.classes, base)})
    for section, name in _PATHS:
        part = getattr(recipe, section)
        if getattr(part, name) is not None:
            part = part.model_copy(update={name: base / getattr(part, name)})
            recipe = recipe.model_copy(update={section: part})
    files = {"model": recipe.model, **{f"{s}.{name}": getattr(getattr(recipe, s), name) for s, name in _PATHS}}
    for name, file in files.items():
        what, there = ("folder", Path.is_dir) if name in _FOLDERS else ("file", Path.is_file)
        if file is not None and not there(file):
            raise ConfigError(f"{path}: {name}: no {what} {file}{nearest_file(file)}")
    return recipe


_PATHS = (
    ("accept", "annotations"),
    ("accept", "images"),
    ("accept", "reference"),
    ("calibrate", "images"),
    ("deploy", "images"),
)
_FOLDERS = ("accept.images", "calibrate.images", "deploy.images")


def parse(said: dict[str, Any], where: str) -> Recipe:
    """The typed recipe of a mapping; a section that is there and empty has its defaults. `where` begins the message of
    the ConfigError."""
    return typed(Recipe, said, where, {"head": [*HEAD_ALIASES]})


def override(run: Run, said: dict[str, Any], where: str = "command line") -> Run:
    """`run` with what the command line or a device's settings say, None meaning nothing; `classes` may be a comma
    separated text, `source` a list. Sources take the place of cameras, and the other way round."""
    values = {key: value for key, value in said.items() if value is not None}
    if isinstance(values.get("classes"), str):
        values["classes"] = [part.strip() for part in values["classes"].split(",")]
    if isinstance(values.get("source"), list | tuple):
        values |= of_sources(values.pop("source"))
    if values.keys() & {"source", "cameras"}:
        values = {"source": None, "cameras": [], **values}
    recipe = parse({"model": "", "run": {**run.model_dump(mode="json"), **values}}, where)
    return recipe.run
