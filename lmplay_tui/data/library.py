"""The `datasets` library: told not to write on the terminal and not to wait for ever; how far its downloads are.

What it and the hub's library log is heard, never printed: that the hub does not answer and is asked again.
"""

import importlib
import logging
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

TIMEOUT_S = 20
RETRY_LASTS_S = 8.0 + TIMEOUT_S  # the longest pause before a new try, and the time that this one may take
_RETRY = re.compile(r"\[(?:Retry )?(\d+)/(\d+)\]")


@cache
def quiet_datasets() -> Any:
    """The module `datasets`, imported when it is first needed (more than a second), without bars and log lines."""
    for name in ("HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT"):  # read when the library is imported
        os.environ.setdefault(name, str(TIMEOUT_S))
    # The default lock of the bars starts a process, which fails where a dashboard has taken stderr.
    importlib.import_module("tqdm.std").tqdm.set_lock(threading.RLock())
    import datasets
    from huggingface_hub.utils.tqdm import disable_progress_bars

    datasets.disable_progress_bars()
    disable_progress_bars()
    # What goes wrong is raised too, and said by us in one line.
    for name in ("datasets", "huggingface_hub"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [_Retries()], False
        logger.setLevel(logging.WARNING)
    return datasets


class _Retries(logging.Handler):
    """Hears that the hub is asked once more. The libraries say it in their log alone."""

    def emit(self, record: logging.LogRecord) -> None:
        if (found := _RETRY.search(record.getMessage())) is not None:
            for listener in _listeners:
                listener.retried(int(found[1]), int(found[2]))


@dataclass
class _Bar:
    unit: str
    total: float | None
    done: float = 0

    @property
    def fraction(self) -> float:
        return min(1.0, self.done / self.total) if self.total else 0.0


class DownloadProgress:
    """What the bars of one download have said so far."""

    def __init__(self) -> None:
        self.moved = time.monotonic()  # when a bar last moved
        self.bytes = 0.0  # downloaded
        self.announced_bytes: int | None = None  # that will be, where it is known
        self.writing = False  # rows are being written to the cache: the download is over
        self._bars: dict[int, _Bar] = {}
        self._last: _Bar | None = None
        self._retry: tuple[float, int, int] | None = None

    def retried(self, number: int, of: int) -> None:
        """The hub has not answered, and will be asked once more: for the `number`th time."""
        self._retry = time.monotonic(), number, of

    @property
    def retry(self) -> str:
        """That it does not answer; empty once it does."""
        if self._retry is None or self._retry[0] < max(self.moved, time.monotonic() - RETRY_LASTS_S):
            return ""
        return f"the hub does not answer; trying again ({self._retry[1]} of {self._retry[2]})"

    def opened(self, bar: int, *, unit: str, total: float | None) -> None:
        """A bar was made; `bar` tells it from the others."""
        self._bars[bar] = _Bar(unit, total)
        self.moved = time.monotonic()

    def advanced(self, bar: int, amount: float) -> None:
        """A bar moved on by `amount` of its unit."""
        known = self._bars.get(bar)
        self.moved = time.monotonic()
        if known is None:
            return
        known.done += amount
        self._last = known
        if known.unit == "B":
            self.bytes += amount
        self.writing = known.unit.strip() == "examples"

    def fraction(self) -> float | None:
        """Share of the present part (all files where their number is known, else a file, or the rows written)."""
        if self._last is None:
            return None
        bars = list(self._bars.values())
        files = next((bar for bar in bars if bar.unit == "files" and bar.total), None)
        if files is not None and not self.writing:
            assert files.total is not None
            return min(1.0, sum(bar.fraction for bar in bars if bar.unit == "B") / files.total)
        return self._last.fraction if self._last.total else None


_lock = threading.Lock()
_listeners: list[DownloadProgress] = []
_methods: list[tuple[Any, Any]] = []  # of the bars, as they were


@contextmanager
def listening() -> Iterator[DownloadProgress]:
    """Hear of every `tqdm` bar of this process, drawn or not, until the block is left.

    The libraries offer no callback; their bars, switched off, still pass through two methods, which are put back
    when the last listener leaves.
    """
    progress = DownloadProgress()
    with _lock:
        if not _listeners:
            _pass_on_from(importlib.import_module("tqdm.std").tqdm)
        _listeners.append(progress)
    try:
        yield progress
    finally:
        with _lock:
            _listeners.remove(progress)
            if not _listeners:
                bars = importlib.import_module("tqdm.std").tqdm
                bars.__init__, bars.update = _methods.pop()


def _pass_on_from(bars: Any) -> None:
    made, moved = bars.__init__, bars.update
    _methods.append((made, moved))

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs)
        for listener in _listeners:
            listener.opened(id(self), unit=str(kwargs.get("unit") or "it"), total=kwargs.get("total"))

    def update(self: Any, n: float | None = 1) -> Any:
        for listener in _listeners:
            listener.advanced(id(self), n or 0)
        return moved(self, n)

    bars.__init__, bars.update = init, update
