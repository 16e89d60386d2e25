"""Text in the cells of a terminal: how wide a line may be, a text cut to it, and rows as a table."""

import shutil
import sys
from collections.abc import Sequence

GAP = 2  # cells between two columns
LEAST_CELLS = 12  # of a column that gives way to the others


def line_width() -> int | None:
    """Cells of a line of standard output; None where it is no terminal, and a line may be of any length."""
    try:
        return shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    except ValueError:  # it has been closed
        return None


def cells_in(text: str) -> int:
    """The cells that a text takes: two for a wide character, none for a mark upon another."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len  # here: most lines need it not, and a light command loads no screen

    return cell_len(text)


def cut(text: str, width: int | None) -> str:
    """The text in at most so many cells, the last one an ellipsis where it was cut; None: whole."""
    if width is None or cells_in(text) <= width:
        return text
    if width < 1:
        return ""
    if text.isascii():
        return text[: width - 1] + "…"
    from rich.cells import set_cell_size

    return set_cell_size(text, width - 1).rstrip() + "…"


def table(
    rows: Sequence[Sequence[str]], width: int | None, *, gives_way: Sequence[int], right: Sequence[int]
) -> list[str]:
    """Rows as lines, their columns aligned; of the header (the first row) columns without a word below are left out.

    `gives_way`: where a line would be longer than `width` cells, these columns are cut and then go, the last of them
    first; the first of them is cut last, and stays.
    `right`: the columns that are aligned at their right.
    """
    shown = [number for number in range(len(rows[0])) if any(row[number] for row in rows[1:])]
    widths = {number: max(cells_in(row[number]) for row in rows) for number in shown}

    def over() -> int:
        return 0 if width is None else sum(widths.values()) + GAP * (len(widths) - 1) - width

    first, *others = gives_way
    for number in reversed([number for number in others if number in widths]):
        widths[number] -= max(min(over(), widths[number] - LEAST_CELLS), 0)
        if over() > 0:
            del widths[number]
    if first in widths:
        widths[first] -= max(min(over(), widths[first] - LEAST_CELLS), 0)
    lines = []
    for row in rows:
        cells = []
        for number, wide in widths.items():
            text = cut(row[number], wide)
            missing = " " * (wide - cells_in(text))
            cells.append(missing + text if number in right else text + missing)
        lines.append(cut((" " * GAP).join(cells).rstrip(), width))
    return lines
