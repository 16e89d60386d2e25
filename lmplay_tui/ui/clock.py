"""Clock times, in the time zone that was asked for."""

import math
from datetime import datetime, tzinfo
from zoneinfo import ZoneInfo

from lmplay_tui.errors import UserError
from lmplay_tui.text import one_line


def time_zone(name: str | None) -> tzinfo | None:
    """The zone called so; None: the machine's own. `UserError` for one that is not known."""
    if name is None:
        return None
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        shown = one_line(repr(name), 60)
        raise UserError(f"--tz: unknown time zone {shown}; for example Europe/Berlin or UTC") from None


def clock_time(now_s: float, in_s: float, zone: tzinfo | None) -> str:
    """The clock time in so many seconds, with the day where it is another: `18:42`, `Tue 18:42`."""
    if not math.isfinite(in_s) or in_s > 10 * 365 * 86400:
        return "?"
    now = datetime.fromtimestamp(now_s).astimezone(zone)
    then = datetime.fromtimestamp(now_s + in_s).astimezone(zone)
    if then.date() == now.date():
        return f"{then:%H:%M}"
    return f"{then:%a %H:%M}" if in_s < 6 * 86400 else f"{then:%d %b %H:%M}"
