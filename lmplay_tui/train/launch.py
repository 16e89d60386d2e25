"""A run from its command line to its last event: take the lock, record, train, end, and what comes after.

`run_events` is what the headless command, the dashboard's thread and the tests iterate over. `start_detached` begins a
run in a process of its own (`--detach`).
"""

import contextlib
import errno
import os
import signal
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lmplay_tui.errors import EXIT_BUG, EXIT_TRAINING, TrainingError, UserError, os_error
from lmplay_tui.options import Launch
from lmplay_tui.process import is_child_alive, typed
from lmplay_tui.run.control_files import ControlFiles
from lmplay_tui.run.controls import Controls, HandOver, SaveNow, Stop, StopRequested
from lmplay_tui.run.events import (
    LAST_EVENTS,
    ActivityChanged,
    Answered,
    CheckpointSaved,
    Event,
    HandedOver,
    LeftToAgent,
    LogLine,
    PlanChanged,
    RunDone,
    RunFailed,
    RunStarted,
    RunStopped,
    StepDone,
    Warned,
)
from lmplay_tui.run.folder import RunFolder, RunLock, keep_plan, saved_status, statistics_folder, take_run, utc_now
from lmplay_tui.run.notify import NOTIFY_URL, Notifier, run_on_done
from lmplay_tui.run.plots import write_pngs
from lmplay_tui.run.recorder import LogFile, Recorder
from lmplay_tui.text import one_line, printable
from lmplay_tui.train.build import build_trainer, read_start, set_aside
from lmplay_tui.train.device import device_failure, is_out_of_memory, no_memory
from lmplay_tui.train.handoff import KeptCommands, TimeLimit, hand_over, resume_command, start_process
from lmplay_tui.train.preflight import choose_run
from lmplay_tui.train.process_group import SEEN_WITHIN_S, ProcessGroup, RankLostError
from lmplay_tui.train.progress import Progress

if TYPE_CHECKING:
    from lmplay_tui.train.leader import Leader

BEGINS_WITHIN_S = 60.0  # a process of its own
NO_PARENT = "what has started this process is no more"
LOADS_WITHIN_S = 20.0  # from then on it is a download, which may take hours


def run_events(
    launch: Launch,
    controls: Controls,
    tell: Callable[[Event], None] = lambda _: None,
    group: ProcessGroup | None = None,
) -> Iterator[Event]:
    """Train as a command line asks for it, and give each event.

    Never raises: the last event is `RunDone`, `RunStopped` or `RunFailed` with its exit status, or `HandedOver`. Every
    event is in the run's journals before it is handed out. `tell`: called from a thread, while the iterator is at
    work, with what cannot wait for its next event: a step hangs. `group`: the other processes that train with this
    one, which is rank 0. Where one of them is lost and our agent starts all again, the last event is `LeftToAgent`.
    """
    try:
        run = choose_run(launch)
        lock = take_run(run)
    except (UserError, OSError) as error:
        yield _failed(error, 0)
        return
    launch = _with_notify_url(launch, lock)
    step = 0
    try:
        if launch.anew:
            lock = _start_anew(run, lock, launch)
            launch = launch.without("reset_history", "resume")
        with contextlib.closing(_HeldRun(run, lock, launch, controls, tell, group)) as held:
            yield from held.warn_of_weak_lock()
            step = held.step_before()
            for event in _train_to_an_end(held, step):
                step = getattr(event, "step", None) or step
                if isinstance(event, LAST_EVENTS):
                    yield from _end(held, event, step)
                    return
                yield from held.record(event)
    except (UserError, OSError) as error:  # before there was anything to record into
        yield _failed(error, step)
    finally:
        lock.release()


def _leader_of(group: ProcessGroup | None) -> "Leader | None":
    """Rank 0's hand on the others; None where there are none, and nothing of it is imported."""
    if group is None or group.world_size == 1:
        return None
    from lmplay_tui.train.leader import Leader

    return Leader(group)


def _with_notify_url(launch: Launch, lock: RunLock) -> Launch:
    """With `--notify-url` as the process before has handed it down; no process that this one starts inherits it."""
    url = os.environ.pop(NOTIFY_URL, None)
    return launch.with_options(notify_url=url) if url is not None and lock.inherited else launch


def _start_anew(run: RunFolder, lock: RunLock, launch: Launch) -> RunLock:
    """Move what there is out of the way, the run's folder with its lock included; its plan holds without another."""
    plan = run.plan_text() if run.files.has(run.plan.name) else None
    folder = saved_status(run, alive=False).plan_folder
    set_aside(run, statistics_folder(launch.options.out_dir))
    lock.release()
    fresh = take_run(run)
    if plan is not None:
        run.files.write(run.plan.name, plan)
        run.write_status({"name": run.name, "plan_folder": folder})
    return fresh


