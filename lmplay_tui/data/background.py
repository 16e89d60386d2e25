"""A call that may block for ever, made so that its caller need not."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class _Call(Generic[T]):
    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self.result: list[T] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.result.append(self._call())
        except BaseException as error:  # raised again where it is waited for
            self.error = error


def in_background(call: Callable[[], T], tick: Callable[[], None], every_s: float = 0.25) -> T:
    """The result of `call()`, made in a thread, while `tick()` is called every `every_s` seconds.

    What `call` raises is raised here. What `tick` raises is raised at once; the thread is then left to itself, for
    nothing can end a call that waits for a silent server.
    """
    running = _Call(call)
    thread = threading.Thread(target=running.run, name="load", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(every_s)
        if thread.is_alive():
            tick()
    if running.error is not None:
        raise running.error
    return running.result[0]
