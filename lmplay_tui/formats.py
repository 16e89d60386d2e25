"""How numbers, sizes, durations and clock times are written, on every screen, in every log line and plot.

What is not known (NaN) is written as `–` in a column of figures and as `?` in a sentence.
"""

import math
from datetime import datetime, tzinfo
from zoneinfo import ZoneInfo

from lmplay_tui.errors import UserError
from lmplay_tui.text import one_line

MINUTE_S, HOUR_S, DAY_S, YEAR_S = 60, 3600, 86_400, 31_536_000

# ---- figures


def format_loss(loss: float) -> str:
    """Nats a token: `3.142`."""
    return f"{loss:.3f}" if math.isfinite(loss) else "–"


def format_lr(lr: float) -> str:
    """A learning rate: `0.0006`, `3.33e-05`."""
    return f"{lr:.3g}"


def format_percent(share: float, digits: int = 0) -> str:
    """A share of one in per cent: `97 %`, and `97.2 %` with one digit."""
    return f"{share:.{digits}%}".replace("%", " %")


def format_rate(per_s: float) -> str:
    """Tokens a second: `874`, `9.1k`, `1.20M`."""
    if not math.isfinite(per_s):
        return "–"
    if per_s >= 1e6:
        return f"{per_s / 1e6:.2f}M"
    return f"{per_s / 1e3:.1f}k" if per_s >= 1e3 else f"{per_s:.0f}"


def format_count(count: float, *, guessed: bool = False) -> str:
    """What is counted one by one, in at most seven characters: `81,204`, `1.23M`; a guess in two figures: `~3.3M`."""
    if not math.isfinite(count):
        return "–"
    if guessed:
        rounded = float(f"{count:.2g}")
        return f"~{rounded / 1e6:g}M" if rounded >= 1e6 else f"~{rounded:,.0f}"
    for scale, unit in ((1e9, "B"), (1e6, "M")):
        if count >= scale:
            return f"{count / scale:.2f}{unit}"
    return f"{count:,.0f}"


def counted(count: float, noun: str) -> str:
    """`1 row`, `2,000 rows`, `0.5 epochs`."""
    return (f"{count:,.0f}" if count % 1 == 0 else f"{count:g}") + f" {noun}" + ("" if count == 1 else "s")


def format_parameters(num_parameters: float) -> str:
    """The size of a model: `124.4 M parameters`."""
    return f"{num_parameters / 1e6:.1f} M parameters"


def format_number(value: float) -> str:
    """A value at an axis or in a legend, in seven characters, eight with a sign: `3.4e-5`, `2.719`, `12.5k`."""
    if not math.isfinite(value):
        return "–"
    size = abs(value)
    if size == 0:
        return "0"
    for scale, unit in ((1e9, "B"), (1e6, "M"), (1e4, "k")):
        if size >= scale:
            number = value / (scale if unit != "k" else 1e3)
            if abs(number) < 1e4:
                return f"{number:.4g}{unit}"
            break
    if 1e-3 <= size < 1e4:
        return f"{value:.3g}" if size < 1 else f"{value:.4g}"
    text = f"{value:.1e}".replace("e-0", "e-")
    return text if len(text) <= 7 else f"{value:.0e}"


def format_tokens(count: float) -> str:
    """Tokens at a plot's axis, which has less room than a pane's: `950`, `1.5k`, `12k`, `1.2M`, `3.4B`."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= 0.9995 * size:  # 999.6 would be 1e+03 in three figures
            return f"{count / size:.3g}{unit}"
    return f"{count:.3g}"


def format_bytes(size: float) -> str:
    """Bytes on a disk or a line, in powers of ten: `124 MB`."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            value = size / scale
            return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"
    return f"{size:.0f} B"


def format_megabytes(size: float, digits: int = 0) -> str:
    """Bytes that grow, or are compared, and so keep one unit: `1,234 MB`."""
    return f"{size / 1e6:,.{digits}f} MB"


def format_memory(size: float) -> str:
    """Bytes of memory, in powers of two as its makers count: `20 KiB`, `3.0 GiB`."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if size >= 10 or unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def format_memory_use(used: float, total: float) -> str:
    """How much of a memory is in use: `6.9 of 16 GiB`."""
    return f"{used / 2**30:.1f} of {total / 2**30:.0f} GiB"


def format_cost(price_per_hour: float, seconds: float) -> str:
    """What so many seconds cost, in the price's own currency: `0.42`."""
    return f"{price_per_hour * seconds / HOUR_S:.2f}"


