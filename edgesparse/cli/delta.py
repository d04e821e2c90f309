"""`delta`: what turns one bundle into the next, for devices that have the older one."""

from __future__ import annotations

from pathlib import Path

import click

from edgesparse.cli import options
from edgesparse.cli.groups import Verb
from edgesparse.cli.show import progress
from edgesparse.tasks.writing import check_outputs


@click.command(cls=Verb)
@click.argument("old", type=options.PATH)
@click.argument("new", type=options.PATH)
@options.output("Write this file, e.g. parts-1.5.esd.")
@click.option("--key", type=options.PATH, required=True, metavar="FILE", help="Sign with NAME.key.")
@click.option("--trusted", type=options.PATH, metavar="FOLDER", help="Trust the public keys in this folder, too.")
@options.force
def delta(old: Path, new: Path, output: Path, key: Path, trusted: Path | None, force: bool) -> None:
    """Write the difference between two bundles as a small update.

    A bundle that was signed with another key needs --trusted, with the public keys that devices trust. Devices use the
    delta with 'edgesparse deploy NEW --delta FILE', or after 'edgesparse fleet publish REPOSITORY NEW --delta FILE'.
    """
    from edgesparse.fleet import keys
    from edgesparse.fleet.delta import Target, make
    from edgesparse.fleet.fetch import LocalFile, refuse_delta
    from edgesparse.progress import quiet

    check_outputs((output,), force, (old, new, key))
    private = keys.read_private(key)
    public = [private.public, *(keys.trusted(trusted) if trusted else ())]
    with progress() as advance, LocalFile(old, public) as first, LocalFile(new, public) as second:
        for source in (first, second):
            refuse_delta(source)
        files = [source.complete(output.parent, quiet) for source in (first, second)]
        make(files[0], first.head, files[1], second.head, Target(output, private, advance))
    size, whole = output.stat().st_size, new.stat().st_size
    click.echo(f"wrote {output}: {size / 1e6:.2f} MB, {100 * size / whole:.1f} % of {new}")
