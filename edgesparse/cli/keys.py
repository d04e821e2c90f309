"""`keys`: the keys that sign bundles."""

from __future__ import annotations

from pathlib import Path

import click

from edgesparse.cli import options
from edgesparse.cli.groups import Subcommands
from edgesparse.cli.show import complain, emit_json, table

CENTURY = 36_525
"""Days in a century: a later date is a mistake."""


@click.group(cls=Subcommands)
def keys() -> None:
    """Create, list and rotate the Ed25519 keys that sign bundles."""


@keys.command()
@click.argument("name", type=options.PATH)
@click.option(
    "--days", type=options.Count(1, CENTURY), metavar="N", help="Expire after this many days [default: never]."
)
def new(name: Path, days: int | None) -> None:
    """Create NAME.key, which signs, and NAME.pub, which devices trust.

    Keep NAME.key (mode 0600) secret, on the machine that signs bundles.
    """
    from edgesparse.fleet import keys

    key = keys.new(name, days)
    complain(f"wrote {name}.key and {name}.pub, {_until(key.expires)}; next: put {name}.pub into {keys.TRUSTED}")


@keys.command()
@click.argument("key", type=options.PATH)
def public(key: Path) -> None:
    """Print the public half of a private key."""
    from edgesparse.fleet import keys

    click.echo(keys.read_private(key).public.text(), nl=False)


@keys.command()
@click.argument("folder", type=options.PATH, required=False)
@options.as_json
def show(folder: Path | None, as_json: bool) -> None:
    """List the keys that a device trusts.

    They are stored in FOLDER [default: /etc/edgesparse/trusted].
    """
    from edgesparse.fleet import keys

    trusted = keys.trusted(folder or keys.TRUSTED)
    if as_json:
        rows = [{"name": k.name, "id": k.id, "expires": k.expires and k.expires.isoformat()} for k in trusted]
        emit_json({"folder": str(folder or keys.TRUSTED), "keys": rows})
        return
    table(str(folder or keys.TRUSTED), ("key", "id", ""), [(k.name, k.id, _until(k.expires)) for k in trusted])


@keys.command()
@click.argument("old", type=options.PATH)
@click.argument("name", type=options.PATH)
@options.output("Write both public keys to this new folder.")
@click.option("--days", type=options.Count(1, CENTURY), metavar="N", help="Expire the new key after this many days.")
@click.option(
    "--overlap",
    type=options.Count(0, CENTURY),
    default=90,
    show_default=True,
    metavar="N",
    help="Trust the old key for this many more days.",
)
def rotate(old: Path, name: Path, output: Path, days: int | None, overlap: int) -> None:
    """Create NAME.key as the successor of OLD.key.

    The output folder gets both public keys; the old one expires after --overlap days.
    """
    from edgesparse.fleet import keys

    before, after = keys.rotate(old, name, days, overlap, output)
    complain(
        f"wrote {name}.key and {output}: {before.name} {_until(before.expires)}, {after.name} {_until(after.expires)}; "
        f"next: put both into {keys.TRUSTED} on every device, then sign with {name}.key"
    )


def _until(expires: object) -> str:
    return f"valid until {expires}" if expires else "never expires"
