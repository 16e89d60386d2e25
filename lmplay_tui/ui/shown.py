"""The cells that the terminal shows already, so that they are not sent again.

Textual paints whole regions anew; most of their cells are what they were. Each picture is compared with the last one
cell by cell, and only what differs goes over the line.
"""

import re
from collections.abc import Iterator

from rich.cells import cell_len
from rich.console import Console
from rich.style import Style
from textual._compositor import ChopsUpdate, LayoutUpdate
from textual.strip import Strip

from lmplay_tui.ui.widgets.lines import differing_spans

Cell = tuple[str, Style | None]
_NARROW = re.compile("[ -~·×±°\u2500-\u259f\u2800-\u28ff]*")  # what our panes are made of: one cell each, surely


class Shown:
    """What each row of the terminal holds, as it was sent; a row that is not known is sent whole."""

    def __init__(self) -> None:
        self._rows: dict[int, list[Cell]] = {}
        self._width = 0

    @property
    def known(self) -> bool:
        """Whether anything is known of what the terminal shows."""
        return bool(self._rows)

    def forget(self) -> None:
        """Nothing is known of the terminal any more: it is another, its size has changed, or somebody wrote on it."""
        self._rows.clear()

    def fit(self, width: int) -> None:
        """The terminal has so many columns."""
        if width != self._width:
            self._width = width
            self._rows.clear()

    def paint(self, y: int, x: int, strip: Strip, console: Console) -> Iterator[str]:
        """What to send so that the cells of row `y` from column `x` on show `strip`."""
        new, plain = _cells(strip)
        if x + len(new) > self._width:  # of a size that the terminal has no more, or not yet
            self._rows.pop(y, None)
            yield f"\x1b[{y + 1};{x + 1}H{strip.render(console)}"
            return
        row = self._rows.get(y)
        if row is None:
            row = self._rows[y] = [("", None)] * self._width  # no cell looks like that
        old = row[x : x + len(new)]
        if old == new:
            return
        row[x : x + len(new)] = new
        # How wide terminals take characters of another width is not certain: such a row is sent whole, and so heals.
        spans = differing_spans(old, new) if plain and all(len(char) == 1 for char, _ in old) else [(0, len(new))]
        for first, beyond in spans:
            yield f"\x1b[{y + 1};{x + first + 1}H{strip.crop(first, beyond).render(console)}"


def _cells(strip: Strip) -> tuple[list[Cell], bool]:
    """One entry a cell (empty for the second one of a wide character), and whether each character takes one cell."""
    cells: list[Cell] = []
    plain = True
    for text, style, _control in strip:
        if _NARROW.fullmatch(text):
            cells.extend([(char, style) for char in text])
            continue
        plain = False
        for char in text:
            width = cell_len(char)
            if width:
                cells.extend([(char, style), *[("", style)] * (width - 1)])
            elif cells:  # a mark upon the character before it
                cells[-1] = (cells[-1][0] + char, style)
    return cells, plain


shown = Shown()  # there is one terminal, and Textual makes its updates without asking us


class ExactUpdate(ChopsUpdate):
    """Sends the cells that differ; Textual's own sends all from the widget's left edge to the last changed one."""

    def render_segments(self, console: Console) -> str:
        sequences: list[str] = []
        for y, first, beyond in self.spans:
            for end, (x, strip) in zip(self.chop_ends[y], self.chops[y].items(), strict=False):
                if strip is None or x >= beyond or end <= first:
                    continue
                start = max(x, first)
                sequences += shown.paint(y, start, strip.crop(start - x, min(end, beyond) - x), console)
        return "".join(sequences)


class ExactLayout(LayoutUpdate):
    """The whole screen, of which only what differs is sent."""

    def render_segments(self, console: Console) -> str:
        shown.fit(self.region.width)
        sequences: list[str] = []
        for y, strips in enumerate(self.strips, self.region.y):
            sequences += shown.paint(y, self.region.x, Strip.join(strips), console)
        return "".join(sequences)
