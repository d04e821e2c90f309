"""Finished candidates of an interrupted build, kept on this device so that the next build can continue there.

An entry is named by the hash of everything that determines it: the ONNX file, the build options, the backend's
identity, and what it was scored on. An engine is native code, so an entry of a compiling backend has this device's
keyed hash and is not used without it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from edgesparse.backends import BuildOptions, BuildResult
from edgesparse.backends.base import Limits
from edgesparse.builder.child.job import Scoring, TrialResult, from_json, to_json
from edgesparse.builder.child.memory import Spent
from edgesparse.builder.int8 import hash_labels
from edgesparse.builder.prepare import Build
from edgesparse.device import state_folder
from edgesparse.errors import EdgeSparseError
from edgesparse.files import read_regular, replace_text
from edgesparse.package import sign
from edgesparse.package.manifest import sha256
from edgesparse.runtime.heads.own import head_identity
from edgesparse.version import VERSION

MOST_BYTES = 4 << 20
"""Most bytes of a record, which lists every layer of its engine."""
KEPT_SECONDS = 30 * 24 * 3600
_RECORD, _ENGINE = "record.json", "engine"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finished:
    """A candidate that was built and tried: its rung of limits, its memory, and both results."""

    rung: int
    spent: Spent
    built: BuildResult
    trial: TrialResult


class FinishedCandidates:
    """Entries in the state folder. Without `reuse`, they are written but not read."""

    def __init__(self, build: Build, scoring: Scoring, reuse: bool) -> None:
        self._build, self._reuse = build, reuse
        self._folder = state_folder() / "unfinished"
        self._same = [VERSION, build.backend.name, build.backend.identity(), to_json(build.prepared.spec)]
        self._same += [head_identity(build.prepared.spec.head)]
        labels = scoring.annotations
        self._same += ["" if labels is None else hash_labels(labels), _hash(scoring.reference), str(scoring.run)]
        _remove_old(self._folder)

    def key(self, name: str, onnx: Path, options: BuildOptions) -> str:
        """Return the entry name of the candidate `name`, built from `onnx` with `options`, whatever its limits."""
        fixed = replace(options, limits=Limits(), timing_cache=None, table=None, images=None)
        files = [_hash(path) for path in (onnx, options.table, options.images)]
        text = json.dumps([*self._same, name, to_json(fixed), files], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def load(self, key: str, out: Path) -> Finished | None:
        """Return the entry, with its engine copied to `out`; None if there is none, or if it was changed or built
        elsewhere.
        """
        folder = self._folder / key
        if not self._reuse or not folder.is_dir():
            return None
        try:
            content = json.loads(read_regular(folder / _RECORD, MOST_BYTES))
            text = json.dumps(content["finished"], sort_keys=True) + content["sha256"]
            if self._build.backend.native_code and sign.mismatch(content["mac"], text.encode()):
                return None
            shutil.copyfile(folder / _ENGINE, out)
            if sha256(out) != content["sha256"]:
                return None
            finished: Finished = from_json(Finished, content["finished"])
        except (OSError, ValueError, KeyError, TypeError, EdgeSparseError) as error:
            _log.warning("%s is not used: %s", folder, error)
            return None
        return replace(finished, built=replace(finished.built, path=out))

    def save(self, key: str, finished: Finished) -> None:
        """Write an entry completely or not at all. A full disk costs the entry, not the build."""
        part = self._folder / f".{key}-{os.getpid()}"
        try:
            part.mkdir(mode=0o700, parents=True)
            shutil.copyfile(finished.built.path, part / _ENGINE)
            fields, digest = to_json(finished), sha256(part / _ENGINE)
            text = json.dumps(fields, sort_keys=True) + digest
            mac = sign.mac(text.encode()) if self._build.backend.native_code else ""
            record = json.dumps({"finished": fields, "sha256": digest, "mac": mac})
            replace_text(part / _RECORD, record, synced=True)
            shutil.rmtree(self._folder / key, ignore_errors=True)
            part.rename(self._folder / key)
        except (OSError, EdgeSparseError) as error:
            _log.warning("an interrupted build will not continue after this candidate: %s", error)
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def forget(self) -> None:
        """Remove all entries: the build is complete."""
        shutil.rmtree(self._folder, ignore_errors=True)


def _hash(path: Path | None) -> str:
    return sha256(path) if path is not None and path.is_file() else ""


def _remove_old(folder: Path) -> None:
    with suppress(OSError):
        for entry in folder.iterdir():
            if time.time() - entry.stat().st_mtime > KEPT_SECONDS:
                shutil.rmtree(entry, ignore_errors=True)
