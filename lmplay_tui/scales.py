"""Ranges and ticks of axes, for panes and plots; where an x lies among the columns of a pane's chart."""

import math
from collections.abc import Callable, Sequence

LABEL_CELLS = 7  # y labels of a pane's chart; the axis follows them


def nice_step(span: float, parts: int) -> float:
    """The step of 1, 2, 2.5 or 5 times a power of ten that cuts `span` into at most about `parts`."""
    if not span > 0 or not math.isfinite(span):
        return 1.0
    rough = span / max(parts, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    for factor in (1, 2, 2.5, 5, 10):
        if factor * power >= rough * 0.999:
            return factor * power
    return 10 * power


def ticks(low: float, high: float, parts: int, *, whole: bool = False) -> list[float]:
    """At most about `parts` round numbers in the range; `whole`: of things that are counted."""
    step = nice_step(high - low, parts)
    if whole and step != int(step):
        step = 5.0 if step > 2 else 1.0
    first = math.ceil(low / step - 1e-9)
    last = min(math.floor(high / step + 1e-9), first + 50)
    # Twelve digits: 0.30000000000000004 is 0.3. A range may end at the one or the other: no tick lies beyond it.
    return sorted({min(max(float(f"{place * step:.12g}"), low), high) for place in range(first, last + 1)})


# Seconds between ticks: whole parts of a minute, an hour, a day.
_TIME_STEPS = tuple(
    unit * part
    for unit, parts in ((1, (1, 2, 5, 10, 15, 30)), (60, (1, 2, 5, 10, 15, 30)), (3600, (1, 2, 3, 6, 12)))
    for part in parts
)


def time_ticks(low: float, high: float, parts: int) -> list[float]:
    """Seconds at round minutes, hours or days, at most about `parts`."""
    rough = (high - low) / max(parts, 1)
    if rough <= 1:
        return ticks(low, high, parts)
    step = next((step for step in _TIME_STEPS if step >= rough * 0.95), None)
    if step is None:
        day = 86_400.0
        return [day * tick for tick in ticks(low / day, high / day, parts, whole=True)]
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [min(max(float(step * place), low), high) for place in range(first, last + 1)]


def log_ticks(low: float, high: float, parts: int) -> list[float]:
    """1, 2 and 5 of each power of ten in the range, at most about `parts`.

    The powers alone, or each n-th, where these would crowd; round numbers where the range holds fewer than two of them.
    """
    exponents = range(math.floor(math.log10(low)), min(math.ceil(math.log10(high)), 307) + 1)
    fine, coarse = (
        [value for exponent in exponents for first in firsts if low <= (value := first * 10.0**exponent) <= high]
        for firsts in ((1, 2, 5), (1,))
    )
    if len(fine) < 2:
        return ticks(low, high, parts)
    return fine if len(fine) <= parts + 1 else coarse[:: math.ceil(len(coarse) / max(parts, 1))]


def tick_texts(values: Sequence[float], form: Callable[[float], str], cells: int) -> list[tuple[float, str]]:
    """The ticks with their labels of at most `cells`; more figures where two would read the same, else one of them.

    One that cannot be said so shortly is left out: `115 d 10:00:01`.
    """
    texts = [form(value) for value in values]
    for digits in range(4, 10):
        if len(set(texts)) == len(texts):
            break
        texts = [f"{value:.{digits}g}" for value in values]
    first: dict[str, float] = {}
    for value, text in zip(values, texts, strict=True):
        first.setdefault(text if len(text) <= cells else form(value), value)
    return [(value, text) for text, value in first.items() if len(text) <= cells]


def grown_end(value: float) -> float:
    """A little above `value`, by at most a thirty-second part: an axis ends where the data do, and seldom moves."""
    if value <= 1 or not math.isfinite(value):
        return 1.0
    hop = 2.0 ** math.floor(math.log2(value)) / 32
    return math.ceil(value / hop - 1e-9) * hop


def rounded_range(low: float, high: float, bounds: tuple[float, float] = (-math.inf, math.inf)) -> tuple[float, float]:
    """A range around the values whose ends seldom move. `bounds`: what no value can be beyond, nor is the range."""
    if high - low < 1e-12 * max(abs(low), abs(high), 1e-300):
        pad = abs(high) * 0.1 or 1.0
        low, high = low - pad, high + pad
    else:
        step = nice_step(high - low, 10)
        low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    return max(low, bounds[0]), min(high, bounds[1])


def column_of(x: float, x_range: tuple[float, float], canvas_width: int) -> int | None:
    """The canvas column of an x; None outside."""
    first, last = x_range
    if not first <= x <= last or last <= first:
        return None
    return min(round((x - first) / (last - first) * (canvas_width - 1)), canvas_width - 1)


def x_of(column: int, x_range: tuple[float, float], canvas_width: int) -> float:
    """The x of a canvas column."""
    first, last = x_range
    return first + min(max(column, 0), canvas_width - 1) / max(canvas_width - 1, 1) * (last - first)
