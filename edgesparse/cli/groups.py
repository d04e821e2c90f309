"""The verbs in workflow order: `edgesparse --help` lists them with one whole line each."""

from __future__ import annotations

from collections import Counter
from typing import Any

import click

WORKFLOW = {
    "Examine": ("doctor", "inspect"),
    "Optimize": ("slim", "prune", "distill", "quantize", "fit"),
    "Build": ("recipe", "build", "check-labels", "evaluate", "bench"),
    "Run": ("run", "serve", "service", "hard-frames", "demo"),
    "Fleet": ("keys", "bundle", "delta", "deploy", "rollback", "status", "fleet", "export"),
}


class Workflow(click.Group):
    """A group whose help lists its commands under the headings of WORKFLOW; others come last."""

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        grouped = {verb for verbs in WORKFLOW.values() for verb in verbs}
        others = tuple(verb for verb in self.list_commands(context) if verb not in grouped)
        width = max(map(len, self.commands))
        for heading, verbs in {**WORKFLOW, "Other": others}.items():
            known = [self.commands[verb] for verb in verbs if verb in self.commands]
            if known:
                with formatter.section(heading):
                    formatter.write_dl([((command.name or "").ljust(width), summary(command)) for command in known])


class Verb(click.Command):
    """A command that refuses an option with a value that is passed twice: click would drop all values but the last."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not ctx.resilient_parsing:  # the shell completes
            _, _, passed = self.make_parser(ctx).parse_args(list(args))
            for option, count in Counter(passed).items():
                if isinstance(option, click.Option) and count > 1 and not (option.multiple or option.is_flag):
                    name = option.opts[-1]
                    raise click.UsageError(f"{name} is passed {count} times, needed once: keep one of them", ctx)
        return super().parse_args(ctx, args)


class Subcommands(click.Group):
    """A verb with subcommands. Without one it is refused in one line; click would print the whole help as an error."""

    command_class = Verb

    def parse_args(self, ctx: click.Context, args: list[str]) -> Any:
        if not args and not ctx.resilient_parsing:
            raise click.UsageError(f"needed a command: {', '.join(self.list_commands(ctx))}", ctx)
        return super().parse_args(ctx, args)


def summary(command: click.Command) -> str:
    """Return the first line of a command's help."""
    return (command.help or "").partition("\n")[0]
