"""Captures in separate processes: their frames, and that no process is left behind, wherever it hangs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest

from edgesparse.errors import CameraUnavailable, SourceError
from edgesparse.stream.sources import isolated
from edgesparse.stream.sources.isolated import IsolatedOpener
from edgesparse.stream.sources.live import LiveSource

TESTS = str(Path(__file__).parent)


class Numbered:
    """A camera with 200 frames per second, each with its number as its level; ten frames of each of `sizes` in turn."""

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


@pytest.fixture(scope="module", autouse=True)
def own_fork_server() -> Iterator[None]:
    """A fork server for these tests alone, since those of other files may still be opening captures; it is running, so
    that the first capture opens as quickly as the others.
    """
    assert TESTS in sys.path, "the other process imports the openers from here"
    started = cache(isolated._ForkServer)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(isolated, "_started", started)
        IsolatedOpener(Numbered, "camera")().release()
        yield
    started().close()


def children() -> list[str]:
    """Process ids of the fork server's children."""
    pid = isolated._fork_server().process.pid
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "waited a minute"
        time.sleep(0.01)


def test_frames_arrive_and_the_process_ends_with_the_capture() -> None:
    capture = IsolatedOpener(Numbered, "camera")()
    assert capture.get(isolated.cv2.CAP_PROP_FPS) == 200
    image, levels = None, []
    for _ in range(20):
        assert capture.grab()
        decoded, result = capture.retrieve(image)
        assert decoded and result.shape == (32, 64, 3) and (image is None or result is image)
        assert (result == result[0, 0, 0]).all()
        image = result
        levels.append(int(result[0, 0, 0]))
    assert levels == sorted(set(levels))
    assert len(children()) == 1
    capture.release()
    until(lambda: not children())


def test_the_newest_frame_wins() -> None:
    capture = IsolatedOpener(Numbered, "camera")()
    assert capture.grab()
    first = int(capture.retrieve()[1][0, 0, 0])
    time.sleep(0.3)
    assert capture.grab()
    assert int(capture.retrieve()[1][0, 0, 0]) > first + 10
    capture.release()


def test_sizes_may_change() -> None:
    capture = IsolatedOpener(partial(Numbered, (32, 48, 8)), "camera")()
    sizes = set()
    for _ in range(60):
        assert capture.grab()
        sizes.add(capture.retrieve()[1].shape)
    capture.release()
    assert sizes == {(32, 64, 3), (48, 96, 3), (8, 16, 3)}


def test_no_file_descriptors_are_left_open() -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(5):
        capture = IsolatedOpener(partial(Numbered, (32, 48)), "camera")()
        for _ in range(30):
            assert capture.grab()
            capture.retrieve()
        capture.release()
    assert len(os.listdir("/proc/self/fd")) <= before + 1  # noqa: PTH208


@pytest.mark.parametrize(
    ("opener", "message"), [(refuse, "^no camera here$"), (crash, "^camera: the process that opens it has crashed$")]
)
def test_what_cannot_be_opened_is_named(opener: Callable[[], Numbered], message: str) -> None:
    with pytest.raises(CameraUnavailable, match=message):
        IsolatedOpener(opener, "camera")()
    until(lambda: not children())


def test_an_opener_without_an_answer_is_abandoned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated, "OPEN_SECONDS", 0.1)
    with pytest.raises(CameraUnavailable, match=r"^camera does not answer for 0\.2 s$"):
        IsolatedOpener(hang, "camera")()
    until(lambda: not children())


class Answers:
    """A camera that takes the given seconds to open at each attempt; `folder` counts attempts. -1: never opens."""

    def __init__(self, folder: Path, *seconds: float) -> None:
        self._folder, self._seconds = folder, seconds

    def __call__(self) -> Numbered:
        number = self.attempts
        (self._folder / str(number)).touch(exist_ok=False)
        wait = self._seconds[min(number, len(self._seconds) - 1)]
        time.sleep(wait if wait >= 0 else 3600)
        return Numbered()

    @property
    def attempts(self) -> int:
        return len(list(self._folder.iterdir()))


def test_after_a_first_success_attempts_without_an_answer_are_repeated_in_parallel(tmp_path: Path) -> None:
    camera = Answers(tmp_path, 0, -1, -1, 0)
    opener = IsolatedOpener(camera, "camera")
    opener().release()
    started = time.monotonic()
    capture = opener()
    assert capture.grab() and camera.attempts == 4
    assert 2 * isolated.SOONEST_RETRY <= time.monotonic() - started < isolated.LONGEST_OPEN
    until(lambda: len(children()) == 1)
    capture.release()


def test_a_slow_answer_is_not_cut_off(tmp_path: Path) -> None:
    """Slower than the time after which another attempt starts; the other attempts are abandoned."""
    camera = Answers(tmp_path, 0, 1.5 * isolated.SOONEST_RETRY, -1)
    opener = IsolatedOpener(camera, "camera")
    opener().release()
    capture = opener()
    assert capture.grab() and camera.attempts == 3
    until(lambda: len(children()) == 1)
    capture.release()


