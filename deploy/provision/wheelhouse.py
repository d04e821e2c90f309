"""Verifies a folder written by scripts/wheelhouse: signed by a key that this device trusts, complete, and unchanged."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

from .system import MACHINE_LACKS, REFUSED, WRONG_USE, Change, StepFailed, System, sha256

SUMS, SIGNATURE = "SHA256SUMS", "SHA256SUMS.sig"
"""The list, in the format of `sha256sum --check`, and its Ed25519 signature, like that of a bundle's manifest."""
LISTED = ("wheels", "debs", "scripts", "deploy")
"""Folders in which every file must be in the list: they hold what root runs or installs."""
TRUSTED = "/etc/edgesparse/trusted"
AGAIN = "on a machine with a network run scripts/wheelhouse FOLDER --key NAME.key, and copy the whole folder"


def verify(system: System, folder: Path | None, keys: list[Path]) -> Iterator[Change]:
    """Refuse a folder that no trusted key signed, or that was changed since. Changes nothing."""
    if folder is None:
        return iter(())
    try:
        text = (folder / SUMS).read_text()
        signature = (folder / SIGNATURE).is_file()
    except (OSError, UnicodeDecodeError) as error:
        raise StepFailed(f"{folder} was not written by scripts/wheelhouse: {error}", AGAIN, WRONG_USE) from None
    if not signature:
        raise StepFailed(f"{folder} is not signed: it has no {SIGNATURE}", AGAIN, REFUSED)
    system.facts["wheelhouse_key"] = _signer(system, folder, keys)
    _compare(folder, _digests(text))
    return iter(())


def _signer(system: System, folder: Path, keys: list[Path]) -> str:
    """Return the name of the key that signed the list: one in --key, or one that the device already trusts."""
    if system.output("openssl", "version") is None:
        raise StepFailed("no openssl, which verifies signatures", "sudo apt install openssl", MACHINE_LACKS)
    trusted = [*keys, *sorted(system.path(TRUSTED).glob("*.pub"))]
    files = ("-in", str(folder / SUMS), "-sigfile", str(folder / SIGNATURE))
    for key in trusted:
        command = ("openssl", "pkeyutl", "-verify", "-pubin", "-inkey", str(key), "-rawin", *files)
        if not _expired(key) and system.output(*command) is not None:
            return key.stem
    names = ", ".join(key.name for key in trusted) or "none"
    remedy = f"pass --key NAME.pub of whoever signed it, from a source other than the folder; or {AGAIN}"
    raise StepFailed(f"{folder} is not signed by a trusted and valid key; those are: {names}", remedy, REFUSED)


def _expired(key: Path) -> bool:
    try:
        match = re.search(r"^expires: *(\S+)", key.read_text(errors="replace"), re.M)
    except OSError:
        return False  # openssl says so
    today = datetime.now(timezone.utc).date().isoformat()
    return match is not None and match[1] != "never" and match[1] < today


def _digests(text: str) -> dict[str, str]:
    return {name: digest for digest, name in re.findall(r"^([0-9a-f]{64})  (.+)$", text, re.M)}


def _compare(folder: Path, digests: dict[str, str]) -> None:
    for name, digest in digests.items():
        file = folder / name
        if not file.is_file() or sha256(file) != digest:
            raise StepFailed(f"{file} is {'damaged' if file.is_file() else 'missing'}", AGAIN)
    for part in LISTED:
        for file in sorted((folder / part).rglob("*")):
            name = file.relative_to(folder).as_posix()
            if name not in digests and not file.is_dir():
                raise StepFailed(f"{file} is not in the signed list", f"remove it, or {AGAIN}", REFUSED)
