"""The agent: a process without a model that starts several which train one run together, and outlives them.

It holds the run's lock over all of them, turns signals into the run's control files, starts all of them again where one
is lost, a few times an hour at most, and ends with the run's exit status. What starts and watches processes is
torch.distributed.elastic, one launch an attempt: each has a store of its own, so nothing of an earlier one is met.
"""

import contextlib
import logging
import math
import os
import shutil
import signal
import tempfile
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Self

import psutil
from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, PContext

from lmplay_tui.errors import EXIT_LEFT_AT_ONCE, EXIT_TRAINING, UserError
from lmplay_tui.formats import counted
from lmplay_tui.options import OPTIONS, Launch, Part, command_words
from lmplay_tui.process import Interrupts, lay_over, own_command, own_environment
from lmplay_tui.run.control_files import leave_command
from lmplay_tui.run.controls import Controls, SaveNow, Stop
from lmplay_tui.run.events import ActivityChanged, Event, RunFailed, Warned
from lmplay_tui.run.folder import RunFolder, RunLock, saved_status
from lmplay_tui.run.notify import NOTIFY_URL
from lmplay_tui.text import one_line
from lmplay_tui.train.agent_folder import COLLECTIVE_S, Agent
from lmplay_tui.train.handoff import take_spent
from lmplay_tui.train.launch import taken_for_others, told
from lmplay_tui.train.process_group import gpus_for, processors

SIGNALS = "SIGQUIT"  # that torch's launcher may take; the others are ours
SAVES_WITHIN_S = 300  # rank 0, when another is lost
HOUR_S = 3600.0
WATCHES_EVERY_S = 0.05
LOOKS_LATE_S = 1.0  # at most, even on a crowded machine
KILLED_WITHIN_S = 1.0  # one that waits for a disk takes longer
FOLLOWS_WITHIN_S = 10.0  # the others, when rank 0 has ended: they have nothing to save


def train_together(
    launch: Launch,
    count: int,
    controls: Controls,
    say: Callable[[Event], None],
    *,
    quiet: bool,
    limit: "RestartLimit | None" = None,
    limits: "HangLimits | None" = None,
) -> int:
    """Train the run that a command line speaks of by `count` processes; the exit status.

    `controls`: what signals have asked for until now. `say`: shows what the agent itself has to tell; what the run
    tells, rank 0 prints, unless `quiet`. Raises `UserError` where the run cannot begin.
    """
    limit = limit or RestartLimit()
    refuse_old_launcher()
    run, lock, launch = taken_for_others(launch)
    if (url := launch.options.notify_url) is not None:
        lay_over({NOTIFY_URL: url})

    def tell(event: Event) -> None:
        for each in told(run, lock, launch, event):
            say(each)

    def told_lost(what: str, left: int) -> bool:
        status = saved_status(run)
        step = 0 if status.checkpoint is None or not run.model.exists() else status.checkpoint.step
        reached = int(status.at.step) if math.isfinite(status.at.step) else step
        what = f"{what}, behind step {reached:,}"
        if limit.allows_one_more():
            again = f", at least {counted(reached - step, 'step')} trained again" if reached > step else ""
            times = f"restart {limit.count} of at most {limit.most} in an hour"
            tell(Warned(f"{what}; {_all(left)} again from step {step:,}{again}: {times}", step))
            return True
        said = f"{what}; not started again: that was done {limit.most} times in the last hour; see {one_line(run.log)}"
        tell(RunFailed(said, EXIT_TRAINING, step, str(run.model) if run.model.exists() else None))
        return False

    try:
        devices = gpus_for(launch.options, count)
        processes = Processes(
            run,
            lock,
            _command(run, launch),
            count,
            quiet=quiet,
            prog=launch.prog,
            told_lost=told_lost,
            devices=devices,
            limits=limits or HangLimits(),
        )
        processes.catch_signals(controls)
        tell(ActivityChanged("starting", f"{count} processes"))
        if not devices and count > (there := processors()):
            shared = "one processor" if there == 1 else f"{there} processors"
            tell(Warned(f"--nproc: {count} processes share {shared}, and wait for each other: fewer would be quicker"))
        return processes.train()
    finally:
        lock.release()


def refuse_old_launcher() -> None:
    """Raise `UserError` where torch's launcher takes the signals that are ours."""
    import torch
    from torch.distributed.launcher.api import LaunchConfig

    if not hasattr(LaunchConfig, "signals_to_handle"):
        raise UserError(f"--nproc: torch {torch.__version__} is too old for it; install a newer one, or use torchrun")


