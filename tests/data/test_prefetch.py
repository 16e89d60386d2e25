import threading
import time
from collections.abc import Callable, Iterator

import pytest

from lmplay_tui.data.prefetch import Prefetch


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.001)


def data_threads() -> int:
    return sum(thread.name == "data" for thread in threading.enumerate())


def test_values_come_in_order_and_the_thread_ends() -> None:
    before = data_threads()
    assert list(Prefetch(iter(range(100)), 3)) == list(range(100))
    assert data_threads() == before


def test_it_runs_ahead_but_no_further_than_it_may() -> None:
    made: list[int] = []

    def source() -> Iterator[int]:
        for number in range(1000):
            made.append(number)
            yield number

    running = Prefetch(source(), 3)
    assert next(running) == 0
    wait_until(lambda: len(made) >= 5)  # one taken, three wait, one is in hand
    time.sleep(0.05)
    assert len(made) == 5
    running.close()
    assert len(made) == 5


def test_closing_ends_the_thread_promptly() -> None:
    before = data_threads()
    running = Prefetch(iter(lambda: 1, 0), 2)
    next(running)
    assert data_threads() == before + 1
    began = time.monotonic()
    running.close()
    assert data_threads() == before
    assert time.monotonic() - began < 3


def test_nothing_starts_before_it_is_asked_for() -> None:
    before = data_threads()
    running = Prefetch(iter(range(3)), 2)
    assert data_threads() == before
    running.close()


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_is_raised_where_its_value_would_have_come(kind: type[BaseException]) -> None:
    def source() -> Iterator[int]:
        yield 1
        raise kind("row 7")

    running = Prefetch(source(), 4)
    assert next(running) == 1
    with pytest.raises(kind, match="row 7"):
        next(running)
    assert list(running) == []


def test_a_user_who_is_interrupted_leaves_no_thread() -> None:
    before = data_threads()

    def use() -> None:
        for _ in Prefetch(iter(lambda: 1, 0), 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        use()
    wait_until(lambda: data_threads() == before)


def test_a_user_may_ask_whether_the_next_value_is_there() -> None:
    """A trainer that waits for data can still hear a stop."""
    release = threading.Event()

    def source() -> Iterator[int]:
        yield 1
        release.wait(20)
        yield 2

    running = Prefetch(source(), 2)
    assert running.ready(20)
    assert running.ready(0)
    assert next(running) == 1
    assert not running.ready(0.01)
    release.set()
    assert running.ready(20)
    assert list(running) == [2]
    assert running.ready(0)  # the end is there too
    assert list(running) == []


def test_a_generator_that_is_forgotten_ends_its_thread() -> None:
    before = data_threads()
    running = Prefetch(iter(lambda: 1, 0), 2)
    next(running)
    del running
    wait_until(lambda: data_threads() == before)