class _HeldRun:
    """A run that this process holds: where its events are recorded and sent to, and how another takes it over.

    A bug in the recording costs no step: the run stops, saved, and says so.
    """

    def __init__(  # noqa: PLR0917  (what a run is held by)
        self, run: RunFolder, lock: RunLock, launch: Launch, controls: Controls, tell: Callable[[Event], None],
        group: ProcessGroup | None = None,
    ) -> None:  # fmt: skip
        self.leader = _leader_of(group)
        self.run, self.lock, self.launch, self.controls, self.group = run, lock, launch, controls, group
        self.bug: str | None = None  # of the recording: the first one
        self.lost = ""  # one of the processes that train with this one: what shows it
        self.is_own_loss = False  # it is this one, by its device
        self._times_lost = 0  # the run's lock, as far as that has been told
        self._is_lost = self._said_not_kept = False
        self._plan_text = ""
        self._has_saved = False
        self._tell = tell
        self._limit = TimeLimit(launch.options.max_hours)
        self._notifier = Notifier(launch.options.notify_url, run.name)
        agent = None if group is None else group.agent
        self.kept = None if agent is None else KeptCommands(agent.asked)
        controls.sources += [_control_files(run, lock, self.kept), self._limit]
        self._recorder = Recorder(
            run, verbose=launch.options.verbose, holds=lambda: self.may_not_save() is None,
            pid=None if agent is None else agent.pid,
        )  # fmt: skip

    def close(self) -> None:
        if self.leader is not None:
            self.leader.close()
        self._recorder.close()

    def step_before(self) -> int:
        """Where the run stands before it is loaded, by its `run.json`, which may have been written by anyone."""
        step = self._recorder.status.get("step")
        return step if isinstance(step, int) and self.run.model.exists() else 0

    def warn_of_weak_lock(self) -> list[Event]:
        if not self.lock.by_heartbeat:
            return []
        said = f"{self.run.folder}: cannot be locked there; do not start this run twice"
        return self._recorder.record(Warned(said))

    def record(self, event: Event) -> list[Event]:
        """Write `event` down and send it where news go; gives it back, and what else there is to tell."""
        self._has_saved = self._has_saved or isinstance(event, CheckpointSaved)
        news = self._news_of_lock()
        if self._is_lost:  # the run's folder is another process's
            return [*news, event]
        return [*news, *self._record(event)]

    def _news_of_lock(self) -> list[Event]:
        """What has become of the run's folder since the last look, while this process was training it."""
        if self.lock.taken_by is not None and not self._is_lost:
            self._is_lost = True
            self.controls.send(Stop(reason="another process has the run"))
            return [Warned(f"the run's folder was removed or moved, and {self.lock.taken_by}; this process stops")]
        if self.lock.times_lost == self._times_lost:
            return []
        self._times_lost = self.lock.times_lost
        self._recorder.begin_anew()
        with contextlib.suppress(OSError):
            keep_plan(self.run, self._plan_text, 0)
        said = "its folder was removed or moved while it was training; it is made again, and its journals begin anew"
        return self._record(Warned(f"{one_line(self.run.folder)}: {said}"))

    def may_not_save(self) -> str | None:
        """Why this process must not write the run's checkpoints any more; None: it may."""
        try:
            return None if self.lock.keep() else self.lock.taken_by
        except UserError:  # no lock can lie at the run's path, so no other process holds it
            return None

    def _record(self, event: Event) -> list[Event]:
        try:
            if isinstance(event, RunStarted):
                self._plan_text = event.plan_text
            if isinstance(event, PlanChanged):
                self._plan_text = event.text
                with contextlib.suppress(OSError):
                    keep_plan(self.run, event.text, event.step)
            self._notifier.hear(event)
            return [*self._recorder.record(event), *self._not_sent(), *self._not_kept(event)]
        except Exception as error:
            return [event, *self._stop_for_bug(error)]

    def tell(self, event: Event) -> None:
        """Record what a thread says between two events, and hand it on."""
        self._notifier.hear(event)
        for each in [event] if self._is_lost else self._recorder.record(event):
            self._tell(each)

    def finish_sending(self) -> list[Event]:
        """Wait for what is being sent; gives what there is to tell."""
        try:
            self._notifier.close()
            return self._not_sent()
        except Exception as error:
            return self._stop_for_bug(error)

    def go_on_elsewhere(self) -> int:
        """Start a process that takes the run over; its number. Raises `OSError`."""
        if self.group is not None and self.group.agent is None:
            raise OSError(errno.EPERM, "what has started these processes would end it")
        # Before the first save the checkpoint knows nothing of this start's command line.
        return start_process(self.run, self.launch, self.lock, resumes=self._has_saved, spent_s=self._limit.spent_s)

    def _not_sent(self) -> list[Event]:
        """What could not be sent is said once."""
        complaint = self._notifier.complaint()
        return [] if complaint is None else self._recorder.record(complaint)

    def _not_kept(self, event: Event) -> list[Event]:
        """What is asked is kept for the process that may have to go on; where that fails it is said once."""
        if self.kept is None:
            return []
        self.kept.follow(event)
        if not self.kept.problem or self._said_not_kept:
            return []
        self._said_not_kept = True
        said = f"{self.kept.problem}: should a process be lost, what was asked of the run since its checkpoint is too"
        return self._recorder.record(Warned(said))

    def ask_again(self, progress: Progress) -> None:
        """What was asked of an earlier rank 0 and is not in `progress`, before what has been asked of this one."""
        again = [] if self.kept is None else self.kept.ask_again(progress)
        for command in (*again, *self.controls.take_waiting()):
            self.controls.send(command)

    def _stop_for_bug(self, error: Exception) -> list[Event]:
        if self.bug is not None:
            return []
        self.bug = _bug(error, self.run)
        self.controls.send(Stop(reason="a bug"))
        trace = LogLine("".join(traceback.format_exception(error)), level="traceback")
        LogFile(self.run.log).write_traceback(utc_now(), trace.message)  # the bug may be the recorder's own
        return [trace]


