"""`fleet`: a repository that any number of devices pull from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgesparse.cli import options
from edgesparse.cli.device import DeviceOptions, no_shadow, on_device, report, restarts
from edgesparse.cli.groups import Subcommands
from edgesparse.cli.options import Verb
from edgesparse.cli.show import complain, emit_json, progress, table
from edgesparse.errors import EdgeSparseError, SignatureError
from edgesparse.progress import Progress

if TYPE_CHECKING:
    from edgesparse.fleet.deploy import Outcome
    from edgesparse.fleet.repository import Repository, Signers


@click.group(cls=Subcommands)
def fleet() -> None:
    """Publish to devices that pull, pull, and read reports."""


def _signed(function: Verb) -> Verb:
    """Add --key and --days, of verbs that sign."""
    key = click.option("--key", "keys", type=options.PATH, multiple=True, metavar="FILE", help="Sign with NAME.key.")
    days = click.option(
        "--days",
        type=options.POSITIVE,
        default=7,
        show_default=True,
        metavar="N",
        help="Let the timestamp expire after this.",
    )
    return key(days(function))


def _roles(function: Verb) -> Verb:
    """Add who signs what. A NAME.key signs immediately; a NAME.pub signs later."""
    for who, text in (
        ("online", "the timestamp"),
        ("release", "which bundle goes where"),
        ("root", "the roles; keep it offline"),
    ):
        number = click.option(
            f"--{who}-threshold", type=options.COUNT, default=1, metavar="N", help=f"Need this many {who} keys."
        )
        keys = click.option(
            f"--{who}-key",
            f"{who}_keys",
            type=options.PATH,
            multiple=True,
            metavar="FILE",
            help=f"Let this key sign {text}.",
        )
        function = keys(number(function))
    return function


@fleet.command()
@click.argument("repository", type=options.PATH)
@_roles
@_signed
def init(repository: Path, keys: Sequence[Path], days: float, **roles: Any) -> None:
    """Create a repository in a new folder.

    Each role needs at least one key, NAME.pub or NAME.key of 'edgesparse keys new'. Devices get metadata/1.root.json
    as /etc/edgesparse/root.json.
    """
    if (repository / "metadata").exists():
        raise click.UsageError(f"{repository} is a repository: change its keys with 'edgesparse fleet rotate'")
    missing = [who for who in ("root", "release", "online") if not roles[f"{who}_keys"]]
    if missing:
        raise click.UsageError(f"needed --{missing[0]}-key")
    _change(repository, keys, days, roles)


@fleet.command()
@click.argument("repository", type=options.PATH)
@_roles
@_signed
def rotate(repository: Path, keys: Sequence[Path], days: float, **roles: Any) -> None:
    """Replace the keys of the named roles, and renew the root.

    As many root keys as before must sign, and as many as from now on. This revokes what a stolen online key signed.
    """
    _change(repository, keys, days, roles)


def _change(path: Path, private: Sequence[Path], days: float, roles: dict[str, Any]) -> None:
    from edgesparse.fleet.repository import Repository, Signers

    changes: dict[str, Signers] = {}
    signing = list(private)
    for who in ("root", "release", "online"):
        files = roles[f"{who}_keys"]
        if files:
            signing += [file for file in files if file.suffix == ".key" and file not in signing]
            changes[who] = Signers(tuple(map(_public, files)), roles[f"{who}_threshold"])
    repository = Repository(path)
    repository.change_signers(changes)
    _publish(repository, signing, days, "the new root")


@fleet.command()
@click.argument("repository", type=options.PATH)
@click.argument("bundle", type=options.PATH)
@click.option(
    "--share", type=options.Count(0, 100), required=True, metavar="%", help="Let this share of the devices run it."
)
@click.option(
    "--delta", "deltas", type=options.PATH, multiple=True, metavar="FILE", help="Offer this delta to it, too."
)
@click.option("--rollout", type=options.TEXT, metavar="ID", help="Name a new rollout: others come first.")
@click.option("--trusted", type=options.PATH, metavar="FOLDER", help="Trust the public keys in this folder.")
@_signed
def publish(
    repository: Path,
    bundle: Path,
    share: int,
    deltas: Sequence[Path],
    rollout: str | None,
    trusted: Path | None,
    keys: Sequence[Path],
    days: float,
) -> None:
    """Publish a bundle, or change its share.

    The public keys that devices trust are in /etc/edgesparse/trusted, unless --trusted names another folder.
    """
    from edgesparse.fleet import keys as signing
    from edgesparse.fleet.repository import Repository

    store = Repository(repository)
    public = signing.trusted(trusted or signing.TRUSTED)
    release = store.release(bundle, share, rollout or "", public)
    for delta in deltas:
        store.add_delta(delta, public)
    _publish(store, keys, days, f"{release.name} {release.version} for {release.share} % of the devices")


@fleet.command()
@click.argument("repository", type=options.PATH)
@click.argument("version")
@click.option("--why", type=options.TEXT, default="stopped", metavar="TEXT", help="Give the reason.")
@click.option("--back", is_flag=True, help="Return its devices to an older release.")
@_signed
def stop(repository: Path, version: str, why: str, back: bool, keys: Sequence[Path], days: float) -> None:
    """Stop a release: no device starts it after its next poll."""
    from edgesparse.fleet.repository import Repository

    store = Repository(repository)
    release = store.stop(version, why, back)
    _publish(store, keys, days, f"the stop of {release.version}")


@fleet.command()
@click.argument("repository", type=options.PATH)
@_signed
def sign(repository: Path, keys: Sequence[Path], days: float) -> None:
    """Sign what waits for signatures, and renew the timestamp.

    Run this with the online key more often than the timestamp expires, even if nothing has changed.
    """
    from edgesparse.fleet.repository import Repository

    _publish(Repository(repository), keys, days, "a new timestamp")


@fleet.command()
@click.argument("url", envvar="EDGESPARSE_PULL")
@on_device
@restarts
@no_shadow
@click.option("--name", envvar="EDGESPARSE_NAME", metavar="NAME", help="Use this name [default: the host's].")
@click.option("--trusted", type=options.PATH, metavar="FOLDER", help="Trust the public keys in this folder.")
@click.option("--anchor", type=options.PATH, metavar="FILE", help="Trust this root at first.")
@click.option(
    "--report",
    "where",
    envvar="EDGESPARSE_REPORT",
    metavar="FOLDER|URL",
    help="Report to this folder, https or mqtts URL.",
)
def pull(
    url: str,
    name: str | None,
    trusted: Path | None,
    anchor: Path | None,
    where: str | None,
    no_shadow: bool,
    as_json: bool,
    **fields: Any,
) -> None:
    """Deploy what a repository has for this device; run by a timer.

    URL, --name and --report may be given as EDGESPARSE_PULL, EDGESPARSE_NAME and EDGESPARSE_REPORT. Defaults: the root
    in /etc/edgesparse/root.json, public keys in /etc/edgesparse/trusted; the others are those of 'edgesparse deploy'.
    """
    from edgesparse.fleet import keys
    from edgesparse.fleet.metadata import ANCHOR, Mirror
    from edgesparse.fleet.pull import Puller, device_name

    chosen, called = DeviceOptions(**fields), device_name(name)

    def act(advance: Progress) -> Outcome:
        device = replace(chosen.device(advance), shadow=not no_shadow)
        try:
            outcome = Puller(device, Mirror(url), called, trusted or keys.TRUSTED, anchor or ANCHOR).pull()
        except EdgeSparseError as error:
            _report(chosen, called, where, ("failed", str(error)))
            raise
        _report(chosen, called, where, (outcome.result, outcome.note))
        return outcome

    report(act, as_json)


def _report(chosen: DeviceOptions, name: str, where: str | None, result: tuple[str, str]) -> None:
    """Store the device's report; the poll does not fail with it."""
    from edgesparse.fleet import reports, status
    from edgesparse.progress import quiet

    if not where:
        return
    try:
        device = chosen.device(quiet)
        reports.send(reports.of_device(name, status.status(device.root, device.service), *result), where)
    except EdgeSparseError as error:
        complain(str(error))


