"""Rows into batches: what each holds, where it ends, and that every one is found again from its position alone."""

import math
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmplay_tui.data.batches import Batch, Position, batches, read_batch
from lmplay_tui.data.samples import Cutter, Item, Sample
from lmplay_tui.data.tokenizer import load_tokenizer
from tests.data.strategies import SHORT
from tests.examples import examples

CUTTER = Cutter(load_tokenizer("bytes"), 24)


@dataclass
class Listed:
    """A stage over rows that a test made up; it counts how often it is read."""

    rows: list[list[Item]]
    epochs: float = 1.0
    reads: int = 0

    @property
    def rows_per_epoch(self) -> int:
        return len(self.rows)

    @property
    def rows_total(self) -> int:
        return math.ceil(self.epochs * len(self.rows))

    def items(self, row: int) -> list[Item]:
        self.reads += 1
        return self.rows[row % len(self.rows)]


ITEMS = st.builds(Item, st.sampled_from(["", "Title: a\n", "What?"]), SHORT.filter(str.strip), st.booleans())
ROWS = st.lists(st.lists(ITEMS, max_size=3), min_size=1, max_size=7)
EPOCHS = st.sampled_from([0.3, 1.0, 1.5, 2.0, 2.7])
SIZES = st.integers(1, 9)


def cuts(items: list[Item]) -> list[Sample]:
    return [sample for item in items for sample, _ in CUTTER.samples(item, 0)]


def shown(samples: list[Sample]) -> list[tuple[str, str, list[int], list[int]]]:
    return [(s.prompt, s.truth, s.prompt_ids.tolist(), s.truth_ids.tolist()) for s in samples]


def read(stage: Listed, size: int, continue_rows: bool, start: Position | None = None) -> list[Batch]:
    return list(batches(stage, CUTTER, start or Position(), batch_size=size, continue_rows=continue_rows))


@examples(50)
@given(ROWS, EPOCHS, SIZES)
def test_rows_come_in_order_and_never_continue_in_another_batch(
    rows: list[list[Item]], epochs: float, size: int
) -> None:
    stage = Listed(rows, epochs)
    row = 0
    for batch in read(stage, size, False):
        assert batch.position_after == Position(row + batch.rows_read)
        expected: list[Sample] = []
        for number in range(row, row + batch.rows_read):
            room = size - len(expected)
            assert room > 0  # a full batch reads no further row
            expected += cuts(stage.items(number))[:room]
        assert shown(list(batch.samples)) == shown(expected)
        numbers = [sample.row for sample in batch.samples]
        assert numbers == sorted(numbers)
        assert set(numbers) <= {n % len(rows) for n in range(row, row + batch.rows_read)}
        row += batch.rows_read
    assert row == stage.rows_total


@examples(50)
@given(ROWS, EPOCHS, SIZES)
def test_continued_rows_lose_nothing(rows: list[list[Item]], epochs: float, size: int) -> None:
    stage = Listed(rows, epochs)
    found = read(stage, size, True)
    expected = [sample for row in range(stage.rows_total) for sample in cuts(stage.items(row))]
    assert shown([sample for batch in found for sample in batch.samples]) == shown(expected)
    assert sum(batch.rows_read for batch in found) == stage.rows_total
    assert all(batch.chars_read == batch.chars_shown for batch in found)


@examples(50)
@given(ROWS, EPOCHS, SIZES, st.booleans())
def test_every_batch_is_found_again_from_its_position(
    rows: list[list[Item]], epochs: float, size: int, continue_rows: bool
) -> None:
    found = read(Listed(rows, epochs), size, continue_rows)
    for batch, following in pairwise(found):
        again = next(batches(Listed(rows, epochs), CUTTER, batch.position_after, batch_size=size,
                             continue_rows=continue_rows))  # fmt: skip
        assert again.digest() == following.digest()
        assert (again.position_after, again.chars_read) == (following.position_after, following.chars_read)
        assert shown(list(again.samples)) == shown(list(following.samples))


