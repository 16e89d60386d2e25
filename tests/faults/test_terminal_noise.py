"""Bytes of any kind from the terminal: the screen stays, the run goes on."""

import itertools
import random
import time
from collections.abc import Iterator

import pytest

from lmplay_tui.errors import EXIT_LEFT_AT_ONCE, EXIT_OK
from lmplay_tui.run.controls import Command, Stop
from lmplay_tui.run.events import RunStopped
from lmplay_tui.ui.tty.terminal_input import MOST_WAITING, PASTE_SILENCE_S
from tests.faults.noise import byte_strings
from tests.faults.programs import assert_stopped_in_order, dashboard, steps_in_journal, stop_and_wait, trains
from tests.faults.terminals import Terminal, until
from tests.ui.conftest import in_terminal
from tests.ui.fake import FakeSource, fed, training
from tests.ui.terminal_screen import ScreenTerminal

SIZES = ((80, 24), (120, 40), (200, 60), (100, 30), (40, 12), (20, 5), (1, 1), (500, 10), (10, 200), (300, 100))
BATCH = 50
LEAVES_WITHIN_S = 10.0  # else ctrl+c was a copy


def still_paints(terminal: Terminal, size: tuple[int, int], odd: bool) -> None:
    """A terminal of another size gets another picture."""
    before = len(terminal.output)
    terminal.resize(size[1] + odd, size[0] + odd)
    until(lambda: terminal.ended or len(terminal.output) > before)
    assert not terminal.ended, (terminal.wait(), terminal.output[-3000:])


def leaves(terminal: Terminal) -> bool:
    """By ctrl+c twice, for this run is never done; where text is selected, which it copies, that is undone first.

    The dashboard may not have come to all of the noise yet, and ctrl+c waits for no key: it is typed again then. What
    is typed once the terminal is restored would be a signal.
    """
    terminal.type_ahead(b"\x1b[C")
    time.sleep(PASTE_SILENCE_S / 4)
    terminal.type_ahead(b"\x03\x03")
    soon = time.monotonic() + LEAVES_WITHIN_S
    until(lambda: terminal.ended or (time.monotonic() > soon and not terminal.restored))
    return terminal.ended


def type_noise(strings: Iterator[bytes], size: tuple[int, int]) -> None:
    """A dashboard of that size gets them all, and at last is left as a user leaves it."""
    with ScreenTerminal(in_terminal(fed(60)), size) as terminal:
        until(lambda: b"\x1b[?2004h" in terminal.output)  # from then on keys are read
        for i, batch in enumerate(iter(lambda: list(itertools.islice(strings, BATCH)), [])):
            for string in batch:
                terminal.type(string)
            still_paints(terminal, size, bool(i % 2))
        time.sleep(PASTE_SILENCE_S * 1.5)
        until(lambda: leaves(terminal))
        assert terminal.wait() == EXIT_LEFT_AT_ONCE
        assert terminal.restored
    assert b"has failed" not in terminal.output, terminal.output[-3000:]
    assert b"Traceback" not in terminal.output, terminal.output[-3000:]


@pytest.mark.long
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_no_byte_string_ends_the_screen(place, size, count):
    type_noise(byte_strings(200, seed=size[0]), size)
    count("byte strings typed at a terminal: 200, the screen went on")


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_no_byte_string_of_very_many_ends_the_screen(place, size, count):
    for seed in range(10):
        type_noise(byte_strings(1000, seed=1000 * size[0] + seed), size)
    count("byte strings typed at a terminal: 10,000, the screen went on")


@pytest.mark.long_after(1)
@pytest.mark.parametrize(
    "noise", [b"Z\xfcrich", b"\xff\xfe\x80", b"\x1b[99999999999u", b"\x1b[48;99999;99999;1;1t"], ids=repr
)
def test_the_run_goes_on(long_run, noise):
    """It is trained in this process: what ended the screen ended the run, with status 0."""
    try:
        with Terminal(dashboard()) as terminal:
            until(trains(long_run))
            until(lambda: b"stories" in terminal.output)
            terminal.type(noise)
            goes_on = trains(long_run, steps_in_journal(long_run) + 20)
            until(lambda: terminal.ended or goes_on())
            terminal.type_ahead(b"\x1b")
            time.sleep(0.3)
            terminal.type_ahead(b"x\r")
            assert_stopped_in_order(terminal, long_run)
    finally:
        stop_and_wait(long_run)


class Slow(FakeSource):
    """A run to which the first command takes longer than a paste may be silent."""

    pauses = iter([PASTE_SILENCE_S * 4])

    def send(self, command: Command) -> bool:
        time.sleep(next(self.pauses, 0))
        return super().send(command)


@pytest.mark.long
@pytest.mark.parametrize("piece", [1, 400], ids=["letter by letter", "at once"])
def test_a_paste_without_an_end_does_not_swallow_what_comes_behind_a_silence(place, piece):
    """Also where the app comes to all of it at once, for it was busy all the while, in however many pieces it came."""
    source = Slow()
    source.waiting = list(training(60))
    source.poll()
    keys = b";" * 400  # which do nothing
    assert len(keys) > 2 * MOST_WAITING
    with Terminal(in_terminal(source)) as terminal:
        until(lambda: b"\x1b[?2004h" in terminal.output)
        terminal.type(b"s")
        for begin in range(0, len(keys), piece):
            terminal.type(keys[begin : begin + piece])
            time.sleep(0.002)  # else it is read as one
        terminal.type(b"\x1b[200~pasted")
        time.sleep(PASTE_SILENCE_S * 1.5)
        terminal.type(b"\x03\x03")
        assert terminal.wait() == EXIT_LEFT_AT_ONCE


class Obedient(FakeSource):
    """A run that ends at once when it is asked to."""

    def send(self, command: Command) -> bool:
        if isinstance(command, Stop):
            self.view.follow(RunStopped(60, "m.lmp", "lmplay-tui --model m.lmp", "asked for"))
        return super().send(command)


def leave_while_typing(seed: int) -> None:
    """Keys, mouse, focus and answers come ahead and do not cease until it has left."""
    rng = random.Random(seed)
    source = Obedient()
    source.exit_code = EXIT_OK
    source.waiting = list(training(60))
    source.poll()
    with Terminal(in_terminal(source)) as terminal:
        until(lambda: b"\x1b[?2004h" in terminal.output)
        terminal.type(b"x\r" if seed % 2 else b"x\rqq")
        while not terminal.ended:
            terminal.type_ahead(b"".join(rng.choices(AHEAD, k=rng.randrange(1, 20))))
            time.sleep(rng.random() * 0.01)
        assert terminal.wait() == EXIT_OK, terminal.output[-3000:]
        assert terminal.restored
    assert b"Traceback" not in terminal.output


AHEAD = (
    *(b"q", b"x", b"\r", b"?", b"1", b"\x1b", b"\x10", b"e", b"s", b"\t", b"\x0c", b"t", b"\x1b[200~x\x1b[201~"),
    *(b"\x1b[<0;10;5M", b"\x1b[<35;10;5M", b"\x1b[<65;10;5M", b"\x1b[I", b"\x1b[O", b"\x1b[1;1R", b"\x1b[?2026;2$y"),
)


def test_what_is_typed_ahead_of_leaving_does_nothing(place):
    for seed in range(2):
        leave_while_typing(seed)


@pytest.mark.slow
def test_what_is_typed_ahead_of_leaving_does_nothing_often(place, count):
    for seed in range(200):
        leave_while_typing(seed)
    count("dashboards left while keys were typed: 200, status 0")
