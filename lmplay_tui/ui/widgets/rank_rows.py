"""The ranks of a run as rows: a line for each of a few, a strip of cells for many, and the one that all wait for."""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

from rich.cells import cell_len

from lmplay_tui.formats import format_duration, format_moment, format_percent
from lmplay_tui.run.ranks import Ranks, RankState, Straggler, median
from lmplay_tui.ui.legend import RANKS
from lmplay_tui.ui.widgets.lines import Piece, Row, fitted, right, row_width, wrapped

MOST_LINES = 8  # ranks that have a line each
MOST_STRIPS = 4  # rows of cells; where there are more ranks, a cell is the slowest of several
STALE_S = 20.0  # it is written each two seconds: what is older is of a trainer that is busy, or hangs
_WARN, _BAD = 1.05, 1.2  # of the median


def rank_rows(ranks: Ranks, width: int, now_s: float, label_cells: int) -> list[Row]:
    """All that a pane of `width` cells says of them. `now_s`: seconds since 1970; `label_cells`: of a row's label."""
    rows: list[Row] = []
    if ranks.straggler is not None:
        rows += [((f" {line}", "warn"),) for line in wrapped(ranks.straggler.sentence(), width - 2)]
    few = len(ranks.ranks) <= MOST_LINES
    rows += _lines(ranks.ranks, width) if few else _strip(ranks.ranks, ranks.straggler, width, label_cells)
    if (age_s := now_s - ranks.written_at) > STALE_S:
        rows += [((f" as the ranks were {format_duration(age_s)} ago", "dim"),)]
    return rows


class _Column(NamedTuple):
    """A figure of each rank. `importance`: those of the lowest stay where there is little room."""

    title: str
    importance: int
    cell: Callable[[RankState], Piece]
    is_text: bool = False  # else it stands at the right


def _lines(ranks: Sequence[RankState], width: int) -> list[Row]:
    middle = median(state.compute_s for state in ranks if math.isfinite(state.compute_s))
    columns = [
        _Column("rank", 0, lambda state: (str(state.rank), "")),
        _Column("host", 5, lambda state: (state.host, "dim"), is_text=True),
        _Column("device", 2, lambda state: (state.device_name, ""), is_text=True),
        _Column("GiB", 4, lambda state: _memory(state, "/")),
        _Column("busy", 3, lambda state: (_known(state.utilisation, format_percent), "")),
        _Column("°C", 7, lambda state: (_known(state.celsius, "{:.0f}".format), "dim")),
        _Column("own", 0, lambda state: (format_moment(state.compute_s), _heat(state.compute_s, middle))),
        _Column("wait", 1, lambda state: (format_moment(state.wait_s), "")),
        _Column("phase", 6, lambda state: (state.phase, "dim"), is_text=True),
        _Column("step", 8, lambda state: ("–" if state.step is None else f"{state.step:,}", "dim")),
    ]
    if len({state.host for state in ranks}) == 1:
        columns = [column for column in columns if column.title != "host"]
    columns = [column for column in columns if any(column.cell(state)[0] not in ("", "–") for state in ranks)]
    cells = {column.title: [column.cell(state) for state in ranks] for column in columns}
    widths = {title: max(cell_len(title), *(cell_len(text) for text, _ in cells[title])) for title in cells}
    while len(columns) > 1 and sum(widths[column.title] + 2 for column in columns) - 1 > width:
        last = max(columns, key=lambda column: column.importance)
        missing = sum(widths[column.title] + 2 for column in columns) - 1 - width
        if last.is_text and widths[last.title] - missing >= max(8, cell_len(last.title)):
            widths[last.title] -= missing
        else:
            columns.remove(last)

    def placed(column: _Column, text: str) -> str:
        return (fitted if column.is_text else right)(text, widths[column.title])

    rows: list[Row] = [tuple((f"{' ' if i == 0 else '  '}{placed(column, column.title)}", "label")
                             for i, column in enumerate(columns))]  # fmt: skip
    for number in range(len(ranks)):
        row: list[Piece] = []
        for column in columns:
            text, style = cells[column.title][number]
            row += [("  " if row else " ", ""), (placed(column, text), style)]
        rows.append(tuple(row))
    return rows


