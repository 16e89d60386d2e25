"""The statistics files of the user's document: their names, and their JSON there and back."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmplay_tui.errors import UserError
from lmplay_tui.run.folder import write_whole
from lmplay_tui.run.journal import encode
from lmplay_tui.text import one_line

COLUMNS = ("samples", "accuracy", "loss", "tokens")
SUFFIX = "_stats.json"
MAX_BYTES = 64 * 2**20  # of a file worth reading; ours have at most 1 MB


@dataclass(frozen=True)
class StatisticsFile:
    """One curve with its averages and totals. `stage` None: of the whole run. A history row is as `COLUMNS` says."""

    name: str
    stage: str | None
    split: str  # train or validate
    history: list[list[float | None]]
    averages: dict[str, float | None]
    totals: dict[str, float]


def statistics_path(folder: Path, name: str, stage: str | None, split: str) -> Path:
    """Where the statistics of a run, or of one stage of it, lie."""
    return folder / f"{name}{'' if stage is None else f'_step_{stage}'}_{split}{SUFFIX}"


def write_statistics(path: Path, content: StatisticsFile) -> None:
    """Write `content` to `path`, whole or not at all, one history row a line. Raises `OSError`."""
    fields = {
        "name": content.name,
        "stage": content.stage,
        "split": content.split,
        "columns": COLUMNS,
        "history": content.history,
        "averages": content.averages,
        "totals": content.totals,
    }
    members = [encode({key: value})[1:-1] for key, value in fields.items()]
    rows = list(fields).index("history")
    members[rows] = members[rows].replace("],[", "],\n[")
    # The checkpoint holds the same, so a power cut at worst costs a file that the next save writes again.
    write_whole(path, ("{" + ",\n".join(members) + "}\n").encode("utf-8", errors="replace"))


def read_statistics(path: Path) -> StatisticsFile:
    """The statistics in a file. Raises `UserError` of one line if it cannot be read or is not such a file."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"larger than {MAX_BYTES // 2**20} MB")
        return _parsed(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UserError(f"{one_line(path)}: cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RecursionError) as error:
        raise UserError(f"{one_line(path)}: not a statistics file ({_reason(error)}); it is left out") from error


def _reason(error: BaseException) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"damaged at line {error.lineno}"
    if isinstance(error, KeyError):
        return f"without {one_line(error)}"
    return one_line(error, 80)


def _parsed(fields: Any) -> StatisticsFile:
    if not isinstance(fields, dict):
        raise TypeError("no table")
    stage = fields["stage"]
    places = [list(fields["columns"]).index(column) for column in COLUMNS]
    return StatisticsFile(
        name=str(fields["name"]),
        stage=None if stage is None else str(stage),
        split=str(fields["split"]),
        history=[[_number(row[place]) for place in places] for row in fields["history"]],
        averages={str(key): _number(value) for key, value in fields["averages"].items()},
        totals={str(key): _total(value) for key, value in fields["totals"].items()},
    )


def _number(value: Any) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        float(value)  # an integer beyond the floats is refused here rather than while drawing
        return value
    if isinstance(value, str):
        return float(value)
    if value is None:
        return None
    raise TypeError(f"{one_line(value, 40)} is no number")


def _total(value: Any) -> float:
    number = _number(value)
    if number is None:
        raise TypeError("a total is missing")
    return number
