"""Captures in processes of their own: what they give, and that nothing is left of them, whatever they hang in."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest

from edgesparse.errors import CameraUnavailable, SourceError
from edgesparse.stream.sources import process
from edgesparse.stream.sources.live import Live
from edgesparse.stream.sources.process import Apart

TESTS = str(Path(__file__).parent)


class Numbered:
    """A camera of 200 frames a second whose level is the frame's number; `sizes` by turns, ten frames each."""

    def __init__(self, sizes: tuple[int, ...] = (32,), frames: int = 10**9, then: str = "end") -> None:
        self._sizes, self._frames, self._then = sizes, frames, then
        self._number = -1

    def grab(self) -> bool:
        time.sleep(0.005)
        self._number += 1
        if self._number < self._frames:
            return True
        if self._then == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if self._then == "hang":
            time.sleep(3600)
        return False

    def retrieve(self, image: np.ndarray | None = None) -> tuple[bool, np.ndarray]:
        size = self._sizes[self._number // 10 % len(self._sizes)]
        return True, np.full((size, 2 * size, 3), self._number % 256, np.uint8)

    def get(self, prop: int, /) -> float:
        return 200.0

    def release(self) -> None:
        pass


def refuse() -> Numbered:
    raise CameraUnavailable("no camera here")


def hang() -> Numbered:
    time.sleep(3600)
    raise AssertionError


def crash() -> Numbered:
    os.kill(os.getpid(), signal.SIGSEGV)
    raise AssertionError


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other side imports what is opened from here."""
    assert TESTS in sys.path


def children() -> list[str]:
    """Of the process that forks."""
    pid = process._nursery()._process.pid
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "waited twenty seconds"
        time.sleep(0.01)


def test_frames_come_over_and_the_process_ends_with_the_capture() -> None:
    capture = Apart(Numbered, "camera")()
    assert capture.get(process.cv2.CAP_PROP_FPS) == 200
    image, levels = None, []
    for _ in range(20):
        assert capture.grab()
        ok, found = capture.retrieve(image)
        assert ok and found.shape == (32, 64, 3) and (image is None or found is image)
        assert (found == found[0, 0, 0]).all()
        image = found
        levels.append(int(found[0, 0, 0]))
    assert levels == sorted(set(levels))
    assert len(children()) == 1
    capture.release()
    until(lambda: not children())


def test_the_newest_frame_wins() -> None:
    capture = Apart(Numbered, "camera")()
    assert capture.grab()
    first = int(capture.retrieve()[1][0, 0, 0])
    time.sleep(0.3)
    assert capture.grab()
    assert int(capture.retrieve()[1][0, 0, 0]) > first + 10
    capture.release()


def test_sizes_may_change() -> None:
    capture = Apart(partial(Numbered, (32, 48, 8)), "camera")()
    sizes = set()
    for _ in range(60):
        assert capture.grab()
        sizes.add(capture.retrieve()[1].shape)
    capture.release()
    assert sizes == {(32, 64, 3), (48, 96, 3), (8, 16, 3)}


def test_nothing_of_a_frame_stays_open() -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(5):
        capture = Apart(partial(Numbered, (32, 48)), "camera")()
        for _ in range(30):
            assert capture.grab()
            capture.retrieve()
        capture.release()
    assert len(os.listdir("/proc/self/fd")) <= before + 1  # noqa: PTH208


@pytest.mark.parametrize(
    ("opener", "said"), [(refuse, "^no camera here$"), (crash, "^camera: what opens it has crashed$")]
)
def test_what_cannot_be_opened(opener: Callable[[], Numbered], said: str) -> None:
    with pytest.raises(CameraUnavailable, match=said):
        Apart(opener, "camera")()
    until(lambda: not children())


def test_who_does_not_answer_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "OPEN_SECONDS", 0.1)
    with pytest.raises(CameraUnavailable, match=r"^camera gives no answer for 0\.2 s$"):
        Apart(hang, "camera")()
    until(lambda: not children())


class Answers:
    """A camera that opens after so many seconds each time: `folder` counts how often it was asked. -1: never."""

    def __init__(self, folder: Path, *seconds: float) -> None:
        self._folder, self._seconds = folder, seconds

    def __call__(self) -> Numbered:
        asked = self.asked
        (self._folder / str(asked)).touch(exist_ok=False)
        wait = self._seconds[min(asked, len(self._seconds) - 1)]
        time.sleep(wait if wait >= 0 else 3600)
        return Numbered()

    @property
    def asked(self) -> int:
        return len(list(self._folder.iterdir()))


def test_once_opened_it_is_asked_again_beside_what_gives_no_answer(tmp_path: Path) -> None:
    camera = Answers(tmp_path, 0, -1, -1, 0)
    open_it = Apart(camera, "camera")
    open_it().release()
    begun = time.monotonic()
    capture = open_it()
    assert capture.grab() and camera.asked == 4
    assert 2 * process.SOONEST_AGAIN <= time.monotonic() - begun < process.LONGEST_OPEN
    until(lambda: len(children()) == 1)
    capture.release()


def test_who_is_slow_is_not_cut_off(tmp_path: Path) -> None:
    """Slower than the time after which it is asked again; the others that were asked are left."""
    camera = Answers(tmp_path, 0, 1.5 * process.SOONEST_AGAIN, -1)
    open_it = Apart(camera, "camera")
    open_it().release()
    capture = open_it()
    assert capture.grab() and camera.asked == 3
    until(lambda: len(children()) == 1)
    capture.release()


def test_only_so_many_are_asked_at_once_and_then_less_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "SOONEST_AGAIN", 0.4)
    monkeypatch.setattr(process, "LONGEST_OPEN", 2.2)
    camera = Answers(tmp_path, 0, -1)
    open_it = Apart(camera, "camera")
    open_it().release()
    most, ended = 0, threading.Event()

    def ask() -> None:
        for _ in range(2):
            with pytest.raises(CameraUnavailable, match=r"^camera gives no answer for 2\.2 s$"):
                open_it()
        ended.set()

    threading.Thread(target=ask, daemon=True).start()
    while not ended.wait(0.02):
        most = max(most, len(children()))
    assert 2 <= most <= process.AT_ONCE + 1  # one may be on its way out
    assert 6 <= camera.asked <= 1 + 6 + 5
    until(lambda: not children())


class Late(Numbered):
    """Ten frames, then some that come after `seconds` each, and none after that."""

    def __init__(self, *seconds: float) -> None:
        super().__init__()
        self._late = seconds

    def grab(self) -> bool:
        if (late := self._number - 9) >= 0:
            time.sleep(self._late[late] if late < len(self._late) else 3600)
        return super().grab()


@pytest.mark.parametrize(
    ("late", "said", "least"), [((0.05,), r"no frame for 1\.0 s", 0.9), ((0.6, 0.6), r"3 frames in 1\.[4-6] s", 0.1)]
)
def test_frames_that_come_late_do_not_buy_a_whole_wait_more(late: tuple[float, ...], said: str, least: float) -> None:
    capture = Apart(partial(Late, *late), "camera", read_seconds=1.0)()
    assert all(capture.grab() for _ in range(10 + len(late)))
    begun = time.monotonic()
    with pytest.raises(SourceError, match=f"^{said}$"):
        capture.grab()
    assert least <= time.monotonic() - begun < 0.9 + least
    capture.release()


def test_a_camera_of_few_frames_is_given_its_time() -> None:
    capture = Apart(partial(Late, *[0.3] * 12), "camera", read_seconds=0.5)()
    assert all(capture.grab() for _ in range(10))
    with pytest.raises(SourceError, match=r"^3 frames in 0\.\d s$"):  # it is not known yet
        all(capture.grab() for _ in range(12))
    capture.release()
    capture = Apart(partial(Slow, 0.3), "camera", read_seconds=0.5)()
    assert all(capture.grab() for _ in range(12))
    capture.release()


class Slow(Numbered):
    """`seconds` between its frames."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    def grab(self) -> bool:
        time.sleep(self._seconds)
        return super().grab()


def test_one_that_fails_leaves_the_others_asked(tmp_path: Path) -> None:
    left, right = _ask(hang), _ask(refuse)
    asked = [left, right]
    assert process._first(asked, time.monotonic() + 1.0) is None and asked == [left]
    left.release()
    asked = [_ask(refuse), _ask(crash)]
    with pytest.raises(CameraUnavailable):
        process._first(asked, time.monotonic() + 20)
    assert asked == []


def _ask(opener: Callable[[], Numbered]) -> process.Remote:
    return process.Remote(opener, "camera", 1.0)


@pytest.mark.parametrize("then", ["end", "crash", "hang"])
def test_a_capture_that_ends_crashes_or_hangs_is_opened_again(then: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opener = Apart(partial(Numbered, frames=5, then=then), "camera", read_seconds=0.3)
    with Live("camera", opener) as source:
        while source.reopened < 2:
            assert source.read() is not None
    until(lambda: not children())


def test_one_that_hangs_does_not_hold_up_another() -> None:
    def wait() -> None:
        with suppress(SourceError):
            Apart(hang, "hangs")()

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    begun = time.monotonic()
    capture = Apart(Numbered, "camera")()
    assert capture.grab() and time.monotonic() - begun < 5
    capture.release()


def test_many_opened_at_once_start_one_process_that_forks(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    def start() -> object:
        time.sleep(0.1)
        started.append(object())
        return started[-1]

    monkeypatch.setattr(process, "_started", cache(start))
    threads = [threading.Thread(target=process._nursery) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(started) == 1


def test_the_process_that_forks_may_die() -> None:
    nursery = process._nursery()
    os.kill(nursery._process.pid, signal.SIGKILL)
    nursery._process.wait()
    capture = Apart(Numbered, "camera")()
    assert capture.grab()
    capture.release()


@pytest.mark.parametrize("ends", ["", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_nothing_stays_when_python_ends(ends: str) -> None:
    program = f"""
import os, signal, sys
sys.path.insert(0, {TESTS!r})
from test_process import Numbered, process
capture = process.Apart(Numbered, "camera")()
assert capture.grab()
print(process._nursery()._process.pid, flush=True)
{ends}
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == (-signal.SIGKILL if ends else 0) and done.stderr == ""
    until(lambda: not Path(f"/proc/{done.stdout.strip()}/task").exists())
