"""The first batches of a stage, looked at before it is trained: they say what training will count."""

import math
from collections import Counter

import pytest

from lmplay_tui.data.batches import Position
from lmplay_tui.data.preview import Look, look_at
from lmplay_tui.errors import UserError
from tests.data.conftest import Open
from tests.data.test_stage_data import Jsonl

LONG = "The mill stood by the river. Nobody had used it for years! " * 30
ROWS = {
    "long": [{"text": LONG if number % 3 else ""} for number in range(12)],
    "short": [{"text": f"Row {number}."} for number in range(30)],
}


@pytest.mark.parametrize("continue_rows", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("names", [["long"], ["short"], ["long", "short"]])
def test_a_whole_preview_counts_what_the_batches_do(
    opened: Open, jsonl: Jsonl, names: list[str], shuffle: bool, continue_rows: bool
) -> None:
    specs = [jsonl(list(ROWS[name]), name) for name in names]
    data = opened(*specs, epochs=2.5, stopping="all_exhausted", shuffle=shuffle, continue_rows=continue_rows)
    found, batches = data.preview(10**6), list(data.reading(Position()))
    assert found.rows == data.rows_total == sum(part.rows for part in found.parts)
    assert [s.truth for s in found.samples] == [s.truth for batch in batches for s in batch.samples]
    counted = Counter[str]()
    for batch in batches:
        counted["read"] += batch.chars_read
        counted["shown"] += batch.chars_shown
        counted["without"] += batch.rows_without_sample
    assert counted["read"] == sum(part.chars_read for part in found.parts)
    assert counted["shown"] == sum(part.chars_shown for part in found.parts)
    assert counted["without"] == sum(part.rows_without_sample for part in found.parts)


def test_the_text_left_out_is_told_apart_by_dataset(opened: Open, jsonl: Jsonl) -> None:
    data = opened(jsonl(list(ROWS["long"]), "long"), jsonl(list(ROWS["short"]), "short"), batch_size=8)
    long, short = data.preview(10**6).parts
    assert short.rows > 0
    assert 0 < short.chars_read <= 30 * len("Row 10.")
    assert long.chars_read == (long.rows - long.rows_without_sample) * len(LONG)
    assert long.text_shown < 0.5 < short.text_shown
    assert (long.rows_without_sample > 0, short.rows_without_sample) == (True, 0)


def test_a_preview_is_bounded_where_rows_hold_no_words(opened: Open, jsonl: Jsonl) -> None:
    data = opened(jsonl([{"text": "Words."}, *[{"text": ""}] * 200]), validation_split=0.0)
    assert [data.preview(20, seconds, most_rows=40).rows for seconds in (math.inf, 0.0)] == [40, 40]
    assert data.preview(20, most_rows=40).parts[0].rows_without_sample == 39


def test_a_preview_ends_by_steps_and_by_time(opened: Open, jsonl: Jsonl) -> None:
    data = opened(jsonl([{"text": f"Row {number}."} for number in range(50)]), batch_size=2)
    assert data.preview(3).steps == 3
    assert data.preview(10, most_seconds=-1.0).steps == 1


def test_long_rows_are_not_looked_at_for_long(opened: Open, jsonl: Jsonl) -> None:
    data = opened(jsonl(list(ROWS["long"])), validation_split=0.0)
    assert look_at(data.parts[0]) == Look(12, 4)
    assert look_at(data.parts[0], most_chars=len(LONG)) == Look(2, 1)


def test_a_dataset_whose_only_words_are_held_out_is_refused(opened: Open, jsonl: Jsonl) -> None:
    refused = 0
    for place in range(20):
        rows: list[dict[str, object]] = [{"text": "Words." if number == place else ""} for number in range(20)]
        try:
            opened(jsonl(rows, f"words{place}"), validation_split=0.3)
        except UserError as error:
            refused += 1
            assert f"dataset words{place}: none of its " in str(error)
    assert 0 < refused < 20
