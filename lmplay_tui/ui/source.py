"""Where a dashboard's run comes from: a trainer in this process, or a run folder of another one."""

import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

from lmplay_tui.background import BackgroundCall
from lmplay_tui.errors import EXIT_OK, EXIT_TRAINING
from lmplay_tui.files import is_there
from lmplay_tui.run import controls
from lmplay_tui.run.control_files import leave_command
from lmplay_tui.run.events import Event, RunFailed, from_record
from lmplay_tui.run.folder import RunFolder, saved_status
from lmplay_tui.run.history import MetricRows
from lmplay_tui.run.journal import Tail, stamp
from lmplay_tui.run.metric_rows import MetricsTail
from lmplay_tui.run.status import SavedStatus
from lmplay_tui.run.view import RunView
from lmplay_tui.text import one_line


class RunSource(Protocol):
    """A run to look at and to speak to. `poll` is called twice a second and never waits."""

    view: RunView
    live: bool  # the trainer is in this process: leaving means to decide what becomes of it
    folder: RunFolder | None  # where it is written down, as soon as that is known

    @property
    def pid(self) -> int | None:
        """The trainer's process, where it is on this machine."""

    @property
    def alive(self) -> bool:
        """Whether a process trains the run, whatever its journals say."""

    @property
    def done(self) -> int | None:
        """The exit status once nothing more will come; None before."""

    @property
    def behind(self) -> bool:
        """Whether more is there already than the last poll took: the journals of a long run."""

    def poll(self) -> bool:
        """Take in what is new; whether there was anything."""

    def send(self, command: controls.Command) -> bool:
        """Ask the trainer for something; whether it could be asked. If not, the log's last line says why."""


class JournalItem(NamedTuple):
    """What stands in a journal: an event, or many lines of metrics; None for a line that is none of ours."""

    event: Event | MetricRows | None
    at: float | None  # seconds since 1970, where the line has a time


def read_items(tail: Tail, limit_bytes: int) -> list[JournalItem]:
    """At most `limit_bytes` of what is new in a journal."""
    items = tail.read_rows(limit_bytes) if isinstance(tail, MetricsTail) else tail.read(limit_bytes)
    return [
        JournalItem(item, None)
        if isinstance(item, MetricRows)
        else JournalItem(from_record(item), stamp(item.get("time")))
        for item in items
    ]


@dataclass(frozen=True, eq=False)
class _Chunk:
    """What the disk gave at one time."""

    items: Sequence[JournalItem]
    behind: bool  # there is more
    status: SavedStatus | None  # None: not looked at
    refused: Sequence[str] = ()  # what in the run's folder is not read, and why


def _read_chunk(tails: Sequence[Tail], limit_bytes: int, look_at: RunFolder | None, *, is_first: bool) -> _Chunk:
    """In a thread: what is new in each journal, up to the first that has more, and how its process does."""
    items: list[JournalItem] = []
    for tail in tails:
        items += read_items(tail, limit_bytes)
        if tail.behind:
            break
    if look_at is None:
        return _Chunk(items, tail.behind, None)
    return _Chunk(items, tail.behind, saved_status(look_at), look_at.refused() if is_first else ())