def _control_files(run: RunFolder, lock: RunLock, kept: KeptCommands | None = None) -> ControlFiles:
    files = ControlFiles(run) if kept is None else ControlFiles(run, keep=kept.note)
    if not lock.inherited:  # else they were left for this very run
        files.sweep()
    return files


def _train_to_an_end(held: _HeldRun, step: int) -> Iterator[Event]:
    """The run's events; whatever goes wrong, the last one is one of the ends.

    `step`: where the run stands before it is loaded.
    """
    has_trained = False
    try:
        while True:
            try:
                for event in _train(held):
                    has_trained = has_trained or isinstance(event, StepDone)
                    yield event
                return
            except StopRequested:  # while loading: nothing has been trained
                if (yield from _stop_while_loading(held, step)):
                    return
    except UserError as error:
        held.lost = str(error) if isinstance(error, RankLostError) else ""
        yield _failed(error, 0)
    except Exception as error:
        yield LogLine(traceback.format_exc(), level="traceback")
        if is_out_of_memory(error):  # where nothing smaller can be tried: the model or its optimizer is too large
            yield _failed(no_memory(error), 0)
        elif isinstance(error, OSError) and not has_trained:  # a file or a disk at the start; the log says where
            yield _failed(error, 0)
        elif held.group is not None and (said := device_failure(error)):
            who = f"rank 0 (process {os.getpid()} on {one_line(held.group.host, 80)})"
            held.lost, held.is_own_loss = f"{who}: its device has failed ({said})", True
            yield RunFailed(held.lost, EXIT_TRAINING, 0, None)
        else:
            yield RunFailed(_bug(error, held.run), EXIT_BUG, 0, None)


def _train(held: _HeldRun) -> Iterator[Event]:
    """Read the plan and the checkpoint, build the trainer, run it."""
    run = held.run
    warnings: list[str] = []
    yield ActivityChanged("loading", "the plan and the checkpoint")
    start = read_start(run, held.launch, warnings)
    for warning in (*warnings, *start.complete()):
        yield Warned(warning)
    if held.group is not None and held.group.agent is not None:
        held.group.agent.begins_from(run.model)
    if held.group is not None and (unlike := held.group.unlike):
        yield Warned(
            f"{unlike}: where they round otherwise, weights drift apart and the run ends; use one version of torch and "
            "processors of one kind"
        )
    if start.checkpoint is not None and start.finished():
        name, again = one_line(run.name), saved_status(run, alive=True).go_on_with(held.launch.prog, run.model)
        yield LogLine(
            f"{name} is finished: its plan is done. Look at it: {typed('lmplay-tui attach')} {name}; train on: "
            f"{again} --extend EPOCHS, or a longer --training-plan; start anew: {again} --reset-history"
        )
        yield RunDone(start.progress.step, str(run.model), start.progress.elapsed_s, already=True)
        return
    held.ask_again(start.progress)
    trainer = yield from build_trainer(
        start, held.controls, go_on_elsewhere=held.go_on_elsewhere, tell=held.tell, may_not_save=held.may_not_save,
        leader=held.leader,
    )  # fmt: skip
    del start  # its checkpoint is as large as the model and the optimizer, which have taken what they need
    if held.kept is not None:
        held.kept.progress = trainer.state.progress
    yield from trainer.run()


