"""A run from a command line to its last event: what every host of a trainer iterates over.

`--detach`: a run that begins in a process of its own.
"""

import contextlib
import os
import shlex
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from lmplay_tui.errors import EXIT_BUG, TrainingError, UserError, os_error
from lmplay_tui.files import write_whole
from lmplay_tui.process import is_child_alive
from lmplay_tui.run.controls import ControlFiles, Controls, HandOver, SaveNow, Stop, StopRequested
from lmplay_tui.run.events import (
    LAST_EVENTS,
    ActivityChanged,
    Answered,
    CheckpointSaved,
    Event,
    HandedOver,
    LogLine,
    PlanChanged,
    RunDone,
    RunFailed,
    RunStopped,
    StepDone,
    Warned,
)
from lmplay_tui.run.folder import RunFolder, RunLock, keep_plan, statistics_folder, taken, utc_now
from lmplay_tui.run.notify import NOTIFY_URL, Notifier, run_on_done
from lmplay_tui.run.plots import write_pngs
from lmplay_tui.run.recorder import LogFile, Recorder
from lmplay_tui.text import one_line, printable
from lmplay_tui.train.build import build_trainer, choose_run, read_start, resume_command, set_aside
from lmplay_tui.train.handoff import TimeLimit, hand_over, start_process


def run_events(
    given: Mapping[str, Any],
    controls: Controls,
    prog: str = "lmp_trainer",
    tell: Callable[[Event], None] = lambda _: None,
) -> Iterator[Event]:
    """Train as the options of a command line say, and tell.

    Never raises: the last event is `RunDone`, `RunStopped` or `RunFailed` with its exit status. Every event is in the
    run's journals before it is handed out. `prog`: the command that a resume is typed with. `tell`: called from a
    thread, while the iterator is at work, with what cannot wait for its next event: a step hangs.
    """
    try:
        run = choose_run(given)
        lock = taken(run)
    except (UserError, OSError) as error:
        yield _failed(error, 0)
        return
    given = _with_address(given, lock)
    recorder: Recorder | None = None
    step, saved = 0, False
    limit, notifier = TimeLimit(given.get("max_hours")), Notifier(given.get("notify_url"), run.name)
    controls.sources += [_control_files(run, lock), limit]
    try:
        if given.get("reset_history") or given.get("resume") == "none":
            lock = _start_anew(run, lock, given)
            given = {name: value for name, value in given.items() if name not in ("reset_history", "resume")}
        recorder = Recorder(run, verbose=bool(given.get("verbose")))
        if lock.by_heartbeat:
            yield from recorder.record(Warned(f"{run.folder}: cannot be locked there; do not start this run twice"))

        def go_on_elsewhere() -> int:
            # Before the first save the checkpoint knows nothing of this start's command line.
            return start_process(run, given, lock, resumes=saved, spent_s=limit.spent_s)

        step = _step_before(run, recorder)
        books = _Books(run, recorder, notifier, controls)
        host = _Host(prog, go_on_elsewhere, partial(_tell_at_once, notifier, recorder, tell))
        for event in _guarded(run, given, controls, host, step):
            step = getattr(event, "step", None) or step
            saved = saved or isinstance(event, CheckpointSaved)
            if isinstance(event, LAST_EVENTS):
                end = _with_place(event, step, run, books.bug)
                for answer in _answers(controls, end):
                    yield from books.enter(answer)
                recorded = books.enter(end)
                lock.release()  # what follows may want to go on with the run
                yield from _aftermath(end, run, given, books)
                yield from recorded
                return
            yield from books.enter(event)
    except (UserError, OSError) as error:  # before there was anything to record into
        yield _failed(error, step)
    finally:
        if recorder is not None:
            recorder.close()
        lock.release()


def _failed(error: UserError | OSError, step: int) -> RunFailed:
    """The end by an error that a user can do something about: its line, and the status of its kind."""
    if isinstance(error, OSError):
        error = os_error(error)
    return RunFailed(printable(error, 4000), error.exit_code, step, None)


