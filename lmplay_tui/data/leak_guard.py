"""Training rows that carry the very text of a row that some stage is evaluated on: duplicates, overlapping files.

Held-out rows are never trained by their places; this looks at what they say. It changes nothing that is trained.
"""

import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lmplay_tui.background import BackgroundCall
from lmplay_tui.data.order import TrainingOrder, ValidationOrder
from lmplay_tui.data.samples import Item
from lmplay_tui.data.shuffle import Permutation, keyed
from lmplay_tui.data.stage_data import StageData
from lmplay_tui.formats import counted
from lmplay_tui.plan.schema import Stage
from lmplay_tui.text import one_line

MOST_EVALUATION_ROWS = 5_000  # more where `--eval-samples` is more
PROMPT_CHARS = 2_000  # of what precedes a turn of a conversation: all of it would count with its square
CLOSE_S = 2.0  # that the end of a run waits for a thread that is opening data
PAUSE_S = 0.01  # after each chunk, beside a training that needs Python's lock too


@dataclass(frozen=True)
class Looking:
    """What is looked at of a stage: some tenths of a second of reading, however large it is."""

    most_rows: int = 20_000
    most_chars: int = 32 << 20
    chunk_rows: int = 100  # read one after another; the chunks lie scattered over the stage


@dataclass(frozen=True)
class StageLeaks:
    """What one stage trains of the evaluated texts. `rows`: of one pass; those looked at may be fewer.

    `of`: of the rows that leak, how many carry a text of each stage's evaluation; a row may count for several.
    """

    stage: str
    rows: int
    rows_looked_at: int
    leaked: int
    of: Mapping[str, int]

    @property
    def is_estimate(self) -> bool:
        return self.rows_looked_at < self.rows


@dataclass(frozen=True)
class LeakReport:
    """What was found. `evaluation_rows`: whose texts were looked for; `not_open`: stages that were not looked at."""

    stages: tuple[StageLeaks, ...]
    evaluation_rows: int
    not_open: tuple[str, ...] = ()

    @property
    def leaked(self) -> int:
        """Rows found, over all stages."""
        return sum(stage.leaked for stage in self.stages)

    def sentence(self) -> str:
        """One line for a person."""
        looked, rows = sum(s.rows_looked_at for s in self.stages), sum(s.rows for s in self.stages)
        if self.leaked:
            said = "; ".join(_sentence(stage) for stage in self.stages if stage.leaked)
        elif self.evaluation_rows and not looked:
            said = "no row to train on could be looked at"
        elif self.evaluation_rows:
            of = f"{looked:,} of " if looked < rows else ""
            said = f"no training row carries an evaluation text ({of}{counted(rows, 'row')} looked at)"
        else:
            said = "no row with a text is evaluated on, so there is nothing to look for"
        unseen = f"; not looked at before its data are opened: {', '.join(self.not_open)}" if self.not_open else ""
        return f"leak guard: {said}{unseen}"

    def record(self) -> dict[str, Any]:
        """Plain values, for `check --json`."""
        return {
            "rows_looked_at": sum(stage.rows_looked_at for stage in self.stages),
            "evaluation_rows": self.evaluation_rows,
            "leaked": self.leaked,
            "by_stage": {
                stage.stage: {
                    "rows": stage.rows, "rows_looked_at": stage.rows_looked_at, "leaked": stage.leaked,
                    "of_evaluation_of": dict(stage.of), "is_estimate": stage.is_estimate,
                }
                for stage in self.stages
            },
            "not_looked_at": list(self.not_open),
        }  # fmt: skip


def _sentence(leaks: StageLeaks) -> str:
    whose = [f"{count:,} of stage {leaks.stage}'s own" if name == leaks.stage else f"{count:,} of stage {name}'s"
             for name, count in leaks.of.items() if count]  # fmt: skip
    said = f"{leaks.leaked:,} of {leaks.rows:,} rows whose text is in an evaluation set ({', '.join(whose)})"
    if leaks.is_estimate:
        about = round(leaks.leaked * leaks.rows / leaks.rows_looked_at)
        said = (f"about {about:,} of {leaks.rows:,} rows whose text is in an evaluation set "
                f"({leaks.leaked:,} of the {leaks.rows_looked_at:,} looked at: {', '.join(whose)})")  # fmt: skip
    return f"stage {leaks.stage} trains {said}"


