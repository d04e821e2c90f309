"""The manifest: what a package is, what it was made from, what it runs on, and why it was chosen."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edgesparse.config import DetectorSpec, Run, Section
from edgesparse.errors import PackageError

FORMAT = 1
FILE = "manifest.json"


class Tensor(Section):
    name: str
    shape: tuple[int, ...]
    dtype: str


class Score(Section):
    """COCO mAP in points, 0..100."""

    map: float
    map50: float


class Candidate(Section):
    """One way to build it that was tried. `latency_ms`: median of the engine alone on the machine that built it."""

    name: str
    precision: str
    build_seconds: float
    latency_ms: float
    peak_memory_mb: float
    score: Score | None
    chosen: bool
    reason: str


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
    backend: str
    identity: dict[str, str]
    """What the engine depends on: versions and hardware, as the backend says."""
    machine: dict[str, str]
    """Where it was built, for people to read."""
    engine: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    detector: DetectorSpec
    threads: int
    run: Run
    candidates: tuple[Candidate, ...]
    files: dict[str, str]
    """sha256 of every other file in the package."""

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
        return Manifest.model_validate_json(json.dumps(said))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise PackageError(f"{path} is damaged at {place}: build it again with 'edgesparse build --force'") from None


def write(folder: Path, manifest: Manifest) -> None:
    """Write it at once: a reader sees the old one or this one."""
    part = folder / f".{FILE}"
    part.write_text(json.dumps(manifest.model_dump(mode="json"), indent=2, sort_keys=True) + "\n")
    part.replace(folder / FILE)


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
