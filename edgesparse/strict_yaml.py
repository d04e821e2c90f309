"""Strict YAML: the core schema of YAML 1.2, with limits, and every fault with its line and column.

`no`, `on`, `12:30` and `2024-01-01` are text, `0o17` is octal and `010` is ten. Keys are always text. Refused are keys
that occur twice, a second document, tags of other types, values that contain themselves, and what would take much
memory. No message quotes a value of the file, which may be a password.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from yaml import events

from edgesparse.errors import ConfigError
from edgesparse.files import Check, read_checked

MOST_BYTES = 1_000_000
MOST_VALUES = 50_000
"""Most values in a file, including those repeated by aliases; long text counts as several."""
MOST_DEPTH = 32
LONGEST_NAME = 300
"""Characters of a file's name in a message."""

_NOTHING = re.compile(r"~|null|Null|NULL|")
_TRUE, _FALSE = re.compile(r"true|True|TRUE"), re.compile(r"false|False|FALSE")
_WHOLE = re.compile(r"[-+]?[0-9]{1,1000}")
_OTHER_BASE = re.compile(r"0o[0-7]{1,300}|0x[0-9a-fA-F]{1,300}")
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NO_NUMBER = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_TAGS = "tag:yaml.org,2002:"
_KINDS = {"int": (int,), "float": (float, int), "bool": (bool,), "null": (type(None),)}
"""The pattern of a scalar with a tag."""


class YamlError(Exception):
    """A fault in a YAML file, with line and column if known."""


def load(data: bytes, *, all_text: bool = False) -> Any:
    """Return the value of a YAML document: dict with text keys, list, str, int, float, bool or None.

    With `all_text`, scalars without a tag stay text as written, for lists of names. Raises YamlError.
    """
    if len(data) > MOST_BYTES:
        raise YamlError(f"needed at most {MOST_BYTES} bytes")
    text = _decoded(data)
    builder = _Builder(all_text)
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            builder.take(event)
    except yaml.reader.ReaderError as error:
        line, column = _place(text, error.position)
        raise YamlError(f"line {line}, column {column}: the character U+{_ordinal(error):04X} is not allowed") from None
    except yaml.MarkedYAMLError as error:
        raise YamlError(_fault(error)) from None
    except RecursionError:
        raise YamlError(f"nested more than {MOST_DEPTH} deep") from None
    return builder.document


