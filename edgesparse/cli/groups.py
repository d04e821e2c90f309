"""The verbs in workflow order: `edgesparse --help` lists them with one whole line each."""

from __future__ import annotations

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


def summary(command: click.Command) -> str:
    """Return the first line of a command's help."""
    return (command.help or "").partition("\n")[0]
