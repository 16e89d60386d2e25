"""Styled pieces laid out in lines: broken between words, styles kept."""

from collections.abc import Iterable

from rich.cells import cell_len, split_graphemes

from lmplay_tui.ui.widgets.lines import Piece, Row

LABEL_CELLS = 9


def flow(pieces: Iterable[Piece], width: int) -> list[Row]:
    """The pieces in rows of at most `width` cells. A word too long for a row is cut."""
    rows: list[list[Piece]] = [[]]
    used = 0
    for text, style in pieces:
        for word in _words(text):
            for part in _cut(word, width):
                if used and used + cell_len(part.rstrip(" ")) > width:
                    rows.append([])
                    used = 0
                fits = part.lstrip(" ") if not used and len(rows) > 1 else part
                fits = fits if used + cell_len(fits) <= width else fits.rstrip(" ")
                row = rows[-1]
                if row and row[-1][1] == style:
                    row[-1] = (row[-1][0] + fits, style)
                elif fits:
                    row.append((fits, style))
                used += cell_len(fits)
    return [tuple(row) for row in rows]


def labelled(label: str, pieces: Iterable[Piece], width: int) -> list[Row]:
    """Flowing pieces with a label before the first row."""
    rows = flow(pieces, max(width - LABEL_CELLS - 1, 4))
    heads = [f" {label}"] + [""] * (len(rows) - 1)
    return [((head.ljust(LABEL_CELLS), "label"), *row) for head, row in zip(heads, rows, strict=True)]


def _words(text: str) -> list[str]:
    """The text cut after its spaces; a token's leading space stays with it."""
    words: list[str] = []
    start = 0
    for i in range(1, len(text)):
        if text[i] != " " and text[i - 1] == " " and text[start:i].strip(" "):
            words.append(text[start:i])
            start = i
    words.append(text[start:])
    return words


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
