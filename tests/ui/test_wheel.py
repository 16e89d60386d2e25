"""The mouse wheel acts on what is under the pointer, whichever pane has the focus: sequences of a real terminal."""

import pytest

from tests.faults.terminals import until
from tests.ui.conftest import in_terminal
from tests.ui.fake import fed
from tests.ui.terminal_screen import ScreenTerminal

UP, DOWN = 64, 65  # the buttons of the wheel


def turn(terminal: ScreenTerminal, button: int, at: str) -> None:
    """A click of the wheel over this text."""
    lines = terminal.screen.split("\n")
    y = next(y for y, line in enumerate(lines) if at in line)
    terminal.type(f"\x1b[<{button};{lines[y].index(at) + 1};{y + 1}M")


@pytest.mark.timeout(120)
def test_the_wheel_zooms_a_chart_and_scrolls_a_list_under_the_pointer() -> None:
    with ScreenTerminal(in_terminal(fed(330)), (120, 40), {"TERM": "xterm-256color"}) as terminal:
        terminal.shows("2 curves", "newest of", "validated at step 330")
        terminal.tour((("6", "6 log"),))  # the focus is elsewhere
        turn(terminal, UP, "▸ loss")
        terminal.shows("zoom ×2")
        turn(terminal, UP, "▸ loss")
        terminal.shows("zoom ×4")
        turn(terminal, DOWN, "▸ loss")
        terminal.shows("zoom ×2")
        turn(terminal, UP, "validated at step 330")
        until(lambda: "validated at step 330" not in terminal.screen)
        turn(terminal, DOWN, "6 log")
        terminal.shows("validated at step 330")
        turn(terminal, UP, "3 predictions")
        terminal.shows("32/33")
        turn(terminal, DOWN, "3 predictions")
        terminal.shows("newest of 33")
        terminal.shows("zoom ×2")
