"""A plan's file, looked at some times a second: has another hand changed it?"""

from pathlib import Path


class PlanFile:
    """What a file holds, read only when it has changed."""

    def __init__(self) -> None:
        self.path: Path | None = None
        self.text: str | None = None  # as last read; None while it could not be
        self._stamp: tuple[int, int] | None = None
        self._looks = 0  # since it last changed
        self._is_news = False

    def look(self, path: Path | None) -> None:
        """Read the file at `path` if it is another one, or has changed since the last look."""
        if path != self.path:
            self.path, self.text, self._stamp, self._is_news = path, None, None, False
        self._looks += 1
        if path is None:
            return
        try:
            status = path.stat()
            stamp = (status.st_mtime_ns, status.st_size)
            if stamp == self._stamp:
                return
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return
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
