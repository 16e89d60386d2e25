"""Where the trainer's thread and the screen's meet: a run of this process.

The trainer never calls the screen: a terminal that stalls would stop the training. Events wait in a bounded queue;
commands go through `Controls`, which takes no lock.
"""

import contextlib
import gc
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from lmplay_tui.errors import EXIT_BUG, EXIT_OK
from lmplay_tui.files import is_folder, is_there
from lmplay_tui.formats import counted
from lmplay_tui.options import Launch
from lmplay_tui.run.controls import Command, Controls, HandOver, SaveNow, Stop
from lmplay_tui.run.events import (
    LAST_EVENTS,
    ActivityChanged,
    Event,
    HandedOver,
    MetricsLogged,
    RunFailed,
    RunStopped,
    StepDone,
)
from lmplay_tui.run.folder import RunFolder, utc_now
from lmplay_tui.run.journal import Tail
from lmplay_tui.run.metric_rows import MetricsTail
from lmplay_tui.run.recorder import LogFile
from lmplay_tui.run.view import RunView
from lmplay_tui.text import one_line
from lmplay_tui.ui.source import FolderSource, JournalItem, read_items

MAX_WAITING = 50_000
MAX_PRINTS = 2000  # lines
POLL_BUDGET_S = 0.012  # of the screen's thread, a poll; the rest waits for the next
_MAY_BE_LOST = (StepDone, ActivityChanged, MetricsLogged)  # under a flood: the journals on disk have the figures

Events = Callable[[Launch, Controls], Iterator[Event]]


