"""Every attack that TUF's specification names, against the real client and a real HTTPS server.

In each, a device that runs 1.0 goes on running it, the refusal is one line, and the genuine repository then works.
https://theupdateframework.github.io/specification/latest/#goals-to-protect-against-specific-attacks
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import bundles
import fleets
import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Targets, Timestamp

from edgesparse.errors import BackendUnavailable, DeployError, EdgeSparseError, SignatureError
from edgesparse.fleet import connection, keys
from edgesparse.fleet.repository import TIME, Signers

STAMP = "/metadata/timestamp.json"


@pytest.fixture
def running(fleet: fleets.Fleet) -> fleets.Fleet:
    """A fleet whose device runs 1.0, while 1.1 waits."""
    fleet.publish("1.0")
    assert fleet.pull() == "deployed"
    fleet.publish("1.1")
    return fleet


def refused(fleet: fleets.Fleet, kind: type[EdgeSparseError] = SignatureError) -> str:
    with pytest.raises(kind) as error:
        fleet.pull()
    assert "\n" not in str(error.value)
    assert fleet.serving() == "1.0"
    return str(error.value)


def recovers(fleet: fleets.Fleet, version: str = "1.1") -> None:
    """The attack ends: the next poll does what it should have done."""
    fleet.altered.clear()
    fleet.site.pace = 0
    fleet.site.files = fleet.serve
    assert fleet.pull() == "deployed" and fleet.serving() == version


def stolen(fleet: fleets.Fleet, who: str) -> CryptoSigner:
    return CryptoSigner(keys.read_private(fleet.signers[who][0]).key)


def forge(data: bytes, signer: CryptoSigner, **changes: object) -> bytes:
    """Change fields of metadata and sign it with a key that the attacker has."""
    metadata = Metadata.from_bytes(data)
    for name, value in changes.items():
        setattr(metadata.signed, name, value)
    metadata.sign(signer)
    return metadata.to_bytes()


def test_arbitrary_installation(running: fleets.Fleet) -> None:
    """Another file in the place of a bundle; metadata that a stranger signed."""
    running.altered[".esb"] = running.bundle("1.0").read_bytes()  # with a valid signature, but an older version
    assert "needed the model 1.1 that the metadata states" in refused(running)
    stranger = bundles.key(running.folder, "stranger")
    (running.folder / "trusted" / "stranger.pub").unlink()
    running.altered[".esb"] = bundles.signed(running.folder / "evil.esb", stranger, "1.1").read_bytes()
    assert "is not signed by a key that this device trusts" in refused(running)
    own = CryptoSigner(keys.read_private(stranger).key)
    running.altered = {STAMP: forge(running.metadata()[STAMP], own, version=99)}
    assert "was signed by 0/1 keys" in refused(running)
    recovers(running)


def test_endless_data(running: fleets.Fleet) -> None:
    running.altered[STAMP] = running.metadata()[STAMP] + b" " * 5_000_000
    assert "longer than its limit" in refused(running)
    running.altered = {"3.targets.json": b" " * 50_000_000}
    assert "longer than its limit" in refused(running)
    running.altered = {".esb": running.bundle("1.1").read_bytes() + bytes(50_000_000)}
    assert "of its manifest: refused" in refused(running, DeployError)
    assert sum(path.stat().st_size for path in (running.folder / "esf1").rglob("*") if path.is_file()) < 1_000_000
    recovers(running)


def test_extraneous_dependencies(running: fleets.Fleet) -> None:
    """A bundle names no other software; what else a mirror offers is never asked for, and added bytes are refused."""
    data = running.bundle("1.1").read_bytes()
    running.altered[".esb"] = data[:-1024] + data[512:1024] + data[-1024:]
    assert "of its manifest: refused" in refused(running, DeployError)
    running.altered.clear()
    (running.path / "targets" / "extra.esb").write_bytes(data)
    running.site.requested.clear()
    recovers(running)
    assert [path for path in running.site.requested if "/targets/" in path and "model-1.1" not in path] == []


def test_fast_forward(running: fleets.Fleet) -> None:
    """Whoever stole the online key makes versions and time huge. A new online key, signed by root, ends it."""
    genuine = running.metadata()[STAMP]
    fields = {TIME: 4_000_000_000}
    forged = forge(genuine, stolen(running, "online"), version=1 << 40, unrecognized_fields=fields)
    running.altered[STAMP] = forged
    assert "the clock here says" in refused(running)
    running.altered.clear()
    assert "must be >= 1099511627776" in refused(running)  # the genuine timestamp now looks old
    running.signers["online"] = [running.key("online-2")]
    running.repository.change_signers({"online": Signers(fleets.public(running.signers["online"]))})
    assert running.sign("root", "online") == []
    recovers(running)


def test_indefinite_freeze(running: fleets.Fleet) -> None:
    """A mirror that serves the same metadata for ever is refused once that expires; the engine goes on."""
    assert running.sign("online", days=-1) == []
    frozen = running.metadata()
    assert "timestamp.json is expired" in refused(running)
    assert running.sign("online") == []
    running.altered = dict(frozen)
    assert "timestamp.json is expired" in refused(running)
    recovers(running)


def test_malicious_mirrors(running: fleets.Fleet) -> None:
    """A mirror that answers nothing, nonsense, or from elsewhere changes nothing."""
    running.altered["json"] = None
    assert "the server answers 404" in refused(running, DeployError)
    running.altered["json"] = b"<html>welcome to the hotel</html>"
    assert "its metadata cannot be trusted" in refused(running)
    running.site.answers, running.site.location = [302], "http://127.0.0.1:9/root.json"
    assert "needed https" in refused(running, DeployError)
    running.site.answers = [503]
    assert "the server answers 503" in refused(running, DeployError)
    recovers(running)


def test_mix_and_match(running: fleets.Fleet) -> None:
    """Parts of different moments: the newest timestamp with an older snapshot, or older releases."""
    old = running.metadata()
    running.publish("1.2")
    running.altered["4.snapshot.json"] = old["/metadata/3.snapshot.json"]
    assert "Expected snapshot version 4, got 3" in refused(running)
    running.altered = {"4.targets.json": old["/metadata/3.targets.json"]}
    assert "Expected targets v4, got v3" in refused(running)
    recovers(running, "1.2")


def test_rollback(running: fleets.Fleet) -> None:
    """What was once genuine is not accepted again."""
    old = running.metadata()
    running.publish("1.0", share=50)  # a change that the device sees
    running.altered = {".esb": None}
    refused(running, DeployError)
    running.altered = {STAMP: old[STAMP]}
    assert "New timestamp version" in refused(running)
    recovers(running)


def test_slow_retrieval(running: fleets.Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "TIMEOUT", 0.3)
    running.site.pace = 0.2
    begin = time.monotonic()
    assert "bytes per second arrived" in refused(running, DeployError)
    assert time.monotonic() - begin < 20
    recovers(running)


def test_key_compromise(running: fleets.Fleet) -> None:
    """The online key releases nothing; release keys below their threshold neither; and a bundle needs its own key."""
    genuine = running.metadata()
    running.altered["3.targets.json"] = forge(genuine["/metadata/3.targets.json"], stolen(running, "online"))
    assert "was signed by 0/1 keys" in refused(running)
    running.altered.clear()
    running.signers["release"].append(running.key("second"))
    running.repository.change_signers({"release": Signers(fleets.public(running.signers["release"]), 2)})
    assert running.sign(*fleets.ROLES) == []
    latest = running.metadata()["/metadata/4.targets.json"]
    running.altered["4.targets.json"] = forge(latest, stolen(running, "release"))
    assert "was signed by 1/2 keys" in refused(running)
    recovers(running)


def test_metadata_keys_alone_install_nothing(running: fleets.Fleet) -> None:
    """Release and online keys are stolen: the bundle still lacks a signature that the device trusts."""
    stranger = bundles.key(running.folder, "stranger")
    bundle = bundles.signed(running.folder / "evil.esb", stranger, "9.0")
    running.repository.release(bundle, 100, "", keys.trusted(running.folder / "trusted"))
    assert running.sign("release", "online") == []
    (running.folder / "trusted" / "stranger.pub").unlink()
    assert "is not signed by a key that this device trusts" in refused(running)


def test_wrong_software(running: fleets.Fleet) -> None:
    """A genuine bundle of another detector, under this one's name; and one that needs what the device lacks."""
    other = bundles.signed(running.folder / "other.esb", running.folder / "factory.key", "1.1", name="other")
    running.altered[".esb"] = other.read_bytes()
    assert "is other 1.1, needed the model 1.1" in refused(running)
    running.altered.clear()
    running.publish("1.2", deploy={"needs": {"edgesparse": "999"}})
    assert "needed 999 or newer" in refused(running, BackendUnavailable)
    running.publish("1.3")
    recovers(running, "1.3")