def _all(count: int) -> str:
    return "the one that is left starts" if count == 1 else f"all {count} processes start"


def _command(run: RunFolder, launch: Launch) -> list[str]:
    """Of each of the processes: the same start, headless, with what says how the run is printed."""
    of_process = ("json_lines", "on_hangup", "ascii")
    left_out = [name for name in launch.line if OPTIONS[name].part is Part.PROCESS and name not in of_process]
    line = launch.without(*left_out, "model").line
    return own_command("lmplay_tui.cli", *command_words({"model": str(run.model), **line, "headless": True}))


@dataclass
class RestartLimit:
    """How often all processes are started again: `most` times an hour."""

    most: int = 3
    clock: Callable[[], float] = time.monotonic
    _at: deque[float] = field(default_factory=deque)

    def allows_one_more(self) -> bool:
        """Whether it may be done now; if so, it is counted."""
        now = self.clock()
        while self._at and now - self._at[0] >= HOUR_S:
            self._at.popleft()
        if len(self._at) >= self.most:
            return False
        self._at.append(now)
        return True

    @property
    def count(self) -> int:
        """Of the restarts of the last hour."""
        return len(self._at)


@dataclass(frozen=True)
class HangLimits:
    """Seconds after which a process hangs; all are then started again, without waiting for it.

    `collective_s`: the others wait so long for its share. `silent_s`: rank 0, of which not even a thread beside its
    work gives a sign of life. `reacts_s`: rank 0, which others have given up waiting for and which does not see it.
    """

    collective_s: float = COLLECTIVE_S
    silent_s: float = 60.0
    reacts_s: float = 30.0


@dataclass(frozen=True)
class Loss:
    """A process that has ended before the run did. `status`: its exit status, negative for a signal.

    `device`: why its device could not be used, where that is so. `is_late`: it has ended when the others' time to end
    was over, and torch's launcher killed those that were left.
    """

    rank: int
    pid: int
    status: int
    device: str | None = None
    is_late: bool = False

    @property
    def is_consequence(self) -> bool:
        """Whether it has ended because another had."""
        usual = (-signal.SIGTERM, EXIT_TRAINING, *((-signal.SIGKILL, -signal.SIGABRT) if self.is_late else ()))
        return self.device is None and self.status in usual

    def __str__(self) -> str:
        if self.device is not None:
            by = f"has no device: {one_line(self.device, 300)}"
        elif self.status >= 0:
            by = f"has ended with status {self.status}"
        else:
            try:
                by = f"was ended by {signal.Signals(-self.status).name}"
            except ValueError:
                by = f"was ended by signal {-self.status}"
        return f"rank {self.rank} (process {self.pid}) {by}"


