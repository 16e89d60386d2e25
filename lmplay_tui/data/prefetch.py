"""An iterator that runs ahead of its user in a thread."""

import queue
import threading
from collections.abc import Generator, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_POLL_S = 0.05  # how soon a thread with a full queue sees that it is not read any more
_JOIN_S = 5.0  # a disk that does not answer must not keep a user from leaving


class _End:
    """What the thread says last: that there is nothing more, or the error that ended it."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class _Filler(Generic[T]):
    """The thread that reads, and the queue that it fills. It holds no `Prefetch`, so that one may be forgotten."""

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
        except BaseException as raised:  # whatever it is, it is raised where the next value would have come
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

    def get(self, seconds: float) -> T | _End | None:
        """The next value or the end; None if neither comes within `seconds`."""
        try:
            return self._queue.get(timeout=seconds)
        except queue.Empty:
            return None

    def leave(self) -> list[T]:
        """Have the thread end when it can, without waiting for it; the values that lie ready."""
        self._stop.set()
        ready: list[T] = []
        while (found := self.get(0)) is not None:
            if isinstance(found, _End):
                break
            ready.append(found)
        return ready

    def close(self) -> None:
        self._stop.set()
        self._thread.join(_JOIN_S)


class Prefetch(Generator[T, None, None]):
    """The values of `source`, of which up to `depth` wait ready. It can be asked whether the next one is there.

    An error of `source` is raised where its value would have come. The thread ends when the generator is closed.
    """

    def __init__(self, source: Iterator[T], depth: int) -> None:
        self._source, self._depth = source, depth
        self._running: _Filler[T] | None = None  # nothing is read before it is asked for
        self._next: T | _End | None = None
        self._over = False

    def ready(self, seconds: float) -> bool:
        """Whether the next value, or the end, is there after at most `seconds`."""
        if self._next is None and not self._over:
            self._running = self._running or _Filler(self._source, self._depth)
            self._next = self._running.get(seconds)
        return self._over or self._next is not None

    @property
    def failure(self) -> BaseException | None:
        """What the next call will raise instead of giving a value, as far as is known by now."""
        return self._next.error if isinstance(self._next, _End) else None

    def leave(self) -> list[T]:
        """End here, without waiting for the thread; the values that lie ready, in order."""
        found = [] if self._next is None or isinstance(self._next, _End) else [self._next]
        if self._running is not None and not self._over:
            found += self._running.leave()
        self._over, self._next = True, None
        return found

    def send(self, value: None) -> T:
        while not self.ready(_JOIN_S):
            continue
        found, self._next = self._next, None
        if found is None:
            raise StopIteration
        if isinstance(found, _End):
            self.close()
            if found.error is not None:
                raise found.error
            raise StopIteration
        return found

    def throw(self, *raised: Any) -> T:
        self.close()
        return super().throw(*raised)

    def close(self) -> None:
        """End the thread."""
        if not self._over:
            self._over, self._next = True, None
            if self._running is not None:
                self._running.close()

    def __del__(self) -> None:
        if self._running is not None:
            self._running.leave()
