"""What stands at a chart's axes: ranges, ticks, numbers and times in few characters, columns of cells."""

import math

LABEL_CELLS = 7  # y labels; the axis follows them


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
    """At most about `parts` round numbers from `low` to `high`; `whole`: of things that are counted."""
    step = nice_step(high - low, parts)
    if whole and step != int(step):
        step = 5.0 if step > 2 else 1.0
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [i * step for i in range(first, min(last, first + 50) + 1)]


def short_number(value: float) -> str:
    """A number in at most seven characters."""
    if not math.isfinite(value):
        return "–"
    size = abs(value)
    if size == 0:
        return "0"
    for scale, unit in ((1e9, "B"), (1e6, "M"), (1e4, "k")):
        if size >= scale:
            number = value / (scale if unit != "k" else 1e3)
            return f"{number:.4g}{unit}" if abs(number) < 1e4 else f"{number:.1e}"
    if size >= 1e-3:
        return f"{value:.3g}" if abs(value) < 1 else f"{value:.4g}"
    return f"{value:.1e}".replace("e-0", "e-")


def short_time(seconds: float) -> str:
    """Seconds of training as an axis says them: `45s`, `3m20`, `2h05`."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}" if whole % 60 else f"{whole // 60}m"
    if whole < 48 * 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}" if whole % 3600 >= 60 else f"{whole // 3600}h"
    return f"{whole / 86400:.3g}d"


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