@fleet.command()
@click.argument("source", metavar="FOLDER|URL", envvar="EDGESPARSE_REPORT")
@options.html
@click.option(
    "--late", type=options.POSITIVE, default=60, show_default=True, metavar="MIN", help="Expect reports this often."
)
@options.force
@options.as_json
def status(source: str, html: Path | None, late: float, force: bool, as_json: bool) -> None:
    """Show what devices report to a folder or a broker, trouble first.

    URL is mqtts://BROKER/TOPIC, or mqtt:// without encryption, to which devices report.
    """
    from edgesparse.fleet import reports
    from edgesparse.tasks.writing import check_outputs, write

    check_outputs((html,), force)
    with progress() as advance:
        rows = reports.read(source, advance, late * 60)
    if html is not None:
        write(html, lambda path: path.write_text(reports.page(rows)))
    if as_json:
        emit_json({"counts": dict(reports.counts(rows)), "devices": [row.as_dict() for row in rows]})
        return
    if not rows:
        complain(f"no device has reported to {source} yet")
        return
    table(
        ", ".join(f"{count} {name}" for name, count in reports.counts(rows)), reports.COLUMNS, [r.cells() for r in rows]
    )


def _publish(repository: Repository, private: Sequence[Path], days: float, what: str) -> None:
    from edgesparse.fleet import keys

    missing = repository.sign(map(keys.read_private, private), days)
    if missing:
        complain(
            f"{what} waits in {repository.path}/staged for {' and '.join(missing)}: next: edgesparse fleet sign "
            f"{repository.path} --key NAME.key"
        )
        return
    complain(f"published {what} in {repository.path}; next: copy it to your web server, metadata/timestamp.json last")


def _public(path: Path) -> Any:
    from edgesparse.fleet import keys

    if path.suffix not in (".pub", ".key"):
        raise SignatureError(f"{path}: needed NAME.pub or NAME.key of 'edgesparse keys new'")
    return keys.read_public(path) if path.suffix == ".pub" else keys.read_private(path).public
