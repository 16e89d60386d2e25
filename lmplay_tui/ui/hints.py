"""The first three lines that a new user reads below the dashboard: gone at the first key, and for ever.

That they were read is remembered in the user's state folder, never in a run: another's run would know it as well.
"""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from lmplay_tui.ui.tty.patches import in_background
from lmplay_tui.ui.widgets.lines import Lines, Row, fitted

HINTS = (
    ("?", "lists every key, and explains each sign · 1 to 6 choose a pane, z: it alone"),
    ("s", "saves now · x stops and saves: the command it prints goes on at that step"),
    ("q", "leaves; the run may go on without you · any key puts these lines away"),
)


def remembered() -> Path:
    """The file whose being there says that the hints were read, by the XDG base directories."""
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "lmplay-tui" / "hints-read"


def remember() -> None:
    """Never show them again; where nothing can be written they are shown the next time."""
    with contextlib.suppress(OSError):
        remembered().parent.mkdir(parents=True, exist_ok=True)
        remembered().touch()


class Hints(Lines, can_focus=False):
    """Hidden until it is known that they are new to the user: the disk is looked at in a thread, for it may hang."""

    def __init__(self, changed: Callable[[], None]) -> None:
        """`changed` is called when they take room, or give it back."""
        super().__init__(id="hints")
        self._changed = changed
        self._put_away = False

    def on_mount(self) -> None:
        in_background(self.app, self._look)

    def _look(self) -> Callable[[], None]:
        with contextlib.suppress(OSError, RuntimeError):  # a home that cannot be found
            return (lambda: None) if remembered().exists() else self._appear
        return lambda: None

    def _appear(self) -> None:
        if self.is_attached and not self._put_away:
            self.display = True
            self._changed()

    def put_away(self) -> None:
        """A key was pressed."""
        if self._put_away:
            return
        self._put_away = True
        if self.display:
            self.display = False
            self._changed()
            in_background(self.app, self._remember)

    @staticmethod
    def _remember() -> Callable[[], None]:
        with contextlib.suppress(RuntimeError):
            remember()
        return lambda: None

    def on_resize(self) -> None:
        rows: list[Row] = [
            ((f" {key} ", "key"), (fitted(text, max(self.size.width - 3, 1)), "")) for key, text in HINTS
        ]
        self.show_rows(rows)
