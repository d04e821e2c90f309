"""Deltas between bundles: what they restore, what is refused, when the whole bundle is fetched instead."""

from __future__ import annotations

import functools
import io
import json
import tracemalloc
from pathlib import Path

import bundles
import fleets
import numpy as np
import pytest
import zstandard
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesparse.cli import verbs
from edgesparse.errors import ConfigError, DeployError, EdgeSparseError
from edgesparse.fleet import coding, float_coding, keys
from edgesparse.fleet.delta import Target, make
from edgesparse.fleet.fetch import LocalFile
from edgesparse.fleet.patched import open_for_deploy
from edgesparse.progress import quiet

SIZE = 1_200_000


def encoded(old: bytes, new: bytes) -> bytes:
    return b"".join(coding.encode(io.BytesIO(old), len(old), io.BytesIO(new), lambda size: None))


encoded_once = functools.cache(encoded)


def decoded(old: bytes, coded: bytes, size: int) -> bytes:
    return b"".join(coding.decode(io.BytesIO(old), io.BytesIO(coded), size))


def delta_verb(folder: Path, old: str, new: str, *more: str) -> Result:
    names = (f"{old}.esb", f"{new}.esb", "-o", f"{old}-{new}.esd", "--key", "factory.key", *more)
    return CliRunner().invoke(verbs, ["delta", *(name if name[0] == "-" else f"{folder}/{name}" for name in names)])


def write_delta(folder: Path, old: str, new: str) -> Path:
    out = folder / f"{old}-{new}.esd"
    result = delta_verb(folder, old, new)
    assert result.exit_code == 0, (result.output, result.exception)
    return out


@settings(max_examples=60)
@given(st.binary(max_size=300), st.binary(max_size=300))
def test_what_is_decoded_is_what_was_encoded(old: bytes, new: bytes) -> None:
    assert decoded(old, encoded(old, new), len(new)) == new


@pytest.mark.parametrize("shift", [0, 1])
def test_segments_are_restored_and_what_was_inserted_or_retrained_is_small(
    shift: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coding, "SEGMENT", 1 << 16)
    random = np.random.default_rng(1)
    weights = random.standard_normal(50_001).astype(np.float32)
    old, inserted = weights.tobytes(), b"x" * shift + weights.tobytes()
    retrained = (weights * (1 + 1e-4 * random.standard_normal(weights.shape))).astype(np.float32).tobytes() + b"end"
    for new, most in ((inserted, 0.01), (retrained, 0.47)):
        coded = encoded(old, new)
        assert decoded(old, coded, len(new)) == new and len(coded) < most * len(new)


@settings(max_examples=40)
@given(st.integers(0, 3), st.integers(0, 2**32 - 1), st.integers(1, 40_000))
def test_any_words_at_any_place_are_restored(shift: int, seed: int, size: int) -> None:
    """Not only weights: NaN, infinities, zeros of both signs, and blocks that end in the middle of a word."""
    random = np.random.default_rng(seed)
    old = random.integers(0, 1 << 32, size, dtype=np.uint32)
    old[::3] = random.choice(np.array([0, 0x80000000, 0x7F800000, 0xFFC00000, 1], np.uint32), len(old[::3]))
    new = b"abc"[:shift] + (old + random.integers(0, 9, size, dtype=np.uint32)).tobytes()
    code = float_coding.encode(new, old.tobytes()[: size * 3])
    assert len(code) == float_coding.size(len(new))
    assert float_coding.decode(code, old.tobytes()[: size * 3])[: len(new)] == new


def test_weights_in_float_need_hardly_more_than_what_is_new_of_them() -> None:
    """Each weight moves by a thousandth; its exponent and about ten bits stay, wherever it begins in the file."""
    random = np.random.default_rng(1)
    weights = random.standard_normal(80_000).astype(np.float32)
    moved = (weights + 1e-3 * random.standard_normal(weights.shape)).astype(np.float32)
    spacing = np.spacing(np.maximum(np.abs(weights), 1e-3)).astype(float)
    entropy = np.log2(4.1327e-3 / spacing).sum() / 8  # of a normal distribution, sqrt(2 pi e) sigma
    coded = encoded(b"?" + weights.tobytes(), b"!" + moved.tobytes())
    assert entropy < len(coded) < 1.04 * entropy
    assert coded[0] == coding.FLOATS


def test_a_decoder_holds_few_segments() -> None:
    code, old = bytes(float_coding.size(coding.SEGMENT)), bytes(coding.SEGMENT)
    tracemalloc.start()
    assert float_coding.decode(code, old) == old
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak + len(code) + len(old) < 11 * coding.SEGMENT


