"""Datasets of the Hugging Face hub, through `datasets.load_dataset`; no script of a dataset is ever run.

The `datasets` library, told not to write on the terminal and not to wait for ever.

How far a library's downloads are, read from the progress bars that it does not draw.
"""

import errno
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

from lmplay_tui.background import call_with_ticks
from lmplay_tui.data.splits import Report, Splits, choose, of_dataset
from lmplay_tui.errors import DataError, UserError, unchain
from lmplay_tui.options import nearest
from lmplay_tui.plan.schema import DatasetSpec
from lmplay_tui.text import one_line

TIMEOUT_S = 20


@cache
def quiet_datasets() -> Any:
    """The module `datasets`, imported when it is first needed (more than a second), without bars and log lines."""
    for name in ("HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT"):  # read when the library is imported
        os.environ.setdefault(name, str(TIMEOUT_S))
    # The default lock of the bars starts a process, which fails where a dashboard has taken stderr.
    importlib.import_module("tqdm.std").tqdm.set_lock(threading.RLock())
    import datasets
    from huggingface_hub.utils import logging as hub_logging
    from huggingface_hub.utils.tqdm import disable_progress_bars

    datasets.disable_progress_bars()
    disable_progress_bars()
    # What goes wrong is raised too, and said by us in one line.
    datasets.logging.set_verbosity(logging.CRITICAL)
    hub_logging.set_verbosity(logging.CRITICAL)
    return datasets


_lock = threading.Lock()


@dataclass
class _Bar:
    unit: str
    total: float | None
    done: float = 0

    @property
    def fraction(self) -> float:
        return min(1.0, self.done / self.total) if self.total else 0.0


class Progress:
    """What the bars of one download have said so far."""

    def __init__(self) -> None:
        self.moved = time.monotonic()  # when a bar last moved
        self.bytes = 0.0  # downloaded
        self.writing = False  # rows are being written to the cache: the download is over
        self._bars: dict[int, _Bar] = {}
        self._last: _Bar | None = None

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


@contextmanager
def listening() -> Iterator[Progress]:
    """Hear of every `tqdm` bar of this process, drawn or not, until the block is left.

    The libraries offer no callback; their bars, switched off, still pass through two methods, which are put back
    when the last listener leaves.
    """
    progress = Progress()
    with _lock:
        if not _listeners:
            _put_ears_on(importlib.import_module("tqdm.std").tqdm)
        _listeners.append(progress)
    try:
        yield progress
    finally:
        with _lock:
            _listeners.remove(progress)
            if not _listeners:
                bars = importlib.import_module("tqdm.std").tqdm
                bars.__init__, bars.update = _methods.pop()


_listeners: list[Progress] = []
_methods: list[tuple[Any, Any]] = []


def _put_ears_on(bars: Any) -> None:
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


SILENT_S = 90.0  # without a byte from the hub, its own retries included
STUCK_S = 900.0  # after the first byte: unpacking a large archive moves no bar
WITHOUT_NETWORK = "or copy the datasets folder of a machine where --save-datasets has filled it"


def read(spec: DatasetSpec, report: Report) -> Splits:
    """The rows to train and to validate on, downloaded if the cache of `datasets` does not hold them.

    Raises `UserError` where the hub has no such dataset, configuration or split, `DataError` where it cannot be
    reached, stays silent, or the disk is full: one line each, naming the dataset.
    """
    report("downloading", spec.name, None)
    with listening() as progress:
        return call_with_ticks(lambda: _load(spec), lambda: _tick(spec, progress, report))


def _load(spec: DatasetSpec) -> Splits:
    try:
        try:
            found = _loaded(spec)
        except Exception as error:
            if "agent traces" not in str(unchain(error)):
                raise
            found = _loaded(spec, parse_agent_traces=False)  # rows that look like such are rows to us
        return choose(spec, {name: of_dataset(split) for name, split in found.items()})
    except UserError:
        raise
    except Exception as error:  # of many libraries, without a common base
        raise translated(spec, error) from error


def _loaded(spec: DatasetSpec, **switches: bool) -> Any:
    return quiet_datasets().load_dataset(spec.path, spec.config, revision=spec.revision, **switches)


def _tick(spec: DatasetSpec, progress: Progress, report: Report) -> None:
    silent = time.monotonic() - progress.moved
    limit = STUCK_S if progress.bytes or progress.writing else SILENT_S
    if silent > limit:
        raise DataError(
            f"dataset {spec.name}: the hub has not answered for {limit:.0f} s; try again later, {WITHOUT_NETWORK}"
        )
    if progress.writing:
        report("loading", f"{spec.name}: writing rows to the cache", progress.fraction())
    else:
        received = f", {progress.bytes / 1e6:,.0f} MB" if progress.bytes else ""
        report("downloading", f"{spec.name}{received}", progress.fraction())


def translated(spec: DatasetSpec, error: Exception) -> UserError:
    """What a library's error means for a user: one line that names the dataset and says what to do."""
    name, path, said = f"dataset {spec.name}", one_line(spec.path, 120), str(error)
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if _full(error):
        return DataError(f"{name}: the disk is full; free some space, or set HF_HOME to a folder on another disk")
    if "gated" in said.lower():
        return UserError(f"{name}: {path} is open to those only who accept its terms on the hub; then: hf auth login")
    if "DatasetNotFoundError" in kinds:
        return UserError(f"{name}: the hub has no dataset {path}, or it is private (then: hf auth login)")
    if "dataset scripts" in said.lower():
        return UserError(f"{name}: {path} is a script, and scripts are not run; look for a Parquet copy of it")
    if found := re.search(r"BuilderConfig '?(.*?)'? not found. Available: \[(.*)\]", said, re.DOTALL):
        return _no_config(name, found[1], re.findall(r"'([^']*)'", found[2]))
    if "Config name is missing" in said:
        known = re.findall(r"'([^']*)'", said)
        return UserError(f"{name}: {path} has several configurations; set config to one of {_listed(known)}")
    if found := re.search(r'Unknown split "?(.*?)"?\. Should be one of \[(.*)\]', said):
        return UserError(f"{name}: there is no split {one_line(found[1], 60)}; it has {one_line(found[2])}")
    if "OfflineModeIsEnabled" in said:
        return DataError(f"{name}: HF_HUB_OFFLINE is set, and {path} is not in the cache; unset it, {WITHOUT_NETWORK}")
    if (status := _status(error)) is not None:
        if status in (401, 403):
            return UserError(f"{name}: the hub refuses access to {path} ({status}); hf auth login, or check its name")
        return DataError(f"{name}: the hub answers with an error ({status}); try again later, {WITHOUT_NETWORK}")
    if isinstance(error, OSError):
        return DataError(f"{name}: the hub cannot be reached; check the network, {WITHOUT_NETWORK}")
    return DataError(f"{name}: {path} cannot be read ({one_line(unchain(error), 160) or type(error).__name__})")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _status(error: BaseException) -> int | None:
    """The status of the HTTP answer that began the trouble."""
    for link in _chain(error):
        status = getattr(getattr(link, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
    return None


def _full(error: BaseException) -> bool:
    return any(isinstance(link, OSError) and link.errno in (errno.ENOSPC, errno.EDQUOT) for link in _chain(error))


def _no_config(name: str, wanted: str, known: list[str]) -> UserError:
    return UserError(
        f"{name}: there is no config {one_line(wanted, 60)}{nearest(wanted, known)}; it has {_listed(known)}"
    )


def _listed(names: list[str]) -> str:
    return one_line(", ".join(names), 160)