class Processes:
    """The processes of one run, attempt after attempt.

    `command`: of each of them; they find their rank in the environment. `told_lost` is called where one was lost before
    rank 0 knew the run's end, with what is known of that and how many go on, and says whether to start again.
    `devices`: of each process, where it has one to itself; the others go on without one that cannot be used.
    """

    def __init__(
        self, run: RunFolder, lock: RunLock, command: Sequence[str], count: int, *, quiet: bool, prog: str,
        told_lost: Callable[[str, int], bool], devices: Sequence[int] = (), limits: HangLimits = HangLimits(),
    ) -> None:  # fmt: skip
        self._run, self._lock = run, lock
        self._command, self._count, self._quiet, self._prog = list(command), count, quiet, prog
        self._told_lost, self._devices, self._limits = told_lost, list(devices), limits
        self._begun, self._spent_s = time.monotonic(), take_spent()
        self._has_saved = False  # in an attempt before: the checkpoint knows what the line says
        self._stop: Stop | None = None  # asked for; a process that is lost must not make it forgotten
        self._folder: Path | None = None  # for what the processes and this one tell each other, while there are any

    def train(self) -> int:
        """Start them, and again where that is due, until the run has ended; its exit status.

        Call in the main thread: processes end with the thread that has started them.
        """
        _prepare_environment(self._count)
        self._folder = Path(tempfile.mkdtemp(prefix="lmplay-"))
        try:
            while True:
                ended, what = self._attempt(self._folder)
                if ended is not None:
                    return ended
                if not self._told_lost(what, self._count):
                    return EXIT_TRAINING
                if self._stop is not None:  # the one that has taken it may be lost
                    self._leave(self._stop)
        finally:
            self._remove_folder()

    def _remove_folder(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _attempt(self, parent: Path) -> tuple[int | None, str]:
        """Start all and wait until all have ended: the run's exit status, or None and what is known of the loss."""
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.launcher.api import LaunchConfig, elastic_launch

        name = uuid.uuid4().hex
        folder = parent / name
        folder.mkdir()
        agent = Agent(
            os.getpid(), name, str(folder), str(self._run.lock_path.resolve()), self._begun, self._spent_s,
            resumes=self._has_saved, quiet=self._quiet, prog=self._prog,
            collective_s=self._limits.collective_s, devices=self._devices,
        )  # fmt: skip
        lay_over(agent.environment())
        config = LaunchConfig(
            min_nodes=1, max_nodes=1, nproc_per_node=self._count, run_id=name, max_restarts=0,
            rdzv_backend="c10d", rdzv_endpoint=str(folder / "rendezvous"), rdzv_configs={"store_type": "file"},
            local_addr="127.0.0.1", signals_to_handle=SIGNALS, shutdown_timeout=SAVES_WITHIN_S,
            logs_specs=DefaultLogsSpecs(log_dir=str(folder / "launcher")),  # else each leaves a folder in TMPDIR
        )  # fmt: skip
        lost: list[Loss] = []
        os.dup2(self._lock.descriptor, 0)  # torch's launcher passes this descriptor on, and no other
        with _Watch(agent, self._lock, self._count, self._limits) as watch:
            try:
                elastic_launch(config, self._command[0])(*(word.replace("$", "$$") for word in self._command[1:]))
            except ChildFailedError as error:
                first = min(failure.timestamp for failure in error.failures.values())
                lost = [
                    Loss(
                        rank, failure.pid, failure.exitcode, agent.lost_device(rank),
                        is_late=failure.timestamp - first >= SAVES_WITHIN_S,
                    )
                    for rank, failure in sorted(error.failures.items())
                    if rank not in watch.killed
                ]  # fmt: skip
        _hold_nothing()
        self._leave_out(lost)
        self._has_saved = self._has_saved or agent.has_saved(self._run.model)
        return agent.known_end(), _what_is_lost(lost, watch.hangs, agent.lost_rank())

    def _leave_out(self, lost: list[Loss]) -> None:
        """Go on without the devices that cannot be used, as long as one can."""
        gone = {loss.rank for loss in lost if loss.device is not None}
        if left := [device for rank, device in enumerate(self._devices) if rank not in gone]:
            self._devices, self._count = left, len(left)

    # ---- signals

    def catch_signals(self, before: Controls) -> None:
        """From here on signals are files for rank 0. `before`: what they have asked for until now."""
        interrupts = Interrupts()

        def stop(number: int, frame: FrameType | None) -> None:
            if number == signal.SIGINT and interrupts.is_second():
                _kill_children()  # whatever hangs, the user is free; the last checkpoint stands
                self._remove_folder()
                os._exit(EXIT_LEFT_AT_ONCE)
            self._stop = Stop(reason=signal.Signals(number).name)
            self._leave(self._stop)

        signal.signal(signal.SIGINT, stop)
        signal.signal(signal.SIGTERM, stop)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, stop)
        signal.signal(signal.SIGUSR1, lambda *_: self._leave(SaveNow()))
        for command in before.left_over():
            if isinstance(command, Stop):
                self._stop = command
            if isinstance(command, Stop | SaveNow):
                self._leave(command)

    def _leave(self, command: Stop | SaveNow) -> None:
        try:
            leave_command(self._run, command)
        except OSError as error:
            said = f"{one_line(self._run.control)}: cannot be written ({error.strerror}); the run goes on"
            os.write(2, f"{said}\n".encode())  # in a signal's handler: it may have come while something is printed


def _prepare_environment(count: int) -> None:
    """What holds for all of them; torch's launcher hands this process's environment down."""
    lay_over(own_environment())
    lay_over({
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, processors() // count))),
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        # As torch's launcher sets it, but for those that it starts.
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": os.environ.get("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1"),
        "TORCHELASTIC_SIGNALS_TO_HANDLE": SIGNALS,  # which it puts into this process's environment
    })  # fmt: skip
    # When one is lost, torch's launcher kills the others after so many seconds; 30 are too few for a large model's last
    # save. `LaunchConfig.shutdown_timeout` is not asked there: `SubprocessContext._poll` calls `close` without a
    # timeout (torch 2.13), so that its default is what holds.
    PContext.close.__defaults__ = (None, SAVES_WITHIN_S)
    logging.disable(logging.ERROR)  # torch's launcher says at length what is said here in a line