def test_a_clock_in_1970(running: fleets.Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """It updates, with a note; what expired before the newest timestamp was signed stays expired."""
    real = time.time()
    path = running.path / "metadata" / "3.targets.json"
    expired = Metadata[Targets].from_file(str(path))
    with monkeypatch.context() as clock:
        fleets.set_clock(clock, 1970)
        expired.signed.expires = expired.signed.expires.replace(year=2020)
        expired.sign(stolen(running, "release"))
        running.altered["3.targets.json"] = expired.to_bytes()
        assert "targets.json is expired" in refused(running)
        running.altered.clear()
        stored = running.folder / "esf1" / "pull" / "targets.json"
        stored.unlink()
        outcome = running.puller().pull()
        assert outcome.result == "deployed" and "the clock here says 1970-01-01" in outcome.note
        assert "the clock here says 1970-01-01" in running.puller().pull().note
    stamp = Metadata[Timestamp].from_file(str(running.folder / "esf1" / "pull" / "timestamp.json"))
    assert abs(stamp.signed.unrecognized_fields[TIME] - real) < 600


def test_a_clock_in_2099(running: fleets.Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """It refuses updates and says why, the engine goes on, and a clock that is set right ends it."""
    with monkeypatch.context() as clock:
        fleets.set_clock(clock, 2099)
        assert "(the clock here says 2099-01-01): set the clock if that is wrong" in refused(running)
    recovers(running)


def test_every_field_of_the_metadata_is_signed(running: fleets.Fleet) -> None:
    """A share, a stop or a hash that a mirror changes is refused."""
    path = "3.targets.json"
    genuine = json.loads(running.metadata()[f"/metadata/{path}"])
    for name, value in (("share", 7), ("stopped", "no"), ("bundle", "0" * 64), ("version", "9.9")):
        changed = json.loads(json.dumps(genuine))
        changed["signed"]["targets"]["model-1.1.esb"]["custom"][name] = value
        running.altered[path] = json.dumps(changed).encode()
        assert "was signed by 0/1 keys" in refused(running)
    recovers(running)


def test_only_root_may_change_the_anchor(running: fleets.Fleet) -> None:
    anchor = running.folder / "anchor.json"
    anchor.chmod(0o666)
    assert "lets others" in refused(running)
    anchor.chmod(0o644)
    good = anchor.read_bytes()
    anchor.write_bytes(b"{}")
    assert "is not a root" in refused(running)
    anchor.write_bytes(good)
    recovers(running)
    Path(anchor).unlink()
    with pytest.raises(BackendUnavailable, match="no trusted root in"):
        running.pull()
