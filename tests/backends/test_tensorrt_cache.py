"""The timing cache file: shared by concurrent builds, and ignored unless complete."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from edgesparse.backends.tensorrt.cache import TimingCache


class Timings:
    """A fake of TensorRT's cache, whose entries are lines."""

    def __init__(self, data: bytes) -> None:
        self.entries = set(data.split())

    def combine(self, other: Timings, ignore_mismatch: bool) -> bool:
        self.entries |= other.entries
        return True

    def serialize(self) -> bytes:
        return b"\n".join(sorted(self.entries))


class Config:
    """The part of a builder config that the cache uses."""

    def __init__(self, takes: bool = True) -> None:
        self.takes, self.cache = takes, Timings(b"")

    def create_timing_cache(self, data: bytes) -> Timings:
        return Timings(data)

    def set_timing_cache(self, cache: Timings, ignore_mismatch: bool) -> bool:
        self.cache = cache
        return self.takes

    def get_timing_cache(self) -> Timings:
        return self.cache


def timed(path: Path, *entries: bytes) -> set[bytes]:
    """A build that times these entries. Returns the entries that it got from other builds."""
    cache, config = TimingCache(path), Config()
    cache.attach(config)
    passed = set(config.cache.entries)
    config.cache.entries |= set(entries)
    cache.keep(config)
    return passed


def test_builds_give_each_other_what_they_timed(tmp_path: Path) -> None:
    assert timed(tmp_path / "cache", b"a", b"b") == set()
    assert timed(tmp_path / "cache", b"c") == {b"a", b"b"}
    assert timed(tmp_path / "cache") == {b"a", b"b", b"c"}


def test_builds_at_once_lose_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from test_tensorrt_cache import timed\n"
        "for i in range(40): timed(Path(sys.argv[1]), f'{sys.argv[2]}-{i}'.encode())"
    )
    folder = Path(__file__).parent
    builds = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "cache"), name], cwd=folder) for name in "abc"
    ]
    assert [build.wait(60) for build in builds] == [0, 0, 0]
    assert len(timed(tmp_path / "cache")) == 120


@settings(max_examples=50)
@given(st.data())
def test_a_damaged_file_is_ignored_and_replaced(tmp_path_factory: Any, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("cache") / "cache"
    timed(path, b"one", b"two")
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    changed = data.draw(st.sampled_from([whole[:at] or b"x", whole[:at] + b"\xff" + whole[at + 1 :], whole + b"x"]))
    path.write_bytes(changed)
    cache, config = TimingCache(path), Config()
    cache.attach(config)
    assert config.cache.entries == set() and not cache.loaded and "is damaged: ignored" in cache.warnings[0]
    cache.keep(config)
    assert timed(path) == set() and TimingCache(path).warnings == []


def test_one_of_another_device_is_ignored(tmp_path: Path) -> None:
    timed(tmp_path / "cache", b"a")
    cache = TimingCache(tmp_path / "cache")
    cache.attach(Config(takes=False))
    assert not cache.loaded and "another device or release" in cache.warnings[0]


def test_one_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = TimingCache(tmp_path / "file" / "cache")
    cache.keep(Config())
    assert "not written" in cache.warnings[0]


def test_without_a_path_nothing_happens() -> None:
    cache = TimingCache(None)
    cache.attach(None)
    cache.keep(None)
    cache.give_up()
    assert not cache.loaded and cache.warnings == []