def look_for_leaks(
    stages: Sequence[tuple[str, StageData]], not_open: Sequence[str] = (), rest: Callable[[], None] = lambda: None,
    looking: Looking = Looking(),
) -> LeakReport:  # fmt: skip
    """Compare what the stages train with what each of them validates and is evaluated on.

    Rows that are evaluated: the first of each stage's validation rows in their order, its evaluation set among them.
    Rows that are trained: of one pass, all of a small stage, else a sample spread over it; the same at each call.
    Raises `DataError` where a disk no longer gives a row. `rest` is called after each chunk of rows; what it raises
    ends the looking.
    """
    orders = [(name, data.orders(), data.eval_samples) for name, data in stages]
    evaluated: dict[int, set[str]] = {}  # by the hash of its text: the stages that are evaluated on it
    evaluation_rows = 0
    for name, (_, validation), eval_samples in orders:
        for items in _validated(validation, max(MOST_EVALUATION_ROWS, eval_samples), looking.most_chars):
            evaluation_rows += bool(items)
            for item in items:
                evaluated.setdefault(text_hash(item), set()).add(name)
            if items and evaluation_rows % looking.chunk_rows == 0:
                rest()
    found = tuple(_leaks(name, training, evaluated, rest, looking) for name, (training, _), _ in orders)
    return LeakReport(found, evaluation_rows, tuple(not_open))


def text_hash(item: Item) -> int:
    """64 bits of an item's text, white space apart: a running text alone, without its title; else prompt and truth."""
    text = item.truth
    if not item.keep_start:
        end = item.prompt_end
        text = (item.prompt if end is None else item.prompt[max(0, end - PROMPT_CHARS) : end]) + "\n" + text
    words = " ".join(text.split()).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(words, digest_size=8).digest(), "little")


def _validated(order: ValidationOrder, most: int, most_chars: int) -> Iterator[list[Item]]:
    rows = chars = 0
    for row in range(order.rows):
        if rows == most or chars > most_chars:
            return
        if not order.repeated(row):
            items = order.items(row)
            rows, chars = rows + 1, chars + _chars(items)
            yield items


def _leaks(
    name: str, order: TrainingOrder, evaluated: Mapping[int, set[str]], rest: Callable[[], None], looking: Looking
) -> StageLeaks:
    rows = min(order.rows_per_epoch, order.rows_total)
    of: Counter[str] = Counter()
    looked = leaked = chars = 0
    chunks = Permutation(-(-rows // looking.chunk_rows), keyed("leak guard"))
    for number in range(chunks.size if evaluated else 0):
        if looked >= looking.most_rows or chars > looking.most_chars:
            break
        first = chunks[number] * looking.chunk_rows
        for row in range(first, min(first + looking.chunk_rows, rows)):
            items = order.items(row)
            looked, chars = looked + 1, chars + _chars(items)
            whose = {stage for item in items for stage in evaluated.get(text_hash(item), ())}
            leaked += bool(whose)
            of.update(whose)
        rest()
    return StageLeaks(name, rows, looked, leaked, {stage: of[stage] for stage in sorted(of)})


def _chars(items: Sequence[Item]) -> int:
    return sum(len(item.truth) for item in items)


class _ClosedError(Exception):
    """The run is over: what has not been looked at is left."""


class LeakGuard:
    """Looks for leaks beside a training, in a thread.

    `look(stages, rest)` gives a report on a plan's stages, calling `rest` now and then, as `look_for_leaks` does.
    """

    def __init__(self, look: Callable[[Sequence[Stage], Callable[[], None]], LeakReport]) -> None:
        self._look = look
        self._closed = threading.Event()
        self._looking: BackgroundCall[None] | None = None
        self._looked_at: tuple[Stage, ...] = ()
        self._report: LeakReport | None = None
        self._news: list[tuple[bool, str]] = []

    def begin(self, stages: Sequence[Stage], entered: str) -> None:
        """Look at the stages of a plan, unless they have been looked at and `entered` was among those open then."""
        has_looked = self._report is not None and entered not in self._report.not_open
        if self._is_looking() or (self._looked_at == tuple(stages) and has_looked):
            return
        self._looked_at = tuple(stages)
        self._looking = BackgroundCall(self._run, "leak guard")

    def _run(self) -> None:
        try:
            self._report = self._look(self._looked_at, self._rest)
            self._news.append((bool(self._report.leaked), self._report.sentence()))
        except _ClosedError:
            return
        except Exception as error:  # it is no reason to end a run, but must not be silent either
            self._news.append((True, f"leak guard: not looked: {one_line(error, 160) or type(error).__name__}"))

    def _rest(self) -> None:
        if self._closed.wait(PAUSE_S):
            raise _ClosedError

    def close(self) -> None:
        """End the thread: it must not be reading while the process ends."""
        self._closed.set()
        self.wait(CLOSE_S)

    def _is_looking(self) -> bool:
        return self._looking is not None and not self._looking.wait(0)

    def wait(self, seconds: float) -> None:
        """Until it has looked, but no longer than `seconds`."""
        if self._looking is not None:
            self._looking.wait(seconds)

    def take_news(self) -> list[tuple[bool, str]]:
        """What is to be told since the last time: whether it is a warning, and the line."""
        news, self._news = self._news, []
        return news
