"""Promise: a thread of the service that fails is restarted and reported, and the others go on."""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from browser import free_port
from hand_camera import Camera as HandCamera
from samples import output_context, sample_event, wait_until

from edgesparse import cli, supervised
from edgesparse.errors import BackendUnavailable
from edgesparse.service.health import Health
from edgesparse.service.life import Service
from edgesparse.service.outputs.webhook import Webhook, WebhookSettings
from edgesparse.service.settings import WebSettings
from edgesparse.service.signals import reload_requested
from edgesparse.service.snapshots import SnapshotEncoder, SnapshotSettings
from edgesparse.service.web.server import Web
from edgesparse.stream.sources import capture_worker, live
from edgesparse.stream.sources.live import LiveSource
from edgesparse.supervised import Supervised, check_threads, close_all, thread_states


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervised, "FIRST_PAUSE", 0.005)
    monkeypatch.setattr(supervised, "_started", [])


class Flaky:
    """Work that raises each of the errors in turn, then waits until `end` is set."""

    def __init__(self, *errors: BaseException) -> None:
        self._errors = list(errors)
        self.calls = 0
        self.end = threading.Event()

    def __call__(self) -> None:
        self.calls += 1
        if self._errors:
            raise self._errors.pop()
        self.end.wait(30)


@pytest.fixture
def supervise() -> Iterator[Callable[[Callable[[], object]], Supervised]]:
    threads: list[Supervised] = []

    def start(work: Callable[[], object]) -> Supervised:
        threads.append(Supervised("worker", work))
        return threads[-1]

    yield start
    for thread in threads:
        thread.leave()
        getattr(thread._work, "end", threading.Event()).set()
        thread.join(5)


Start = Callable[[Callable[[], object]], Supervised]


@pytest.mark.parametrize("error", [ValueError("x"), MemoryError(), RecursionError(), SystemExit(1), OSError(24, "few")])
def test_a_thread_that_raises_anything_is_restarted(supervise: Start, error: BaseException) -> None:
    work = Flaky(error)
    thread = supervise(work)
    wait_until(lambda: work.calls == 2)
    assert thread.state.restarts == 1 and type(error).__name__ in thread.state.why and not thread.state.down


def test_a_thread_that_ends_by_itself_is_restarted_and_one_that_was_told_to_is_not(supervise: Start) -> None:
    work = Flaky()
    work.end.set()
    thread = supervise(work)
    wait_until(lambda: thread.state.restarts > 1)
    assert thread.state.why == "it ended by itself"
    thread.leave()
    thread.join(5)
    assert not thread.is_alive() and thread_states() == []


def test_a_thread_that_stays_down_makes_the_service_unhealthy_and_leaves_the_watchdog_fed(supervise: Start) -> None:
    health = Health()
    camera: Any = SimpleNamespace(name="door", state="live", why="", since_ns=0)
    health.update([camera])
    health.frame()
    assert health.judge().alive
    work = Flaky(*[ValueError("http://u:PLANTED@h")] * 50)
    supervise(work)
    wait_until(lambda: not health.judge().alive)
    judgement = health.judge()
    assert judgement.detecting and "thread worker fails again and again: ValueError: http://h" in judgement.why
    assert health.judge_loop().alive


def test_a_thread_that_has_recovered_counts_as_well_again(supervise: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervised, "STEADY_SECONDS", 0.05)
    work = Flaky(*[ValueError("x")] * 4)
    thread = supervise(work)
    wait_until(lambda: work.calls == 5 and not thread.state.why)
    assert thread.state.restarts == 4 and not thread.state.down


def test_a_failed_web_server_answers_again_with_the_priority_of_the_loop(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    judgement = SimpleNamespace(alive=True, detecting=True, why="")
    report: Any = SimpleNamespace(health=SimpleNamespace(judge=lambda: judgement))
    runs: list[int] = []

    serve = uvicorn.Server.serve

    async def fails_once(server: uvicorn.Server, sockets: Any) -> None:
        runs.append(1)
        if len(runs) == 1:
            raise RuntimeError("as a library may")
        await serve(server, sockets)

    monkeypatch.setattr("edgesparse.service.web.server.uvicorn.Server.serve", fails_once)
    web = Web(WebSettings(port=free_port()), report, lambda: tmp_path)
    wait_until(lambda: web._server.started)
    assert [(state.name, state.restarts) for state in thread_states()] == [("web", 1)]
    snapshots = SnapshotEncoder(SnapshotSettings(), ())
    threads = [int(task.name) for task in Path("/proc/self/task").iterdir()]
    priorities = {os.getpriority(os.PRIO_PROCESS, thread) for thread in threads}
    assert len(priorities) == 1, "a thread of lower priority would hold up the others with Python's lock"
    snapshots.close()
    web.close()
    assert thread_states() == []


def test_the_webhook_goes_on_after_an_exception_outside_of_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = WebhookSettings(url=f"http://127.0.0.1:{free_port()}/")
    webhook = Webhook(settings, output_context(Path()))
    delivered: list[str] = []

    def deliver(event: Any) -> str:
        delivered.append(event.name)
        if len(delivered) < 3:
            raise KeyError("as nobody expected")
        return "accepted"

    monkeypatch.setattr(webhook, "_deliver", deliver)
    webhook.event(sample_event())
    wait_until(lambda: webhook.state.sent == 1)
    assert len(delivered) == 3 and thread_states()[0].restarts == 2
    webhook.close()


def test_a_capture_thread_is_restarted_as_quickly_as_its_camera_is_opened_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(capture_worker, "PAUSE_FIRST", 0.01)
    camera, health = HandCamera(), Health()
    with LiveSource("door", camera.open, patient=True) as source:
        status: Any = SimpleNamespace(name="door", state="live", why="", since_ns=0)
        for failures in (1, 2, 3):
            camera.frames.put(OSError(24, "rtsp://u:PLANTED@h: too many open files"))
            wait_until(lambda: source.state == "away" and len(camera.frames.queue) == 0)
            camera.frames.put(7)
            wait_until(lambda: source.state == "live")
            health.update([status])
            health.frame()
            (state,) = thread_states()
            assert (state.name, state.restarts, state.down) == ("capture door", failures, failures == 3)
            assert health.judge().alive == (not state.down)
        assert "thread capture door fails again and again: OSError: [Errno 24]" in health.judge().why
        assert "PLANTED" not in health.judge().why and health.judge_loop().alive
        camera.frames.put(False)
    wait_until(lambda: thread_states() == [])


def test_no_thread_for_a_camera_whose_driver_hangs_does_not_end_the_frame_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "RECHECK_SECONDS", 0.01)
    camera, hung = HandCamera(), threading.Event()
    with LiveSource("door", camera.open, patient=True) as source:
        camera.frames.put(hung)
        wait_until(lambda: len(camera.frames.queue) == 0)
        with monkeypatch.context() as few:
            few.setattr(threading.Thread, "start", refuse)
            source.reopen()
            source.watch()
        (state,) = thread_states()
        assert state.down and "no more threads" in state.why and source.state == "away"
        camera.frames.put(7)
        wait_until(lambda: source.watch() or source.state == "live")
        hung.set()
        camera.frames.put(False)