# ---- times


def format_duration(seconds: float) -> str:
    """A duration as a sentence says it: `0.4 s`, `12 s`, `3 min 05 s`, `3 h 20`, `2 d 4 h`."""
    if not math.isfinite(seconds):
        return "?"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    if whole < MINUTE_S:
        return f"{whole} s"
    if whole < HOUR_S:
        return f"{whole // MINUTE_S} min {whole % MINUTE_S:02d} s"
    if whole < 2 * DAY_S:
        return f"{whole // HOUR_S} h {whole % HOUR_S // MINUTE_S:02d}"
    return f"{whole // DAY_S} d {whole % DAY_S // HOUR_S} h"


def format_moment(seconds: float) -> str:
    """A duration that a step has many of, in at most seven characters: `0.8 ms`, `204 ms`, `1.25 s`, `12.5 s`."""
    if not math.isfinite(seconds):
        return "–"
    if seconds < 0.9995:
        return f"{1000 * seconds:.1f} ms" if 0 < seconds < 0.00995 else f"{1000 * seconds:.0f} ms"
    return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s" if seconds < 999 else f"{seconds:.0f} s"


def format_rough_duration(seconds: float) -> str:
    """A duration that is only guessed, in one unit: `40 s`, `3 min`, `11 h`, `5 d`, `3 y`."""
    if not math.isfinite(seconds):
        return "–"
    for limit, scale, unit in ((90, 1, "s"), (90 * MINUTE_S, MINUTE_S, "min"), (2 * DAY_S, HOUR_S, "h")):
        if seconds < limit:
            return f"{seconds / scale:.0f} {unit}"
    return f"{seconds / DAY_S:.0f} d" if seconds < 2 * YEAR_S else f"{seconds / YEAR_S:.0f} y"


def format_age(seconds: float) -> str:
    """How long ago: `just now`, `5 min ago`, `3 h ago`, `2 d ago`; nothing where that is not known."""
    if not math.isfinite(seconds):
        return ""
    return "just now" if seconds < 90 else f"{format_rough_duration(seconds)} ago"


def format_elapsed(seconds: float) -> str:
    """Seconds of training at an axis, to the second: `45 s`, `3 min`, `3 min 20 s`, `2 h`, `2 h 05`, `2 d 6 h`."""
    if not math.isfinite(seconds):
        return "?"
    if seconds < 10 and seconds != int(seconds):
        return f"{seconds:.1f} s"
    minutes, rest_s = divmod(int(seconds), MINUTE_S)
    hours, minutes_of = divmod(minutes, 60)
    days, hours_of = divmod(hours, 24)
    if not hours:
        parts = [f"{minutes} min" if minutes else "", f"{rest_s} s" if rest_s or not minutes else ""]
    elif hours < 48 and (hours != 24 or minutes_of or rest_s):
        parts = [f"{hours} h", f"{minutes_of:02d}" if minutes_of or rest_s else ""]
    else:
        small = minutes_of or rest_s
        parts = [f"{days} d", f"{hours_of}:{minutes_of:02d}" if small else f"{hours_of} h" if hours_of else ""]
    return " ".join(filter(None, parts)) + (f":{rest_s:02d}" if hours and rest_s else "")


def time_zone(name: str | None) -> tzinfo | None:
    """The zone of that name; None: the machine's own. Raises `UserError` for one that is not known."""
    if name is None:
        return None
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        shown = one_line(repr(name), 60)
        raise UserError(f"--tz: unknown time zone {shown}; for example Europe/Berlin or UTC") from None


def format_clock(now_s: float, in_s: float, zone: tzinfo | None) -> str:
    """The clock time in so many seconds, with the day where it is another: `18:42`, `Tue 18:42`, `03 Dec 18:42`."""
    if not math.isfinite(in_s) or in_s > 10 * YEAR_S:
        return "?"
    now = datetime.fromtimestamp(now_s).astimezone(zone)
    then = datetime.fromtimestamp(now_s + in_s).astimezone(zone)
    if then.date() == now.date():
        return f"{then:%H:%M}"
    return f"{then:%a %H:%M}" if in_s < 6 * DAY_S else f"{then:%d %b %H:%M}"