@settings(max_examples=100)
@given(st.data())
def test_damaged_codes_are_refused_or_give_no_more_than_is_expected(data: st.DataObject) -> None:
    old, new = bytes(range(256)) * 4, bytes(range(255)) * 4
    good = bytearray(encoded_once(old, new))
    at = data.draw(st.integers(0, len(good) - 1))
    good[at] ^= data.draw(st.integers(1, 255))
    try:
        assert len(decoded(old, bytes(good), len(new))) == len(new)
    except DeployError as error:
        assert "\n" not in str(error)


def test_a_frame_that_states_a_large_size_is_not_decompressed() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 28))
    with pytest.raises(DeployError, match="it is damaged"):
        decoded(b"", coding._PREFIX.pack(coding.MATCHES, len(bomb)) + bomb, 1000)
    with pytest.raises(DeployError, match="it is damaged"):
        decoded(b"", coding._PREFIX.pack(coding.MATCHES, 1 << 31), 1000)


def served(fleet: fleets.Fleet) -> int:
    """Publish 1.0, have a device run it, publish 1.1 with a delta. Returns the delta's size."""
    fleet.publish("1.0", filler=SIZE)
    assert fleet.pull() == "deployed"
    fleet.bundle("1.1", filler=SIZE)
    delta = write_delta(fleet.folder, "1.0", "1.1")
    trusted = keys.trusted(fleet.folder / "trusted")
    fleet.repository.release(fleet.bundle("1.1"), 100, "", trusted)
    fleet.repository.add_delta(delta, trusted)
    assert fleet.sign("release", "online") == []
    fleet.site.requested.clear()
    return delta.stat().st_size


def test_a_device_pulls_the_delta_and_a_new_one_the_whole(fleet: fleets.Fleet) -> None:
    assert served(fleet) < 0.05 * SIZE
    assert fleet.pull() == "deployed" and fleet.serving() == "1.1"
    assert not [path for path in fleet.site.requested if path.endswith(".esb")]
    assert fleet.pull("new") == "deployed" and fleet.serving("new") == "1.1"


@pytest.mark.parametrize("kind", ["missing", "changed", "another"])
def test_a_delta_that_cannot_be_used_gives_way_to_the_whole_bundle(fleet: fleets.Fleet, kind: str) -> None:
    served(fleet)
    good = (fleet.folder / "1.0-1.1.esd").read_bytes()
    fleet.altered[".esd"] = {
        "missing": None,
        "changed": good[:-1500] + b"?" + good[-1499:],
        "another": fleet.bundle("1.0").read_bytes(),
    }[kind]
    outcome = fleet.puller().pull()
    assert outcome.result == "deployed" and fleet.serving() == "1.1"
    assert "the delta was not used (" in outcome.note and "the whole bundle was fetched" in outcome.note


def test_a_damaged_base_gives_way_to_the_whole_bundle(fleet: fleets.Fleet) -> None:
    served(fleet)
    (fleet.folder / "esf1" / "current" / "bundle" / "recipe.yaml").write_bytes(b"model: other/models.onnx")
    outcome = fleet.puller().pull()
    assert "the delta was not used (" in outcome.note and fleet.serving() == "1.1"


def test_a_delta_whose_own_key_is_expired_is_not_used(fleet: fleets.Fleet) -> None:
    """It is signed by another key than the bundles, which are still valid."""
    served(fleet)
    second, delta = keys.read_private(bundles.key(fleet.folder, "second")), fleet.folder / "second.esd"
    with bundles.opened(fleet.bundle("1.0")) as old, bundles.opened(fleet.bundle("1.1")) as new:
        files = [source.complete(fleet.folder, quiet) for source in (old, new)]
        make(files[0], old.head, files[1], new.head, Target(delta, second, quiet))
    trusted = fleet.folder / "trusted"
    fleet.repository.add_delta(delta, keys.trusted(trusted))
    assert fleet.sign("release", "online") == []
    public = trusted / "second.pub"
    public.write_text(public.read_text().replace("expires: never", "expires: 2026-01-01"))
    outcome = fleet.puller().pull()
    assert "the delta was not used (the key second" in outcome.note and "expired on 2026-01-01" in outcome.note
    assert fleet.serving() == "1.1"


def listed(fleet: fleets.Fleet) -> int:
    return len(fleet.puller()._refresh().deltas)


def stored(fleet: fleets.Fleet) -> list[Path]:
    return list((fleet.path / "targets").glob("*.esd"))


def test_deltas_to_what_no_device_starts_any_more_leave_the_metadata(fleet: fleets.Fleet) -> None:
    served(fleet)
    trusted = keys.trusted(fleet.folder / "trusted")
    assert listed(fleet) == 1
    fleet.publish("1.2", share=10)
    assert listed(fleet) == 1, "the other devices still start 1.1"
    fleet.repository.release(fleet.bundle("1.2"), 100, "", trusted)
    assert len(stored(fleet)) == 1 and listed(fleet) == 1, "it is only staged: what is published lists the delta"
    assert fleet.sign("release", "online") == [] and listed(fleet) == 0
    assert stored(fleet) == [] and len(list((fleet.path / "targets").glob("*.esb"))) == 3
    with pytest.raises(ConfigError, match=r"leads to a bundle that no device of .* starts"):
        fleet.repository.add_delta(fleet.folder / "1.0-1.1.esd", trusted)
    fleet.stop("1.2")
    fleet.repository.add_delta(fleet.folder / "1.0-1.1.esd", trusted)
    fleet.repository.sign([keys.read_private(fleet.signers["online"][0])])
    assert len(stored(fleet)) == 1, "it waits for the signature of its release key"
    assert fleet.sign("release", "online") == [] and listed(fleet) == 1
    fleet.stop("1.1")
    assert listed(fleet) == 0


