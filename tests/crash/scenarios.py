"""What writes to the disk, and what it promises after a power cut.

`python scenarios.py NAME FOLDER` does the work of one scenario in FOLDER/disk, where strace watches it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[up]) for up in (1, 2)]
    sys.path[:0] = [str(Path(__file__).resolve().parents[1] / room) for room in ("fleet", "service")]

import bundles
import cv2
import https
import numpy as np
import packages
from samples import SECOND, output_context, sample_event, sample_frame, wait_until

from edgesparse.errors import DeployError
from edgesparse.fleet import fetch, history, keys
from edgesparse.fleet.delta import Target, make
from edgesparse.fleet.fetch import open_bundle
from edgesparse.fleet.patched import open_for_deploy
from edgesparse.fleet.restart import ServiceControl
from edgesparse.fleet.status import status
from edgesparse.package import sign
from edgesparse.package.store import Store, open_package
from edgesparse.progress import quiet
from edgesparse.service.outputs.clips import Clips, ClipsSettings
from edgesparse.service.outputs.spool import Message, Spool
from edgesparse.service.snapshots import Snapshot


@dataclass(frozen=True)
class Scenario:
    """`prepare` runs before the recording, `work` in it; both get the folder that holds `disk`. `check` raises if a
    disk after a power cut breaks a promise: it gets the folder and whether the work had ended."""

    prepare: Callable[[Path], object]
    work: Callable[[Path], object]
    check: Callable[[Path, bool], object]


def deploy(folder: Path, version: str, service: ServiceControl | None = None) -> str:
    return bundles.device(folder / "disk", service).deploy(bundles.opened(folder / f"{version}.esb")).result


def with_bundles(folder: Path) -> None:
    with_bundles_of(folder, bundles.key(folder))


def with_bundles_of(folder: Path, private: Path) -> None:
    for version in ("1.0", "2.0", "3.0"):
        bundles.signed(folder / f"{version}.esb", private, version)


def with_first(folder: Path) -> None:
    with_bundles(folder)
    deploy(folder, "1.0")


def with_two(folder: Path) -> None:
    with_first(folder)
    deploy(folder, "2.0")


def with_three(folder: Path) -> None:
    with_two(folder)
    bundles.signed(folder / "2.5.esb", folder / "factory.key", "2.5")


def interrupted(folder: Path) -> None:
    """A deploy that ended while the service was watched, as a power cut would end it."""
    with_first(folder)
    child = os.fork()
    if child == 0:
        die = lambda step, *_: step == "watching the service" and os._exit(0)  # noqa: E731
        service = ServiceControl(("true",), folder / "status.json", 60, 60)
        device = bundles.device(folder / "disk", service, progress=die)
        device.deploy(bundles.opened(folder / "2.0.esb"))
    os.waitpid(child, 0)


def deploy_sick(folder: Path) -> None:
    with suppress(DeployError):
        deploy(folder, "2.0", ServiceControl(("true",), folder / "status.json", 0.02, 0.01))


def serves(before: tuple[str, ...], after: str) -> Callable[[Path, bool], None]:
    """`before`: the versions of which one serves after a power cut, none where the device is new; `after`: the one
    that serves once the work has ended."""

    def check(folder: Path, ended: bool) -> None:
        root, device = folder / "disk", bundles.device(folder / "disk")
        status(device.root, device.service)
        started = (root / "current").is_symlink()
        assert started or not before, "nothing serves"
        if started:
            assert bundles.serving(root) in (before or (after,))
        device.recover()
        assert device.root.journal() is None, "the journal is still there"
        if started:
            assert bundles.serving(root) in (before or (after,))
        if ended and after:
            assert bundles.serving(root) == after
        assert deploy(folder, "3.0") == "deployed"
        assert bundles.serving(root) == "3.0"
        assert {path.name for path in (root / "slots").iterdir()} <= {"a", "b"}
        answer = status(device.root, device.service)
        assert answer["damaged"] == [] and answer["running"]["version"] == "3.0"

    return check


EVENTS = history.KEPT + history.KEPT // 4


def fill_history(folder: Path) -> None:
    path = folder / "disk" / "history.jsonl"
    path.write_text("".join(json.dumps({"time": 1, "number": number}) + "\n" for number in range(EVENTS - 2)))


def append_history(folder: Path) -> None:
    for number in range(EVENTS - 2, EVENTS + 3):
        history.append_history(folder / "disk" / "history.jsonl", {"time": 1, "number": number})


def check_history(folder: Path, ended: bool) -> None:
    """What was there before stays, in order, and new events can be added."""
    path = folder / "disk" / "history.jsonl"
    numbers = [event["number"] for event in history.read_history(path)]
    least = EVENTS + 2 if ended else EVENTS - 3
    assert numbers == list(range(numbers[0], numbers[-1] + 1)) and numbers[-1] >= least, numbers
    assert len(numbers) >= history.KEPT - 5
    history.append_history(path, {"time": 1, "number": -1})
    assert history.read_history(path)[-1]["number"] == -1


def build_package(folder: Path, build: str = "two") -> None:
    packages.stored(folder / "disk", build, json.dumps(build))


def build_again(folder: Path) -> None:
    """A build of the same inputs replaces a damaged package."""
    store = Store(folder / "disk", "model")
    with store.lock():
        with store.writing("one", 0) as new:
            packages.fill(new, "one", json.dumps("one"))
        store.switch("one")


def packaged(root: Path) -> str:
    """Return which build `current` names; its manifest is read."""
    return str(json.loads(open_package(root).engine.read_text()))


def check_store(allowed: tuple[str, ...], after: str) -> Callable[[Path, bool], None]:
    """`allowed`: the builds of which one is current after a power cut, none where there was none before."""

    def check(folder: Path, ended: bool) -> None:
        root = folder / "disk"
        if (root / "model" / "current").exists():  # missing for a moment while a build of the same inputs is replaced
            assert packaged(root) in (allowed or (after,))
        with Store(root, "model").lock():
            pass
        if allowed or ended:
            assert packaged(root) in ((after,) if ended else allowed)
        build_package(folder, "three")
        assert packaged(root) == "three"
        assert {path.name for path in (root / "model").iterdir()} <= {
            "one",
            "two",
            "three",
            "current",
            "previous",
            ".lock",
        }

    return check


def message(number: int) -> Message:
    return Message(number, f"topic/{number}", b"x" * 700)


def fill_spool(folder: Path) -> None:
    spool = Spool(folder / "disk" / "spool.db", 1 << 20)
    spool.append(map(message, range(1, 11)))
    spool.close()


def use_spool(folder: Path) -> None:
    spool = Spool(folder / "disk" / "spool.db", 1 << 20)
    spool.append(map(message, range(11, 21)))
    spool.remove([message(number) for number in range(1, 4)])
    spool.append(map(message, range(21, 26)))
    spool.close()


def check_spool(folder: Path, ended: bool) -> None:
    """What was on disk before the power was on is delivered once or twice, never lost; the rest may be missing."""
    spool = Spool(folder / "disk" / "spool.db", 1 << 20)
    kept = [entry.number for entry in spool.after(0, 100)]
    assert kept == list(range(kept[0], kept[-1] + 1)) and kept[0] <= 4 and kept[-1] >= 10, kept
    assert all(entry.payload == b"x" * 700 for entry in spool.after(0, 100))
    spool.append([message(spool.last + 1)])
    assert spool.after(0, 100)[-1].number == spool.last + 1 and not spool.error
    spool.close()


DOWNLOAD, DELTA = 1_150_000, 150_000
"""Bytes of models that are longer than what a download fetches at once."""


def with_download(folder: Path) -> None:
    private = bundles.key(folder)
    for version in ("1.0", "2.0"):
        bundles.signed(folder / f"{version}.esb", private, version, filler=DOWNLOAD)
    bundles.signed(folder / "3.0.esb", private, "3.0")
    deploy(folder, "1.0")


def download(folder: Path, cut: int | None) -> str:
    """Deploy version 2.0 from a server that closes each connection after `cut` bytes."""
    os.environ["SSL_CERT_FILE"] = str(folder / "ca.pem")
    fetch.PAUSE = 0.001
    with https.serving(folder) as site:
        site.data, site.cut = (folder / "2.0.esb").read_bytes(), cut
        with open_bundle(site.url, keys.trusted(folder / "trusted")) as source:
            return bundles.device(folder / "disk").deploy(source).result


def check_download(folder: Path, ended: bool) -> None:
    """The same download succeeds at the first attempt, whatever was left of it."""
    bundles.device(folder / "disk").recover()
    served = bundles.serving(folder / "disk")
    assert download(folder, None) == {"1.0": "deployed", "2.0": "nothing to do"}[served]
    serves(("1.0", "2.0"), "2.0")(folder, True)


def with_delta(folder: Path) -> None:
    """Two bundles whose models have nothing in common, and the delta between them: as long as the second one."""
    private, random = bundles.key(folder), np.random.default_rng(1)
    with_bundles_of(folder, private)
    for version in ("1.0", "2.0"):
        model = folder / f"{version}.contents" / "model" / "model.onnx"
        model.write_bytes(version.encode() + b"x" + random.bytes(DELTA))
        bundles.rewritten(folder / f"{version}.esb", private, version)
    with bundles.opened(folder / "1.0.esb") as old, bundles.opened(folder / "2.0.esb") as new:
        files = [source.complete(folder, quiet) for source in (old, new)]
        target = Target(folder / "2.0.esd", keys.read_private(private), quiet)
        make(files[0], old.head, files[1], new.head, target)
    deploy(folder, "1.0")


def apply_delta(folder: Path, cut: int | None) -> str:
    """Deploy version 2.0 by its delta, from a server that closes each connection after `cut` bytes."""
    os.environ["SSL_CERT_FILE"] = str(folder / "ca.pem")
    fetch.PAUSE = 0.001
    with https.serving(folder) as site:
        site.cut, site.files = cut, lambda path: (folder / f"2.0{Path(path).suffix}").read_bytes()
        delta, trusted = site.url.replace(".esb", ".esd"), keys.trusted(folder / "trusted")
        with open_for_deploy(site.url, delta, trusted) as source:
            result = bundles.device(folder / "disk").deploy(source).result
            assert cut is None or not source.note, source.note
            return result


def check_delta(folder: Path, ended: bool) -> None:
    """The same deploy succeeds at the first attempt, whatever was left of the delta and of what it made."""
    bundles.device(folder / "disk").recover()
    served = bundles.serving(folder / "disk")
    assert apply_delta(folder, None) == {"1.0": "deployed", "2.0": "nothing to do"}[served]
    serves(("1.0", "2.0"), "2.0")(folder, True)


def record_clip(folder: Path) -> None:
    jpeg = bytes(cv2.imencode(".jpg", sample_frame().image)[1])
    settings = ClipsSettings(before=1, after=1, folder=folder / "disk" / "clips", most=2)
    clips = Clips(settings, output_context(folder))
    for begin in (1, 5):
        clips.event(sample_event(begin))
        for step in range(25):
            clips.snapshot("door", Snapshot(jpeg, int((begin + step / 10) * SECOND), step, 0))
        written = (begin + 3) // 4
        wait_until(lambda count=written: clips.state.sent + clips.state.failed == count)  # type: ignore[misc]
    clips.close()
    assert not clips.state.failed, clips.state.state


def check_clips(folder: Path, ended: bool) -> None:
    """Every clip plays, every still shows; the next clips are written, and nothing unfinished stays."""
    paths = [path for path in (folder / "disk" / "clips").glob("*") if not path.name.startswith(".")]
    for path in paths:
        if path.suffix == ".jpg":
            assert cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR) is not None, path
        else:
            video = cv2.VideoCapture(str(path))
            assert video.read()[0], path
            video.release()
    videos = sorted(int(path.name[:6]) for path in paths if path.suffix != ".jpg")
    assert not ended or videos == [3, 4], videos
    record_clip(folder)
    assert not list((folder / "disk" / "clips").glob(".*"))


def make_key(folder: Path) -> None:
    os.environ["EDGESPARSE_STATE"] = str(folder / "disk" / "state")
    (folder / "signature").write_text(sign.mac(b"package"))


def check_key(folder: Path, ended: bool) -> None:
    """A package that was signed before is still valid. Where `folder` is on the disk too, the signature may be lost."""
    for path in (folder / "disk").glob("state/*"):
        path.chmod(0o600)
    state, os.environ["EDGESPARSE_STATE"] = os.environ["EDGESPARSE_STATE"], str(folder / "disk" / "state")
    try:
        note = folder / "signature"
        assert not ended or not note.exists() or sign.mismatch(note.read_text(), b"package") is None
        assert sign.mismatch(sign.mac(b"package"), b"package") is None
    finally:
        os.environ["EDGESPARSE_STATE"] = state


def new_signing_key(folder: Path) -> None:
    keys.new(folder / "disk" / "factory", 30)


def check_signing_key(folder: Path, ended: bool) -> None:
    """Both halves are whole, or a second attempt says what is in the way."""
    private, public = folder / "disk" / "factory.key", folder / "disk" / "factory.pub"
    for path in (private, public):
        path.chmod(0o600) if path.exists() else None
    assert not ended or keys.read_private(private).public == keys.read_public(public)
    if private.exists():
        keys.read_private(private)
    if public.exists():
        keys.read_public(public)


SCENARIOS = {
    "first deploy": Scenario(with_bundles, lambda folder: deploy(folder, "2.0"), serves((), "2.0")),
    "deploy": Scenario(with_first, lambda folder: deploy(folder, "2.0"), serves(("1.0", "2.0"), "2.0")),
    "third deploy": Scenario(
        with_three,
        lambda folder: deploy(folder, "2.5"),
        serves(("2.0", "2.5"), "2.5"),
    ),
    "unhealthy deploy": Scenario(with_first, deploy_sick, serves(("1.0", "2.0"), "1.0")),
    "rollback": Scenario(
        with_two, lambda folder: bundles.device(folder / "disk").rollback(), serves(("1.0", "2.0"), "1.0")
    ),
    "recovery": Scenario(
        interrupted, lambda folder: bundles.device(folder / "disk").recover(), serves(("1.0", "2.0"), "1.0")
    ),
    "history": Scenario(fill_history, append_history, check_history),
    "first package": Scenario(lambda _: None, build_package, check_store((), "two")),
    "package": Scenario(lambda folder: build_package(folder, "one"), build_package, check_store(("one", "two"), "two")),
    "package again": Scenario(lambda folder: build_package(folder, "one"), build_again, check_store(("one",), "one")),
    "download": Scenario(with_download, lambda folder: download(folder, 300_000), check_download),
    "delta": Scenario(with_delta, lambda folder: apply_delta(folder, 60_000), check_delta),
    "clips": Scenario(record_clip, record_clip, check_clips),
    "device key": Scenario(lambda _: None, make_key, check_key),
    "signing key": Scenario(lambda _: None, new_signing_key, check_signing_key),
    "spool": Scenario(fill_spool, use_spool, check_spool),
}


if __name__ == "__main__":
    SCENARIOS[sys.argv[1]].work(Path(sys.argv[2]))