def _stop_while_loading(held: _HeldRun, step: int) -> Generator[Event, None, bool]:
    """End, or let another process go on; False where that one could not be started: this one loads once more."""
    if held.controls.hands_over:
        return (yield from hand_over(held.run, step, held.controls, held.go_on_elsewhere))
    command = resume_command(held.launch, held.run, saved=False)
    yield RunStopped(step, _checkpoint_of(held.run), command, held.controls.stop_reason or "asked", saved=False)
    return True


def _end(held: _HeldRun, event: Event, step: int) -> Iterator[Event]:
    """Answer what waits for an answer, record the end, let go of the run, and do what was to be done after it."""
    end = _of_group(held, _with_place(event, step, held.run, held.bug))
    if isinstance(end, LeftToAgent):
        _leave_for_the_next(held)
    for answer in _answers(held.controls, end):
        yield from held.record(answer)
    recorded = held.record(end)
    held.lock.release()  # what follows may want to go on with the run
    if held.group is not None and held.group.agent is not None and not isinstance(end, LeftToAgent):
        held.group.agent.end_is_known(exit_status(end))
    yield from _aftermath(held, end)
    yield from recorded


def _leave_for_the_next(held: _HeldRun) -> None:
    """What signals have asked for is kept like all else that is not done. The one that ends this process is none."""
    assert held.kept is not None
    for command in held.controls.left_over():
        if not command.id and not (isinstance(command, Stop) and command.reason == signal.SIGTERM.name):
            held.kept.note(command)


def _with_place(event: Event, step: int, run: RunFolder, bug: str | None) -> Event:
    """A failure with where the run was and the checkpoint that stands; a stop for a `bug` is one."""
    if bug is not None and isinstance(event, RunStopped):
        event = RunFailed(bug, EXIT_BUG, step, None)
    return replace(event, step=step, path=_checkpoint_of(run)) if isinstance(event, RunFailed) else event


def _of_group(held: _HeldRun, end: Event) -> Event:
    """The end as it is where several processes train: one that is lost ends all, and our agent starts them again."""
    group = held.group
    if group is None:
        return end
    if isinstance(end, RunStopped) and held.controls.stop_reason == signal.SIGTERM.name:
        if group.is_orphan:
            return replace(end, reason=NO_PARENT)
        if gone := group.ended():  # then the signal only says that
            held.lost = f"{', '.join(gone)} has ended"
            end = RunFailed(held.lost, EXIT_TRAINING, end.step, end.path)
    if not held.lost or not isinstance(end, RunFailed):
        return end
    if held.leader is not None and (said := held.leader.ranks.last_words()):  # started again it would come to the same
        return replace(end, message=said)
    if group.is_orphan:  # torchrun holds the store that all of them reach
        return replace(end, message=f"{NO_PARENT}; what was trained is saved")
    held.lost = _what_is_lost(held, group)
    if group.agent is None:
        return replace(end, message=held.lost)
    group.agent.rank_is_lost(held.lost)
    return LeftToAgent(end.step)


def _what_is_lost(held: _HeldRun, group: ProcessGroup) -> str:
    """Whose device has failed, or which rank has ended, or hangs and in what; else what torch has said of it."""
    if held.is_own_loss:
        return held.lost
    if held.leader is not None and (said := held.leader.ranks.failed_device()):
        return said
    if gone := group.ended(SEEN_WITHIN_S):
        return f"{', '.join(gone)} has ended"
    behind = "" if held.leader is None or held.leader.lacks_part else held.leader.behind()
    return f"{behind}, and does not answer" if behind else held.lost


def _answers(controls: Controls, end: Event) -> Iterator[Answered]:
    """What became of the commands that have no answer yet, now that the run ends."""
    for command in controls.left_over():
        if not command.id:
            continue
        if isinstance(command, Stop) and isinstance(end, RunStopped):
            saved = f"saved {end.path}" if end.path and end.saved else "nothing had been trained"
            yield Answered("Stop", command.id, True, f"stopped at step {end.step:,}, {saved}")
        elif isinstance(command, SaveNow) and isinstance(end, RunStopped | RunDone):
            # The end's own save came after it was asked for: all that there is, is saved.
            ok = end.path is not None and (isinstance(end, RunDone) or end.saved)
            yield Answered("SaveNow", command.id, ok, str(end.path) if ok else "nothing had been trained")
        elif isinstance(command, HandOver) and isinstance(end, HandedOver):
            yield Answered("HandOver", command.id, True, f"goes on in process {end.pid}")
        else:
            said = end.message if isinstance(end, RunFailed) else "the run has ended"
            yield Answered(type(command).__name__, command.id, False, said)