@examples(40)
@given(ROWS, EPOCHS, SIZES, st.booleans())
def test_epochs_and_the_stage_end_where_they_should(
    rows: list[list[Item]], epochs: float, size: int, continue_rows: bool
) -> None:
    """No batch holds rows of two epochs; only an epoch's last one is short; the stage ends with its last row."""
    stage = Listed(rows, epochs)
    found = read(stage, size, continue_rows)
    starts = [Position(), *(batch.position_after for batch in found)]
    for (before, after), batch in zip(pairwise(starts), found, strict=True):
        assert after > before
        assert len(batch.samples) <= size
        epoch_end = (before.row // len(rows) + 1) * len(rows)
        assert after <= Position(epoch_end)
        if len(batch.samples) < size:
            assert after == Position(min(epoch_end, stage.rows_total))
        assert (batch.epoch, batch.row_in_epoch) == divmod(after.row, len(rows))
    assert starts[-1] == Position(stage.rows_total)
    assert read(stage, size, continue_rows, starts[-1]) == []


@examples(40)
@given(ROWS, SIZES)
def test_characters_are_counted(rows: list[list[Item]], size: int) -> None:
    found = read(Listed(rows), size, False)
    assert sum(batch.chars_read for batch in found) == sum(len(item.truth) for items in rows for item in items)
    for batch in found:
        assert batch.chars_shown == sum(len(sample.truth) for sample in batch.samples)


def test_the_rest_of_a_row_is_left_out_or_kept() -> None:
    text = "One two. " * 30
    stage = Listed([[Item("", text)], [Item("", "End.")]])
    dropped = read_batch(stage, CUTTER, Position(), batch_size=2, continue_rows=False)
    assert (dropped.rows_read, dropped.position_after) == (1, Position(1))
    assert dropped.chars_shown < dropped.chars_read == len(text)
    kept = read_batch(stage, CUTTER, Position(), batch_size=2, continue_rows=True)
    assert (kept.rows_read, kept.position_after) == (0, Position(0, 0, kept.chars_shown))
    assert kept.digest() == dropped.digest()
    after = read_batch(stage, CUTTER, kept.position_after, batch_size=2, continue_rows=True)
    assert after.samples[0].prompt == "...One two."
    assert (kept.samples[-1].truth + after.samples[0].truth) in text


def test_a_position_holds_the_turn_of_a_conversation() -> None:
    stage = Listed([[Item("Hi\n", "Hello."), Item("Hi\nHello.\nHow?\n", "Well.")]])
    first, second = read(stage, 1, True)
    assert first.position_after == Position(0, 1, 0)
    assert second.position_after == Position(1)
    (only,) = read(stage, 1, False)
    assert (only.position_after, only.chars_read, only.chars_shown) == (Position(1), 11, 6)


def test_a_text_cut_by_a_batch_is_followed_by_the_next_from_its_start() -> None:
    items = [Item("", "One two. " * 9), Item("", "Three four. " * 9)]
    found = [sample.truth for batch in read(Listed([items]), 1, True) for sample in batch.samples]
    assert "".join(found) == "One two. " * 9 + "Three four. " * 9


def test_rows_without_words_are_read_and_counted() -> None:
    stage = Listed([[], [], []], epochs=2.0)
    found = read(stage, 4, False)
    assert [(batch.samples, batch.rows_read) for batch in found] == [((), 3), ((), 3)]


@pytest.mark.parametrize("row", [0, 1, 77_777_777, 99_999_990])
def test_a_position_in_a_hundred_million_rows_is_found_at_once(row: int) -> None:
    class Endless(Listed):
        rows_per_epoch = 100_000_000
        rows_total = 250_000_000

    stage = Endless([[Item("", f"Row {number}.")] for number in range(10)])
    batch = read_batch(stage, CUTTER, Position(row), batch_size=4, continue_rows=False)
    assert [sample.truth for sample in batch.samples] == [f"Row {(row + n) % 10}." for n in range(4)]
    assert stage.reads == 4


def test_a_digest_tells_batches_apart() -> None:
    one, same, other = (
        read(Listed([[Item(*texts)]]), 1, False)[0] for texts in (("a", "bc"), ("a", "bc"), ("ab", "c"))
    )
    assert one.digest() == same.digest() != other.digest()
