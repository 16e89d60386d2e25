"""Rows of styled text: the base of the panes, of which only what changed is painted again, and how text fills a row."""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from rich.cells import cell_len, set_cell_size, split_graphemes
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.geometry import Region, Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

from lmplay_tui.scripts import UNSPACED
from lmplay_tui.ui.theme import styles_of
from lmplay_tui.ui.tty.screen_cells import cells_of, differing_spans

Piece = tuple[str, str]  # text without control characters or newlines, and names of styles with spaces between
Row = tuple[Piece, ...]


class Lines(ScrollView, can_focus=True):
    """Shows rows; `show_rows` repaints the spans that differ from what stands there.

    Rows that scroll leave the cells at the right to their scrollbar, whether or not it is there: `room`.
    """

    num_fixed = 0  # rows that stay at the top

    def keys_now(self) -> Mapping[str, str]:
        """Actions whose keys do something else now than their bindings say, and what; "": nothing."""
        return {}

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._rows: list[Row] = []
        self._named: dict[str, Style] = {}  # the theme's
        self._styles: dict[str, Style] = {}  # by names in combination, upon our own

    def show_rows(self, rows: Sequence[Row]) -> None:
        """Replace the rows; nothing is sent for those that are the same."""
        old, self._rows = self._rows, list(rows)
        if len(old) != len(self._rows):
            self.virtual_size = Size(0, len(self._rows))
        top = self.scroll_offset.y
        regions = []
        for y in range(max(len(old), len(self._rows))):
            place = y if y < self.num_fixed else y - top
            if min(y, self.num_fixed) <= place < self.size.height:
                before = old[y] if y < len(old) else ()
                after = self._rows[y] if y < len(self._rows) else ()
                regions += [Region(x, place, end - x, 1) for x, end in changed_spans(before, after)]
        if regions:
            self.refresh(*regions)

    @property
    def rows(self) -> list[Row]:
        """What is shown, row by row."""
        return self._rows

    @property
    def room(self) -> Size:
        """The cells that rows can have."""
        return self.scrollable_content_region.size

    def keep_in_sight(self, index: int) -> None:
        """Scroll no further than to where this row is seen."""
        top, height = self.scroll_offset.y, self.size.height
        if index < top + self.num_fixed:
            self.scroll_to(y=max(index - self.num_fixed, 0), animate=False)
        elif index >= top + height > top:
            self.scroll_to(y=index - height + 1, animate=False)

    def row_at(self, event: events.MouseEvent) -> int:
        """The number of the row under the mouse; -1 beside all rows."""
        offset = event.get_content_offset(self)
        if offset is None:
            return -1
        index = offset.y if offset.y < self.num_fixed else offset.y + self.scroll_offset.y
        return index if index < len(self._rows) else -1

    def notify_style_update(self) -> None:
        """The theme may be another."""
        self._named, self._styles = {}, {}
        super().notify_style_update()

    def _style(self, names: str) -> Style:
        """The widget's own style with those of the names upon it."""
        style = self._styles.get(names)
        if style is None:
            if not self._named:
                self._named = styles_of(self.app.theme_variables, colours=not self.app.no_color)
            style = Style.combine([self.rich_style, *(self._named[name] for name in names.split())])
            self._styles[names] = style
        return style

    def render_line(self, y: int) -> Strip:
        index = y if y < self.num_fixed else y + self.scroll_offset.y
        row = self._rows[index] if index < len(self._rows) else ()
        segments = [Segment(text, self._style(names)) for text, names in row]
        fill = "cursor" if row and "cursor" in row[-1][1].split() else ""
        return Strip(segments).adjust_cell_length(self.size.width, self._style(fill))


def changed_spans(old: Row, new: Row) -> list[tuple[int, int]]:
    """The cells that differ, as (first, beyond last); spans with a short gap between them are one.

    A row that ends earlier leaves blanks, so what was beyond its end has changed too.
    """
    if old == new:
        return []
    (before, _), (after, _) = cells_of(old), cells_of(new)
    blank = (" ", "")
    length = max(len(before), len(after))
    before += [blank] * (length - len(before))
    after += [blank] * (length - len(after))
    return differing_spans(before, after)


def row_width(row: Iterable[Piece]) -> int:
    return sum(cell_len(text) for text, _ in row)


def fitted(text: str, width: int) -> str:
    """The text in exactly so many cells: cut with an ellipsis, or padded at its end."""
    if width <= 0:
        return ""
    if cell_len(text) > width:
        return set_cell_size(text, width - 1) + "…"
    return set_cell_size(text, width)


def right(text: str, width: int) -> str:
    """The text at the right of so many cells; cut where it does not fit."""
    missing = width - cell_len(text)
    return " " * missing + text if missing >= 0 else fitted(text, width)


