"""The cells that the terminal shows already, so that they are not sent again.

Textual paints whole regions anew; most of their cells are what they were. Each picture is compared with the last one
cell by cell, and only what differs goes over the line.
"""

import re
from collections.abc import Iterator
from itertools import groupby

from rich.cells import split_graphemes
from rich.console import Console
from rich.segment import Segment
from rich.style import Style
from textual._compositor import ChopsUpdate, LayoutUpdate
from textual.strip import Strip

from lmplay_tui.ui.widgets.lines import differing_spans

_JOINING = re.compile("[\u200d\ufe0f\U0001f3fb-\U0001f3ff]")
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
        is_joined = not plain and _JOINING.search(strip.text) is not None
        if is_joined:
            spans = _split_at_joined(new)
        for first, beyond in spans:
            if _JOINING.search(new[first][0]):  # a terminal may draw it in fewer cells: these hold nothing else then
                blank = Strip([Segment(" " * (beyond - first), new[first][1])])
                yield f"\x1b[{y + 1};{x + first + 1}H{blank.render(console)}"
            part = _strip(new[first:beyond]) if is_joined else strip.crop(first, beyond)
            yield f"\x1b[{y + 1};{x + first + 1}H{part.render(console)}"


def _strip(cells: list[Cell]) -> Strip:
    """Cells as a strip; Textual's own cutting may cut through a joined character."""
    parts = groupby(cells, key=lambda cell: cell[1])
    return Strip([Segment("".join(char for char, _ in part), style) for style, part in parts])


def _split_at_joined(cells: list[Cell]) -> list[tuple[int, int]]:
    """The row in parts, so that what follows a joined character is placed by its column, not by where that ended.

    Terminals differ in how wide they take emoji with joiners, skin tones and variation selectors.
    """
    spans: list[tuple[int, int]] = []
    begin = i = 0
    while i < len(cells):
        beyond = i + 1
        if _JOINING.search(cells[i][0]):
            while beyond < len(cells) and not cells[beyond][0]:
                beyond += 1
            spans += [(begin, i)] if begin < i else []
            spans.append((i, beyond))
            begin = beyond
        i = beyond
    return [*spans, (begin, len(cells))] if begin < len(cells) else spans


def _cells(strip: Strip) -> tuple[list[Cell], bool]:
    """One entry a cell (empty for the second one of a wide character), and whether each character takes one cell."""
    cells: list[Cell] = []
    plain = True
    for text, style, _control in strip:
        if _NARROW.fullmatch(text):
            cells.extend([(char, style) for char in text])
            continue
        plain = False
        for start, end, width in split_graphemes(text)[0]:
            if width:
                cells.extend([(text[start:end], style), *[("", style)] * (width - 1)])
            elif cells:  # a mark upon the character before it
                cells[-1] = (cells[-1][0] + text[start:end], style)
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
