"""Writes a run's events down: into its journals, its log, and `run.json`, which says how it is.

With `--verbose` the log also says what the run does from moment to moment, and the figures of each log interval.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lmplay_tui.errors import EXIT_USAGE
from lmplay_tui.files import Folder
from lmplay_tui.formats import format_lr, format_rate
from lmplay_tui.run import events
from lmplay_tui.run.folder import RunFolder, boot_id, saved_status, utc_now
from lmplay_tui.run.journal import Journal, number
from lmplay_tui.run.metric_names import OF_STEPS, RECENT_LOSS
from lmplay_tui.run.sentences import sentences_of
from lmplay_tui.run.status import RunStatus
from lmplay_tui.text import one_line, printable


def verbose_line(event: events.Event) -> str | None:
    """A line for `log.txt`, of an event that has none there else."""
    match event:
        case events.ActivityChanged():
            return one_line(f"{event.activity} {event.detail}").strip()
        case events.MetricsLogged() if OF_STEPS in event.values:  # scores have sentences of their own
            return _figures(event.values)
    return None


def _figures(values: Mapping[str, Any]) -> str:
    """One line of `metrics.jsonl` for people: scores, then where the time went."""
    forms: dict[str, Callable[[float], str]] = {
        "train/accuracy": lambda v: f"accuracy {v:.3f}",
        "train/character_accuracy": lambda v: f"character accuracy {v:.3f}",
        "train/lr": lambda v: f"lr {format_lr(v)}",
        "train/grad_norm": lambda v: f"gradient norm {v:.3g}",
        "perf/tokens_per_s": lambda v: f"{format_rate(v)} tok/s",
    }
    place = f"step {values['step']}, row {values['row']} of stage {values['stage']}"
    parts = [f"{place}: loss {number(values.get(RECENT_LOSS)):.3f}"]
    parts += [form(number(values[name])) for name, form in forms.items() if values.get(name) is not None]
    times = {name: number(value) for name, value in values.items() if name.startswith("time/") and value is not None}
    spent = " ".join(f"{name[len('time/') : -len('_s')]} {1000 * seconds:.0f}" for name, seconds in times.items())
    return one_line(", ".join(parts) + (f"; ms: {spent}" if spent else ""), 400)


PREDICTIONS_LIMIT_BYTES = 64 << 20
LOG_LIMIT_BYTES = 4 << 20
STATUS_EVERY_S = 1.0
_WRITTEN_AT_ONCE = (
    events.RunStarted, events.CheckpointSaved, events.Paused, events.Resumed, events.Stalled, *events.LAST_EVENTS,
)  # fmt: skip


class Recorder:
    """Records one start of a run. Nothing here raises into the training: what cannot be written is warned of once."""

    def __init__(
        self, run: RunFolder, *, verbose: bool = False, holds: Callable[[], bool] = lambda: True, pid: int | None = None
    ) -> None:
        """`verbose`: the log says more. `holds`: whether this process has the run still, whose `run.json` it is.

        `pid`: of the process that holds the run, where it is not this one.
        """
        self._run = run
        self._holds = holds
        self._verbose = verbose
        self._metrics = Journal(run.metrics)
        self._events = Journal(run.events)
        self._predictions = Journal(run.predictions, limit_bytes=PREDICTIONS_LIMIT_BYTES)
        self._log = LogFile(run.log)
        self._warned = self._ended = False
        self._has_started = False
        self._before = run.status()
        self._rewinds_to = 0  # the step of this start's checkpoint
        self._to_rewind: list[Journal] = []  # these still hold what lies beyond it
        self._written_at = 0.0
        self._status = RunStatus(time.time, time.monotonic)
        self._status.carry_over(self._before)
        self._status.state = "running"
        self._process: dict[str, Any] = {
            "name": run.name,
            "model": str(run.model.resolve()),
            "pid": os.getpid() if pid is None else pid,
            "host": socket.gethostname(),
            "boot": boot_id(),
            "started": utc_now(),
        }
        self._refusal: str | None = None  # why this start has come to nothing

    @property
    def status(self) -> dict[str, Any]:
        """What `run.json` says."""
        if self._refusal is not None:
            return self._before | {"pid": self._process["pid"], "refused": self._refusal}
        return self._process | self._status.record()

    def record(self, event: events.Event) -> list[events.Event]:
        """Write `event` down; gives it back, and a warning behind it where the disk would not take it."""
        record = event.record()
        record["time"] = utc_now()
        if isinstance(event, events.StepDone | events.CheckpointSaved):
            self._rewind()
        match event:
            case events.RunStarted():
                self._rewinds_to, self._to_rewind = event.step, [j for j in self._journals if _has_lines(j.path)]
                self._events.write(record)
            case events.MetricsLogged():
                self._metrics.write({"time": record["time"], **event.values})
            case events.Predicted():
                prediction = record["prediction"]
                self._predictions.write(
                    {"time": record["time"], "step": event.step, "stage": event.stage, **prediction}
                )
            case _ if event.journaled and not self._is_refusal(event):
                self._events.write(record)
        if isinstance(event, events.LogLine) and event.level == "traceback":
            self._log.write_traceback(record["time"], event.message)
        elif lines := sentences_of(event):
            for level, text in lines:
                self._log.write(f"{record['time']} {level:<7} {text}")
        elif self._verbose and not self._goes_on(event) and (more := verbose_line(event)) is not None:
            self._log.write(f"{record['time']} {'verbose':<7} {more}")
        activity = self._status.activity
        self._follow(event)
        # What begins may be silent for minutes (compiling, validating). Were its end not written at once too,
        # `run.json` would say "validating" for as long as validations follow each other within `STATUS_EVERY_S`.
        at_once = isinstance(event, _WRITTEN_AT_ONCE) or self._status.activity != activity
        due = at_once or time.monotonic() - self._written_at >= STATUS_EVERY_S
        if due and not self._ended and not self._is_written_by_next(event):
            self._write_status()  # after the end another process may hold the run, and write its own
        self._ended = self._ended or isinstance(event, events.LAST_EVENTS)
        return [event, *self._complaints()]

    def _is_written_by_next(self, event: events.Event) -> bool:
        """Whether the process that goes on with the run has written its `run.json` already."""
        return isinstance(event, events.HandedOver) and saved_status(self._run, alive=True).writer.pid == event.pid

    def _goes_on(self, event: events.Event) -> bool:
        """Whether it is only said again that the trainer is at what it was at: a pause says so until it ends."""
        return (
            isinstance(event, events.ActivityChanged)
            and event.activity == self._status.activity
            and event.detail == self._status.detail
        )

    @property
    def _journals(self) -> tuple[Journal, Journal, Journal]:
        return self._metrics, self._events, self._predictions

    def close(self) -> None:
        for journal in self._journals:
            journal.close()

    def begin_anew(self) -> None:
        """The folder is another one than it was: the journals go on there, and `run.json` stands there at once."""
        self.close()
        self._to_rewind = []
        self._write_status()

    def _rewind(self) -> None:
        """Tell readers to drop what earlier processes wrote beyond the checkpoint: now that it is trained anew."""
        for journal in self._to_rewind:
            journal.write({"resumed_from": self._rewinds_to})
        self._to_rewind = []

    def _complaints(self) -> list[events.Event]:
        if self._warned:
            return []
        for journal in self._journals:
            if journal.failed:
                self._warned = True
                return [events.Warned(f"{journal.path}: cannot be written ({journal.last_error}); training goes on")]
        return []

    def _write_status(self) -> None:
        self._written_at = time.monotonic()
        if not self._holds():
            return
        try:
            self._run.write_status(self.status | {"heartbeat": time.time()})
        except OSError:  # the journals' complaint says it already
            return

    def _follow(self, event: events.Event) -> None:
        if isinstance(event, events.RunFailed) and self._is_refusal(event):
            self._refusal = event.message
        self._has_started = self._has_started or isinstance(event, events.RunStarted)
        self._status.follow(event)
        if isinstance(event, events.HandedOver):
            self._process["pid"] = event.pid

    def _is_refusal(self, event: events.Event) -> bool:
        """Whether a start has come to nothing by a mistake in what was asked: the run that is there stays as it was."""
        mistaken = isinstance(event, events.RunFailed) and event.exit_code == EXIT_USAGE
        return mistaken and not self._has_started and "state" in self._before and self._run.model.exists()


def _has_lines(path: Path) -> bool:
    try:
        return Folder(path.parent).status(path.name).st_size > 0
    except OSError:
        return False


class LogFile:
    """`log.txt`: lines as a person reads them, in at most two files of a few megabytes.

    The trainer's thread and the screen's may write to one log: a lock keeps them from turning it over twice.
    """

    _turning_over = threading.Lock()

    def __init__(self, path: Path) -> None:
        self._folder, self._name = Folder(path.parent), path.name

    def write(self, line: str) -> None:
        """Append a line; a disk that is full costs the line, never the run."""
        with contextlib.suppress(OSError), self._turning_over:
            with os.fdopen(self._folder.append(self._name), "ab") as file:
                file.write((line + "\n").encode("utf-8", errors="replace"))
                size = file.tell()
            if size > LOG_LIMIT_BYTES:
                with self._folder.replacing(self._name):  # by an empty one, as private
                    self._folder.rename(self._name, "log.1.txt")

    def write_traceback(self, time: str, traceback: str) -> None:
        """Append a bug's traceback, a line for each of its own, so that it can be read and pasted."""
        for line in printable(traceback).splitlines():
            self.write(f"{time} {'error':<7} {line}")
