"""Turns a YAML file into typed sections. Any fault becomes a one-line message."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

from edgesparse.errors import ConfigError
from edgesparse.files import Check
from edgesparse.values import Section, escape_bytes
from edgesparse.wording import explain, key_path, kind

S = TypeVar("S", bound=Section)


def read_mapping(path: Path, what: str, missing: str, needs: str, check: Check | None = None) -> dict[str, Any]:
    """Return the mapping in a YAML file. `needs` says what it must contain; the rest is that of `strict_yaml.read`."""
    from edgesparse import strict_yaml  # a finished package starts without it

    value = strict_yaml.read(path, what, missing, check=check)
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: found {kind(value)}, needed a mapping with {needs}")
    return value


def typed(section: type[S], values: dict[str, Any], where: str, more: Mapping[str, Sequence[str]] | None = None) -> S:
    """Validate a mapping as a section. A nested section that is present but empty gets its defaults.

    The ConfigError's message starts with `where`. `more` lists, by key path, values that are allowed in addition to
    those known to pydantic.
    """
    nested = [key for key, field in section.model_fields.items() if isinstance(field.default, Section)]
    values = {key: value for key, value in values.items() if value is not None or key not in nested}
    try:
        text = json.dumps(escape_bytes(values), default=str)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: {error}: needed plain keys, and no value that contains itself") from None
    try:
        return section.model_validate_json(text)
    except ValidationError as error:
        problems: dict[tuple[str, ...], Any] = {}
        for problem in error.errors():
            problems.setdefault(key_path(problem), problem)
        first = min(problems.values(), key=lambda e: (e["type"] != "extra_forbidden", -len(key_path(e))))
        path = key_path(first)
        others = [other for other in problems if other != path[: len(other)]]  # a prefix: another type of the same key
        rest = f" (and {len(others)} more)" if others else ""
        message = explain(first, lambda path: _keys(section, path), more or {})
        raise ConfigError(f"{where}: {' '.join(message.split())}{rest}") from None


def _keys(section: type[Section], path: Sequence[str]) -> list[str]:
    """Return the keys of the nested section at `path`, which may be optional or an item of a list."""
    for part in path:
        if part.isdecimal():
            continue
        field = section.model_fields.get(part)
        nested = _section(field.annotation) if field is not None else None
        if nested is None:
            return []
        section = nested
    return list(section.model_fields)


def _section(annotation: Any) -> type[Section] | None:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((section for part in get_args(annotation) if (section := _section(part))), None)
