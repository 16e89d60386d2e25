"""Bytes of any kind from the terminal: the screen stays, the run goes on."""

import itertools
import time
from collections.abc import Iterator

import pytest

from lmplay_tui.errors import EXIT_LEFT_AT_ONCE
from lmplay_tui.ui.tty.terminal_input import PASTE_SILENCE_S
from tests.faults.noise import byte_strings
from tests.faults.programs import assert_stopped_in_order, dashboard, steps_in_journal, trains
from tests.faults.terminals import Terminal, until
from tests.ui.fake import fed
from tests.ui.terminal_screen import ScreenTerminal
from tests.ui.test_hostile_bytes import shown

SIZES = ((80, 24), (120, 40), (200, 60), (100, 30), (40, 12), (20, 5), (1, 1), (500, 10), (10, 200), (300, 100))
BATCH = 50


def still_paints(terminal: Terminal, size: tuple[int, int], odd: bool) -> None:
    """A terminal of another size gets another picture."""
    before = len(terminal.output)
    terminal.resize(size[1] + odd, size[0] + odd)
    until(lambda: terminal.ended or len(terminal.output) > before)
    assert not terminal.ended, (terminal.wait(), terminal.output[-3000:])


def type_noise(strings: Iterator[bytes], size: tuple[int, int]) -> None:
    """A dashboard of that size gets them all, and at last is left as a user leaves it."""
    with ScreenTerminal(shown(fed(60)), size) as terminal:
        until(lambda: b"\x1b[?2004h" in terminal.output)  # from then on keys are read
        for i, batch in enumerate(iter(lambda: list(itertools.islice(strings, BATCH)), [])):
            for string in batch:
                terminal.type(string)
            still_paints(terminal, size, bool(i % 2))
        time.sleep(PASTE_SILENCE_S * 1.5)
        terminal.type(b"\x03\x03")  # twice, for this run is never done
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


@pytest.mark.parametrize(
    "noise", [b"Z\xfcrich", b"\xff\xfe\x80", b"\x1b[99999999999u", b"\x1b[48;99999;99999;1;1t"], ids=repr
)
def test_the_run_goes_on(long_run, noise):
    """It is trained in this process: what ended the screen ended the run, with status 0."""
    with Terminal(dashboard()) as terminal:
        until(trains(long_run))
        until(lambda: b"stories" in terminal.output)
        terminal.type(noise)
        until(trains(long_run, steps_in_journal(long_run) + 20))
        terminal.type(b"\x1b")
        time.sleep(0.3)
        terminal.type(b"x\r")
        assert_stopped_in_order(terminal, long_run)