class LiveSource:
    """A trainer in a thread of this process."""

    live = True

    def __init__(self, launch: Launch, events: Events | None = None) -> None:
        """`events`: what makes the run's events; the real trainer where left out."""
        self.view = RunView()
        self.folder: RunFolder | None = None
        self.controls = Controls()
        self.finished = threading.Event()
        self._launch = launch
        self._events = events
        self._queue: deque[Event | JournalItem] = deque()  # what is written is of the run's own past
        self._lost = 0
        self._prints: deque[str] = deque(maxlen=MAX_PRINTS)  # for the run's log, until it has one
        self.started = False
        self.leaving = False  # the screen goes, or shall go when the trainer is done; set by signal handlers too
        self._state_before = ""  # the view's state when the stop was asked for
        self._last: Event | None = None
        # Not a daemon: leaving while torch computes would abort the process.
        self._thread = threading.Thread(target=self._train, name="trainer", daemon=False)

    @property
    def pid(self) -> int:
        return os.getpid()

    def start(self) -> None:
        self.started = True
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def done(self) -> int | None:
        return None if self._queue or not self.finished.is_set() else self.exit_status

    @property
    def behind(self) -> bool:
        """Whether its own past waits to be shown."""
        return bool(self._queue) and isinstance(self._queue[0], JournalItem)

    @property
    def exit_status(self) -> int:
        """By the trainer's last event, whether or not the screen has seen it."""
        if isinstance(self._last, RunFailed):
            return self._last.exit_code
        return EXIT_OK if isinstance(self._last, LAST_EVENTS) else EXIT_BUG

    @property
    def leaves(self) -> bool:
        """Whether the screen closes once the trainer is done; else it stays until its user leaves."""
        return self.leaving or isinstance(self._last, RunStopped | HandedOver)

    def poll(self) -> bool:
        deadline = time.perf_counter() + POLL_BUDGET_S
        changed = False
        while self._queue and time.perf_counter() < deadline:
            item = self._queue.popleft()
            if isinstance(item, Event):
                self.view.follow(item)
            else:
                self.view.follow_past(*item)
            changed = True
        self._show_stopping()
        if self._lost:
            self.view.say("warning", f"the screen fell behind: {counted(self._lost, 'step')} are in the journals only")
            self._lost = 0
        return changed

    def send(self, command: Command) -> bool:
        """Also from a signal handler: only appends."""
        self.controls.send(command)
        self._show_stopping()
        if isinstance(command, Stop) and command.when == "stage_end":
            self.view.say("info", "stops when this stage is done")
        return True

    def _show_stopping(self) -> None:
        """The run leaves between two mini-batches; where a hand-over has failed it goes on after all."""
        view = self.view
        if self.controls.stop_now:
            if view.state != "stopping" and not view.over:
                self._state_before, view.state = view.state, "stopping"
        elif view.state == "stopping":
            view.state = self._state_before

    def stop(self, reason: str) -> None:
        """Save and end; also from a signal handler, as the next two."""
        self.send(Stop(reason=reason))

    def save(self) -> None:
        """Save now and go on."""
        self.send(SaveNow())

    def hand_over(self, reason: str) -> None:
        """Go on in a process without this terminal."""
        self.send(HandOver(reason=reason))

    def keep_prints(self, lines: Sequence[str]) -> None:
        """Write what was printed into the run's `log.txt`, as soon as there is one."""
        self._prints.extend(lines)
        if self._prints and self.folder is not None and is_folder(self.folder.folder):
            log, stamp = LogFile(self.folder.log), utc_now()
            while self._prints:
                log.write(f"{stamp} print   {one_line(self._prints.popleft(), 1000)}")

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for the trainer to leave; whether it has."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    # ---- in the trainer's thread

    def _train(self) -> None:
        try:
            started = False
            for event in self._run_events():
                self._put(event)
                if isinstance(event, StepDone) and not started:
                    started = True
                    gc.freeze()  # what start-up has made stays; to search it for garbage stops both threads for 0.1 s
            self._draw_pictures()
        except BaseException as error:
            self._put(RunFailed(f"a bug: {type(error).__name__}: {one_line(error)}", EXIT_BUG, step=0, path=None))
        finally:
            self.finished.set()

    def _run_events(self) -> Iterator[Event]:
        if self._events is not None:
            return self._events(self._launch, self.controls)
        self._put(ActivityChanged("loading", "torch"))
        from lmplay_tui.errors import UserError
        from lmplay_tui.train.launch import run_events
        from lmplay_tui.train.preflight import choose_run

        with contextlib.suppress(UserError):  # run_events says it as its last event
            self.folder = choose_run(self._launch)
            self._remember(self.folder)
        return run_events(self._launch, self.controls, tell=self._queue.append)

    def _draw_pictures(self) -> None:
        if self._events is None and self._last is not None:
            from lmplay_tui.train.launch import draw_pictures

            draw_pictures(self._last, self._launch)

    def _remember(self, folder: RunFolder) -> None:
        """A resumed run's curves begin where the run began: read its journals before it goes on."""
        if self._launch.anew or not is_there(folder.model):
            return
        for tail in (Tail(folder.events), MetricsTail(folder.metrics), Tail(folder.predictions)):
            more = True
            while more:
                self._queue.extend(item for item in read_items(tail, 1 << 20) if item.event is not None)
                more = tail.behind

    def _put(self, event: Event) -> None:
        self._last = event
        if len(self._queue) >= MAX_WAITING and isinstance(event, _MAY_BE_LOST):
            self._lost += 1
            return
        self._queue.append(event)


def detached_source(launch: Launch) -> FolderSource:
    """Start the run in a process of its own and look at it. Raises `UserError` where it cannot begin."""
    from lmplay_tui.train.launch import start_detached

    return FolderSource(start_detached(launch)[0])


def end_anyway(source: LiveSource, give_back: Callable[[], None], seconds: float = 10.0) -> None:
    """A watchdog: when the trainer has finished but the screen cannot leave (a stalled terminal), end the process.

    The checkpoint is on the disk by then. `give_back`: the terminal to the shell, without waiting for it.
    The watch ends with the source, which the app drops when its user goes back to the launcher.
    """
    finished, held = source.finished, weakref.ref(source)

    def leaves() -> bool | None:
        return None if (source := held()) is None else source.leaves

    def watch() -> None:
        finished.wait()
        while leaves() is False:
            time.sleep(1.0)
        time.sleep(seconds)
        if (source := held()) is not None:
            give_back()
            os._exit(source.exit_status)

    threading.Thread(target=watch, name="watchdog", daemon=True).start()
