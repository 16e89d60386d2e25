"""Ranges and ticks of axes, for panes and plots; where an x lies among the columns of a pane's chart."""

import math

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


def log_ticks(low: float, high: float, parts: int) -> list[float]:
    """1, 2 and 5 of each power of ten in the range; the powers alone, or each n-th, where these would crowd."""
    decades = math.log10(high / low)
    firsts = (1, 2, 5) if 3 * decades <= parts + 1 else (1,)
    stride = max(1, math.ceil(decades / parts))
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1, stride)
    return [first * 10.0**power for power in powers for first in firsts if low <= first * 10.0**power <= high]


def rounded_up(value: float) -> float:
    """A little above `value`, at few places: the axis seldom moves while a run grows."""
    if value <= 0 or not math.isfinite(value):
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    for factor in (1, 1.25, 1.6, 2, 2.5, 3.2, 4, 5, 6.4, 8, 10):
        if value <= factor * power * (1 + 1e-9):
            return float(factor * power)
    return 10 * power


def rounded_range(low: float, high: float) -> tuple[float, float]:
    """A range around the values whose ends seldom move."""
    if high - low < 1e-12 * max(abs(low), abs(high), 1e-300):
        pad = abs(high) * 0.1 or 1.0
        return low - pad, high + pad
    step = nice_step(high - low, 10)
    return math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step


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