def spread(left: Sequence[Piece], end: Sequence[Piece], width: int) -> Row:
    """`left` at the left and `end` at the right of a row; `left` is cut first."""
    room = max(width - row_width(end), 0)
    kept: list[Piece] = []
    used = 0
    for text, style in left:
        cells = cell_len(text)
        if used + cells > room:
            if room - used > 1:
                kept.append((fitted(text, room - used), style))
                used = room
            break
        kept.append((text, style))
        used += cells
    if room > used:
        kept.append((" " * (room - used), ""))
    return (*kept, *end)


def bar(fraction: float, width: int) -> tuple[str, str]:
    """A bar of `width` cells in halves: what is filled, what is left."""
    whole, half = divmod(round(min(max(fraction, 0.0), 1.0) * max(width, 0) * 2), 2)
    filled = "━" * whole + ("╸" if half else "")
    return filled, "─" * (width - len(filled))


_LABEL_CELLS = 9


def flow(pieces: Iterable[Piece], width: int) -> list[Row]:
    """The pieces in rows of at most `width` cells, each broken where a line may break: see `_units`.

    Pieces that follow each other without a space are one word. What is too long for a row is cut between characters.
    """
    styled = [piece for piece in pieces if piece[0]]
    rows: list[Row] = []
    number = start = 0  # of the piece that a row begins with, and where that begins in the text
    for begin, end in _row_spans("".join(text for text, _ in styled), width):
        row: list[Piece] = []
        while number < len(styled) and start < end:
            text, style = styled[number]
            part = text[max(begin - start, 0) : end - start]
            if part and row and row[-1][1] == style:
                row[-1] = (row[-1][0] + part, style)
            elif part:
                row.append((part, style))
            if start + len(text) > end:
                break  # the next row begins with it
            number, start = number + 1, start + len(text)
        rows.append(tuple(row))
    return rows


def _row_spans(text: str, width: int) -> list[tuple[int, int]]:
    """Where the rows of a text begin and end; between them are the blanks that no row has room for."""
    spans = [(0, 0)]
    place = used = 0  # how much of the text is laid out, and the cells of its last row
    for unit in _units(text):
        for part in _cut(unit, width):
            letters = part.rstrip(" ")
            if used and used + cell_len(letters) > width:
                begin, end = spans[-1]
                spans[-1] = (begin, begin + len(text[begin:end].rstrip(" ")))
                spans.append((place, place))
                used = 0
            blanks = 0 if used or len(spans) == 1 else len(part) - len(part.lstrip(" "))  # none at a row's beginning
            whole = part[blanks:]
            fits = whole if used + cell_len(whole) <= width else letters[blanks:]
            if fits:
                spans[-1] = (spans[-1][0] if used else place + blanks, place + blanks + len(fits))
            if whole:
                used = used + cell_len(fits) if fits == whole else width  # behind blanks that are left out a row begins
            place += len(part)
    return spans


def wrapped(text: str, width: int) -> list[str]:
    """Plain text in lines of at most `width` cells, without blanks at their ends; newlines are kept."""
    rows = [row for part in text.split("\n") for row in flow([(part.lstrip(" "), "")], max(width, 1))]
    return ["".join(piece for piece, _ in row).rstrip(" ") for row in rows]


def labelled(label: str, pieces: Iterable[Piece], width: int) -> list[Row]:
    """Flowing pieces with a label before the first row."""
    rows = flow(pieces, max(width - _LABEL_CELLS - 1, 4))
    heads = [f" {label}"] + [""] * (len(rows) - 1)
    return [((head.ljust(_LABEL_CELLS), "label"), *row) for head, row in zip(heads, rows, strict=True)]


def _units(text: str) -> list[str]:
    """The text cut where a line may break: after spaces, and in writing without spaces between two characters.

    A character is a whole one, with its marks and joiners. None that closes begins a row, none that opens ends one.
    """
    units: list[str] = []
    for word in _WORDS.findall(text):
        if word.isascii() or UNSPACED.search(word) is None:
            units.append(word)
            continue
        start, before = 0, ""
        for begin, end, _ in split_graphemes(word)[0]:
            here = word[begin:end]
            if before and _may_break(before, here):
                units.append(word[start:begin])
                start = begin
            before = here
        units.append(word[start:])
    return units


_WORDS = re.compile(r"(?:^ +)?[^ ]+ *|^ +$")


def _may_break(before: str, here: str) -> bool:
    """Whether a line may end between two characters that no space stands between."""
    if UNSPACED.match(before) is None and UNSPACED.match(here) is None:
        return False
    closes = unicodedata.category(here[0]) in ("Pe", "Pf", "Po", "Zs")
    return not closes and unicodedata.category(before[0]) not in ("Ps", "Pi")


def _cut(word: str, width: int) -> list[str]:
    if cell_len(word) <= width:
        return [word]
    parts, part, used = [], "", 0
    for start, end, cells in split_graphemes(word)[0]:
        if used + cells > width:
            parts.append(part)
            part, used = "", 0
        part += word[start:end]
        used += cells
    return [*parts, part]
