"""Strict YAML: types, limits, and refusals with line and column that do not quote the file."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesparse.errors import ConfigError
from edgesparse.strict_yaml import YamlError, dump, load, read


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[(word, word) for word in ("no", "yes", "on", "off", "y", "N", "No", "12:30", "1:2:3", "2024-01-01", "1_000")],
        *[(word, True) for word in ("true", "True", "TRUE")],
        *[(word, None) for word in ("~", "null", "")],
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("-12", -12),
        ("1e3", 1000.0),
        ("1.5e-3", 0.0015),
        (".5", 0.5),
        (".inf", math.inf),
        ("9" * 1000, int("9" * 1000)),
        ("9" * 5000, math.inf),
        ("'no'", "no"),
        ("'5'", "5"),
        ("!!str 5", "5"),
        ("!!int '5'", 5),
        ("!!float 5", 5),
        ("! 5", 5),
    ],
)
def test_scalars_follow_the_core_schema(text: str, value: Any) -> None:
    loaded = load(f"key: {text}".encode())["key"]
    assert loaded == value and type(loaded) is type(value)


def test_keys_are_text_as_written() -> None:
    text = b"{0: a, 010: b, no: c, null: d, 2024-01-01: e, 1.0: f, 'x y': g}"
    assert list(load(text)) == ["0", "010", "no", "null", "2024-01-01", "1.0", "x y"]


def test_names_stay_text_as_written() -> None:
    text = b"names: [no, on, 010, 12:30, 2024-01-01, 1e3, null, ~, true, 'quoted']"
    assert load(text, all_text=True)["names"] == [
        *("no", "on", "010", "12:30", "2024-01-01", "1e3", "null", "~", "true", "quoted")
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_byte_order_marks_are_not_part_of_the_text(encoding: str) -> None:
    assert load("name: café".encode(encoding)) == {"name": "café"}


def test_aliases_and_merges() -> None:
    text = b"base: &b {conf: 0.5, iou: 0.6}\na: *b\nb: {<<: *b, iou: 0.7}\nc: {<<: [{x: 1}, {x: 2, y: 3}]}\n'<<': 4"
    value = load(text)
    assert value["a"] == {"conf": 0.5, "iou": 0.6}
    assert value["b"] == {"conf": 0.5, "iou": 0.7}
    assert value["c"] == {"x": 1, "y": 3}
    assert value["<<"] == 4


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
DEEP = "a: &a [[[[[[[[[x]]]]]]]]]\n" + "".join(
    f"{name}: &{name} [[[[[[[[*{before}]]]]]]]]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb:\n  c: 2\n  c: 3", "line 4, column 3: the key 'c' occurs twice"),
        ("{0: a, 0: b}", "line 1, column 8: the key '0' occurs twice"),
        ("x: &x [*x]", "line 1, column 8: an alias before its anchor, or inside what it stands for"),
        ("x: *y", "line 1, column 4: an alias before its anchor, or inside what it stands for"),
        (BOMB, "more than 50000 values, repeated ones included"),
        ("a: &a " + "x" * 900_000 + "\nb: [" + ", ".join(["*a"] * 50) + "]", "more than 50000 values"),
        ("[" * 100_000, "line 1, column 33: nested more than 32 deep"),
        ("{a: " * 100_000, "nested more than 32 deep"),
        ("- " * 100_000, "nested more than 32 deep"),
        (DEEP, "nested more than 32 deep"),
        ("a: 1\n--- \nb: 2", "line 2, column 1: found a second document"),
        ("? [1, 2]\n: 3", "line 1, column 3: a key that is not text"),
        ("a: !!python/object/apply:os.system [x]", "line 1, column 4: a tag that is not allowed here"),
        ("a: !local x", "line 1, column 4: a tag that is not allowed here"),
        ("a: !!int x", "line 1, column 4: a value that its tag does not allow"),
        ("<<: 5", "line 1, column 5: '<<' merges mappings"),
        ("a: [1, 2", "line 1, column 9: expected ',' or ']', but got '<stream end>'"),
        ("a:\n\t- b", "line 2, column 1: found character '\\t' that cannot start any token"),
        ("a: \0", "line 1, column 4: the character U+0000 is not allowed"),
        ("a: b\nc: \x07", "line 2, column 4: the character U+0007 is not allowed"),
        ("a: " + "x" * 1_000_000, "needed at most 1000000 bytes"),
    ],
)
def test_invalid_documents_are_refused(text: str, message: str) -> None:
    begin = time.monotonic()
    with pytest.raises(YamlError) as error:
        load(text.encode())
    assert message in str(error.value)
    assert time.monotonic() - begin < 5


def test_bytes_that_are_not_text_are_reported_with_their_line() -> None:
    with pytest.raises(YamlError, match=r"^line 3 is not UTF-8 text$"):
        load(b"a: 1\nb: 2\nc: caf\xe9\n")


@pytest.mark.parametrize(
    "text",
    [
        "password: 'hunter2",
        'password: "hunter2\\q"',
        "password: @hunter2",
        "password: %hunter2",
        "password: hunter2: x",
        "password: *hunter2",
        "password: &hunter2 [",
        "password: !hunter2 x",
        "password: !hunter2!x y",
        "  password: hunter2\n x: 1",
        "hunter2: 1\n'hunter2 x': 1\n'hunter2 x': 2",
        "%TAG !hunter2! tag:x,2000:\n---\na: [",
        "password: |9hunter2",
    ],
)
def test_messages_do_not_quote_possible_passwords(text: str) -> None:
    with pytest.raises(YamlError) as error:
        load(text.encode())
    assert "hunter2" not in str(error.value) and "\n" not in str(error.value) and "line" in str(error.value)


KEYS = st.text(st.characters(max_codepoint=0xD7FF), max_size=8).filter(lambda key: key != "<<")
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | KEYS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=150)
@given(VALUES)
def test_json_is_read_as_json(value: Any) -> None:
    assert load(json.dumps(value).encode()) == value


@settings(max_examples=150)
@given(VALUES)
def test_a_dumped_value_is_read_unchanged(value: Any) -> None:
    assert load(dump(value).encode()) == value
    assert load(dump(value, default_flow_style=True, width=1 << 20).encode()) == value


@pytest.mark.parametrize(
    "text",
    ["1e3", "0o17", "010", "no", "null", "~", "1.", "0x1F", ".nan", "<<", "a: b", "", "#", "é", "\x85", "a\u2028b"],
)
def test_text_is_quoted_if_it_would_be_read_as_another_type(text: str) -> None:
    assert load(dump([text]).encode()) == [text] and load(dump({text: text}).encode()) == {text: text}


@settings(max_examples=300)
@given(st.text("ab:-?[]{},#&*!|>'\"%@`~ \n\t<01.", max_size=60).map(str.encode) | st.binary(max_size=60))
def test_any_bytes_give_a_value_or_a_yaml_error(data: bytes) -> None:
    try:
        value = load(data)
    except YamlError as error:
        assert "\n" not in str(error)
    else:
        json.dumps(value)


@settings(max_examples=100)
@given(st.dictionaries(st.from_regex("[a-z]{1,5}", fullmatch=True), st.from_regex("[a-z ]{1,8}", fullmatch=True)))
def test_plain_documents_are_read_like_pyyaml_does(value: dict[str, str]) -> None:
    assert load(yaml.safe_dump(value).encode()) == value


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    for path in (tmp_path / "gone", tmp_path, tmp_path / "nul\0", tmp_path / ("x" * 300)):
        with pytest.raises(ConfigError) as error:
            read(path, "recipe", "write one")
        assert "recipe" in str(error.value) and "\n" not in str(error.value) and "\0" not in str(error.value)


def test_an_endless_file_is_not_read_to_the_end() -> None:
    with pytest.raises(ConfigError, match="/dev/zero': not a regular file"):
        read(Path("/dev/zero"), "recipe", "write one")
