"""Devices that pull: waves, stops, retries and keys that change, with the real client and a real HTTPS server."""

from __future__ import annotations

import json
from pathlib import Path

import bundles
import fleets
import pytest

from edgesparse.errors import ConfigError, DeployError, SignatureError
from edgesparse.fleet import keys, rollout
from edgesparse.fleet.deploy import Device
from edgesparse.fleet.fetch import LocalFile
from edgesparse.fleet.repository import Signers
from edgesparse.fleet.rollout import Attempts, Release, Running, decide, in_wave
from edgesparse.fleet.slot_build import SlotBuild
from edgesparse.fleet.slots import DeploySlot
from edgesparse.progress import Progress


def test_a_device_pulls_what_is_published_and_then_only_asks(fleet: fleets.Fleet) -> None:
    fleet.publish("1.0")
    assert fleet.pull() == "deployed" and fleet.serving() == "1.0"
    fleet.site.requested.clear()
    assert fleet.pull() == "nothing to do"
    assert [path.rpartition("/")[2] for path in fleet.site.requested] == ["2.root.json", "timestamp.json"]
    fleet.publish("1.1")
    assert fleet.pull() == "deployed" and fleet.serving() == "1.1"


def test_only_the_share_of_a_wave_gets_it(fleet: fleets.Fleet) -> None:
    fleet.publish("1.0", share=0)
    assert fleet.pull() == "nothing to do"
    assert not (fleet.folder / "esf1" / "current").exists()
    fleet.publish("1.0", share=100)
    assert fleet.pull() == "deployed"


def test_a_stop_is_honored_at_the_next_poll(fleet: fleets.Fleet) -> None:
    fleet.publish("1.0")
    fleet.pull()
    fleet.publish("1.1")
    fleet.stop("1.1")
    assert fleet.pull() == "nothing to do" and fleet.serving() == "1.0"
    fleet.publish("1.1")  # again, which ends the stop
    assert fleet.pull() == "deployed" and fleet.serving() == "1.1"


def test_a_release_that_is_called_back_gives_way_to_the_former_one(fleet: fleets.Fleet) -> None:
    fleet.publish("1.0")
    fleet.pull()
    fleet.publish("1.1")
    fleet.pull()
    fleet.pull("esf2")  # has only this one
    fleet.stop("1.1", back=True)
    assert fleet.pull() == "rolled back" and fleet.serving() == "1.0"
    assert fleet.pull("esf2") == "deployed" and fleet.serving("esf2") == "1.0"
    assert fleet.pull() == fleet.pull("esf2") == "nothing to do"


