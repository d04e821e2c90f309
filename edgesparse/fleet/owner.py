"""User switching during a deploy: root only restarts the service; the files belong to the service's user.

A deploy that root starts in another user's folder works there as that user. The service can read what it builds, and a
compromised service cannot make root follow a link.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def as_owner(folder: Path) -> Iterator[None]:
    """Become the folder's owner, if this process is root."""
    status = folder.stat()
    if os.geteuid() != 0 or status.st_uid == 0:
        yield
        return
    try:
        name = pwd.getpwuid(status.st_uid).pw_name
        groups = os.getgrouplist(name, status.st_gid)
    except KeyError:
        groups = [status.st_gid]
    with _effective(status.st_uid, status.st_gid, groups):
        yield


@contextmanager
def as_root() -> Iterator[None]:
    """Become root again inside `as_owner`."""
    if os.getuid() != 0 or os.geteuid() == 0:
        yield
        return
    with _effective(0, 0, [0]):
        yield


def for_good() -> dict[str, Any]:
    """Return arguments for Popen with which the process can never become root again."""
    return {} if os.geteuid() == os.getuid() else {"user": os.geteuid(), "group": os.getegid()}


@contextmanager
def _effective(user: int, group: int, groups: list[int]) -> Iterator[None]:
    before = os.geteuid(), os.getegid(), os.getgroups()
    _become(user, group, groups)
    try:
        yield
    finally:
        _become(*before)


def _become(user: int, group: int, groups: list[int]) -> None:
    os.seteuid(0)  # only root may change groups
    os.setgroups(groups)
    os.setegid(group)
    os.seteuid(user)