def _strip(ranks: Sequence[RankState], straggler: Straggler | None, width: int, label_cells: int) -> list[Row]:
    middle = median(state.compute_s for state in ranks if math.isfinite(state.compute_s))
    room = max(width - 2, 1)
    each = -(-len(ranks) // (room * MOST_STRIPS))
    costs = [_slowest(ranks[i : i + each]) for i in range(0, len(ranks), each)]
    num_rows = -(-len(costs) // room)
    in_row = -(-len(costs) // num_rows)
    rows: list[Row] = [_labelled("ranks", [(_how_many(ranks, each), "")], width, label_cells)]
    for begin in range(0, len(costs), in_row):
        signs = [RANKS[_level(cost, middle)] for cost in costs[begin : begin + in_row]]
        groups = [(style, "".join(sign.sign for sign in group)) for style, group in groupby(signs, lambda s: s.style)]
        rows.append(((" ", ""), *((text, style) for style, text in groups)))
    own = [state.compute_s for state in ranks if math.isfinite(state.compute_s)]
    if own:
        pieces = [(f"{format_moment(min(own))} to {format_moment(max(own))}", "")]
        pieces.append((f"  mean {format_moment(math.fsum(own) / len(own))}", ""))
        rows.append(_labelled("own", pieces, width, label_cells))
        last = max(ranks, key=lambda state: state.compute_s if math.isfinite(state.compute_s) else -1.0)
        if straggler is None or straggler.rank != last.rank:  # else it is named above
            where = ", ".join(filter(None, (last.host, last.device_name)))
            rows.append(_labelled("slowest", [(f"rank {last.rank}", ""), (f" ({where})", "dim")], width, label_cells))
    waits = [state.wait_s for state in ranks if math.isfinite(state.wait_s)]
    if waits:
        pieces = [(f"mean {format_moment(math.fsum(waits) / len(waits))}", "")]
        rows.append(_labelled("wait", [*pieces, (f"  most {format_moment(max(waits))}", "")], width, label_cells))
    fullest = max(ranks, key=lambda state: _share(state.memory_bytes, state.memory_total))
    if (share := _share(fullest.memory_bytes, fullest.memory_total)) >= 0:
        pieces = [(f"{_memory(fullest, ' of ')[0]} GiB", _fill_style(share))]
        rows.append(_labelled("memory", [*pieces, (f"  most, of rank {fullest.rank}", "dim")], width, label_cells))
    return rows


def _labelled(label: str, pieces: Iterable[Piece], width: int, label_cells: int) -> Row:
    """Pieces behind a label, as many as there is room for; the last one is cut."""
    row: list[Piece] = [(" " + fitted(label, label_cells - 1), "label")]
    for text, style in pieces:
        room = width - row_width(row)
        if room < min(cell_len(text.rstrip()), 6):
            break
        row.append((fitted(text, min(cell_len(text), room)), style))
    return tuple(row)


def _how_many(ranks: Sequence[RankState], each: int) -> str:
    hosts = len({state.host for state in ranks})
    said = f"{len(ranks)}" + (f" on {hosts} machines" if hosts > 1 else "")
    return said + (f", {each} a cell" if each > 1 else "")


def _slowest(ranks: Sequence[RankState]) -> float:
    return max((state.compute_s for state in ranks if math.isfinite(state.compute_s)), default=math.nan)


def _level(cost: float, middle: float) -> str:
    if not (math.isfinite(cost) and middle > 0):
        return "unknown"
    share = cost / middle
    return "slowest" if share > _BAD else "slow" if share > _WARN else "usual" if share >= 2 - _WARN else "quick"


def _heat(cost: float, middle: float) -> str:
    return RANKS[level].style if (level := _level(cost, middle)) in ("slow", "slowest") else ""


def _memory(state: RankState, of: str) -> Piece:
    """What is in use of all, in GiB."""
    share = _share(state.memory_bytes, state.memory_total)
    used = _known(state.memory_bytes / 2**30, "{:.1f}".format)
    return (f"{used}{of}{state.memory_total / 2**30:.0f}", _fill_style(share)) if share >= 0 else (used, "")


def _share(part: float, whole: float) -> float:
    """-1 where it is not known."""
    return part / whole if math.isfinite(part) and whole > 0 else -1.0


def _fill_style(share: float) -> str:
    return "bad" if share > 0.95 else "warn" if share > 0.85 else ""


def _known(value: float, form: Callable[[float], str]) -> str:
    return form(value) if math.isfinite(value) else "–"
