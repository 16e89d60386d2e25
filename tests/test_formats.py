"""How numbers and times are written, and where ticks stand."""

import math
import subprocess
import sys
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmplay_tui.errors import UserError
from lmplay_tui.formats import (
    counted,
    format_age,
    format_bytes,
    format_clock,
    format_cost,
    format_count,
    format_duration,
    format_elapsed,
    format_loss,
    format_lr,
    format_megabytes,
    format_memory,
    format_memory_use,
    format_moment,
    format_number,
    format_parameters,
    format_percent,
    format_rate,
    format_rough_duration,
    format_tokens,
    time_zone,
)
from lmplay_tui.scales import grown_end, log_ticks, rounded_range, tick_texts, ticks, time_ticks
from tests.examples import examples

START_S = 1_600_000_000.0  # 12:26:40 UTC


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (format_loss(3.14159), "3.142"),
        (format_loss(math.nan), "–"),
        (format_lr(3.3333e-5), "3.33e-05"),
        (format_percent(0.972), "97 %"),
        (format_percent(0.9724, 1), "97.2 %"),
        (format_rate(874.4), "874"),
        (format_rate(9120), "9.1k"),
        (format_rate(1.2e6), "1.20M"),
        (format_rate(math.nan), "–"),
        (counted(1, "row"), "1 row"),
        (counted(2_000, "row"), "2,000 rows"),
        (counted(0.5, "epoch"), "0.5 epochs"),
        (counted(1_234_567.0, "row"), "1,234,567 rows"),
        (counted(1.0, "epoch"), "1 epoch"),
        (format_count(81_204), "81,204"),
        (format_count(1_234_567), "1.23M"),
        (format_count(math.nan), "–"),
        (format_count(4914, guessed=True), "~4,900"),
        (format_count(3_312_000, guessed=True), "~3.3M"),
        (format_count(149, guessed=True), "~150"),
        (format_count(math.nan, guessed=True), "–"),
        (format_parameters(124.44e6), "124.4 M parameters"),
        (format_number(0.0000341), "3.4e-5"),
        (format_number(0), "0"),
        (format_number(-12_500), "-12.5k"),
        (format_number(math.inf), "–"),
        (format_number(2e13), "2.0e+13"),
        (format_number(-2.5e-300), "-2e-300"),
        (format_bytes(0), "0 B"),
        (format_bytes(1.25e9), "1.2 GB"),
        (format_bytes(124e6), "124 MB"),
        (format_megabytes(1_234_400_000), "1,234 MB"),
        (format_megabytes(1_250_000, 1), "1.2 MB"),
        (format_memory_use(6.9 * 2**30, 16 * 2**30), "6.9 of 16 GiB"),
        (format_cost(2.5, 1800), "1.25"),
    ],
)
def test_figures(written: str, text: str) -> None:
    assert written == text


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (20480, "20 KiB"), (3 * 2**30, "3.0 GiB")]
)
def test_memory_counts_in_powers_of_two(size: float, text: str) -> None:
    assert format_memory(size) == text


@pytest.mark.parametrize(
    ("tokens", "text"),
    [(0.5, "0.5"), (950, "950"), (1000, "1k"), (12_345, "12.3k"), (999_900, "1M"), (2e9, "2B"), (3.4e12, "3.4T")],
)
def test_tokens_in_few_characters(tokens: float, text: str) -> None:
    assert format_tokens(tokens) == text


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_any_number_fits_an_axis(value: float) -> None:
    assert len(format_number(value)) <= 8  # seven and a sign


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.42, "0.4 s"),
        (12.9, "12 s"),
        (185, "3 min 05 s"),
        (12_000, "3 h 20"),
        (187_200, "2 d 4 h"),
        (math.nan, "?"),
        (math.inf, "?"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(42, "42 s"), (180, "3 min"), (7200, "2 h"), (400_000, "5 d"), (1e8, "3 y"), (math.nan, "–")],
)
def test_guessed_durations(seconds: float, text: str) -> None:
    assert format_rough_duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "just now"), (89, "just now"), (300, "5 min ago"), (10_800, "3 h ago"), (200_000, "2 d ago"), (math.nan, "")],
)
def test_ages(seconds: float, text: str) -> None:
    assert format_age(seconds) == text


@pytest.mark.parametrize(
    ("last_s", "parts", "texts"),
    [
        (86_400, 4, ["0 s", "6 h", "12 h", "18 h", "1 d"]),
        (43_200, 6, ["0 s", "2 h", "4 h", "6 h", "8 h", "10 h", "12 h"]),
        (230, 4, ["0 s", "1 min", "2 min", "3 min"]),
        (5 * 86_400, 3, ["0 s", "2 d", "4 d"]),
    ],
)
def test_ticks_of_time_are_round(last_s: float, parts: int, texts: list[str]) -> None:
    assert [text for _, text in tick_texts(time_ticks(0, last_s, parts), format_elapsed, 13)] == texts