def _what_is_lost(lost: list[Loss], hangs: str, said_by_rank_0: str) -> str:
    """Who has ended by itself, and rank 0 where it `hangs`; where all have because of another, what rank 0 has said."""
    first = [str(loss) for loss in lost if not loss.is_consequence] + [hangs] * bool(hangs)
    return ", ".join(first) or said_by_rank_0 or ", ".join(map(str, lost))


def _kill_children() -> None:
    children = psutil.Process().children()
    for child in children:
        with contextlib.suppress(psutil.Error):
            child.kill()
    psutil.wait_procs(children, timeout=KILLED_WITHIN_S)  # one that lives still writes


def _hold_nothing() -> None:
    """The standard input is the run's lock no longer."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)


class _Watch:
    """Beside torch's launcher, while an attempt lasts: the lock is let go when rank 0 says that the run has ended, no
    other process outlives it for long, and where it hangs it is ended.

    `killed`: the ranks that were ended here; `hangs`: what is known of rank 0, where it was for that.
    """

    def __init__(self, agent: Agent, lock: RunLock, count: int, limits: HangLimits) -> None:
        self._agent, self._lock, self._count, self._limits = agent, lock, count, limits
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="agent's watch", daemon=True)
        self.killed: set[int] = set()
        self.hangs = ""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        released = False
        gone, silent, unheard, unborn = (_Stopwatch() for _ in range(4))
        sign: int | None = None
        while not self._over.wait(WATCHES_EVERY_S):
            agent, ended = self._agent, self._agent.known_end() is not None
            if not released and ended:
                released = True  # what rank 0 does after its end may want to go on with the run
                self._lock.release()
                _hold_nothing()
            if gone.while_holds(self._has_ended(0)) >= FOLLOWS_WITHIN_S:
                self._kill([rank for rank in range(1, self._count) if not self._has_ended(rank)])
            if ended or gone.seconds:
                continue
            before, sign = sign, agent.last_sign()
            if silent.while_holds(sign is not None and sign == before) >= self._limits.silent_s:
                self._end_hanging(f"has given no sign of life for {silent.seconds:.0f} s")
            if unheard.while_holds(agent.is_given_up and not agent.lost_rank()) >= self._limits.reacts_s:
                self._end_hanging("hangs: the others have waited for it in vain")
            if unborn.while_holds(sign is None and self._has_any_other_ended()) >= FOLLOWS_WITHIN_S:
                self._end_hanging("has not begun")

    def _has_ended(self, rank: int) -> bool:
        """Whether a process has been there and is no more."""
        pid = self._agent.pid_of(rank)
        return pid is not None and not _runs(pid)

    def _has_any_other_ended(self) -> bool:
        return any(self._has_ended(rank) for rank in range(1, self._count))

    def _end_hanging(self, how: str) -> None:
        pid, place, phase = self._agent.pid_of(0), *self._agent.last_words()
        where = f", {one_line(place, 100)}" if place else ""
        at = f", last at: {one_line(phase, 40)}" if phase else ""
        self.hangs = f"rank 0 (process {pid}{where}) {how}{at}"
        self._kill([0])

    def _kill(self, ranks: Sequence[int]) -> None:
        for rank in ranks:
            if (pid := self._agent.pid_of(rank)) is not None:
                self.killed.add(rank)
                with contextlib.suppress(psutil.Error):
                    psutil.Process(pid).kill()


class _Stopwatch:
    """For how long something has held, by the looks at it: time in which this process could not look, as while it was
    stopped too, does not count."""

    def __init__(self) -> None:
        self._looked_at = time.monotonic()
        self.seconds = 0.0

    def while_holds(self, holds: bool) -> float:
        now = time.monotonic()
        passed, self._looked_at = now - self._looked_at, now
        self.seconds = self.seconds + min(passed, LOOKS_LATE_S) if holds else 0.0
        return self.seconds


def _runs(pid: int) -> bool:
    try:
        found = psutil.Process(pid).as_dict(["ppid", "status"])
        return bool(found["ppid"] == os.getpid() and found["status"] != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
