"""The terminal is given back as it was found."""

import os
import threading
import time
from pathlib import Path

import pytest

from lmplay_tui.ui.tty import signals as ours
from tests.faults.terminals import ENDS_WITHIN_S, Terminal, until

# All that a screen switches: another screen, the mouse's reports, pasting, resizes, focus, wrapping, cursor, keys.
MODES = "".join(f"\x1b[?{mode}h" for mode in (1049, 1000, 1003, 1015, 1006, 1016, 2004, 2048, 1004))
PICTURE = f"{MODES}\x1b[?7l\x1b[?25l\x1b[>25u".encode() + b"a picture that is on its way " * 100


def fill() -> None:
    """Write to this process's terminal until it takes nothing more."""
    screen = os.open(os.ttyname(1), os.O_WRONLY | os.O_NONBLOCK)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(screen, PICTURE)


def test_a_terminal_in_the_middle_of_a_picture_is_restored(tmp_path: Path) -> None:
    """A hang-up that only the process was told of, while the terminal has not yet taken all of a picture."""
    begins, full = tmp_path / "begins", tmp_path / "full"

    def work() -> int:
        until(begins.exists)
        fill()
        full.touch()
        ours.let_go_of_terminal(ours.terminal_settings(), ENDS_WITHIN_S)
        return 0

    with Terminal(work) as terminal:
        terminal.stall()
        begins.touch()
        until(full.exists)
        time.sleep(0.2)  # it finds no room
        terminal.go_on()
        assert terminal.wait() == 0
        assert terminal.restored


def test_every_read_that_is_under_way_is_freed() -> None:
    """A SIGCONT that comes with a hang-up can make a second thread read keys; neither may keep the process."""

    def work() -> int:
        readers = [threading.Thread(target=os.read, args=(0, 4096)) for _ in range(2)]
        ours.let_go_of_terminal(ours.terminal_settings())  # the reads begin when select has seen the terminal's end
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        return 4

    with Terminal(work) as terminal:
        assert terminal.wait() == 4


def test_a_terminal_that_takes_nothing_more_is_left() -> None:

    def work() -> int:
        fill()
        ours.let_go_of_terminal(ours.terminal_settings(), 0.1)
        return 3

    with Terminal(work) as terminal:
        terminal.stall()
        assert terminal.wait() == 3