class FolderSource:
    """Reads a run's journals as they grow and leaves control files; never touches the run otherwise.

    The disk, which may be another machine's, is read beside the screen, a chunk at a time. Of a long journal the next
    chunk is parsed while one is taken in: pyarrow's parser does not hold Python's lock.
    """

    live = False
    FIRST_BYTES = 1 << 17  # of a journal before the first frame
    CHUNK_BYTES = 1 << 21  # of a journal at a time later on
    POLL_BUDGET_S = 0.03  # of the screen's thread, a poll: no new chunk is begun after that
    OVERDUE_S = 1.0  # a chunk that takes longer is not looked for between the polls any more

    def __init__(self, folder: RunFolder, clock: Callable[[], float] = time.time) -> None:
        self.folder: RunFolder | None = folder
        self.view = RunView(clock)
        self.view.name = one_line(folder.name, 80)
        self._run = folder
        self._clock = clock
        # In this order: an event tells of the stages that the lines of metrics belong to.
        self._tails = [Tail(folder.events), MetricsTail(folder.metrics), Tail(folder.predictions)]
        self._first = True
        self._asked: BackgroundCall[_Chunk] | None = None
        self._asked_at = 0.0
        self._behind = True  # nothing is read yet
        self._bad = 0
        self._looked_at = -10.0
        self._status: SavedStatus | None = None  # not known yet
        self._activity_begun = 0.0  # by the trainer's clock

    @property
    def pid(self) -> int | None:
        status = self._status
        return status.pid if status is not None and status.host == socket.gethostname() else None

    @property
    def alive(self) -> bool:
        return self._status is not None and not self._status.over

    @property
    def done(self) -> int | None:
        if self.view.state == "failed":  # perhaps by the word of `run.json` alone
            return self.view.result.exit_code if isinstance(self.view.result, RunFailed) else EXIT_TRAINING
        return EXIT_OK if self.view.over else None

    @property
    def behind(self) -> bool:
        """Not while the disk hangs: then it is looked at twice a second."""
        waits = self._asked is not None and time.perf_counter() - self._asked_at > self.OVERDUE_S
        return self._behind and not waits

    def poll(self) -> bool:
        deadline = time.perf_counter() + (0.0 if self._first else self.POLL_BUDGET_S)
        changed = False
        while True:
            is_first = self._first  # before the first frame nothing more than that is begun
            self._asked = self._asked or self._next_chunk()
            chunk = self._asked.poll()
            if chunk is None:
                return changed
            self._asked = self._next_chunk() if chunk.behind and not is_first else None
            changed = self._take(chunk) or changed
            if not self._behind or time.perf_counter() >= deadline:
                return changed

    def _next_chunk(self) -> BackgroundCall[_Chunk]:
        """Asked for; once a second also whether the run lives, and what its `run.json` says."""
        is_first, self._first = self._first, False
        limit = self.FIRST_BYTES if is_first else self.CHUNK_BYTES
        now = self._clock()
        look = abs(now - self._looked_at) >= 1.0
        if look:
            self._looked_at = now
        self._asked_at = time.perf_counter()
        return BackgroundCall(partial(_read_chunk, self._tails, limit, self._run if look else None, is_first=is_first))

    def _take(self, chunk: _Chunk) -> bool:
        self._behind = chunk.behind
        for event, at in chunk.items:
            if isinstance(event, MetricRows):
                self.view.follow_rows(event)
            elif event is not None:
                self.view.follow(event, at)
            else:
                self._pass_over()
        for line in chunk.refused:
            self.view.say("warning", line)
        self.view.name = one_line(self._run.name, 80)  # its journal may be of a time when it was called otherwise
        changed = bool(chunk.items)
        return changed if chunk.status is None else self._see(chunk.status) or changed

    def _pass_over(self) -> None:
        """A line is none of ours, or spoilt: that is said once."""
        self._bad += 1
        if self._bad == 1:
            self.view.say(
                "warning", f"{one_line(self._run.folder)}: a journal holds lines that are none of ours; passed over"
            )

    def _see(self, status: SavedStatus) -> bool:
        view = self.view
        before = (view.state, view.activity, view.detail, view.fraction)
        self._status, view.ranks = status, status.ranks
        if not status.over:
            begun = status.activity_since
            if begun > self._activity_begun:  # the same again, and anew: between two looks it was over
                self._activity_begun, view.activity_since = begun, view.now()
            view.set_activity(status.activity or "training", status.detail, status.fraction)
            view.pace.tell(status.rows_per_s, status.tokens_per_s)
            view.state = status.state
        elif not view.over:
            view.state = status.state
            view.activity, view.detail, view.fraction = view.state, "", None
            if view.state == "dead":
                view.say("error", f"its process has ended without a word; {self._how_to_go_on()}", event="Died")
        return before != (view.state, view.activity, view.detail, view.fraction)

    def send(self, command: controls.Command) -> bool:
        if not self._run.alive():
            self.view.say("warning", f"{self._run.name}: no process is training this run")
            return False
        try:
            leave_command(self._run, command)
        except OSError as error:
            self.view.say("error", f"{one_line(self._run.control)}: cannot be written ({error.strerror})")
            return False
        return True

    def _how_to_go_on(self) -> str:
        """The command that resumes the run, if it has saved."""
        if not is_there(self._run.model):
            return "nothing had been saved"
        return f"go on with: {self.view.go_on_with('lmplay-tui', self._run.model)}"