def test_a_line_that_breaks_every_100_kb_delivers_a_delta_and_the_whole(fleet: fleets.Fleet, tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    for version in ("1.0", "1.1"):
        folder = fleet.folder / f"{version}.contents" / "model"
        bundles.signed(fleet.folder / f"{version}.esb", fleet.folder / "factory.key", version, filler=500_000)
        weights = random.bytes(500_000)
        model = folder / "model.onnx"
        model.write_bytes(version.encode() + b"x" + weights)
        (fleet.folder / f"{version}.esb").unlink()
        bundles.rewritten(fleet.folder / f"{version}.esb", fleet.folder / "factory.key", version)
    fleet.site.cut = 100_000
    fleet.publish("1.0")
    assert fleet.pull() == "deployed"
    delta = write_delta(fleet.folder, "1.0", "1.1")
    assert delta.stat().st_size > 400_000
    trusted = keys.trusted(fleet.folder / "trusted")
    fleet.repository.release(fleet.bundle("1.1"), 100, "", trusted)
    fleet.repository.add_delta(delta, trusted)
    assert fleet.sign("release", "online") == []
    assert fleet.puller().pull().note == "" and fleet.serving() == "1.1"
    for path in (fleet.bundle("1.0"), delta):
        requests = sum(requested.endswith(path.suffix) for requested in fleet.site.requested)
        assert requests == -(-path.stat().st_size // 100_000), "no byte is sent twice"


def test_an_interrupted_delta_is_continued_at_the_next_poll(fleet: fleets.Fleet) -> None:
    served(fleet)
    good = (fleet.folder / "1.0-1.1.esd").read_bytes()
    fleet.altered[".esd"] = good[:-700]
    with pytest.raises(DeployError, match="the connection ended too early"):
        fleet.pull()
    assert "the delta was not used (" in fleet.puller().pull().note  # no byte more: the whole one


def test_a_delta_is_pushed(tmp_path: Path) -> None:
    private = bundles.key(tmp_path)
    for version in ("1.0", "1.1", "1.2"):
        bundles.signed(tmp_path / f"{version}.esb", private, version, filler=SIZE // 10)
    trusted, device = keys.trusted(tmp_path / "trusted"), bundles.device(tmp_path / "device")
    assert device.deploy(bundles.opened(tmp_path / "1.0.esb")).result == "deployed"
    for delta, note in ((write_delta(tmp_path, "1.0", "1.1"), ""), (write_delta(tmp_path, "1.0", "1.2"), "")):
        with open_for_deploy(str(tmp_path / f"{delta.stem[4:]}.esb"), str(delta), trusted) as source:
            assert device.deploy(source).note == note
    assert bundles.serving(tmp_path / "device") == "1.2"
    with LocalFile(tmp_path / "1.0-1.1.esd", trusted) as source:
        assert json.loads(source.signed.signed)["format"] == "edgesparse delta 1"
    with pytest.raises(DeployError, match="is a delta, needed a bundle"):
        open_for_deploy(str(tmp_path / "1.0-1.1.esd"), None, trusted)


def test_the_bundles_may_be_signed_by_different_keys(tmp_path: Path) -> None:
    for version, name in (("1.0", "former"), ("1.1", "factory")):
        bundles.signed(tmp_path / f"{version}.esb", bundles.key(tmp_path, name), version)
    assert "--trusted names another folder" in str(delta_verb(tmp_path, "1.0", "1.1").exception)
    result = delta_verb(tmp_path, "1.0", "1.1", "--trusted", "trusted")
    assert result.exit_code == 0, result.exception
    with LocalFile(tmp_path / "1.0-1.1.esd", keys.trusted(tmp_path / "trusted")) as source:
        assert json.loads(source.signed.signed)["key"] == keys.read_private(tmp_path / "factory.key").public.id


def test_bundles_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    private = bundles.key(tmp_path)
    bundles.signed(tmp_path / "1.0.esb", private, "1.0")
    bundles.signed(tmp_path / "2.0.esb", private, "2.0", name="other")
    for old, new, why in (("1.0", "2.0", "needed one detector"), ("1.0", "1.0", "the same bundle twice")):
        with pytest.raises(EdgeSparseError, match=why):
            raise delta_verb(tmp_path, old, new).exception or AssertionError