@examples(200)
@given(st.floats(0, 1e7).map(lambda first: round(first, 4)), st.floats(1e-3, 1e7), st.integers(2, 12))
def test_no_two_ticks_read_the_same(first: float, span: float, parts: int) -> None:
    for values, form, cells in (
        (time_ticks(first, first + span, parts), format_elapsed, 13),
        (ticks(first, first + span, parts), format_number, 7),
    ):
        texts = [text for _, text in tick_texts(values, form, cells)]
        assert len(set(texts)) == len(texts)
        assert all(len(text) <= cells for text in texts)
        assert all(first <= value <= first + span for value in values)
        assert len(values) <= parts + 2


def test_a_label_that_is_longer_than_its_place_is_left_out() -> None:
    last_s = 115 * 86_400 + 36_001
    assert tick_texts(time_ticks(last_s - 2, last_s, 2), format_elapsed, 13) == [
        (last_s - 2, "115 d 9:59:59"),
        (last_s - 1, "115 d 10 h"),
    ]


def test_ticks_of_a_logarithmic_scale_are_1_2_and_5() -> None:
    assert log_ticks(1.5, 60, 8) == [2, 5, 10, 20, 50]
    assert log_ticks(1e-4, 1e4, 5) == [1e-4, 1e-2, 1, 100, 1e4], "too many for that: each second power"
    assert log_ticks(2.2, 4.6, 5) == [2.5, 3, 3.5, 4, 4.5], "none of them lies there"


def test_an_axis_ends_where_the_data_do() -> None:
    for value in (1, 3, 10, 33, 330, 9_999, 123_456_789):
        assert value <= grown_end(value) <= value * 33 / 32
    assert len({grown_end(value) for value in range(1000, 2000)}) <= 33, "it moves in hops"


def test_an_axis_holds_nothing_that_cannot_be() -> None:
    assert rounded_range(0, 0, (0, 1)) == (0, 1)
    assert rounded_range(1, 1, (0, 1)) == (0.9, 1)
    low, high = rounded_range(0.31, 0.42, (0, 1))
    assert 0.3 <= low <= 0.31 and 0.42 <= high <= 0.43, "the data's range within"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"), (0.5, "0.5 s"), (45, "45 s"), (180, "3 min"), (200, "3 min 20 s"), (7200, "2 h"), (7500, "2 h 05"),
        (7501, "2 h 05:01"), (86_400, "1 d"), (86_700, "24 h 05"), (129_600, "36 h"), (216_000, "2 d 12 h"),
        (216_300, "2 d 12:05"), (math.nan, "?"),
    ],
)  # fmt: skip
def test_seconds_at_an_axis(seconds: float, text: str) -> None:
    assert format_elapsed(seconds) == text


def test_clock_times_say_the_day_where_it_is_another() -> None:
    utc = ZoneInfo("UTC")
    assert format_clock(START_S, 60, utc) == "12:27"
    assert format_clock(START_S, 86_400, utc) == "Mon 12:26"
    assert format_clock(START_S, 7 * 86_400, utc) == "20 Sep 12:26"
    assert format_clock(START_S, math.nan, utc) == "?"
    assert format_clock(START_S, 1e12, utc) == "?"


def test_an_unknown_time_zone_is_the_users_mistake() -> None:
    assert time_zone(None) is None
    assert time_zone("Europe/Berlin") == ZoneInfo("Europe/Berlin")
    with pytest.raises(UserError, match="--tz: unknown time zone 'Mars/Olympus'"):
        time_zone("Mars/Olympus")


def test_ticks_are_round_and_inside() -> None:
    assert ticks(0, 8, 4) == [0, 2, 4, 6, 8]
    assert ticks(0.13, 0.98, 5) == [0.2, 0.4, 0.6, 0.8]
    assert 0.3 in ticks(0, 0.5, 5), "as it is read, not 0.30000000000000004"


@given(st.floats(-1e12, 1e12), st.floats(1e-9, 1e12), st.integers(1, 20))
def test_no_tick_lies_outside_its_axis(low: float, span: float, parts: int) -> None:
    found = ticks(low, low + span, parts)
    assert found == sorted(set(found))
    assert all(low <= tick <= low + span for tick in found)
    assert len(found) <= parts + 2


@pytest.mark.parametrize("last", [1, 3, 9, 10, 13, 24, 70, 999, 1e6])
@pytest.mark.parametrize("parts", [2, 4, 9])
def test_what_is_counted_has_whole_ticks(last: float, parts: int) -> None:
    found = ticks(0, last, parts, whole=True)
    assert found and all(tick == int(tick) for tick in found)
    assert len(found) <= parts + 2


def test_formats_wait_for_nothing_heavy() -> None:
    heavy = ("numpy", "pydantic", "textual")
    code = f"import sys, lmplay_tui.formats, lmplay_tui.scales; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 ms"), (0.00084, "0.8 ms"), (0.00994, "9.9 ms"), (0.00996, "10 ms"), (0.204, "204 ms"),
        (0.9994, "999 ms"), (0.9996, "1.00 s"), (1.254, "1.25 s"), (9.996, "10.0 s"), (99.96, "100.0 s"),
        (1e6, "1000000 s"), (math.nan, "–"), (math.inf, "–"),
    ],
)  # fmt: skip
def test_moments_of_a_step(seconds: float, shown: str) -> None:
    assert format_moment(seconds) == shown
