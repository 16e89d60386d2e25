"""The log: what happened, newest at the bottom."""

from datetime import date, datetime, tzinfo
from functools import lru_cache

from lmplay_tui.run.view import LogEntry, RunView
from lmplay_tui.text import one_line
from lmplay_tui.ui.legend import LEVELS
from lmplay_tui.ui.tty.patches import set_titles
from lmplay_tui.ui.widgets.curve_window import matches
from lmplay_tui.ui.widgets.lines import Lines, Row, wrapped

SHOWN = 500  # entries that are laid out; more are in log.txt


class LogPane(Lines):
    """Follows the newest line until the user scrolls up."""

    def __init__(self, *, zone: tzinfo | None = None) -> None:
        super().__init__(id="log", classes="pane")
        set_titles(self, "6 log")
        self._zone = zone
        self._view: RunView | None = None
        self._shown: tuple[object, ...] = ()
        self.pattern = ""  # words that a line must hold

    def on_mount(self) -> None:
        self.anchor()  # at the newest line, until the user scrolls up

    def show(self, view: RunView) -> None:
        self._view = view
        shown = (view, view.log_count, self.room.width, self.pattern)
        if shown == self._shown:
            return
        self._shown = shown
        self.show_rows(self._laid_out(view))
        set_titles(self, subtitle=f"/{one_line(self.pattern)}" if self.pattern else "")

    def filter(self, pattern: str) -> None:
        """Show only the lines that hold these words."""
        self.pattern = pattern
        if self._view is not None:
            self.show(self._view)

    def on_resize(self) -> None:
        if self._view is not None:
            self.show(self._view)

    def _laid_out(self, view: RunView) -> list[Row]:
        room = max(self.room.width - 12, 10)
        entries = [entry for entry in view.log if matches(self.pattern, (entry.text,))] if self.pattern else view.log
        day, rows = datetime.fromtimestamp(view.now()).astimezone(self._zone).date(), list[Row]()
        for entry in list(entries)[-SHOWN:]:
            of_day, lines = _entry_rows(entry, room, self._zone)
            if of_day != day:  # its date stands above the first line of another day
                day = of_day
                rows.append(((f" {day:%A %Y-%m-%d}", "label"),))
            rows += lines
        return rows


@lru_cache(maxsize=2 * SHOWN)
def _entry_rows(entry: LogEntry, room: int, zone: tzinfo | None) -> tuple[date, tuple[Row, ...]]:
    """Its day, and its rows. Remembered: at a new line the others are what they were."""
    sign, style, _ = LEVELS[entry.level]
    at = datetime.fromtimestamp(entry.at).astimezone(zone)
    first, *rest = wrapped(entry.text, room)
    text_style = style if entry.level in ("warning", "error") else ""
    return at.date(), (
        ((f" {at:%H:%M:%S}", "dim"), (f" {sign} ", style), (first, text_style)),
        *(((" " * 12, ""), (line, text_style)) for line in rest),
    )
