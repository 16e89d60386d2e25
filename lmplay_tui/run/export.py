"""What other programs read of a run: its metrics as CSV or for TensorBoard, its weights as safetensors.

Metrics come from the journal, so that a run can be exported while another process trains it.
"""

import csv
import io
import os
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol

from lmplay_tui.errors import UserError
from lmplay_tui.files import Folder, replacing
from lmplay_tui.run.folder import RunFolder, saved_status
from lmplay_tui.run.journal import Tail, number
from lmplay_tui.text import one_line

if TYPE_CHECKING:
    import torch

POLL_S = 1.0
_GONE_POLLS = 10  # a run that is handed over has no process for a moment
_MOST_COLUMNS = 2000  # a journal that invents names shall not fill the disk
_ROWS_AT_A_TIME = 1 << 13
_SUFFIX = ".lmplay-tui"  # of our TensorBoard files: those, and no others, are replaced by the next export


class MetricsSink(Protocol):
    """Takes rows of `metrics.jsonl` in their order."""

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Write `rows` so that a reader sees them. Raises `OSError`."""

    def rewind(self, step: int) -> None:
        """Forget the rows beyond `step`: the run was resumed from there."""

    def close(self) -> None:
        """Write what is left. Raises `OSError`."""


def check_metrics(run: RunFolder, *, follow: bool) -> None:
    """Raise `UserError` if there is nothing to export, and with `follow` nothing to wait for either."""
    if not run.files.has(run.metrics.name) and not (follow and run.alive()):
        raise UserError(f"{one_line(run.name)}: no metrics yet; they are written every --log-interval steps")


def export_metrics(
    run: RunFolder, sink: MetricsSink, *, follow: bool, wait: Callable[[float], None] = time.sleep
) -> int:
    """Give the run's metrics to `sink`, with `follow` until the run has ended, and return the number of rows given.

    Raises `OSError` from the sink.
    """
    tail = Tail(run.metrics)
    num_rows = polls_without = 0
    while True:
        polls_without = 0 if run.alive() else polls_without + 1  # asked before reading: its last words are read too
        while (records := tail.read()) or tail.behind:
            num_rows += _give(records, sink)
        gone = polls_without >= _GONE_POLLS or (polls_without and saved_status(run, alive=False).state != "dead")
        if gone or not follow:
            sink.close()
            return num_rows
        wait(POLL_S)


def _give(records: list[dict[str, Any]], sink: MetricsSink) -> int:
    """Pass rows on in one piece up to each resume; returns how many there were."""
    rows: list[dict[str, Any]] = []
    num_rows = 0
    for record in records:
        resumed_from = record.get("resumed_from")
        if isinstance(resumed_from, int):
            sink.add(rows)
            rows = []
            sink.rewind(resumed_from)
        elif isinstance(record.get("step"), int):
            rows.append(record)
            num_rows += 1
    sink.add(rows)
    return num_rows


class CsvTable:
    """Metrics as CSV: a column each, `step` first, in the order they came up; empty where a row does not know one.

    The rows lie in a file without a name, in `spool` (None: the system's temporary folder), so a long run takes no
    memory to speak of: 26 bytes a row.
    """

    def __init__(self, spool: Path | None = None) -> None:
        self.columns = {"step": 0}
        self._lines = tempfile.TemporaryFile(dir=spool)  # noqa: SIM115  (for the life of this object)
        self._size = 0
        # Of each row that holds: its step, where its line ends, and how many columns were known when it was written.
        self._steps, self._begins, self._ends = array("d"), array("q"), array("q")
        self._widths = array("H")

    def __len__(self) -> int:
        return len(self._steps)

    def add(self, rows: list[dict[str, Any]]) -> None:
        written: list[str] = []  # a line each: the writer gives each row at once
        writer = csv.writer(SimpleNamespace(write=written.append), lineterminator="\n")
        for row in rows:
            if not row.keys() <= self.columns.keys():
                for name in row:
                    if len(self.columns) < _MOST_COLUMNS:
                        self.columns.setdefault(name, len(self.columns))
            writer.writerow([row.get(name) for name in self.columns])
            self._steps.append(number(row["step"]))
            self._widths.append(len(self.columns))
        lines = [line.encode("utf-8", errors="replace") for line in written]
        self._lines.writelines(lines)
        for line in lines:
            self._begins.append(self._size)
            self._size += len(line)
            self._ends.append(self._size)

    def rewind(self, step: int) -> None:
        kept = [i for i, at in enumerate(self._steps) if at <= step]
        if len(kept) < len(self):
            self._steps = array("d", (self._steps[i] for i in kept))
            for of_rows in (self._begins, self._ends, self._widths):
                of_rows[:] = array(of_rows.typecode, (of_rows[i] for i in kept))
            self._size = self._ends[-1] if kept else 0
            self._lines.seek(self._size)
            self._lines.truncate()

    def close(self) -> None:
        self._lines.close()

    def parts(self, begin: int | None = None) -> Iterator[bytes]:
        """The rows from `begin` on, some at a time; all of them below a line of names where it is None."""
        if begin is None:
            yield _csv_line(list(self.columns))
        self._lines.flush()
        width = len(self.columns)
        descriptor = self._lines.fileno()
        for first in range(begin or 0, len(self), _ROWS_AT_A_TIME):
            last = min(first + _ROWS_AT_A_TIME, len(self))
            where = self._begins[first]
            data = os.pread(descriptor, self._ends[last - 1] - where, where)
            yield b"".join(
                data[self._begins[i] - where : self._ends[i] - where - 1] + b"," * (width - self._widths[i]) + b"\n"
                for i in range(first, last)
            )


def _csv_line(cells: list[Any]) -> bytes:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerow(cells)
    return file.getvalue().encode("utf-8", errors="replace")


class CsvFile(CsvTable):
    """The same in a file. Rows are appended while the columns stay; a new metric or a resume rewrites it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path.parent)
        self._folder, self._name = Folder(path.parent, own=0), path.name
        self._written = (0, 0)  # columns and rows on the disk

    def add(self, rows: list[dict[str, Any]]) -> None:
        super().add(rows)
        columns, num_rows = self._written
        try:
            if columns != len(self.columns):
                with self._folder.replacing(self._name) as file:
                    file.writelines(self.parts())
            elif num_rows < len(self):
                with os.fdopen(self._folder.append(self._name), "ab") as file:
                    file.writelines(self.parts(num_rows))
        except OSError:
            self.close()
            raise
        self._written = (len(self.columns), len(self))

    def rewind(self, step: int) -> None:
        super().rewind(step)
        self._written = (0, 0)


