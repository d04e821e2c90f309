"""The manifest of a package: its contents, what it was built from, where it runs, and why it was chosen."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, field_serializer

from edgesparse.confidences import ConfidenceShift
from edgesparse.config import ONLY, DetectorSpec, Run, Section
from edgesparse.errors import PackageError
from edgesparse.files import read_regular, replace_text
from edgesparse.redaction import redact
from edgesparse.wording import short

FORMAT = 2
MAX_BYTES = 64 << 20
FILE = "manifest.json"
ADDRESSES = "cameras.json"
"""A file next to it, readable only by its owner, with full camera addresses; the manifest has no credentials."""

log = logging.getLogger(__name__)


def _file_name(name: str) -> str:
    if name in ("", ".", "..") or len(os.fsencode(name)) > 255 or set(name) & {"/", "\0"}:
        raise ValueError("the name of a file, without a folder")
    return name


FileName = Annotated[str, AfterValidator(_file_name)]


class TensorRecord(Section):
    name: str
    shape: tuple[int, ...]
    dtype: str


class Score(Section):
    """COCO mAP in points, 0..100."""

    map: float
    map50: float
    metric: str = "mAP"
    """What the points are of: `mask mAP`, `keypoint mAP`, `rotated mAP`, or `top-1`, with top-5 as `map50`."""


class LayerRecord(Section):
    """One layer of a built engine, as reported by the engine: its `kernel`, and whether that is a 2:4 kernel."""

    name: str
    kernel: str
    sparse: bool
    onnx: tuple[str, ...] = ()
    device: str = "gpu"
    precision: str = ""


class LayerVerdict(Section):
    """One layer of the model: its `state` as in `edgesparse inspect`, whether it runs `sparse`, and if not, why."""

    name: str
    state: str
    sparse: bool
    why: str


class AgreementRecord(Section):
    """Agreement with FP32 on images without labels, each 0..1: the share of FP32's boxes that the candidate
    detects, and the share of its own that FP32 has too, of the same class."""

    recall: float
    precision: float
    iou: float
    """Mean overlap of matched boxes."""
    score_mean: float
    """Mean difference of their confidences."""
    boxes: int
    images: int


Outcome = Literal["chosen", "lost", "refused", "failed", "skipped"]


class Candidate(Section):
    """One way to build the model. `lost`: usable but not the best; `refused`: not accurate enough; `failed`: cannot be
    built or run; `skipped`: not tried. Sizes are in megabytes, on the machine that built it."""

    name: str
    precision: str
    sparse: bool = False
    """Whether 2:4 kernels were allowed."""
    outcome: Outcome
    reason: str
    build_seconds: float = 0.0
    """Of the builder alone, for the engine that was kept."""
    seconds: dict[str, float] = Field(default_factory=dict)
    """What it cost, by phase: `prepare`, `build` on every rung, `test`. What was resumed cost nothing."""
    latency_ms: float | None = None
    """Median latency of the engine alone."""
    spread_ms: float = 0.0
    """How much the median may vary between measurements: candidates closer than that count as equal."""
    file_mb: float = 0.0
    host_mb: float = 0.0
    """Peak memory of the process that built it."""
    device_mb: float | None = None
    """Peak GPU memory while it was built, if that can be measured."""
    loaded_mb: float | None = None
    """Part of the budget used by the library and the CUDA context, before anything was built."""
    context_mb: float = 0.0
    """GPU memory needed to run it, besides the weights."""
    score: Score | None = None
    agreement: AgreementRecord | None = None
    shift: ConfidenceShift | None = None
    eligible: tuple[str, ...] = ()
    picked: tuple[str, ...] = ()
    layers: tuple[LayerRecord, ...] = ()
    degraded: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    rung: int = 0
    """How much memory was limited; 0 is the least."""
    command: str = ""
    """The equivalent trtexec command."""
    image: str = ""
    """How the engine takes the image, if not as the model has it: type, layout, and whether it copies it first."""

    @property
    def chosen(self) -> bool:
        return self.outcome == "chosen"


class Manifest(Section):
    format: int = FORMAT
    edgesparse: str
    build_id: FileName
    created: str
    """UTC, ISO 8601."""
    model: FileName
    source_sha256: str
    recipe_sha256: str
    labels_sha256: str | None
    """Hash of the annotations that the build was scored on."""
    calibration_sha256: str | None = None
    """Hash of the images that INT8 was calibrated on."""
    backend: str
    identity: dict[str, str]
    """Versions and hardware that the engine depends on, as reported by the backend."""
    machine: dict[str, str]
    """The machine that built it, for people to read."""
    engine: FileName
    fallback: FileName
    """The most precise engine, which runs if the chosen one cannot be loaded. May be the same file."""
    fallback_precision: str
    inputs: tuple[TensorRecord, ...]
    outputs: tuple[TensorRecord, ...]
    detector: DetectorSpec
    threads: int
    dla: int | None = None
    """The DLA core that the engine is loaded on."""
    batch: tuple[int, int, int] | None = None
    """Minimum, optimum and maximum batch, if it is dynamic."""
    run: Run
    """Written to JSON without credentials in addresses."""
    candidates: tuple[Candidate, ...]
    verdict: tuple[str, ...] = ()
    """A description of the result: a line for each 2:4 engine and its dense twin, and notes."""
    sparsity: tuple[LayerVerdict, ...] = ()
    """Layers of the chosen engine or, if it is dense, of the fastest 2:4 engine."""
    budget_mb: float | None = None
    budget_of: str = "host"
    """Which memory the budget limits: `host`, `gpu`, or `shared` by both."""
    clocks: str = ""
    """Clocks and power mode during the timing."""
    seconds: dict[str, float] = Field(default_factory=dict)
    """What the build cost, by phase: `model`, `reference`, `candidates`, `timing`."""
    files: dict[FileName, str]
    """sha256 of every other file in the package."""
    mac: str = ""
    """Keyed hash of everything else, if the files hold native code."""

    @field_serializer("run")
    def _without_credentials(self, run: Run) -> dict[str, Any]:
        return run.redacted().model_dump(mode="json")

    def signed_part(self) -> bytes:
        """Return the data whose keyed hash is `mac`."""
        return json.dumps(self.model_dump(mode="json", exclude={"mac"}), sort_keys=True).encode()

    @property
    def precision(self) -> str:
        """The precision of the chosen candidate."""
        return next((candidate.precision for candidate in self.candidates if candidate.chosen), "")

    @property
    def image(self) -> str:
        """How the chosen engine takes the image, if not as the model has it."""
        return next((candidate.image for candidate in self.candidates if candidate.chosen), "")


def read(folder: Path) -> Manifest:
    """Read a package's manifest. Raises PackageError if it is missing, damaged or in another format."""
    path = folder / FILE
    try:
        content: Any = json.loads(read_regular(path, MAX_BYTES))
    except FileNotFoundError:
        raise PackageError(f"no package in {folder}: build one with 'edgesparse build RECIPE.yaml'") from None
    except (OSError, ValueError, RecursionError) as error:
        raise PackageError(f"{path} is damaged ({error}): build it again with 'edgesparse build --force'") from None
    version = content.get("format") if isinstance(content, dict) else None
    if version != FORMAT:
        raise PackageError(
            f"{path}: found format {short(str(version))}, needed {FORMAT}: build it again with 'edgesparse build'"
        )
    try:
        manifest = Manifest.model_validate_json(json.dumps(content))
        return manifest.model_copy(update={"run": _with_addresses(folder / ADDRESSES, manifest.run)})
    except ValidationError as error:
        first = error.errors()[0]
        place = short(".".join(map(str, first["loc"])))
        raise PackageError(f"{path} is damaged at {place}: build it again with 'edgesparse build --force'") from None


