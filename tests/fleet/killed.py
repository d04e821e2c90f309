"""Kill a deploy with SIGKILL before each of its file system operations, one after another.

`python killed.py FOLDER SCENARIO` prints a JSON object with the number of kills, and the errors of devices left without
a working engine. It is a separate process because an audit hook cannot be removed; each kill hits a fork of it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import bundles

from edgesparse.errors import DeployError
from edgesparse.fleet.restart import ServiceControl

EVENTS = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.symlink", "os.link", "os.truncate")


def kill_before(number: int, since: str) -> None:
    """Die before the `number`-th write operation, counting from the first one on a file with `since` in its name."""
    count, counts = 0, not since

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count, counts
        if not counts and event == "open" and since in str(arguments[0]):
            counts = True
        if not counts:
            return
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if event in EVENTS or writes:
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def survives(do: Callable[[], object], number: int, since: str) -> bool:
    """Whether `do` finishes before the `number`-th operation."""
    child = os.fork()
    if child == 0:
        kill_before(number, since)
        with suppress(DeployError):
            do()
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WIFEXITED(status) or os.WTERMSIG(status) == signal.SIGKILL, status
    return os.WIFEXITED(status)


def sick(folder: Path) -> ServiceControl:
    """A service that never writes a status."""
    return ServiceControl(("true",), folder / "status.json", 0.02, 0.01)


def main(folder: Path, scenario: str) -> None:
    os.environ["EDGESPARSE_STATE"] = str(folder / "state")
    private = bundles.key(folder)
    old, new, next_one = (bundles.signed(folder / f"{v}.esb", private, v) for v in ("1.0", "2.0", "3.0"))
    root, start = folder / "device", folder / "start"
    if scenario != "first":
        bundles.device(root).deploy(bundles.opened(old))
    if scenario == "rollback":
        bundles.device(root).deploy(bundles.opened(new))
    root.mkdir(exist_ok=True)
    shutil.copytree(root, start, symlinks=True)
    do: dict[str, Callable[[], object]] = {
        "first": lambda: bundles.device(root).deploy(bundles.opened(new)),
        "update": lambda: bundles.device(root).deploy(bundles.opened(new)),
        "sick": lambda: bundles.device(root, sick(folder)).deploy(bundles.opened(new)),
        "rollback": lambda: bundles.device(root).rollback(),
        "recover": lambda: bundles.device(root).recover(),
    }
    if scenario == "recover":  # killed during the window, and then again during the rollback
        watched = ServiceControl(("true",), folder / "status.json", 60, 60)
        child = os.fork()
        if child == 0:
            die = lambda step, *_: step == "watching the service" and os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
            bundles.device(root, watched, progress=die).deploy(bundles.opened(new))
        os.waitpid(child, 0)
        shutil.rmtree(start)
        shutil.copytree(root, start, symlinks=True)
    number, wrong = 1, []
    since = ".slot.json" if scenario in ("first", "sick") else ""  # until then it is the same as an update
    while not survives(do[scenario], number, since):
        try:
            check(root, next_one, first=scenario == "first")
        except Exception as error:
            wrong.append(f"before operation {number}: {error!r}")
        shutil.rmtree(root)
        shutil.copytree(start, root, symlinks=True)
        number += 1
    print(json.dumps({"kills": number - 1, "wrong": wrong}))


def check(root: Path, next_one: Path, first: bool) -> None:
    """Check that the old or the new version is in service before and after recovery, and that the next deploy
    succeeds."""
    exists = (root / "current").is_symlink()
    assert exists or first, "nothing serves"
    if exists:
        assert bundles.serving(root) in ("1.0", "2.0")
    device = bundles.device(root)
    device.recover()
    assert not (root / "deploy.json").exists(), "the journal still exists"
    if exists:
        assert bundles.serving(root) in ("1.0", "2.0")
    assert device.deploy(bundles.opened(next_one)).result == "deployed"
    assert bundles.serving(root) == "3.0"
    slots = {path.name for path in (root / "slots").iterdir()}
    assert slots <= {"a", "b"}, slots


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
