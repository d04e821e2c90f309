"""Types of a recipe's values: bounded numbers, sizes, memory, batches."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, Strict, model_validator

_ESCAPES = {0xDC80 + byte: 0x10FF80 + byte for byte in range(128)}
_SURROGATES = {escape: surrogate for surrogate, escape in _ESCAPES.items()}


def escape_bytes(value: Any) -> Any:
    """Return a value that JSON can hold.

    Bytes of file names that are not UTF-8, which Python represents as lone surrogates, become private-use characters.
    """
    if isinstance(value, str):
        return value if value.isascii() else value.translate(_ESCAPES)
    if isinstance(value, dict):
        return {escape_bytes(key): escape_bytes(item) for key, item in value.items()}
    return [escape_bytes(item) for item in value] if isinstance(value, list | tuple) else value


def _restore_path(path: Path) -> Path:
    return Path(restore_bytes(str(path)))


def restore_bytes(text: str) -> str:
    """Return the original text for the result of `escape_bytes`."""
    return text if text.isascii() else text.translate(_SURROGATES)


class Section(BaseModel):
    """A mapping in a recipe or in settings: unknown keys and values of the wrong type are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, defer_build=True)


AnyPath = Annotated[Path, AfterValidator(_restore_path)]
"""A path whose name may be anything that the file system allows."""
Unit = Annotated[float, Field(ge=0, le=1)]
_SAME_FOR_ALL = BeforeValidator(lambda v: [v] * 3 if isinstance(v, int | float) else v)
Triple = Annotated[tuple[float, float, float], Strict(False), _SAME_FOR_ALL]
Positive = Annotated[float, Field(gt=0)]
Divisors = Annotated[tuple[Positive, Positive, Positive], Strict(False), _SAME_FOR_ALL]
Size = Annotated[
    tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]],
    Strict(False),
    BeforeValidator(lambda v: [v] * 2 if isinstance(v, int) else v),
]


def _bytes(value: object) -> object:
    """Convert `4 GB` or `512 MB` to bytes; return a number unchanged. Raises ValueError for other text."""
    if not isinstance(value, str):
        return value
    pattern = r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*([KMGkmg])i?[Bb]?\s*"
    if (match := re.fullmatch(pattern, value)) is None:
        raise ValueError("a size such as 512 MB or 2 GB")
    return int(float(match[1]) * 1000 ** ("KMG".index(match[2].upper()) + 1))


def version(value: str) -> str:
    """Return the version unchanged. Raises ValueError for anything else."""
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9}){0,5}", value):
        raise ValueError("numbers separated by dots, such as 1.4.2")
    return value


def host(name: str) -> str:
    """Return the host name or address unchanged. Raises ValueError for text that no resolver accepts."""
    labels = name.removesuffix(".").split(".")
    if len(name) > 253 or not all(0 < len(label) <= 63 for label in labels) or re.search(r"[\s\0/@]", name):
        raise ValueError("the name or address of a host: parts of 1 to 63 characters with dots between them")
    return name


Host = Annotated[str, AfterValidator(host)]
Version = Annotated[str, AfterValidator(version)]
Memory = Annotated[int, Field(ge=1_000_000), BeforeValidator(_bytes)]
MOST_IMAGES = 64


class Batch(Section):
    """Images per inference.

    With a range, TensorRT's engine takes any batch size in it and is fastest at `opt`. A model whose batch cannot be
    made dynamic is built for `opt`.
    """

    min: Annotated[int, Field(ge=1)] = 1
    """Smallest batch."""
    opt: Annotated[int, Field(ge=1)]
    """Batch for which the engine is optimized, and that packages run."""
    max: Annotated[int, Field(le=MOST_IMAGES)]
    """Largest batch."""

    @model_validator(mode="after")
    def _rises(self) -> Batch:
        if not self.min <= self.opt <= self.max:
            raise ValueError("min, opt and max in ascending order")
        return self

    @property
    def open(self) -> bool:
        return self.min < self.max


def _range(value: object) -> object:
    """Convert a whole number to a range of one size."""
    if isinstance(value, dict | Batch):
        return value
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError("a whole number, or a range as {min: 1, opt: 4, max: 8}")
    if not 1 <= value <= MOST_IMAGES:
        raise ValueError(f"1 to {MOST_IMAGES}")
    return {"min": value, "opt": value, "max": value}


Batches = Annotated[Batch, BeforeValidator(_range)]
