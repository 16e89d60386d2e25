"""Rows become batches: one optimizer step's samples, and the position where the next batch starts."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from lmplay_tui.data.samples import Cutter, Item, Sample


@dataclass(frozen=True, order=True)
class Position:
    """Where a batch starts within a stage."""

    row: int = 0  # rows of the stage fully read, over all epochs
    item: int = 0  # with continue_rows: texts of that row already shown
    char: int = 0  # with continue_rows: characters of that text already shown


@dataclass(frozen=True)
class Batch:
    """One step's samples; none where the rows read hold no words. `epoch` and `row_in_epoch` are of the next batch."""

    samples: tuple[Sample, ...]
    rows_read: int
    position_after: Position
    epoch: int
    row_in_epoch: int
    chars_read: int  # of the texts that the rows read hold, without those of white space alone
    chars_shown: int  # of those, what reached a sample
    rows_without_sample: int = 0  # of the rows read: those that hold no words

    def digest(self) -> str:
        """SHA-256 (hex) over token numbers and lengths: equal batches have equal digests."""
        digest = hashlib.sha256()
        for sample in self.samples:
            digest.update(f"{len(sample.prompt_ids)} {len(sample.truth_ids)};".encode())
            digest.update(sample.prompt_ids.tobytes() + sample.truth_ids.tobytes())
        return digest.hexdigest()


class StageRows(Protocol):
    """The rows of a stage in reading order, over all epochs; a row's texts are those with words."""

    @property
    def rows_per_epoch(self) -> int: ...
    @property
    def rows_total(self) -> int: ...
    def items(self, row: int) -> list[Item]: ...


def batches(
    rows: StageRows, cutter: Cutter, start: Position, *, batch_size: int, continue_rows: bool
) -> Iterator[Batch]:
    """The batches from `start` to the stage's end: a pure function of its arguments."""
    position = start
    while position.row < rows.rows_total:
        batch = read_batch(rows, cutter, position, batch_size=batch_size, continue_rows=continue_rows)
        position = batch.position_after
        yield batch


def read_batch(rows: StageRows, cutter: Cutter, start: Position, *, batch_size: int, continue_rows: bool) -> Batch:
    """The batch that starts at `start`. It ends with its epoch, however short.

    When it is full the rest of its last row is left out, or kept for the next batch with `continue_rows`.
    """
    epoch_end = min(rows.rows_total, (start.row // rows.rows_per_epoch + 1) * rows.rows_per_epoch)
    samples: list[Sample] = []
    chars_read = chars_shown = rows_without_sample = 0
    position = start
    while position.row < epoch_end and len(samples) < batch_size:
        items = rows.items(position.row)
        reading = _read_row(items, cutter, position, position.row % rows.rows_per_epoch)
        left = _chars_left(items, position)
        after = position
        for sample, after in reading:  # noqa: B007 - read after the loop
            samples.append(sample)
            if len(samples) == batch_size:
                break
        shown = left - _chars_left(items, after)
        kept = continue_rows and after.item < len(items)
        position = after if kept else Position(position.row + 1)
        rows_without_sample += not items
        chars_shown += shown
        chars_read += shown if kept else left
    return Batch(
        samples=tuple(samples),
        rows_read=position.row - start.row,
        position_after=position,
        epoch=position.row // rows.rows_per_epoch,
        row_in_epoch=position.row % rows.rows_per_epoch,
        chars_read=chars_read,
        chars_shown=chars_shown,
        rows_without_sample=rows_without_sample,
    )


def _read_row(items: list[Item], cutter: Cutter, start: Position, row: int) -> Iterator[tuple[Sample, Position]]:
    """The samples of a row from `start` on, each with the position after it (`item` may be past the last)."""
    char = start.char
    for number in range(start.item, len(items)):
        for sample, end in cutter.samples(items[number], row, char):
            finished = end >= len(items[number].truth)
            yield sample, Position(start.row, number + 1) if finished else Position(start.row, number, end)
        char = 0


def _chars_left(items: list[Item], position: Position) -> int:
    return sum(len(item.truth) for item in items[position.item :]) - position.char
