"""The manifest: what a package is, what it was made from, what it runs on, and why it was chosen."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError, field_serializer

from edgesparse.config import ONLY, DetectorSpec, Run, Section
from edgesparse.errors import PackageError
from edgesparse.wording import redact

FORMAT = 2
FILE = "manifest.json"
ADDRESSES = "cameras.json"
"""Beside it, for its owner alone: by camera, the addresses that the manifest shows without credentials."""

log = logging.getLogger(__name__)


class TensorRecord(Section):
    name: str
    shape: tuple[int, ...]
    dtype: str


class Score(Section):
    """COCO mAP in points, 0..100."""

    map: float
    map50: float


class LayerRecord(Section):
    """One layer of a built engine, as it says of itself: `kernel` is what runs, `sparse` whether that is a 2:4 one."""

    name: str
    kernel: str
    sparse: bool
    onnx: tuple[str, ...] = ()
    device: str = "gpu"
    precision: str = ""


class LayerVerdict(Section):
    """One layer of the model: `state` as `edgesparse inspect` says it, whether it runs `sparse`, and if not, why."""

    name: str
    state: str
    sparse: bool
    why: str


class AgreementRecord(Section):
    """Detections against FP32's on images without labels, 0..1 each: FP32's boxes that were found, and found boxes
    that FP32 has too, of the same class."""

    recall: float
    precision: float
    iou: float
    """Mean overlap of the boxes that both have."""
    score_mean: float
    """Mean difference of their confidence."""
    boxes: int
    images: int


Outcome = Literal["chosen", "lost", "refused", "failed", "skipped"]


class Candidate(Section):
    """One way to build it: `lost` may be used and is not the best, `refused` detects too badly, `failed` cannot be
    built or run, `skipped` was not tried. Sizes in megabytes, on the machine that built it."""

    name: str
    precision: str
    sparse: bool = False
    """Whether 2:4 kernels were allowed."""
    outcome: Outcome
    reason: str
    build_seconds: float = 0.0
    latency_ms: float | None = None
    """Median of the engine alone."""
    spread_ms: float = 0.0
    """Half of the middle half of the measurements: what is closer than that counts as equal."""
    file_mb: float = 0.0
    host_mb: float = 0.0
    """Peak of the process that built it."""
    device_mb: float | None = None
    """Peak on the GPU while it was built, where that was measured."""
    loaded_mb: float | None = None
    """What of the budget was taken when the library was loaded, with CUDA's context, and nothing was built yet."""
    context_mb: float = 0.0
    """What running it takes on the GPU beside the weights."""
    score: Score | None = None
    agreement: AgreementRecord | None = None
    eligible: tuple[str, ...] = ()
    picked: tuple[str, ...] = ()
    layers: tuple[LayerRecord, ...] = ()
    degraded: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    rung: int = 0
    """How far memory was limited, 0 the least."""
    command: str = ""
    """The trtexec line that does the same."""

    @property
    def chosen(self) -> bool:
        return self.outcome == "chosen"


class Manifest(Section):
    format: int = FORMAT
    edgesparse: str
    build_id: str
    created: str
    """UTC, ISO 8601."""
    model: str
    source_sha256: str
    recipe_sha256: str
    labels_sha256: str | None
    """Of the annotations that the build was accepted on."""
    calibration_sha256: str | None = None
    """Of the images that INT8 was calibrated on."""
    backend: str
    identity: dict[str, str]
    """What the engine depends on: versions and hardware, as the backend says."""
    machine: dict[str, str]
    """Where it was built, for people to read."""
    engine: str
    fallback: str
    """The most precise engine: what runs when the chosen one cannot be loaded. May be the same file."""
    fallback_precision: str
    inputs: tuple[TensorRecord, ...]
    outputs: tuple[TensorRecord, ...]
    detector: DetectorSpec
    threads: int
    dla: int | None = None
    """The DLA core that the engine is loaded on."""
    batch: tuple[int, int, int] | None = None
    """Least, usual and largest batch, where it is open."""
    run: Run
    """As JSON without the credentials of addresses."""
    candidates: tuple[Candidate, ...]
    verdict: tuple[str, ...] = ()
    """What was found out, in words: a line for the choice, one for each pair of dense and 2:4."""
    sparsity: tuple[LayerVerdict, ...] = ()
    """Of the chosen engine, or, when that is dense, of the fastest 2:4 one."""
    budget_mb: float | None = None
    budget_of: str = "host"
    """Which memory was bounded: `host`, `gpu`, or both at once, `shared`."""
    clocks: str = ""
    """Clocks and power mode while it was timed."""
    files: dict[str, str]
    """sha256 of every other file in the package."""
    mac: str = ""
    """Keyed hash of all the rest, where the files hold native code."""

    @field_serializer("run")
    def _without_credentials(self, run: Run) -> dict[str, Any]:
        return run.redacted().model_dump(mode="json")

    def signed_part(self) -> bytes:
        """What `mac` is the hash of."""
        return json.dumps(self.model_dump(mode="json", exclude={"mac"}), sort_keys=True).encode()

    @property
    def precision(self) -> str:
        """Of the candidate that was chosen."""
        return next((candidate.precision for candidate in self.candidates if candidate.chosen), "")


def read(folder: Path) -> Manifest:
    """Raises PackageError when there is none, or none that this release understands."""
    path = folder / FILE
    try:
        said: Any = json.loads(path.read_text())
    except FileNotFoundError:
        raise PackageError(f"no package in {folder}: build one with 'edgesparse build RECIPE.yaml'") from None
    except (OSError, ValueError) as error:
        raise PackageError(f"{path} is damaged ({error}): build it again with 'edgesparse build --force'") from None
    found = said.get("format") if isinstance(said, dict) else None
    if found != FORMAT:
        raise PackageError(f"{path}: found format {found}, needed {FORMAT}: build it again with 'edgesparse build'")
    try:
        manifest = Manifest.model_validate_json(json.dumps(said))
        return manifest.model_copy(update={"run": _with_addresses(folder / ADDRESSES, manifest.run)})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise PackageError(f"{path} is damaged at {place}: build it again with 'edgesparse build --force'") from None


def write(folder: Path, manifest: Manifest) -> None:
    """Write it at once: a reader sees the old one or this one."""
    _write_addresses(folder / ADDRESSES, manifest.run)
    part = folder / f".{FILE}"
    part.write_text(json.dumps(manifest.model_dump(mode="json"), indent=2, sort_keys=True) + "\n")
    part.replace(folder / FILE)


def _write_addresses(path: Path, run: Run) -> None:
    cameras = run.all_cameras()
    hidden = {camera.name: camera.source for camera in cameras if redact(camera.source) != camera.source}
    if not hidden:
        path.unlink(missing_ok=True)
        return
    part = path.with_name(f".{path.name}")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(hidden, file)
    part.replace(path)


def _with_addresses(path: Path, run: Run) -> Run:
    """`run` with whole addresses, of which only what the manifest leaves out comes from there."""
    try:
        known: Any = json.loads(path.read_text())
    except FileNotFoundError:
        return run
    except (OSError, ValueError) as error:
        log.warning("cannot read %s (%s): cameras are opened without user and password", path, error)
        return run

    def whole(camera: str, source: str) -> str:
        found = known.get(camera) if isinstance(known, dict) else None
        return found if isinstance(found, str) and redact(found) == source else source

    cameras = tuple(one.model_copy(update={"source": whole(one.name, one.source)}) for one in run.cameras)
    source = None if run.source is None else whole(ONLY, run.source)
    return run.model_copy(update={"source": source, "cameras": cameras})


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
