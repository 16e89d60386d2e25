"""What is done beside the screen and shown on it when it is done."""

import contextlib
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from lmplay_tui.background import BackgroundCall

if TYPE_CHECKING:
    from textual.app import App


def in_background(app: "App[Any]", work: Callable[[], Callable[[], None]]) -> None:
    """Do `work` in a thread, then what it gives in the app's own.

    Unlike with Textual's workers, what hangs does not keep the app from being left. What `work` raises is raised in
    the app.
    """

    def deliver(call: BackgroundCall[Callable[[], None]]) -> None:
        try:
            done = call.result()
        except Exception as error:
            done = partial(app._handle_exception, error)
        with contextlib.suppress(RuntimeError):  # the app has been left meanwhile
            app.call_later(done)

    BackgroundCall(work, then=deliver)