def write(folder: Path, manifest: Manifest) -> None:
    """Write the manifest atomically: a reader sees the old one or the new one."""
    _write_addresses(folder / ADDRESSES, manifest.run)
    replace_text(folder / FILE, json.dumps(manifest.model_dump(mode="json"), indent=2, sort_keys=True) + "\n")


def _write_addresses(path: Path, run: Run) -> None:
    cameras = run.all_cameras()
    hidden = {camera.name: camera.source for camera in cameras if redact(camera.source) != camera.source}
    if not hidden:
        path.unlink(missing_ok=True)
        return
    replace_text(path, json.dumps(hidden), 0o600)


def _with_addresses(path: Path, run: Run) -> Run:
    """Return `run` with full addresses: the file only adds the credentials that the manifest leaves out."""
    try:
        addresses: Any = json.loads(read_regular(path, MAX_BYTES))
    except FileNotFoundError:
        return run
    except (OSError, ValueError, RecursionError) as error:
        log.warning("cannot read %s (%s): cameras are opened without credentials", path, error)
        return run

    def complete(camera: str, source: str) -> str:
        address = addresses.get(camera) if isinstance(addresses, dict) else None
        return address if isinstance(address, str) and redact(address) == source else source

    cameras = tuple(c.model_copy(update={"source": complete(c.name, c.source)}) for c in run.cameras)
    source = None if run.source is None else complete(ONLY, run.source)
    return run.model_copy(update={"source": source, "cameras": cameras})


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's contents, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
