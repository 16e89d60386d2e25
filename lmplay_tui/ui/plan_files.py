"""A plan's file, looked at some times a second: has another hand changed it?"""

from functools import partial
from pathlib import Path
from typing import Literal

from lmplay_tui.ui.background import Asked

_Stamp = tuple[int, int]
_Seen = tuple[_Stamp, str] | Literal[False]  # another stamp and the text; False: it is as it was, or not there


def _read(path: Path, known: _Stamp | None) -> _Seen:
    """In a thread: what the file holds, where it is not as it was."""
    try:
        status = path.stat()
        stamp = (status.st_mtime_ns, status.st_size)
        return stamp != known and (stamp, path.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return False


class PlanFile:
    """What a file holds, read only when it has changed."""

    def __init__(self) -> None:
        self.path: Path | None = None
        self.text: str | None = None  # as last read; None while it could not be
        self._stamp: _Stamp | None = None
        self._looks = 0  # since it last changed
        self._is_news = False
        self._asked: Asked[_Seen] | None = None

    def look(self, path: Path | None) -> None:
        """Read the file at `path` if it is another one, or has changed since the last look; beside the screen."""
        if path != self.path:
            self.path, self.text, self._stamp, self._is_news, self._asked = path, None, None, False, None
        if path is None:
            return
        self._asked = self._asked or Asked(partial(_read, path, self._stamp))
        seen = self._asked.answer()
        if seen is None:
            return
        self._asked = None
        self._looks += 1
        if seen:
            stamp, text = seen
            self._is_news = self._stamp is not None and text != self.text
            self.text, self._stamp, self._looks = text, stamp, 0

    def news(self) -> str | None:
        """The new text of a file that has changed, once.

        Not at the first look: the run writes its own file before it says that its plan has changed.
        """
        if not self._is_news or self._looks == 0:
            return None
        self._is_news = False
        return self.text