def test_a_stop_during_a_download_is_honored(fleet: fleets.Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet.publish("1.0")
    serve = fleet.serve

    def stops(path: str) -> bytes | None:
        if path.endswith(".esb"):
            fleet.site.files = serve
            fleet.stop("1.0")
        return serve(path)

    fleet.site.files = stops
    with pytest.raises(DeployError, match="was stopped while it was fetched"):
        fleet.pull()
    assert not (fleet.folder / "esf1" / "current").exists()


def test_a_stop_during_a_build_is_honored_before_the_switch(fleet: fleets.Fleet) -> None:
    fleet.publish("1.0")
    fleet.pull()
    fleet.publish("1.1")

    def build(slot: DeploySlot, progress: Progress) -> SlotBuild:
        fleet.stop("1.1")
        return bundles.quick_build(slot, progress)

    with pytest.raises(DeployError, match="was stopped while it was built"):
        fleet.puller(build=build).pull()
    assert fleet.serving() == "1.0"
    fleet.publish("1.1", rollout="again")

    def offline(slot: DeploySlot, progress: Progress) -> SlotBuild:
        fleet.altered["timestamp.json"] = None
        return bundles.quick_build(slot, progress)

    assert fleet.puller(build=offline).pull().result == "deployed"  # what cannot be read then stops nothing


def test_a_build_that_fails_is_tried_a_few_times_per_rollout(fleet: fleets.Fleet) -> None:
    builds = []

    def fails(slot: DeploySlot, progress: Progress) -> SlotBuild:
        builds.append(slot)
        raise DeployError("no engine")

    fleet.publish("1.0")
    puller = fleet.puller(build=fails)
    for _ in range(rollout.TRIES):
        with pytest.raises(DeployError, match="no engine"):
            puller.pull()
    assert "failed here before" in puller.pull().note and len(builds) == rollout.TRIES
    fleet.publish("1.0", rollout="again")
    with pytest.raises(DeployError, match="no engine"):
        puller.pull()


def test_a_download_that_breaks_does_not_count_as_a_failed_build(fleet: fleets.Fleet) -> None:
    fleet.publish("1.0", filler=3_000_000)
    fleet.altered[".esb"] = fleet.bundle("1.0").read_bytes()[:-500_000]
    for _ in range(rollout.TRIES + 1):
        with pytest.raises(DeployError, match="the connection ended too early"):
            fleet.pull()
    fleet.altered.clear()
    assert fleet.pull() == "deployed"


def test_thresholds_need_that_many_signatures(fleet: fleets.Fleet) -> None:
    fleet.signers["release"].append(fleet.key("second"))
    fleet.repository.change_signers({"release": Signers(fleets.public(fleet.signers["release"]), 2)})
    assert fleet.sign(*fleets.ROLES) == []
    fleet.repository.release(fleet.bundle("1.0"), 100, "", keys.trusted(fleet.folder / "trusted"))
    first, second = map(keys.read_private, fleet.signers["release"])
    online = keys.read_private(fleet.signers["online"][0])
    assert fleet.repository.sign([first, online]) == ["1 release key (of second)"]
    assert fleet.pull() == "nothing to do"
    assert fleet.repository.sign([second]) == ["1 online key (of online)"]
    assert fleet.repository.sign([online]) == []
    assert fleet.pull() == "deployed"


def test_a_root_key_that_changes_is_signed_by_old_and_new(fleet: fleets.Fleet) -> None:
    fleet.publish("1.0")
    fleet.pull()
    old, new = fleet.signers["root"], [fleet.key("root-2"), fleet.key("root-3")]
    fleet.repository.change_signers({"root": Signers(fleets.public(new), 2)})
    fleet.signers["root"] = new
    assert fleet.sign("root", "online") == ["1 root key (of root)"]
    fleet.signers["root"] = old
    assert fleet.sign("root", "online") == []
    fleet.publish("1.1")
    assert fleet.pull() == "deployed" and fleet.pull("new") == "deployed"


def test_a_key_without_a_role_and_an_expired_one_sign_nothing(fleet: fleets.Fleet) -> None:
    stranger = keys.read_private(fleet.key("stranger"))
    with pytest.raises(SignatureError, match="has no role"):
        fleet.repository.sign([stranger])
    with pytest.raises(ConfigError, match="found 1 root keys, needed at least 2"):
        fleet.repository.change_signers({"root": Signers(fleets.public(fleet.signers["root"]), 2)})


def test_a_bundle_of_another_detector_or_signer_is_not_published(fleet: fleets.Fleet) -> None:
    fleet.publish("1.0")
    trusted = keys.trusted(fleet.folder / "trusted")
    with pytest.raises(ConfigError, match="use a folder per detector"):
        fleet.repository.release(fleet.bundle("2.0", name="other"), 100, "", trusted)
    with pytest.raises(SignatureError, match="not signed by a key"):
        fleet.repository.release(fleet.bundle("1.1"), 100, "", keys.trusted(_only(fleet)))


def _only(fleet: fleets.Fleet) -> Path:
    folder = fleet.folder / "others"
    folder.mkdir()
    (folder / "root.pub").write_text((fleet.folder / "root.pub").read_text())
    return folder


def test_a_larger_share_keeps_the_devices_of_the_smaller_one() -> None:
    def wave(share: int, rollout: str = "r") -> set[int]:
        release = Release(name="m", version="1.0", bundle="0" * 64, rollout=rollout, share=share)
        return {i for i in range(1000) if in_wave(f"device{i}", release)}

    waves = [wave(share) for share in (0, 5, 30, 100)]
    assert waves[0] == set() and len(waves[3]) == 1000
    assert waves[1] < waves[2] < waves[3] and 30 <= len(waves[1]) <= 75
    assert wave(5, "other") != waves[1]


def test_no_older_release_replaces_a_newer_one() -> None:
    old = Release(name="m", version="1.0", bundle="1" * 64, rollout="a", share=100)
    new = Release(name="m", version="1.1", bundle="2" * 64, rollout="b", share=100, stopped="bad")
    running = Running("1.1", new.bundle)
    assert decide("d", [old, new], running, Attempts()).action == "keep"
    back = new.model_copy(update={"back": True})
    assert decide("d", [old, back], running, Attempts()).downgrade
    assert decide("d", [back], running, Attempts()).action == "keep"  # nothing else to run


def test_the_folder_of_trusted_metadata_may_be_damaged(fleet: fleets.Fleet) -> None:
    fleet.publish("1.0")
    fleet.pull()
    stored = fleet.folder / "esf1" / "pull"
    (stored / "timestamp.json").write_text("{")
    assert fleet.pull() == "nothing to do"
    (stored / "targets.json").unlink()
    (stored / "targets.json").symlink_to("/dev/zero")
    assert fleet.pull() == "nothing to do"
    assert list((fleet.folder / "esf1").glob("pull.damaged-*"))
    assert json.loads((stored / "targets.json").read_text())


def test_a_published_bundle_is_the_file_that_was_signed(fleet: fleets.Fleet) -> None:
    fleet.publish("1.0")
    stored = next((fleet.path / "targets").iterdir())
    with LocalFile(stored, keys.trusted(fleet.folder / "trusted")) as source:
        assert source.head.manifest.version == "1.0"
    assert isinstance(fleet.puller().device, Device)
