"""The statistics of a run and of each of its stages: totals, running averages, and a history of bounded length.

They are a pure function of the steps and validations recorded, with no clock in them: a run that was stopped and
resumed writes the same files, byte for byte, as one that was not.

They are kept in the statistics files of the user's document: names and JSON, there and back, are here too.
"""

import errno
import json
import os
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from lmplay_tui.errors import UserError
from lmplay_tui.files import Folder, write_whole
from lmplay_tui.run.journal import encode
from lmplay_tui.run.metric_names import RECENT_STEPS
from lmplay_tui.text import one_line

COLUMNS = ("samples", "accuracy", "loss", "tokens")
BY_CHARACTERS = "character_accuracy"  # one more column where some truth was measured so
SUFFIX = "_stats.json"
_HEAD = ("name", "stage", "split")  # what a file of ours begins with, a line each
_HEAD_BYTES = 4096
MAX_BYTES = 64 * 2**20  # of a file worth reading; ours have at most 1 MB


@dataclass(frozen=True)
class StatisticsFile:
    """One curve with its averages and totals. `stage` None: of the whole run.

    A history row is as `COLUMNS` says, and then, or not, `BY_CHARACTERS`.
    """

    name: str
    stage: str | None
    split: str  # train or validate
    history: list[list[float | None]]
    averages: dict[str, float | None]
    totals: dict[str, float]


def statistics_path(folder: Path, name: str, stage: str | None, split: str) -> Path:
    """Where the statistics of a run, or of one stage of it, lie."""
    return folder / f"{name}{'' if stage is None else f'_step_{stage}'}_{split}{SUFFIX}"


def other_run(path: Path, name: str) -> str | None:
    """The other run whose statistics lie at a path where the run `name` would have its own; None: none.

    `a_step_b` may be a run, or the stage b of a run a. What another program has written, or a hand has renamed, is no
    other run's: its own would lie elsewhere.
    """
    try:
        with os.fdopen(Folder(path.parent, own=0).open(path.name), "rb") as file:
            head = file.read(_HEAD_BYTES).splitlines()[: len(_HEAD)]
        said = json.loads(b"{" + b"".join(head).strip(b"{,") + b"}")
        other, stage, split = (said[key] for key in _HEAD)
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        return None
    is_other = isinstance(other, str) and other != name
    return other if is_other and statistics_path(path.parent, other, stage, split) == path else None


def clash(folder: Path, name: str, stages: Iterable[str]) -> str | None:
    """Why a run of these stages cannot have its statistics in `folder`: other runs' lie there under its names."""
    for stage in (None, *stages):
        for split in SPLITS:
            path = statistics_path(folder, name, stage, split)
            if (other := other_run(path, name)) is not None:
                whose = f"run {name}" if stage is None else f"stage {stage} of run {name}"
                return (
                    f"{one_line(path)}: the statistics of run {one_line(other)}, whose name those of {whose} would have"
                )
    return None