def read(path: Path, what: str, missing: str, *, all_text: bool = False, check: Check | None = None) -> Any:
    """Return the value of a YAML file, as `load` does.

    `what` names the file in messages; `missing` says what to do if it does not exist; `check` accepts the status of the
    open file. Raises ConfigError.
    """
    try:
        return load(read_checked(path, MOST_BYTES, check), all_text=all_text)
    except FileNotFoundError:
        raise ConfigError(f"no {what} {path}: {missing}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        name = str(path) if len(str(path)) <= LONGEST_NAME else f"{str(path)[:LONGEST_NAME]}..."
        raise ConfigError(f"cannot read {what} {name!r}: {reason}") from error
    except YamlError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None


class _Dumper(yaml.SafeDumper):
    """Also quotes text that only `load` would take for a number, such as 1e3."""


def _text_node(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    style = None if isinstance(_plain(text), str) else "'"
    if any(mark in text for mark in "\x85\u2028\u2029"):  # line breaks, which only double quotes escape
        style = '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _text_node)


def dump(value: Any, **options: Any) -> str:
    """Return YAML that `load` reads as the same value. `options` are PyYAML's."""
    return str(yaml.dump(value, Dumper=_Dumper, allow_unicode=True, **options))


def _decoded(data: bytes) -> str:
    """Decode UTF-8 or, after a byte order mark, UTF-16, and remove the mark."""
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise YamlError(f"line {line} is not {encoding[:6].upper().rstrip('-')} text") from None


def _place(text: str, position: int) -> tuple[int, int]:
    before = text[:position]
    return before.count("\n") + 1, position - (before.rfind("\n") + 1) + 1


def _ordinal(error: yaml.reader.ReaderError) -> int:
    return error.character if isinstance(error.character, int) else ord(error.character)


def _fault(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    # What PyYAML quotes may come from the file, unless it is a single character or the name of a token in <>.
    problem = re.sub(r"'([^']*)'", _without_content, error.problem or error.context or "it cannot be read")
    return where + " ".join(problem.split())


def _without_content(quoted: re.Match[str]) -> str:
    return quoted[0] if re.fullmatch(r".|\\.|<[a-z ]+>", quoted[1]) else "'...'"


@dataclass(frozen=True)
class _Weight:
    """The size of a value with its aliases expanded: `size` in values, `depth` in levels."""

    size: int
    depth: int


@dataclass
class _Open:
    """A list or mapping whose end has not been read yet."""

    event: Any
    value: Any
    size: int = 1
    depth: int = 1
    key: str | None = None
    key_event: Any = None
    merged: list[dict[str, Any]] = field(default_factory=list)


class _Builder:
    """Builds values from the parser's events, within the limits."""

    def __init__(self, all_text: bool) -> None:
        self.document: Any = None
        self._all_text = all_text
        self._open: list[_Open] = []
        self._anchors: dict[str, tuple[Any, _Weight]] = {}
        self._documents = 0

    def take(self, event: Any) -> None:
        if isinstance(event, events.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                raise _error(event, "found a second document, needed one")
        elif isinstance(event, events.ScalarEvent):
            self._finish(event, self._scalar(event), _Weight(1 + len(event.value) // 64, 0))
        elif isinstance(event, events.AliasEvent):
            if event.anchor not in self._anchors:
                raise _error(event, "an alias before its anchor, or inside what it stands for")
            self._add(event, *self._anchors[event.anchor])
        elif isinstance(event, events.CollectionStartEvent):
            self._begin(event)
        elif isinstance(event, events.CollectionEndEvent):
            done = self._open.pop()
            for source in done.merged:
                done.value.update({key: value for key, value in source.items() if key not in done.value})
            self._finish(done.event, done.value, _Weight(done.size, done.depth))

    def _begin(self, event: Any) -> None:
        is_list = isinstance(event, events.SequenceStartEvent)
        _check_tag(event, "seq" if is_list else "map")
        if len(self._open) >= MOST_DEPTH:
            raise _error(event, f"nested more than {MOST_DEPTH} deep")
        self._anchors.pop(event.anchor, None)
        self._open.append(_Open(event, [] if is_list else {}))

    def _finish(self, event: Any, value: Any, weight: _Weight) -> None:
        if event.anchor:
            self._anchors[event.anchor] = value, weight
        self._add(event, value, weight)

    def _add(self, event: Any, value: Any, weight: _Weight) -> None:
        if not self._open:
            self.document = value
            return
        parent = self._open[-1]
        parent.size += weight.size
        parent.depth = max(parent.depth, weight.depth + 1)
        if parent.size > MOST_VALUES:
            raise _error(event, f"more than {MOST_VALUES} values, repeated ones included")
        if len(self._open) + weight.depth > MOST_DEPTH:
            raise _error(event, f"nested more than {MOST_DEPTH} deep")
        if isinstance(parent.value, list):
            parent.value.append(value)
        elif parent.key is None:
            parent.key, parent.key_event = _key(event, value), event
        else:
            _put(parent, event, value)

    def _scalar(self, event: Any) -> Any:
        text = str(event.value)
        if event.tag in (None, "!"):
            return _plain(text) if event.implicit[0] and not self._all_text else text
        _check_tag(event, *_KINDS, "str")
        kinds = _KINDS.get(event.tag.removeprefix(_TAGS))
        if kinds is None:
            return text
        value = _plain(text)
        if type(value) not in kinds:
            raise _error(event, "a value that its tag does not allow")
        return value


def _key(event: Any, value: Any) -> str:
    if isinstance(event, events.ScalarEvent):
        return str(event.value)
    if isinstance(value, str):
        return value
    raise _error(event, "a key that is not text")


def _put(mapping: _Open, event: Any, value: Any) -> None:
    key, mapping.key = mapping.key, None
    if key == "<<" and mapping.key_event.implicit[0]:
        sources = value if isinstance(value, list) else [value]
        if not all(isinstance(source, dict) for source in sources):
            raise _error(event, "'<<' merges mappings, and this is not one")
        mapping.merged.extend(sources)
    elif key in mapping.value:
        name = f" {key!r}" if key and re.fullmatch(r"[\w-]+", key) else ""
        raise _error(mapping.key_event, f"the key{name} occurs twice")
    else:
        mapping.value[key] = value


def _plain(text: str) -> Any:
    """Return the value of a scalar without quotes, by the core schema."""
    if _NOTHING.fullmatch(text):
        return None
    if _TRUE.fullmatch(text) or _FALSE.fullmatch(text):
        return bool(_TRUE.fullmatch(text))
    if _WHOLE.fullmatch(text):
        return int(text)
    if _OTHER_BASE.fullmatch(text):
        return int(text, 0)
    if _NUMBER.fullmatch(text):
        return float(text)
    return float(text.replace(".", "")) if _NO_NUMBER.fullmatch(text) else text


def _check_tag(event: Any, *names: str) -> None:
    if event.tag not in (None, "!") and event.tag not in [_TAGS + name for name in names]:
        raise _error(event, "a tag that is not allowed here")


def _error(event: Any, problem: str) -> YamlError:
    mark = event.start_mark
    return YamlError(f"line {mark.line + 1}, column {mark.column + 1}: {problem}")
