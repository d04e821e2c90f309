"""Options mean the same in every verb, former names point to the new ones, and help fits a terminal."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest
from commands import Command

from edgesparse.cli import verbs
from edgesparse.cli.groups import WORKFLOW
from edgesparse.cli.run import _with_lines
from edgesparse.config import Run, override

OWN_WORDS = {"--force": {"build", "export"}}
"""Verbs whose option of that name replaces something other than a file."""


def commands(group: click.Group, name: str = "") -> Iterator[tuple[str, click.Command]]:
    for verb, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{name}{verb} ")
        else:
            yield f"{name}{verb}", command


COMMANDS = dict(commands(verbs))


SHARED = {"--json", "--store", "--html", "--annotations", "--annotated-images", "--names", "--device", "--force"}


def visible(verb: str) -> list[click.Option]:
    return [option for option in COMMANDS[verb].params if isinstance(option, click.Option) and not option.hidden]


def test_a_shared_option_has_one_help_text() -> None:
    texts: dict[str, set[str]] = {name: set() for name in SHARED}
    for verb in COMMANDS:
        for option in visible(verb):
            name = option.opts[0]
            if name in SHARED and not OWN_WORDS.get(name, set()) & set(verb.split()):
                texts[name].add(option.help or "")
    assert {name: result for name, result in texts.items() if len(result) != 1} == {}


@pytest.mark.parametrize("verb", COMMANDS)
def test_an_option_with_a_value_that_is_passed_twice_is_refused(edgesparse: Command, verb: str) -> None:
    for option in visible(verb):
        if option.is_flag or option.multiple:
            continue
        values = ["1"] * option.nargs
        ended = edgesparse(*verb.split(), option.opts[0], *values, option.opts[-1], *values)
        assert ended.code == 2
        assert ended.message.startswith(f"{option.opts[-1]} is passed 2 times, needed once: keep one of them"), ended


def test_flags_and_repeatable_options_may_be_repeated(edgesparse: Command) -> None:
    ended = edgesparse("prune", "none.onnx", "-o", "out.onnx", "--force", "--force", "--layers", "a", "--layers", "b")
    assert ended.message == "no model none.onnx: pass the path of an ONNX file"


@pytest.mark.parametrize(
    ("verb", "option", "new"),
    [
        ("evaluate", "--data", "--annotations"),
        ("evaluate", "--classes", "--names"),
        ("prune", "--pictures", "--images"),
        ("prune", "--data", "--annotations"),
        ("quantize", "--pictures", "--images"),
        ("quantize", "--classes", "--names"),
        ("bundle", "--pictures", "--images"),
        ("run", "--pictures", "--save-images"),
    ],
)
def test_a_former_option_names_the_new_one(edgesparse: Command, verb: str, option: str, new: str) -> None:
    ended = edgesparse(verb, option, "x")
    assert ended.code == 2 and ended.message == f"{option} is now {new} (see 'edgesparse {verb} --help')"
    assert option not in edgesparse(verb, "--help").out.split()


@pytest.mark.parametrize("verb", COMMANDS)
def test_help_fits_80_columns(edgesparse: Command, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for option in visible(verb):
        text = option.help or ""
        assert text.endswith(".") and len(text) <= 46, text
    lines = edgesparse(*verb.split(), "--help").out.splitlines()
    assert max(map(len, lines)) <= 80
    assert not any(line.rstrip().endswith("...") and not line.startswith("Usage") for line in lines)
    summary = (COMMANDS[verb].help or "").partition("\n")[0]
    assert summary.endswith(".") and len(summary) + len("  check-labels  ") <= 80, summary


def test_the_verbs_are_listed_by_workflow_in_whole_lines(edgesparse: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = edgesparse("--help").out.splitlines()
    headings = [line.rstrip(":") for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert headings == ["Options", *WORKFLOW], "a verb is in no workflow, or a heading has none"
    listed = [line.split()[0] for line in lines[lines.index("Examine:") :] if line.startswith("  ")]
    assert listed == [verb for verbs_of in WORKFLOW.values() for verb in verbs_of]
    assert set(listed) == set(verbs.commands)
    assert all(len(line) <= 80 and not line.endswith("...") for line in lines[1:])
    assert edgesparse().out == edgesparse("--help").out


def test_lines_on_the_command_line_join_those_of_each_camera_and_turn_on_tracking() -> None:
    way, own = ((0.5, 0.0), (0.5, 1.0)), ((0.0, 0.0), (1.0, 1.0))
    cameras = [{"name": "a", "source": "0", "lines": {"own": own, "way": own}}, {"name": "b", "source": "1"}]
    recipe = override(Run(), {"cameras": cameras, "tracking": "sort"})
    both = _with_lines(recipe, {"way": way})
    assert [camera.lines for camera in both.cameras] == [{"own": own, "way": way}, {"way": way}]
    assert both.tracking == "sort" and _with_lines(recipe, {}) is recipe
    single = _with_lines(Run(source="demo"), {"way": way})
    assert (single.tracking, [camera.source for camera in single.all_cameras()]) == ("bytetrack", ["demo"])
