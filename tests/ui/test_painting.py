"""Of a picture only the cells that differ are sent, and the terminal shows what it would show if all were."""

import pyte
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from lmplay_tui.ui.tty.painting import Shown
from tests.examples import examples

WIDTH, HEIGHT = 24, 4
CONSOLE = Console(color_system="truecolor", force_terminal=True, width=WIDTH)
STYLES = [Style(), Style(bold=True), Style(color="red"), Style(bgcolor="blue", underline=True)]
TEXTS = st.text("ab ─█⣿漢é\u0301", max_size=6)
STRIPS = st.lists(st.tuples(TEXTS, st.sampled_from(STYLES)), max_size=6).map(
    lambda pieces: Strip([Segment(text, style) for text, style in pieces])
)


def cells(screen: pyte.Screen) -> list[list[pyte.screens.Char]]:
    return [[screen.buffer[y][x] for x in range(WIDTH)] for y in range(HEIGHT)]


WIDE_AND_MARKED = [(0, 12, Strip([Segment("漢█\u0301", STYLES[0])])), (0, 13, Strip([Segment("█", STYLES[0])]))]

MARK_OF_ANOTHER_STYLE = [
    (0, 1, Strip([Segment("a", style), Segment("\u0301", Style(bold=True))])) for style in (Style(), Style(bold=True))
]


@examples(300)
@example(WIDE_AND_MARKED)  # as many cells as characters, and yet not one each
@example(MARK_OF_ANOTHER_STYLE)  # the cell looks as its letter does
@given(st.lists(st.tuples(st.integers(0, HEIGHT - 1), st.integers(0, WIDTH - 2), STRIPS), max_size=12))
def test_the_terminal_ends_as_if_all_had_been_sent(updates: list[tuple[int, int, Strip]]) -> None:
    shown = Shown()
    shown.fit(WIDTH)
    ours, whole = pyte.Screen(WIDTH, HEIGHT), pyte.Screen(WIDTH, HEIGHT)
    our_stream, whole_stream = pyte.Stream(ours), pyte.Stream(whole)
    for y, x, strip in updates:
        part = strip.crop(0, WIDTH - 1 - x)  # pyte wraps the line for a mark upon the last column
        if not part.cell_length or not cell_len(part.text[0]):  # no picture of ours begins with half a letter
            continue
        our_stream.feed("".join(shown.paint(y, x, part, CONSOLE)))
        whole_stream.feed(f"\x1b[{y + 1};{x + 1}H{part.render(CONSOLE)}")
        assert cells(ours) == cells(whole)


def paint(shown: Shown, text: str, y: int = 0, x: int = 0) -> str:
    return "".join(shown.paint(y, x, Strip([Segment(text, STYLES[0])]), CONSOLE))


@pytest.mark.parametrize("joined", ["👩\u200d👩\u200d👧", "👍🏽", "❤\ufe0f", "🏳\ufe0f\u200d🌈"])
def test_what_follows_a_joined_character_stands_at_its_column_however_wide_it_is_drawn(joined: str) -> None:
    """pyte takes the emoji apart and draws them side by side; other terminals draw one, or less."""
    shown, screen = Shown(), pyte.Screen(WIDTH, HEIGHT)
    shown.fit(WIDTH)
    stream = pyte.Stream(screen)
    stream.feed(paint(shown, "─" * WIDTH))
    stream.feed(paint(shown, f"ab {joined} cd {joined}漢 e│"))
    line = [screen.buffer[0][x].data for x in range(WIDTH)]
    assert "".join(line[:3]) == "ab "
    assert "".join(line[5:9]) == " cd "
    assert "".join(line[11:12]) == "漢"
    assert "".join(line[13:16]) == " e│"


def test_what_stands_there_is_not_sent_again() -> None:
    shown = Shown()
    shown.fit(WIDTH)
    assert paint(shown, "step 1234, loss 3.25") == "\x1b[1;1Hstep 1234, loss 3.25"
    assert paint(shown, "step 1234, loss 3.25") == ""
    assert paint(shown, "step 1235, loss 3.24") == "\x1b[1;9H5\x1b[1;20H4"
    assert paint(shown, "4321", x=5) == "\x1b[1;6H4321"
    shown.fit(WIDTH)
    assert paint(shown, "4321", x=5) == ""


@pytest.mark.parametrize("forget", [lambda shown: shown.forget(), lambda shown: shown.fit(WIDTH - 1)])
def test_a_terminal_that_is_not_known_gets_all(forget) -> None:
    shown = Shown()
    shown.fit(WIDTH)
    paint(shown, "all of it")
    forget(shown)
    assert paint(shown, "all of it") == "\x1b[1;1Hall of it"


def test_beyond_the_size_that_is_known_all_is_sent() -> None:
    shown = Shown()
    shown.fit(4)
    assert paint(shown, "too long") == paint(shown, "too long") == "\x1b[1;1Htoo long"
    assert paint(shown, "fits") == "\x1b[1;1Hfits", "the row may have been written over"
