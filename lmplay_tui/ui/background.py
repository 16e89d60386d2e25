"""Work that may take long, beside the screen: a network's disk, a driver."""

import contextlib
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from textual.app import App


def in_background(app: App[Any], work: Callable[[], Callable[[], None]]) -> None:
    """Do `work` in a thread, then what it gives in the app's own.

    A daemon, unlike Textual's workers: what hangs keeps nobody from leaving. What `work` raises is raised in the app.
    """

    def run() -> None:
        try:
            done = work()
        except Exception as error:
            done = partial(app._handle_exception, error)
        with contextlib.suppress(RuntimeError):  # the app has been left meanwhile
            app.call_later(done)

    threading.Thread(target=run, name="background", daemon=True).start()
