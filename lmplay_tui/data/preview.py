"""What the first batches of a stage give, looked at before anything is trained: what estimates are made from."""

import time
from dataclasses import dataclass, field

from lmplay_tui.data.batches import Position, read_batch
from lmplay_tui.data.order import StagePart, TrainingOrder
from lmplay_tui.data.samples import Cutter, Item, Sample

MOST_ROWS = 20_000  # that are read; where most hold no words, a batch would read them all
LOOKED_AT = 1000  # rows of each dataset, when it is opened
LOOKED_AT_CHARS = 8_000_000  # of their texts: long rows are not looked at for long


@dataclass(frozen=True)
class Look:
    """How many of a dataset's first rows to train on were looked at, and how many of these hold no words."""

    rows: int
    rows_without_sample: int


def look_at(part: StagePart, most_chars: int = LOOKED_AT_CHARS) -> Look:
    """Look at the first rows that a dataset gives to train on, up to `most_chars` of their texts.

    Raises `DataError` where one cannot be read.
    """
    rows = without = chars = 0
    while rows < min(LOOKED_AT, part.training_rows) and chars < most_chars:
        items = part.training(rows)
        rows += 1
        without += not items
        chars += sum(len(item.truth) for item in items)
    return Look(rows, without)


@dataclass
class PartPreview:
    """What was read of one dataset of the stage."""

    rows: int = 0
    rows_without_sample: int = 0
    chars_read: int = 0  # of the texts of these rows
    chars_shown: int = 0  # of those, what reached a sample

    @property
    def text_shown(self) -> float:
        """Share of the characters read that reached a sample."""
        return self.chars_shown / self.chars_read if self.chars_read else 1.0


@dataclass
class Preview:
    """The first batches of a stage. `steps`: those of them that hold samples. `parts`: by dataset, in their order."""

    parts: list[PartPreview]
    samples: list[Sample] = field(default_factory=list)
    rows: int = 0
    steps: int = 0

    @property
    def text_shown(self) -> float:
        """Share of the characters read that reached a sample, over all datasets."""
        read = sum(part.chars_read for part in self.parts)
        return sum(part.chars_shown for part in self.parts) / read if read else 1.0


def preview(
    order: TrainingOrder, cutter: Cutter, num_parts: int, *, batch_size: int, continue_rows: bool, most_steps: int,
    most_seconds: float, most_rows: int = MOST_ROWS,
) -> Preview:  # fmt: skip
    """Cut the stage's first batches, as training will, until there are `most_steps` or the time is over.

    At least one is cut. Raises `DataError` where a row cannot be read.
    """
    found = Preview([PartPreview() for _ in range(num_parts)])
    rows, until = _FirstRows(order, most_rows), time.monotonic() + most_seconds
    position = Position()
    while position.row < rows.rows_total and found.steps < most_steps:
        batch = read_batch(rows, cutter, position, batch_size=batch_size, continue_rows=continue_rows)
        epoch_begin = position.row - position.row % rows.rows_per_epoch
        for sample in batch.samples:
            rows.shown[epoch_begin + sample.row] += len(sample.truth)
        position = batch.position_after
        rows.book(position, found.parts)
        found.samples += batch.samples
        found.rows += batch.rows_read
        found.steps += bool(batch.samples)
        if time.monotonic() > until:
            break
    return found


class _FirstRows:
    """The first rows of a stage; remembers of each that is being read how much text it holds."""

    def __init__(self, order: TrainingOrder, most: int) -> None:
        self._order = order
        self.rows_per_epoch = order.rows_per_epoch
        self.rows_total = min(order.rows_total, most)
        self.shown: dict[int, int] = {}  # characters, by row
        self._held: dict[int, int] = {}

    def items(self, row: int) -> list[Item]:
        items = self._order.items(row)
        self._held[row] = sum(len(item.truth) for item in items)
        self.shown.setdefault(row, 0)
        return items

    def book(self, position: Position, parts: list[PartPreview]) -> None:
        """Count the rows before `position`, which are read; one that goes on in the next batch is not yet."""
        for row in [row for row in self._held if row < position.row]:
            part, held = parts[self._order.part_of(row)], self._held.pop(row)
            part.rows += 1
            part.rows_without_sample += not held
            part.chars_read += held
            part.chars_shown += self.shown.pop(row)
