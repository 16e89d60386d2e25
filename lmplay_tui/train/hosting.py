"""A run from a command line to its last event: what every host of a trainer iterates over."""

import contextlib
import os
import shlex
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from lmplay_tui.errors import EXIT_BUG, UserError
from lmplay_tui.run.control_files import ControlFiles
from lmplay_tui.run.controls import Controls, HandOver, SaveNow, Stop
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
    Warned,
)
from lmplay_tui.run.folder import RunFolder, RunLock, statistics_folder, taken, write_whole
from lmplay_tui.run.notifying import NOTIFY_URL, Notifier
from lmplay_tui.run.on_done import run_on_done
from lmplay_tui.run.own_pictures import write_pngs
from lmplay_tui.run.plan_history import keep_plan
from lmplay_tui.run.recorder import Recorder
from lmplay_tui.text import one_line
from lmplay_tui.train.handing_over import hand_over, start_process
from lmplay_tui.train.starting import build_trainer, choose_run, read_start, resume_command, set_aside
from lmplay_tui.train.steps import StopRequested
from lmplay_tui.train.time_limit import TimeLimit


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
    except UserError as error:
        yield RunFailed(str(error), error.exit_code, step=0, path=None)
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
        host = _Host(prog, go_on_elsewhere, partial(_tell_at_once, notifier, recorder, tell))
        for event in _guarded(run, given, controls, host, step):
            step = getattr(event, "step", None) or step
            saved = saved or isinstance(event, CheckpointSaved)
            if isinstance(event, PlanChanged):
                with contextlib.suppress(OSError):
                    keep_plan(run, event.text, event.step)
            notifier.hear(event)
            if isinstance(event, LAST_EVENTS):
                end = _with_place(event, step, run)
                for answer in _answers(controls, end):
                    yield from recorder.record(answer)
                recorded = recorder.record(end)
                lock.release()  # what follows may want to go on with the run
                yield from _aftermath(end, run, given, recorder, notifier)
                yield from recorded
                return
            yield from recorder.record(event)
            yield from _complaint(notifier, recorder)
    except (UserError, OSError) as error:  # before there was anything to record into
        yield RunFailed(one_line(error, 1000), 2, step, None)
    finally:
        if recorder is not None:
            recorder.close()
        lock.release()


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


def _with_place(event: Event, step: int, run: RunFolder) -> Event:
    """A failure with where the run was and the checkpoint that stands."""
    if not isinstance(event, RunFailed):
        return event
    return replace(event, step=step, path=_checkpoint_of(run))


def _step_before(run: RunFolder, recorder: Recorder) -> int:
    """Where the run stands, by its `run.json`, which anybody may have written."""
    step = recorder.status.get("step")
    return step if isinstance(step, int) and run.model.exists() else 0


def _checkpoint_of(run: RunFolder) -> str | None:
    return str(run.model) if run.model.exists() else None


def _aftermath(
    end: Event, run: RunFolder, given: Mapping[str, Any], recorder: Recorder, notifier: Notifier
) -> Iterator[Event]:
    """What is still to do when the end is written down and nobody holds the run any more."""
    if isinstance(end, RunDone | RunStopped | RunFailed) and given.get("on_done"):
        for event in run_on_done(given["on_done"], run, end):
            if isinstance(event, ActivityChanged):
                yield event  # not for `run.json`: the run has ended
            else:
                yield from recorder.record(event)
    notifier.close()
    yield from _complaint(notifier, recorder)


def _complaint(notifier: Notifier, recorder: Recorder) -> Iterator[Event]:
    """What could not be sent is said once."""
    if (complaint := notifier.complaint()) is not None:
        yield from recorder.record(complaint)


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


def _guarded(
    run: RunFolder, given: Mapping[str, Any], controls: Controls, host: _Host, step: int
) -> Iterator[Event]:
    """The run's events, the last one always one of the ends. `step`: where the run stands before it is loaded."""
    try:
        while True:
            try:
                yield from _train(run, given, controls, host)
                return
            except StopRequested:  # while loading: nothing has been trained
                if not controls.hands_over:
                    path, command = _checkpoint_of(run), resume_command(host.prog, run, given, False)
                    yield RunStopped(step, path, command, controls.stop_reason or "asked", saved=False)
                    return
                if (yield from hand_over(run, step, controls, host.go_on_elsewhere)):
                    return
    except UserError as error:
        yield RunFailed(str(error), error.exit_code, 0, None)
    except Exception as error:
        yield LogLine(traceback.format_exc(), level="traceback")
        said = f"a bug: {type(error).__name__}: {one_line(error)}; the traceback is in {run.log}"
        yield RunFailed(said, EXIT_BUG, 0, None)


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


