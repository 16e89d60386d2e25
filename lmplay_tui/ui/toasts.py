"""Toasts that may come late: after a stalled line, or while the trainer holds Python's lock."""

from textual.await_remove import AwaitRemove
from textual.notifications import Notification
from textual.widgets import _toast
from textual.widgets._toast import Toast, ToastHolder

SHORTEST_S = 0.05


class LateToast(Toast):
    """A toast whose time is over when it is made goes at once.

    Textual's own sets a timer of a negative time, which never ends and never lets the event loop go on. Where the next
    notification comes before the timer of one whose time is over, it removes the toast and leaves its holder, a widget
    with a task of its own, for as long as the screen is there.
    """

    def __init__(self, notification: Notification) -> None:
        super().__init__(notification)
        self._timeout = max(self._timeout, SHORTEST_S)

    def remove(self) -> AwaitRemove:
        """With its holder, which is nothing without it."""
        return self.parent.remove() if isinstance(self.parent, ToastHolder) else super().remove()

    def on_unmount(self) -> None:
        """What it looked like goes at once: the widget itself waits for Python's search for garbage."""
        self._styles_cache.clear()


def use_late_toasts() -> None:
    """Put our toasts in the place of Textual's, which are looked up when one is shown."""
    setattr(_toast, "Toast", LateToast)  # noqa: B010  (a name that the module owns)
