"""A call that takes long, or never ends: its caller waits as long as it likes, and hears what became of it."""

import threading
import time

import pytest

from lmplay_tui.background import BackgroundCall, call_with_ticks


def test_a_call_with_ticks() -> None:
    ticks: list[int] = []
    release = threading.Event()

    def tick() -> None:
        ticks.append(1)
        if len(ticks) == 3:
            release.set()

    assert call_with_ticks(lambda: release.wait(20), tick, every_s=0.001) is True
    assert len(ticks) >= 3
    with pytest.raises(ZeroDivisionError):
        call_with_ticks(lambda: 1 / 0, tick)


def test_a_call_that_never_ends_is_left() -> None:
    release = threading.Event()

    def tick() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        call_with_ticks(lambda: release.wait(60), tick, every_s=0.001)
    release.set()


def test_it_is_asked_without_waiting_and_keeps_its_answer() -> None:
    release = threading.Event()
    call = BackgroundCall(lambda: release.wait(20))
    assert call.poll() is None
    begun = time.monotonic()
    for _ in range(200):
        assert call.poll() is None
        assert not call.wait(0)
    assert time.monotonic() - begun < 3, "it is waited for at the first poll alone"
    release.set()
    assert call.wait(20)
    assert call.poll() is call.result() is True


def test_what_it_raises_comes_out_wherever_it_is_asked() -> None:
    def broken() -> int:
        raise ValueError("spoilt")

    call = BackgroundCall(broken)
    assert call.wait(20), "an error is an end, too"
    for ask in (call.poll, call.result):
        with pytest.raises(ValueError, match="spoilt"):
            ask()


def test_what_waits_for_its_end_is_called_in_its_thread() -> None:
    heard: list[tuple[int, str]] = []
    told = threading.Event()

    def then(call: BackgroundCall[int]) -> None:
        heard.append((call.result(), threading.current_thread().name))
        told.set()

    BackgroundCall(lambda: 3, "asking", then)
    assert told.wait(20)
    assert heard == [(3, "asking")]


def test_where_the_system_gives_no_thread_the_caller_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(_self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none_left)
    assert BackgroundCall(lambda: 3).poll() == 3


def test_its_thread_keeps_no_process_from_ending() -> None:
    assert BackgroundCall(lambda: threading.current_thread().daemon).result()