def test_attempts_are_limited_and_become_rarer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated, "SOONEST_RETRY", 0.4)
    monkeypatch.setattr(isolated, "LONGEST_OPEN", 2.2)
    camera = Answers(tmp_path, 0, -1)
    opener = IsolatedOpener(camera, "camera")
    opener().release()
    most, ended = 0, threading.Event()

    def open_twice() -> None:
        for _ in range(2):
            with pytest.raises(CameraUnavailable, match=r"^camera does not answer for 2\.2 s$"):
                opener()
        ended.set()

    threading.Thread(target=open_twice, daemon=True).start()
    while not ended.wait(0.02):
        most = max(most, len(children()))
    assert 2 <= most <= isolated.MOST_ATTEMPTS + 1  # one may be exiting
    assert 6 <= camera.attempts <= 1 + 6 + 5
    until(lambda: not children())


class Late(Numbered):
    """Ten frames, then some that take `seconds` each, then none."""

    def __init__(self, *seconds: float) -> None:
        super().__init__()
        self._late = seconds

    def grab(self) -> bool:
        if (late := self._number - 9) >= 0:
            time.sleep(self._late[late] if late < len(self._late) else 3600)
        return super().grab()


@pytest.mark.parametrize(
    ("late", "message", "least"),
    [((0.05,), r"no frame for 1\.0 s", 0.9), ((0.6, 0.6), r"3 frames in (1\.[4-9]|2\.[01]) s", 0.1)],
)
def test_late_frames_do_not_restart_the_whole_wait(late: tuple[float, ...], message: str, least: float) -> None:
    capture = IsolatedOpener(partial(Late, *late), "camera", read_seconds=1.0)()
    assert all(capture.grab() for _ in range(10 + len(late)))
    started = time.monotonic()
    with pytest.raises(SourceError, match=f"^{message}$"):
        capture.grab()
    assert least <= time.monotonic() - started < 2 + least
    capture.release()


def test_a_camera_with_few_frames_per_second_gets_more_time() -> None:
    capture = IsolatedOpener(partial(Late, *[0.3] * 12), "camera", read_seconds=0.5)()
    assert all(capture.grab() for _ in range(10))
    with pytest.raises(SourceError, match=r"^3 frames in 0\.\d s$"):  # its rate is not known yet
        all(capture.grab() for _ in range(12))
    capture.release()
    capture = IsolatedOpener(partial(Slow, 0.3), "camera", read_seconds=0.5)()
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


def test_an_attempt_that_fails_leaves_the_others_running(tmp_path: Path) -> None:
    hanging, refused = _attempt(hang), _attempt(refuse)
    attempts = [hanging, refused]
    assert isolated._first_answer(attempts, time.monotonic() + 1.0) is None and attempts == [hanging]
    hanging.release()
    attempts = [_attempt(refuse), _attempt(crash)]
    with pytest.raises(CameraUnavailable):
        isolated._first_answer(attempts, time.monotonic() + 60)
    assert attempts == []


def _attempt(opener: Callable[[], Numbered]) -> isolated.IsolatedCapture:
    return isolated.IsolatedCapture(opener, "camera", 1.0)


@pytest.mark.parametrize("then", ["end", "crash", "hang"])
def test_a_capture_that_ends_crashes_or_hangs_is_opened_again(then: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opener = IsolatedOpener(partial(Numbered, frames=5, then=then), "camera", read_seconds=0.3)
    with LiveSource("camera", opener) as source:
        while source.reopened < 2:
            assert source.read() is not None
    until(lambda: not children())


def test_a_capture_that_hangs_does_not_delay_another() -> None:
    def wait() -> None:
        with suppress(SourceError):
            IsolatedOpener(hang, "hangs")()

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    started = time.monotonic()
    capture = IsolatedOpener(Numbered, "camera")()
    assert capture.grab() and time.monotonic() - started < 8
    capture.release()


def test_many_opened_at_the_same_time_start_one_fork_server(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    def start() -> object:
        time.sleep(0.1)
        started.append(object())
        return started[-1]

    monkeypatch.setattr(isolated, "_started", cache(start))
    threads = [threading.Thread(target=isolated._fork_server) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(started) == 1


def test_the_fork_server_is_restarted_when_it_dies() -> None:
    server = isolated._fork_server()
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.wait()
    capture = IsolatedOpener(Numbered, "camera")()
    assert capture.grab()
    capture.release()


@pytest.mark.parametrize("ends", ["", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_nothing_is_left_when_python_ends(ends: str) -> None:
    program = f"""
import os, signal, sys
sys.path.insert(0, {TESTS!r})
from test_isolated import Numbered, isolated
capture = isolated.IsolatedOpener(Numbered, "camera")()
assert capture.grab()
print(isolated._fork_server().process.pid, flush=True)
{ends}
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == (-signal.SIGKILL if ends else 0) and done.stderr == ""
    until(lambda: not Path(f"/proc/{done.stdout.strip()}/task").exists())
