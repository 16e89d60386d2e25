"""The time zone of the clock times that are shown."""

from datetime import tzinfo
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
