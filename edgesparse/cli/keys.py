"""`keys`: who may send bundles to a device."""

from __future__ import annotations

from pathlib import Path

import click

from edgesparse.cli.show import complain, emit_json, table

PATH = click.Path(path_type=Path)


@click.group()
def keys() -> None:
    """Ed25519 keys that sign bundles: made once, kept where bundles are made, rotated before they expire."""


@keys.command()
@click.argument("name", type=PATH)
@click.option("--days", type=click.IntRange(1), help="Until it expires [default: never].")
def new(name: Path, days: int | None) -> None:
    """Make NAME.key, which signs and stays secret (mode 0600), and NAME.pub, which devices trust."""
    from edgesparse.fleet import keys

    key = keys.new(name, days)
    complain(f"wrote {name}.key and {name}.pub, {_until(key.expires)}; next: put {name}.pub into {keys.TRUSTED}")


@keys.command()
@click.argument("key", type=PATH)
def public(key: Path) -> None:
    """Print the public half of a private KEY."""
    from edgesparse.fleet import keys

    click.echo(keys.read_private(key).public.text(), nl=False)


@keys.command()
@click.argument("folder", type=PATH, required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(folder: Path | None, as_json: bool) -> None:
    """List the keys that a device trusts: those in FOLDER [default: /etc/edgesparse/trusted]."""
    from edgesparse.fleet import keys

    found = keys.trusted(folder or keys.TRUSTED)
    if as_json:
        rows = [{"name": k.name, "id": k.id, "expires": k.expires and k.expires.isoformat()} for k in found]
        emit_json({"folder": str(folder or keys.TRUSTED), "keys": rows})
        return
    table(str(folder or keys.TRUSTED), ("key", "id", ""), [(k.name, k.id, _until(k.expires)) for k in found])


@keys.command()
@click.argument("old", type=PATH)
@click.argument("name", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="A new folder: what devices are to trust from now on.")
@click.option("--days", type=click.IntRange(1), help="Until the new key expires [default: never].")
@click.option("--overlap", type=click.IntRange(0), default=90, show_default=True, help="Days that the old one counts.")
def rotate(old: Path, name: Path, output: Path, days: int | None, overlap: int) -> None:
    """Make NAME.key, the successor of OLD.key, and a folder with both public keys, of which the old one ends."""
    from edgesparse.fleet import keys

    before, after = keys.rotate(old, name, days, overlap, output)
    complain(
        f"wrote {name}.key and {output}: {before.name} {_until(before.expires)}, {after.name} {_until(after.expires)}; "
        f"next: put both into {keys.TRUSTED} on every device, then sign with {name}.key"
    )


def _until(expires: object) -> str:
    return f"counts until {expires}" if expires else "never expires"
