"""Signals wait until the frames being processed are delivered; a second signal does not."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from types import FrameType

import pytest

from edgesparse.stream.interrupts import Interrupts


@pytest.fixture
def handled() -> Iterator[list[int]]:
    """The signals that reached the program's own handler of SIGTERM."""
    seen: list[int] = []

    def handler(number: int, frame: FrameType | None) -> None:
        seen.append(number)

    before = signal.signal(signal.SIGTERM, handler)
    yield seen
    assert signal.getsignal(signal.SIGTERM) is handler
    signal.signal(signal.SIGTERM, before)


def test_a_signal_within_a_frame_is_handled_after_it(handled: list[int]) -> None:
    with Interrupts() as interrupts:
        interrupts.begin()
        signal.raise_signal(signal.SIGTERM)
        assert handled == []
        interrupts.end()
        assert handled == [signal.SIGTERM]
        interrupts.end()
        assert handled == [signal.SIGTERM]


def test_a_signal_between_frames_is_handled_immediately(handled: list[int]) -> None:
    with Interrupts():
        signal.raise_signal(signal.SIGTERM)
        assert handled == [signal.SIGTERM]


def test_the_second_signal_is_handled_immediately(handled: list[int]) -> None:
    with Interrupts() as interrupts:
        interrupts.begin()
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert handled == [signal.SIGTERM]


def test_ctrl_c_is_a_keyboard_interrupt_after_the_frame() -> None:
    with Interrupts() as interrupts:
        interrupts.begin()
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            interrupts.end()


def test_sighup_waits_for_the_frame_too() -> None:
    received: list[int] = []
    before = signal.signal(signal.SIGHUP, lambda number, frame: received.append(number))
    try:
        with Interrupts() as interrupts:
            interrupts.begin()
            signal.raise_signal(signal.SIGHUP)
            assert interrupts.waiting and received == []
            interrupts.end()
            assert received == [signal.SIGHUP]
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_without_a_handler_keeps_its_default_action() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with Interrupts():
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    signal.signal(signal.SIGTERM, before)


def test_in_another_thread_it_does_nothing() -> None:
    handler = signal.getsignal(signal.SIGINT)
    seen: list[object] = []

    def loop() -> None:
        with Interrupts() as interrupts:
            interrupts.begin()
            seen.append(signal.getsignal(signal.SIGINT))
            interrupts.end()

    thread = threading.Thread(target=loop)
    thread.start()
    thread.join()
    assert seen == [handler]