def has_length(items: list[str], count: int) -> bool:
    return len(items) == count


def test_ready_follows_reloading_and_the_next_reload_is_heard_after_any_error(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    service = Service.__new__(Service)
    service._stop, service._changing = threading.Event(), threading.RLock()
    reports: list[str] = []

    def reloaded(refusal: str) -> None:
        reports.append(refusal)
        if len(reports) == 1:
            raise ZeroDivisionError

    parts = SimpleNamespace(health=SimpleNamespace(up=True), report=SimpleNamespace(reloaded=reloaded))
    notify = SimpleNamespace(reloading=lambda: sent.append("RELOADING"), ready=lambda: sent.append("READY"))
    monkeypatch.setattr(service, "_parts", parts, raising=False)
    monkeypatch.setattr(service, "_notify", notify, raising=False)
    monkeypatch.setattr(service, "_reload", lambda: "")
    thread = Supervised("reload", service._reload_loop)
    for count in (1, 2):
        reload_requested.set()
        wait_until(functools.partial(has_length, sent, 2 * count))
    assert sent == ["RELOADING", "READY"] * 2 and reports == ["", ""]
    thread.leave()
    service._stop.set()
    reload_requested.set()
    thread.join(5)
    reload_requested.clear()


def refuse(self: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


@pytest.fixture
def few_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system refuses to start any more threads."""
    monkeypatch.setattr(threading.Thread, "start", refuse)


def test_too_few_threads_are_one_line_and_exit_code_3(few_threads: None, capsys: pytest.CaptureFixture[str]) -> None:
    for start in (lambda: check_threads(20), lambda: Supervised("web", print)):
        with pytest.raises(BackendUnavailable, match=r"no more threads.*ulimit -u; TasksMax") as caught:
            start()
        assert caught.value.exit_code == 3
    assert thread_states() == []
    assert cli._failed(RuntimeError("can't start new thread"), []) == 3
    assert capsys.readouterr().err.startswith("edgesparse: the system lets this process start no more threads: raise")


def test_what_is_closed_is_closed_without_threads_too(few_threads: None) -> None:
    closed: list[int] = []
    close_all([lambda: closed.append(1), lambda: closed.append(2)], 1.0)
    assert closed == [1, 2]


def test_there_is_room_for_the_threads_that_are_checked_and_none_is_left() -> None:
    before = threading.active_count()
    check_threads(20)
    assert threading.active_count() == before


def test_a_failure_is_logged_once_with_its_traceback(supervise: Start, caplog: pytest.LogCaptureFixture) -> None:
    work = Flaky(ValueError("of this test alone"))  # the same line is left out after some
    with caplog.at_level(logging.ERROR):
        supervise(work)
        wait_until(lambda: work.calls == 2)
    (record,) = caplog.records
    assert record.getMessage() == "thread worker failed and is restarted: ValueError: of this test alone"
    assert record.exc_info


def _few_tasks() -> None:
    """Become a user with a limit of 8 tasks and only the capability to read what root may."""
    libc = ctypes.CDLL(None)
    libc.prctl(8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS
    resource.setrlimit(resource.RLIMIT_NPROC, (8, 8))
    os.setgid(54321)
    os.setuid(54321)
    head, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(6, 6, 6, 0, 0, 0)
    libc.capset(head, sets)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    for capability in (1, 2):
        libc.prctl(47, 2, capability, 0, 0)  # PR_CAP_AMBIENT_RAISE


@pytest.mark.root
def test_a_service_with_a_limit_of_8_tasks_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edgesparse", "run", "--service", "detector.onnx"]
    done = subprocess.run(
        command, cwd=tmp_path, preexec_fn=_few_tasks, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 3, done.stderr
    assert done.stderr.count("\n") == 1 and "no more threads" in done.stderr
