"""A call that may take long, or block for ever: made in a thread, so that its caller need not wait for it.

What hangs is a disk of another machine, a silent server, a driver. No thread can be ended from outside, so it is a
daemon: it keeps no process from ending.
"""

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

MOMENT_S = 0.03  # that a screen can wait: a disk of this machine has answered by then
TICK_S = 0.25

T = TypeVar("T")


class BackgroundCall(Generic[T]):
    """`work()`, running from now on. What it gives or raises comes out of `result`."""

    def __init__(
        self, work: Callable[[], T], name: str = "background", then: Callable[["BackgroundCall[T]"], None] | None = None
    ) -> None:
        """`then`: called in the thread when the result is there; `name`: the thread's."""
        self._work = work
        self._then = then
        self._future: Future[T] = Future()
        self._has_waited = False
        try:
            threading.Thread(target=self._run, name=name, daemon=True).start()
        except RuntimeError:  # the system gives no thread now: late is better than never
            self._run()

    def _run(self) -> None:
        try:
            self._future.set_result(self._work())
        except BaseException as error:  # raised again where it is waited for
            self._future.set_exception(error)
        if self._then is not None:
            self._then(self)

    def wait(self, seconds: float | None = None) -> bool:
        """Whether it has ended, after at most `seconds`; None: as long as it takes."""
        with contextlib.suppress(TimeoutError):
            self._future.exception(seconds)
        return self._future.done()

    def result(self) -> T:
        """What `work` gave, waited for as long as it takes. Raises what `work` raised."""
        return self._future.result()

    def poll(self) -> T | None:
        """What `work` gave, or None while it runs: waited for a moment the first time, then not at all."""
        wait_s, self._has_waited = 0.0 if self._has_waited else MOMENT_S, True
        return self.result() if self.wait(wait_s) else None


def call_with_ticks(work: Callable[[], T], tick: Callable[[], None], every_s: float = TICK_S) -> T:
    """The result of `work()`, while `tick()` is called every `every_s` seconds.

    What `work` raises is raised here. What `tick` raises is raised at once, and the thread is left to itself.
    """
    running = BackgroundCall(work, "load")
    while not running.wait(every_s):
        tick()
    return running.result()
