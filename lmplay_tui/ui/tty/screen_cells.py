"""Text cell by cell, and where two rows of cells differ: what decides how much of a picture is sent."""

import re
from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import TypeVar

from rich.cells import split_graphemes

Style = TypeVar("Style")

SHORT_GAP = 6  # cells; to go to another place of a row costs about as many bytes
_NARROW = re.compile("[ -~·×±°\u2500-\u259f\u2800-\u28ff]*")  # what our panes are made of: one cell each, surely


def cells_of(pieces: Iterable[tuple[str, Style]]) -> tuple[list[tuple[str, Style]], bool]:
    """One entry a cell (empty for the second one of a wide character), and whether each character surely takes one."""
    cells: list[tuple[str, Style]] = []
    narrow = True
    for text, style in pieces:
        if _NARROW.fullmatch(text):  # many times faster than character by character
            cells.extend(zip(text, repeat(style)))
            continue
        narrow = False
        for start, end, width in split_graphemes(text)[0]:
            if width:
                cells.append((text[start:end], style))
                cells.extend([("", style)] * (width - 1))
            elif cells:  # a mark upon the character before it, in whose style it is drawn
                cells[-1] = (cells[-1][0] + text[start:end], cells[-1][1])
    return cells, narrow


def differing_spans(old: Sequence[object], new: Sequence[object]) -> list[tuple[int, int]]:
    """Where cells of two rows of one length differ, as (first, beyond last); a short gap between spans joins them."""
    spans: list[tuple[int, int]] = []
    for x, (before, after) in enumerate(zip(old, new, strict=True)):
        if before == after:
            continue
        if spans and x - spans[-1][1] <= SHORT_GAP:
            spans[-1] = (spans[-1][0], x + 1)
        else:
            spans.append((x, x + 1))
    return spans
