"""Root's part in a deploy is to restart the service; the files are the service's.

A deploy that root starts, on a folder that belongs to another user, works there as that user: what it builds can be
read by the service, and a service that was taken over cannot lead root's hand by a link.
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
    """Root is the folder's owner in here; who is not root stays who it is."""
    found = folder.stat()
    if os.geteuid() != 0 or found.st_uid == 0:
        yield
        return
    try:
        name = pwd.getpwuid(found.st_uid).pw_name
        groups = os.getgrouplist(name, found.st_gid)
    except KeyError:
        groups = [found.st_gid]
    with _effective(found.st_uid, found.st_gid, groups):
        yield


@contextmanager
def as_root() -> Iterator[None]:
    """Root again, where `as_owner` made somebody else of it."""
    if os.getuid() != 0 or os.geteuid() == 0:
        yield
        return
    with _effective(0, 0, [0]):
        yield


def for_good() -> dict[str, Any]:
    """Arguments for a Popen whose process can never be root again."""
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