class _Books:
    """Where everything that happens is entered. A bug in it costs no step: the run stops, saved, and says so."""

    def __init__(self, run: RunFolder, recorder: Recorder, notifier: Notifier, controls: Controls) -> None:
        self.bug: str | None = None  # the first one
        self._run, self._recorder, self._notifier, self._controls = run, recorder, notifier, controls

    def enter(self, event: Event) -> list[Event]:
        """Write `event` down and send it where news go; gives it back, and what else there is to tell."""
        try:
            if isinstance(event, PlanChanged):
                with contextlib.suppress(OSError):
                    keep_plan(self._run, event.text, event.step)
            self._notifier.hear(event)
            return [*self._recorder.record(event), *self._complaint()]
        except Exception as error:
            return [event, *self._found(error)]

    def close(self) -> list[Event]:
        """Wait for what is being sent; gives what there is to tell."""
        try:
            self._notifier.close()
            return self._complaint()
        except Exception as error:
            return self._found(error)

    def _complaint(self) -> list[Event]:
        """What could not be sent is said once."""
        complaint = self._notifier.complaint()
        return [] if complaint is None else self._recorder.record(complaint)

    def _found(self, error: Exception) -> list[Event]:
        if self.bug is not None:
            return []
        self.bug = _bug(error, self._run)
        self._controls.send(Stop(reason="a bug"))
        trace = LogLine("".join(traceback.format_exception(error)), level="traceback")
        LogFile(self._run.log).write_traceback(utc_now(), trace.message)  # the bug may be the recorder's own
        return [trace]


def _bug(error: Exception, run: RunFolder) -> str:
    return f"a bug: {type(error).__name__}: {one_line(error)}; the traceback is in {run.log}"


def _control_files(run: RunFolder, lock: RunLock) -> ControlFiles:
    files = ControlFiles(run)
    if not lock.inherited:  # else they were left for this very run
        files.sweep()
    return files


def _tell_at_once(notifier: Notifier, recorder: Recorder, tell: Callable[[Event], None], event: Event) -> None:
    """What is told from a thread takes the way of all events."""
    notifier.hear(event)
    for each in recorder.record(event):
        tell(each)


def _with_address(given: Mapping[str, Any], lock: RunLock) -> Mapping[str, Any]:
    """With `--notify-url` as the process before has handed it down; no process that this one starts inherits it."""
    url = os.environ.pop(NOTIFY_URL, None)
    return {**given, "notify_url": url} if url is not None and lock.inherited else given


def _with_place(event: Event, step: int, run: RunFolder, bug: str | None) -> Event:
    """A failure with where the run was and the checkpoint that stands; a stop for a `bug` is one."""
    if bug is not None and isinstance(event, RunStopped):
        event = RunFailed(bug, EXIT_BUG, step, None)
    return replace(event, step=step, path=_checkpoint_of(run)) if isinstance(event, RunFailed) else event


def _step_before(run: RunFolder, recorder: Recorder) -> int:
    """Where the run stands, by its `run.json`, which anybody may have written."""
    step = recorder.status.get("step")
    return step if isinstance(step, int) and run.model.exists() else 0


def _checkpoint_of(run: RunFolder) -> str | None:
    return str(run.model) if run.model.exists() else None


def _aftermath(end: Event, run: RunFolder, given: Mapping[str, Any], books: _Books) -> Iterator[Event]:
    """What is still to do when the end is written down and nobody holds the run any more."""
    if isinstance(end, RunDone | RunStopped | RunFailed) and given.get("on_done"):
        for event in run_on_done(given["on_done"], run, end):
            if isinstance(event, ActivityChanged):
                yield event  # not for `run.json`: the run has ended
            else:
                yield from books.enter(event)
    yield from books.close()


def _start_anew(run: RunFolder, lock: RunLock, given: Mapping[str, Any]) -> RunLock:
    """Move what there is out of the way, the run's folder with its lock included; its plan holds without another."""
    plan = run.plan.read_bytes() if run.plan.is_file() else None
    folder = run.status().get("plan_folder", "")
    set_aside(run, statistics_folder(given.get("out_dir")))
    lock.release()
    fresh = taken(run)
    if plan is not None:
        write_whole(run.plan, plan)
        run.write_status({"name": run.name, "plan_folder": folder})
    return fresh


def _answers(controls: Controls, end: Event) -> Iterator[Answered]:
    """What became of the commands that nobody has answered yet, now that the run ends."""
    for command in controls.left_over():
        if not command.id:
            continue
        if isinstance(command, Stop) and isinstance(end, RunStopped):
            saved = f"saved {end.path}" if end.path and end.saved else "nothing had been trained"
            yield Answered("Stop", command.id, True, f"stopped at step {end.step}, {saved}")
        elif isinstance(command, SaveNow) and isinstance(end, RunStopped | RunDone):
            # The end's own save came after it was asked for: all that there is, is saved.
            ok = end.path is not None and (isinstance(end, RunDone) or end.saved)
            yield Answered("SaveNow", command.id, ok, str(end.path) if ok else "nothing had been trained")
        elif isinstance(command, HandOver) and isinstance(end, HandedOver):
            yield Answered("HandOver", command.id, True, f"goes on in process {end.pid}")
        else:
            said = end.message if isinstance(end, RunFailed) else "the run has ended"
            yield Answered(type(command).__name__, command.id, False, said)


