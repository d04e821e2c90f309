"""From a YAML file to typed sections; what is wrong with it is one line."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import ValidationError

from edgesparse.errors import ConfigError
from edgesparse.values import Section
from edgesparse.wording import kind, place, sentence

S = TypeVar("S", bound=Section)


def read_mapping(path: Path, what: str, remedy: str, needs: str) -> dict[str, Any]:
    """The mapping in a YAML file. `what` it is, and the `remedy` where there is none, are for the ConfigError."""
    try:
        said = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"no {what} {path}: {remedy}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {what} {path}: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(said, dict):
        raise ConfigError(f"{path}: found {kind(said)}, needed a mapping with {needs}")
    return said


def typed(section: type[S], said: dict[str, Any], where: str, more: Mapping[str, Sequence[str]] | None = None) -> S:
    """The typed section of a mapping; a section in it that is there and empty has its defaults. `where` begins the
    message of the ConfigError; `more`, by path, is what is allowed beside what pydantic knows."""
    inner = [key for key, field in section.model_fields.items() if isinstance(field.default, Section)]
    said = {key: value for key, value in said.items() if value is not None or key not in inner}
    try:
        text = json.dumps(said, default=str)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: {error}: needed plain keys, and no value inside itself") from None
    try:
        return section.model_validate_json(text)
    except ValidationError as error:
        problems: dict[tuple[str, ...], Any] = {}
        for problem in error.errors():
            problems.setdefault(place(problem), problem)
        first = min(problems.values(), key=lambda e: (e["type"] != "extra_forbidden", -len(place(e))))
        rest = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        words = sentence(first, lambda at: _keys(section, at), more or {})
        raise ConfigError(f"{where}: {' '.join(words.split())}{rest}") from None


def _keys(section: type[Section], place: Sequence[str]) -> list[str]:
    """The keys of the section at `place`, whether it is there alone, may be left out, or is one of a list."""
    for part in place:
        if part.isdecimal():
            continue
        field = section.model_fields.get(part)
        found = _section(field.annotation) if field is not None else None
        if found is None:
            return []
        section = found
    return list(section.model_fields)


def _section(annotation: Any) -> type[Section] | None:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((found for part in get_args(annotation) if (found := _section(part))), None)