def write_statistics(path: Path, content: StatisticsFile) -> None:
    """Write `content` to `path`, whole or not at all, one history row a line. Raises `OSError`."""
    fields = {
        "name": content.name,
        "stage": content.stage,
        "split": content.split,
        "columns": (*COLUMNS, BY_CHARACTERS)[: max((len(row) for row in content.history), default=len(COLUMNS))],
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
        return _parsed(json.loads(Folder(path.parent, own=0).read(path.name, MAX_BYTES)))
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
    columns = list(fields["columns"])
    places = [columns.index(column) for column in COLUMNS]
    if BY_CHARACTERS in columns:
        places.append(columns.index(BY_CHARACTERS))
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


Split = Literal["train", "validate"]
SPLITS: tuple[Split, ...] = get_args(Split)

MAX_POINTS = 10_000  # of one history; even, so that neighbours can be joined
AVERAGED = RECENT_STEPS  # updates in a running average

# Of one update, or of several joined ones: rows and tokens trained on by then, the loss summed over its tokens, the
# accuracy summed in the same weights, and these weights; the same by characters.
Point = tuple[int, int, float, int, float, int, float, int]
_POINT = 8  # its length


def _joined(first: Point, second: Point) -> Point:
    sums = (a + b for a, b in zip(first[2:], second[2:], strict=True))
    return (*second[:2], *sums)  # type: ignore[return-value]  # the generator's length is known to us alone


def _mean(total: float, weight: int) -> float | None:
    return total / weight if weight else None


class RecordedSeries:
    """One curve of at most `max_points` points, whatever the number of updates.

    A point covers `stride` updates and holds their mean, weighted by the tokens in the loss, at the place of the last
    of them. Once the series is full, neighbours are joined and the stride doubles. So it depends on the updates alone,
    and none is left out: a spike is flattened by the stride but never dropped, and the points still add up to the
    total loss.
    """

    def __init__(self, max_points: int = MAX_POINTS) -> None:
        self.max_points = max_points
        self.updates = 0
        self.stride = 1
        self._points: list[Point] = []
        self._open: Point | None = None  # covers fewer updates than the stride as yet
        self._recent: deque[tuple[float, int, float | None, float | None]] = deque(maxlen=AVERAGED)

    def add(
        self, *, samples: int, tokens: int, loss_tokens: int, loss: float, accuracy: float | None,
        character_accuracy: float | None = None,
    ) -> None:  # fmt: skip
        """Record one update: `samples` and `tokens` are totals by then, `loss_tokens` those of this update."""
        counted = loss_tokens if accuracy is not None else 0
        by_characters = loss_tokens if character_accuracy is not None else 0
        update: Point = (
            samples, tokens, loss * loss_tokens, loss_tokens, (accuracy or 0.0) * counted, counted,
            (character_accuracy or 0.0) * by_characters, by_characters,
        )  # fmt: skip
        self._recent.append((loss, loss_tokens, accuracy, character_accuracy))
        self._open = update if self._open is None else _joined(self._open, update)
        self.updates += 1
        if self.updates % self.stride:
            return
        self._points.append(self._open)
        self._open = None
        if len(self._points) == self.max_points:
            self._points = [_joined(*pair) for pair in zip(self._points[::2], self._points[1::2], strict=True)]
            self.stride *= 2

    def history(self) -> list[list[float | None]]:
        """One row as `COLUMNS` says a point; the last may still gather updates.

        Where some point has an accuracy by characters, all rows have that column.
        """
        points = self._points if self._open is None else [*self._points, self._open]
        by_characters = any(point[-1] for point in points)
        return [
            [samples, _mean(accuracy_total, counted), _mean(loss_total, loss_tokens), tokens]
            + ([_mean(by_total, by)] if by_characters else [])
            for samples, tokens, loss_total, loss_tokens, accuracy_total, counted, by_total, by in points
        ]

    def recent_loss(self) -> float | None:
        """Mean over the loss tokens of the last updates."""
        return _mean(
            sum(loss * tokens for loss, tokens, *_ in self._recent), sum(tokens for _, tokens, *_ in self._recent)
        )

    def last_loss(self) -> float | None:
        """Of the newest update."""
        return self._recent[-1][0] if self._recent else None

    def averages(self) -> dict[str, float | None]:
        """Loss and accuracy over the last updates, weighted like the history; how many these were; the last loss."""
        counted = [(accuracy, tokens) for _, tokens, accuracy, _ in self._recent if accuracy is not None]
        averages = {
            "loss": self.recent_loss(),
            "accuracy": _mean(sum(a * tokens for a, tokens in counted), sum(tokens for _, tokens in counted)),
            "updates": len(self._recent),
            "last_loss": self.last_loss(),
        }
        counted = [(accuracy, tokens) for _, tokens, _, accuracy in self._recent if accuracy is not None]
        if counted:
            averages[BY_CHARACTERS] = _mean(sum(a * n for a, n in counted), sum(n for _, n in counted))
        return averages

    def state(self) -> dict[str, Any]:
        """All of it, as flat lists: one a column, which pickles small."""
        return {
            "updates": self.updates,
            "stride": self.stride,
            "points": [list(column) for column in zip(*self._points, strict=True)],
            "open": None if self._open is None else list(self._open),
            "recent": [list(column) for column in zip(*self._recent, strict=True)],
        }

    def load(self, state: dict[str, Any]) -> None:
        """Become what `state` was taken from."""
        self.updates = state["updates"]
        self.stride = state["stride"]
        # Earlier versions knew no accuracy by characters: the last two of a point, the last of what is recent.
        points = zip(*state["points"], strict=True)
        self._points = [(*point, 0.0, 0)[:_POINT] for point in points]
        self._open = None if state["open"] is None else (*state["open"], 0.0, 0)[:_POINT]
        recent = zip(*state["recent"], strict=True)
        self._recent = deque(((*update, None)[:4] for update in recent), maxlen=AVERAGED)


class Record:
    """Totals and curves of a whole run, or of one stage of it."""

    def __init__(self) -> None:
        self.totals: dict[str, float] = {}
        for split in SPLITS:
            self.totals |= {
                f"total_{split}_samples": 0,
                f"total_{split}_tokens": 0,
                f"{split}_loss_total": 0.0,  # sum of loss x loss tokens
                f"{split}_loss_tokens": 0,
            }
        self.totals["train_rows_without_sample"] = 0  # of the total_train_samples
        self.series: dict[Split, RecordedSeries] = {split: RecordedSeries() for split in SPLITS}

    def add(
        self, split: Split, *, rows: int, tokens: int, loss_tokens: int, loss: float, accuracy: float | None,
        character_accuracy: float | None = None,
    ) -> None:  # fmt: skip
        """Count one step or one validation; its place on the curve is how far training has come."""
        self.totals[f"total_{split}_samples"] += rows
        self.totals[f"total_{split}_tokens"] += tokens
        self.totals[f"{split}_loss_total"] += loss * loss_tokens
        self.totals[f"{split}_loss_tokens"] += loss_tokens
        self.series[split].add(
            samples=int(self.totals["total_train_samples"]),
            tokens=int(self.totals["total_train_tokens"]),
            loss_tokens=loss_tokens,
            loss=loss,
            accuracy=accuracy,
            character_accuracy=character_accuracy,
        )

    def state(self) -> dict[str, Any]:
        return self.totals | {split: series.state() for split, series in self.series.items()}

    def load(self, state: dict[str, Any]) -> None:
        self.totals = {key: state.get(key, 0) for key in self.totals}
        for split, series in self.series.items():
            series.load(state[split])


class RunStatistics:
    """What a run and its stages have come to: the trainer records it, the checkpoint keeps it, `write` writes it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.run = Record()
        self.stages: dict[str, Record] = {}

    def trained(
        self, stage: str, *, rows: int, tokens: int, loss_tokens: int, loss: float, accuracy: float | None,
        character_accuracy: float | None = None,
    ) -> None:  # fmt: skip
        """One step: rows and tokens read, tokens in the loss, their mean loss, mean accuracies (None: unknown)."""
        self._add(
            "train", stage, rows=rows, tokens=tokens, loss_tokens=loss_tokens, loss=loss, accuracy=accuracy,
            character_accuracy=character_accuracy,
        )  # fmt: skip

    def validated(
        self, stage: str, *, rows: int, tokens: int, loss_tokens: int, loss: float, accuracy: float | None,
        character_accuracy: float | None = None,
    ) -> None:  # fmt: skip
        """One validation: samples and tokens scored, and what came of them."""
        self._add(
            "validate", stage, rows=rows, tokens=tokens, loss_tokens=loss_tokens, loss=loss, accuracy=accuracy,
            character_accuracy=character_accuracy,
        )  # fmt: skip

    def skipped(self, stage: str, *, rows: int) -> None:
        """Rows were read that hold nothing to train on."""
        for record in self._records(stage):
            record.totals["total_train_samples"] += rows

    def without_sample(self, stage: str, *, rows: int) -> None:
        """So many of the rows read, counted already, gave no sample."""
        for record in self._records(stage):
            record.totals["train_rows_without_sample"] += rows

    @property
    def recent_loss(self) -> float | None:
        """The figure "train loss": mean over the loss tokens of the run's last steps; None before the first."""
        return self.run.series["train"].recent_loss()

    @property
    def last_val_loss(self) -> float | None:
        """The figure "val loss": of the newest validation; None before the first."""
        return self.run.series["validate"].last_loss()

    def _records(self, stage: str) -> tuple[Record, Record]:
        return self.run, self.stages.setdefault(stage, Record())

    def _add(self, split: Split, stage: str, **update: Any) -> None:
        for record in self._records(stage):
            record.add(split, **update)

    def state(self) -> dict[str, Any]:
        """Plain values for the checkpoint, `{"stats": ..., "step_stats": {stage: ...}}`, untouched by later steps."""
        return {"stats": self.run.state(), "step_stats": {name: record.state() for name, record in self.stages.items()}}

    def load(self, state: dict[str, Any]) -> None:
        """Become what `state` was taken from."""
        self.run.load(state["stats"])
        self.stages = {}
        for name, record_state in state["step_stats"].items():
            self.stages[name] = Record()
            self.stages[name].load(record_state)

    def write(self, folder: Path) -> list[Path]:
        """Write the statistics files into `folder`, each whole or not at all, and return their paths.

        Raises `OSError`, also where another run's lies in place of one: that one stays, and all others are written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        taken: OSError | None = None
        records: list[tuple[str | None, Record]] = [(None, self.run), *self.stages.items()]
        for stage, record in records:
            for split, series in record.series.items():
                path = statistics_path(folder, self.name, stage, split)
                if (other := other_run(path, self.name)) is not None:
                    said = f"is of run {other} and stays; give one of the two another name (lmplay-tui runs rename)"
                    taken = taken or FileExistsError(errno.EEXIST, said, str(path))
                    continue
                paths.append(path)
                content = StatisticsFile(self.name, stage, split, series.history(), series.averages(), record.totals)
                write_statistics(path, content)
        if taken is not None:
            raise taken
        return paths
