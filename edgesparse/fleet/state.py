"""The state files of a device's deploys: typed, bounded, and checked when they are read.

Anyone who can write to the service's folder can write these files. A value of the wrong type, a slot that does not
exist or a path that is not a regular file counts as damage: it is never followed, and `set_aside` moves it out of the
way.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from edgesparse.files import read_regular, replace_text
from edgesparse.fleet.bundle import MAX_TIME

SlotName = Literal["a", "b"]
Step = Literal["building", "switching", "undoing"]
MAX_BYTES = 1 << 20
"""Most bytes in a slot's record or the journal."""

_Text = Annotated[str, Field(max_length=20_000)]
_Seconds = Annotated[float, Field(ge=0, le=MAX_TIME, strict=False)]
_STRICT = ConfigDict(strict=True, allow_inf_nan=False, extra="ignore")
T = TypeVar("T")


class DamagedState(Exception):
    """A state file that cannot be used; the message says why."""


@dataclass(frozen=True)
class SlotRecord:
    """The contents of a slot. `bundle`: the bundle's sha256. `committed`: when it was last healthy, in seconds since
    1970; None until then. `bad`: why it must not run again."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    bundle: _Text
    name: _Text
    version: _Text
    time: Annotated[int, Field(ge=0, le=MAX_TIME)]
    build_id: _Text = ""
    backend: _Text = ""
    precision: _Text = ""
    selftest: dict[str, Any] = field(default_factory=dict)
    built: _Seconds = 0.0
    committed: _Seconds | None = None
    bad: _Text = ""
    shadow: dict[str, Any] = field(default_factory=dict)
    """How the engine compared beside the one before it; empty if it did not run there."""

    @property
    def healthy(self) -> bool:
        """Whether it was healthy and has not turned bad since."""
        return self.committed is not None and not self.bad

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Journal:
    """A deploy in progress: `slot` is being filled, or runs on trial; `old` is the slot that ran before, empty if none
    did.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    id: _Text
    verb: _Text
    step: Step
    slot: SlotName
    old: SlotName | Literal[""]
    pid: Annotated[int, Field(ge=0, le=MAX_TIME)]
    why: _Text = ""
    """While undoing: what went wrong."""


def read_state(path: Path, kind: type[T]) -> T | None:
    """Read a state file as the dataclass `kind`. Returns None if it does not exist; raises DamagedState."""
    try:
        # mypy takes a class for unhashable
        value: T = _adapter(kind).validate_json(read_regular(path, MAX_BYTES))  # type: ignore[arg-type]
        return value
    except FileNotFoundError:
        return None
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, problem["loc"]))
        raise DamagedState(f"{path}: {place}{': ' if place else ''}{problem['msg']}") from None
    except OSError as error:
        raise DamagedState(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise DamagedState(str(error)) from None


@cache  # it takes milliseconds to make one, and a deploy reads dozens of files
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def usable_state(path: Path, kind: type[T]) -> T | None:
    """Read a state file. Returns None if it does not exist or is damaged."""
    with suppress(DamagedState):
        return read_state(path, kind)
    return None


def write_state(path: Path, values: Mapping[str, Any]) -> None:
    """Replace a state file and sync it to disk."""
    replace_text(path, json.dumps(values, indent=1) + "\n", synced=True)
