"""Work that may take long, beside the screen: a network's disk, a driver."""

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from textual.app import App

WAIT_S = 0.03  # of the screen's thread: a disk of this machine has answered by then

Answer = TypeVar("Answer")


def in_background(app: "App[Any]", work: Callable[[], Callable[[], None]]) -> None:
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


class Asked(Generic[Answer]):
    """A question to the disk, answered in a thread: one that hangs holds up no key and keeps nobody from leaving."""

    def __init__(self, work: Callable[[], Answer]) -> None:
        self._future: Future[Answer] = Future()
        self._has_waited = False

        def run() -> None:
            try:
                self._future.set_result(work())
            except Exception as error:
                self._future.set_exception(error)

        try:
            threading.Thread(target=run, name="disk", daemon=True).start()
        except RuntimeError:  # the system gives no thread now: late is better than never
            run()

    def answer(self) -> Answer | None:
        """What `work` gave, or None while it is at it; waited for a moment the first time, then not at all."""
        wait_s, self._has_waited = 0.0 if self._has_waited else WAIT_S, True
        with contextlib.suppress(TimeoutError):
            self._future.exception(wait_s)
        return self._future.result() if self._future.done() else None

    def wait(self) -> Answer:
        """What `work` gives: in a thread that has the time."""
        return self._future.result()