@dataclass(frozen=True)
class _Host:
    """What a trainer's host does for it: see `run_events` and `Trainer`."""

    prog: str
    go_on_elsewhere: Callable[[], int]
    tell: Callable[[Event], None]


def _guarded(run: RunFolder, given: Mapping[str, Any], controls: Controls, host: _Host, step: int) -> Iterator[Event]:
    """The run's events, the last one always one of the ends. `step`: where the run stands before it is loaded."""
    has_trained = False
    try:
        while True:
            try:
                for event in _train(run, given, controls, host):
                    has_trained = has_trained or isinstance(event, StepDone)
                    yield event
                return
            except StopRequested:  # while loading: nothing has been trained
                if not controls.hands_over:
                    path, command = _checkpoint_of(run), resume_command(host.prog, run, given, False)
                    yield RunStopped(step, path, command, controls.stop_reason or "asked", saved=False)
                    return
                if (yield from hand_over(run, step, controls, host.go_on_elsewhere)):
                    return
    except UserError as error:
        yield _failed(error, 0)
    except Exception as error:
        yield LogLine(traceback.format_exc(), level="traceback")
        if isinstance(error, OSError) and not has_trained:  # a file or a disk at the start; the log says where
            yield _failed(error, 0)
        else:
            yield RunFailed(_bug(error, run), EXIT_BUG, 0, None)


def _train(run: RunFolder, given: Mapping[str, Any], controls: Controls, host: _Host) -> Iterator[Event]:
    prog = host.prog
    warnings: list[str] = []
    yield ActivityChanged("loading", "the plan and the checkpoint")
    start = read_start(run, given, warnings)
    for warning in (*warnings, *start.complete()):
        yield Warned(warning)
    if start.checkpoint is not None and start.finished():
        name, model = one_line(run.name), f"--model {shlex.quote(one_line(run.model))}"
        yield LogLine(
            f"{name} is finished: its plan is done. Look at it: lmplay-tui attach {name}; train on: {prog} {model} "
            f"--extend EPOCHS, or a longer --training-plan; start anew: {prog} {model} --reset-history"
        )
        yield RunDone(start.progress.step, str(run.model), start.progress.elapsed_s, already=True)
        return
    trainer = yield from build_trainer(start, controls, prog)
    del start  # its checkpoint is as large as the model and the optimizer, which have taken what they need
    trainer.go_on_elsewhere, trainer.tell = host.go_on_elsewhere, host.tell
    yield from trainer.run()


def draw_pictures(event: Event, given: Mapping[str, Any]) -> None:
    """After a plan's end: draw the run's curves beside its statistics, in a process that nothing waits for."""
    if isinstance(event, RunDone) and not event.already:
        write_pngs(statistics_folder(given.get("out_dir")), RunFolder(Path(event.path)).name)


def exit_status(event: Event) -> int:
    """The process's exit status after a run's last event."""
    assert isinstance(event, LAST_EVENTS)
    return event.exit_code if isinstance(event, RunFailed) else 0


BEGINS_WITHIN_S = 60.0
LOADS_WITHIN_S = 20.0  # from then on it is a download, which may take hours


def start_detached(given: Mapping[str, Any], *, until_it_trains: bool = False) -> tuple[RunFolder, int]:
    """Start the run that a command line speaks of in a process of its own, and wait until it speaks.

    Gives the run and the process's number. Raises `UserError` where it cannot begin. `until_it_trains`: nobody will
    look at the run, so wait until its data are open, or for as long as people wait.
    """
    run = choose_run(given)
    lock = taken(run)
    ControlFiles(run).sweep()  # the process that inherits the lock takes what it finds for its own
    try:
        pid = start_process(run, given, lock, resumes=False)
    except OSError as error:
        raise TrainingError(f"no process could be started ({error.strerror})") from None
    finally:
        lock.release()
    deadline = time.monotonic() + (LOADS_WITHIN_S if until_it_trains else BEGINS_WITHIN_S)
    while time.monotonic() < deadline:
        lives = is_child_alive(pid)  # before the look: what it said last is then seen for certain
        status = run.status()
        if status.get("pid") == pid and (status.get("state") == "failed" or "refused" in status):
            raise UserError(one_line(status.get("refused") or status.get("message", "failed"), 1000))
        begun = not until_it_trains or status.get("has_begun") or status.get("state") != "running"
        if status.get("pid") == pid and begun:
            break
        if not lives:
            raise TrainingError(f"the run's process has ended before it began; see {one_line(run.log)}")
        time.sleep(0.05)
    return run, pid
