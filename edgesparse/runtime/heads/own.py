"""External heads: a class in a user's file, or in another installed package.

Since their code is not ours, any exception becomes one line that names the head, and what they return is checked.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.frames import Candidates, Decode, Strided
from edgesparse.errors import ConfigError, EdgeSparseError, ModelError
from edgesparse.head_table import HEADS, HeadFile, head_file, installed
from edgesparse.runtime.detections import Detections
from edgesparse.runtime.heads.base import Complete, Evidence, Head, Layout, Sample
from edgesparse.runtime.heads.candidates import at_least
from edgesparse.runtime.letterbox import Letterbox


def from_file(file: HeadFile) -> Head:
    """Load the head in a file; the file is run again if it has changed. Raises ConfigError."""
    return _from_source(file, _read(file))


@lru_cache(maxsize=64)
def _from_source(file: HeadFile, source: bytes) -> Head:
    module = ModuleType(f"edgesparse_own_head_{hashlib.sha256(source).hexdigest()[:12]}")
    module.__file__ = str(file.path)
    sys.modules[module.__name__] = module  # dataclasses look their module up there
    try:
        exec(compile(source, file.path, "exec"), module.__dict__)  # nosec B102: the recipe's owner names the file
    except Exception as error:
        del sys.modules[module.__name__]
        raise ConfigError(f"head: {file.path} cannot be run: {_words(error)}: fix it") from error
    return _guarded(getattr(module, file.name, None), str(file), module)


def head_identity(name: str) -> str | None:
    """The identity of an external head: the hash of its file, or its package's version; None for a built-in head.

    Raises ConfigError for a file that cannot be read.
    """
    if (file := head_file(name)) is not None:
        return hashlib.sha256(_read(file)).hexdigest()
    entry = installed().get(name) if name not in HEADS and name != "auto" else None
    return f"{entry.value} {entry.dist.version if entry.dist is not None else ''}" if entry is not None else None


def _read(file: HeadFile) -> bytes:
    try:
        return file.path.read_bytes()
    except OSError as error:
        raise ConfigError(f"head: cannot read {file.path}: {error.strerror}") from None


def from_entry(entry: EntryPoint) -> Head:
    """The head of an installed package. Raises ConfigError."""
    try:
        kind = entry.load()
    except Exception as error:
        package = entry.dist.name if entry.dist is not None else entry.value
        raise ConfigError(f"head: '{entry.name}' of {package} cannot be loaded: {_words(error)}: fix it") from error
    return _guarded(kind, entry.name, None)


def _guarded(kind: Any, name: str, module: ModuleType | None) -> Head:
    """A guarded instance of the class. Raises ConfigError if it is not a head class."""
    if not isinstance(kind, type) or not issubclass(kind, Head):
        own = [key for key, value in vars(module).items() if _is_head(value)] if module is not None else []
        heads = f"; heads in it: {', '.join(own)}" if own else ""
        raise ConfigError(f"head: '{name}' is no class that derives from edgesparse.Head{heads}")
    abstract = sorted(getattr(kind, "__abstractmethods__", ()))
    if abstract:
        raise ConfigError(f"head: '{name}' lacks {', '.join(abstract)}: write what edgesparse.Head asks for")
    with _guard(name, "__init__"):
        return _guard_class(kind, name)()


def _is_head(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Head) and value is not Head


def _guard_class(kind: type[Head], name: str) -> type[Head]:
    class Guarded(_guard_extras(kind, name)):  # type: ignore[misc]  # a class that is known only at run time
        @property
        def per_class(self) -> bool:
            # Callers rely on every box for every class, in order, which only a head that declares it guarantees.
            return kind.per_class is not Head.per_class and bool(super().per_class)

        def fits(self, layout: Layout) -> bool:
            with _guard(name, "fits", LookupError):
                return bool(super().fits(layout))

        def evidence(self, layout: Layout, sample: Sample | None) -> Evidence | None:
            with _guard(name, "evidence"):
                seen: Evidence | None = super().evidence(layout, sample)
                return seen

        def classes(self, layout: Layout) -> int | None:
            with _guard(name, "classes", LookupError):
                count = super().classes(layout)
                return None if count is None else int(count)

        def decode(self, layout: Layout, conf: float, multi_label: bool = False) -> Decode:
            with _guard(name, "decode"):
                details = super().complete(layout) is not None
                return _checked(super().decode(layout, conf, multi_label), name, conf, details)

    return Guarded


def _guard_extras(kind: type[Head], name: str) -> type[Head]:
    """Guard the methods that only some heads define."""

    class Guarded(kind):  # type: ignore[valid-type,misc]  # a class that is known only at run time
        def strided(self, layout: Layout) -> Strided | None:
            with _guard(name, "strided"):
                at: Strided | None = super().strided(layout)
                return at

        def prototypes(self, layout: Layout) -> int | None:
            with _guard(name, "prototypes"):
                index: int | None = super().prototypes(layout)
                return index

        def complete(self, layout: Layout) -> Complete | None:
            with _guard(name, "complete"):
                complete: Complete | None = super().complete(layout)
                return None if complete is None else _guarded_complete(complete, name)

    return Guarded


def _guarded_complete(complete: Complete, name: str) -> Complete:
    def guarded(
        detections: Detections, candidates: NDArray[np.float32], prototypes: NDArray[Any] | None, letterbox: Letterbox
    ) -> Detections:
        with _guard(name, "complete"):
            return complete(detections, candidates, prototypes, letterbox)

    return guarded


def _checked(decode: Decode, name: str, conf: float, details: bool) -> Decode:
    """Wrap `decode`: invalid candidates are refused, those below `conf` dropped. `details`: boxes are [n, 4 + k]."""

    def checked(outputs: Sequence[NDArray[Any]], image: int) -> Candidates:
        with _guard(name, "decode"):
            boxes, scores, labels = (np.asarray(part) for part in decode(outputs, image))
        shapes = boxes.shape, scores.shape, labels.shape
        columns = boxes.shape[1] if details and boxes.ndim == 2 else 4
        if scores.ndim != 1 or labels.shape != scores.shape or boxes.shape != (len(scores), max(columns, 4)):
            raise ModelError(f"head '{name}': decode returned {shapes}, needed boxes [n, 4], scores [n], class ids [n]")
        keep = at_least(scores, conf)
        return boxes[keep].astype(np.float32), scores[keep].astype(np.float32), labels[keep].astype(np.int64)

    return checked


@contextmanager
def _guard(name: str, method: str, *through: type[Exception]) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if isinstance(error, (EdgeSparseError, *through)):
            raise
        raise ModelError(f"head '{name}': {method} raised {_words(error)}: fix the head") from error


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