def _aftermath(held: _HeldRun, end: Event) -> Iterator[Event]:
    """`--on-done` and the last news, when the end is written down and this process holds the run no longer."""
    on_done = held.launch.options.on_done
    if on_done and isinstance(end, RunDone | RunStopped | RunFailed):
        for event in run_on_done(on_done, held.run, end):
            if isinstance(event, ActivityChanged):
                yield event  # not for `run.json`: the run has ended
            else:
                yield from held.record(event)
    yield from held.finish_sending()


def _failed(error: UserError | OSError, step: int) -> RunFailed:
    """The end by an error that a user can do something about: its line, and the status of its kind."""
    if isinstance(error, OSError):
        error = os_error(error)
    return RunFailed(printable(error, 4000), error.exit_code, step, None)


def _bug(error: Exception, run: RunFolder) -> str:
    return f"a bug: {type(error).__name__}: {one_line(error)}; the traceback is in {run.log}"


def _checkpoint_of(run: RunFolder) -> str | None:
    return str(run.model) if run.model.exists() else None


# ---- what the agent of several processes does for its run


def taken_for_others(launch: Launch) -> tuple[RunFolder, RunLock, Launch]:
    """The run that a command line speaks of, held for the processes that this one starts, and what they are to do.

    Raises `UserError`, also where another process has the run.
    """
    run = choose_run(launch)
    lock = take_run(run)
    launch = _with_notify_url(launch, lock)
    try:
        if launch.anew:
            lock = _start_anew(run, lock, launch)
            launch = launch.without("reset_history", "resume")
        _control_files(run, lock)
    except BaseException:
        lock.release()
        raise
    lock.lend()
    return run, lock, launch


def told(run: RunFolder, lock: RunLock, launch: Launch, event: Event) -> list[Event]:
    """Record what happens while no trainer of the run is there, and send it where news go. Gives what is to be shown.

    An end is followed by what comes after an end; the run is then let go of.
    """
    with contextlib.closing(_HeldRun(run, lock, launch, Controls(), lambda _: None)) as held:
        if isinstance(event, LAST_EVENTS):
            return list(_end(held, event, held.step_before()))
        return [*held.record(event), *held.finish_sending()]


# ---- what the commands and the dashboard do with a run besides


def draw_pictures(event: Event, launch: Launch) -> None:
    """After a plan's end: draw the run's curves beside its statistics, in a process that nothing waits for."""
    if isinstance(event, RunDone) and not event.already:
        write_pngs(statistics_folder(launch.options.out_dir), RunFolder(Path(event.path)).name)


def exit_status(event: Event) -> int:
    """The process's exit status after a run's last event."""
    assert isinstance(event, LAST_EVENTS)
    if isinstance(event, LeftToAgent):
        return EXIT_TRAINING
    return event.exit_code if isinstance(event, RunFailed) else 0


def start_detached(launch: Launch, *, until_it_trains: bool = False) -> tuple[RunFolder, int]:
    """Start the run that a command line speaks of in a process of its own, and wait until it speaks.

    Gives the run and the process's number. Raises `UserError` where it cannot begin. `until_it_trains`: no
    screen shows the run, so wait until its data are open, or for as long as people wait.
    """
    run = choose_run(launch)
    lock = take_run(run)
    ControlFiles(run).sweep()  # the process that inherits the lock takes what it finds for its own
    try:
        pid = start_process(run, launch, lock, resumes=False)
    except OSError as error:
        raise TrainingError(f"no process could be started ({error.strerror})") from None
    finally:
        lock.release()
    deadline = time.monotonic() + (LOADS_WITHIN_S if until_it_trains else BEGINS_WITHIN_S)
    while time.monotonic() < deadline:
        lives = is_child_alive(pid)  # before the look: what it said last is then seen for certain
        status = saved_status(run, alive=False)
        has_spoken = status.writer.pid == pid
        if has_spoken and (status.state == "failed" or status.refusal):
            raise UserError(status.refusal or status.message or "failed")
        if has_spoken and (not until_it_trains or status.has_begun or status.said_state != "running"):
            break
        if not lives:
            raise TrainingError(f"the run's process has ended before it began; see {one_line(run.log)}")
        time.sleep(0.05)
    return run, pid