class TensorBoardFolder:
    """Event files as TensorBoard reads them; a resume takes back what lies beyond it. The folder's earlier export goes.

    Raises `UserError` if TensorBoard is not installed, `OSError`.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from tensorboard.compat.proto import event_pb2, summary_pb2
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError as error:
            raise UserError(
                "--to tensorboard: TensorBoard is not installed; install it with: pip install 'lmplay-tui[tensorboard]'"
            ) from error
        self._events, self._summaries = event_pb2, summary_pb2
        folder.parent.mkdir(parents=True, exist_ok=True)
        earlier = Folder(folder)
        earlier.make()
        for name in earlier.names():
            if name.startswith("events.out.tfevents.") and name.endswith(_SUFFIX):
                earlier.remove(name)
        self._writer = EventFileWriter(str(folder), filename_suffix=_SUFFIX)

    def add(self, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            values = [
                self._summaries.Summary.Value(tag=_tag(name), simple_value=number(value))
                for name, value in row.items()
                if name != "step" and _is_number(value)
            ]
            summary = self._summaries.Summary(value=values)
            self._writer.add_event(self._events.Event(wall_time=_seconds(row), step=row["step"], summary=summary))
        self._writer.flush()

    def rewind(self, step: int) -> None:
        # The format's own way to say it: a session that starts at a step drops what was written from there on.
        start = self._events.SessionLog(status=self._events.SessionLog.START)
        self._writer.add_event(self._events.Event(wall_time=time.time(), step=step + 1, session_log=start))

    def close(self) -> None:
        self._writer.close()


def _is_number(value: object) -> bool:
    if isinstance(value, str):
        return value in ("NaN", "Infinity", "-Infinity")  # as the journal writes them
    return isinstance(value, int | float) and not isinstance(value, bool)


def _tag(name: str) -> str:
    return name if "/" in name else f"progress/{name}"


def _seconds(row: Mapping[str, Any]) -> float:
    try:
        return datetime.fromisoformat(str(row.get("time"))).timestamp()
    except ValueError:
        return time.time()


def write_safetensors(path: Path, tensors: Mapping[str, "torch.Tensor"], metadata: Mapping[str, str]) -> int:
    """Write `tensors` and the texts of `metadata` whole or not at all, and return the number of bytes.

    Tensors that share memory are written each on its own. Raises `OSError`.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    seen: set[int] = set()
    separate: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        memory = tensor.untyped_storage().data_ptr()
        separate[name] = tensor.clone().contiguous() if memory in seen else tensor.contiguous()
        seen.add(memory)
    try:
        with replacing(path) as temporary:
            mode = temporary.stat().st_mode
            save_file(separate, temporary, dict(metadata))
            temporary.chmod(mode)  # the library makes files that only their owner may read
    except SafetensorError as error:
        raise OSError(one_line(error)) from error
    return path.stat().st_size
