"""An iterator that runs ahead of its user in a thread."""

import queue
import threading
from collections.abc import Generator, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

_POLL_S = 0.05  # how soon a thread with a full queue sees that nobody waits any more
_JOIN_S = 5.0  # a disk that does not answer must not keep the user


class _End:
    """What the thread says last: nothing more, or the error that ended it."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class _Ahead(Generic[T]):
    def __init__(self, source: Iterator[T], depth: int) -> None:
        self._source = source
        self._queue: queue.Queue[T | _End] = queue.Queue(depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="data", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            for value in self._source:
                if not self._put(value):
                    return
        except BaseException as raised:  # whatever it is, the user of the iterator must hear of it
            error = raised
        self._put(_End(error))

    def _put(self, value: T | _End) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(value, timeout=_POLL_S)
                return True
            except queue.Full:
                continue
        return False

    def get(self) -> T | _End:
        return self._queue.get()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(_JOIN_S)


def ahead(source: Iterator[T], depth: int) -> Generator[T, None, None]:
    """The values of `source`, of which up to `depth` wait ready; the thread ends when the generator is closed.

    An error of `source` is raised where its value would have come.
    """
    running = _Ahead(source, depth)
    try:
        while not isinstance(value := running.get(), _End):
            yield value
        if value.error is not None:
            raise value.error
    finally:
        running.close()
