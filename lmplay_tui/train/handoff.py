"""How a run goes on: the command that resumes it, a process of its own session that takes it over, and what was asked.

That process inherits the lock's descriptor, so the run is held throughout: viewers see it alive, and no third process
can come between. What the processes before it have spent counts for `--max-hours` (`TimeLimit`).
"""

import json
import os
import shlex
import subprocess
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmplay_tui.files import write_whole
from lmplay_tui.options import OPTIONS, Launch, OnResume, Part, command_words
from lmplay_tui.process import own_command, own_environment, typed
from lmplay_tui.run.control_files import command_record, leave_command, read_command, with_identity
from lmplay_tui.run.controls import ChangePlan, Command, Controls, Pause, Pin, Refused, Resume, SetLearningRate, Stop
from lmplay_tui.run.events import Answered, CheckpointSaved, Event, HandedOver, Warned
from lmplay_tui.run.folder import LOCK_FROM, RunFolder, RunLock
from lmplay_tui.run.notify import NOTIFY_URL
from lmplay_tui.train.progress import Progress

SPENT = "LMPLAY_TUI_SPENT_S"  # environment: seconds that the processes before this one have spent on the same start


class TimeLimit:
    """A source of commands: it asks once for a stop. Time counts from the start, loading and pauses included."""

    def __init__(self, hours: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit_s = None if hours is None else hours * 3600
        self._clock = clock
        self._begun = clock() - take_spent()
        self._asked = False

    @property
    def spent_s(self) -> float:
        """Since the start, in this process and in those that handed the run over to it."""
        return self._clock() - self._begun

    def __call__(self) -> list[Command]:
        if self._asked or self._limit_s is None or self.spent_s < self._limit_s:
            return []
        self._asked = True
        return [Stop(reason="--max-hours")]


def take_spent() -> float:
    """Seconds that the processes before this one have spent on the same start. They are told once."""
    try:
        return max(float(os.environ.pop(SPENT, "0")), 0.0)
    except ValueError:
        return 0.0


def resume_command(launch: Launch, run: RunFolder, saved: bool) -> str:
    """What to type to go on: the model, and what a checkpoint does not remember.

    `saved`: by the process that ends; else a checkpoint that was chosen with `--resume` is still to be gone on from.
    """
    chosen = {} if saved or launch.resumes_from is None else {"resume": launch.options.resume}
    words = command_words({"model": str(run.model), **chosen, **_not_remembered(launch)})
    return f"{typed(launch.prog)} {shlex.join(words)}"


def command_of(run: RunFolder, launch: Launch, *, resumes: bool) -> list[str]:
    """The command line of the process that goes on. `resumes`: from the run's checkpoint, not from the beginning."""
    line = _not_remembered(launch) if resumes else launch.line
    options = {name: value for name, value in line.items() if OPTIONS[name].part is not Part.PROCESS}
    words = command_words({"model": str(run.model), **options, "headless": True, "on_hangup": "continue"})
    return own_command("lmplay_tui.cli", *words)


def to_go_on(run: RunFolder, launch: Launch) -> Launch:
    """The same start, once the run has saved: what its checkpoint does not remember."""
    return Launch({"model": str(run.model), **_not_remembered(launch)}, launch.prog)


def _not_remembered(launch: Launch) -> dict[str, Any]:
    """What the line gives for later starts too, and no checkpoint holds."""
    return {
        name: value
        for name, value in launch.line.items()
        if not OPTIONS[name].once and (OPTIONS[name].on_resume is OnResume.FREE or (name == "exp" and ":" in value))
    }


def start_process(run: RunFolder, launch: Launch, lock: RunLock, *, resumes: bool, spent_s: float = 0.0) -> int:
    """Start the run in a process of its own session and give its number. Raises `OSError`.

    It holds the run as soon as it exists. What it prints ends in the run's log. `--on-done`, `--notify-url` and
    `--max-hours` are handed down: `spent_s` of the hours are over.
    """
    descriptor = lock.descriptor
    environment = own_environment() | {LOCK_FROM: f"{descriptor}:{run.lock_path.resolve()}", SPENT: f"{spent_s:.3f}"}
    if (url := launch.options.notify_url) is not None:
        environment[NOTIFY_URL] = url
    with os.fdopen(run.files.append(run.log.name), "ab") as log:
        process = subprocess.Popen(
            command_of(run, launch, resumes=resumes), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True, pass_fds=[descriptor], env=environment,
        )  # fmt: skip
    # It outlives this process, which does not wait for it: `subprocess` shall not take it for a forgotten child.
    process.returncode = 0
    return process.pid


def hand_over(
    run: RunFolder, step: int, controls: Controls, go_on_elsewhere: Callable[[], int], wanted: Iterable[Command] = ()
) -> Generator[Event, None, bool]:
    """Let another process go on from what is saved; whether it does. If it cannot, this one stays.

    `wanted`: what holds here and is in no checkpoint. With the commands that still wait it is left for that process, as
    control files; where this one stays, it finds them itself.
    """
    left = [*wanted, *controls.take_waiting()]
    try:
        while left:
            leave_command(run, left[0])
            del left[0]
    except OSError as error:  # else the other process would train on against what was asked
        for command in left:
            controls.send(command)
        yield from not_handed_over(f"what was asked for cannot be handed down ({error.strerror})", step, controls)
        return False
    try:
        pid = go_on_elsewhere()
    except OSError as error:
        yield from not_handed_over(f"no process could be started ({error.strerror})", step, controls)
        return False
    yield HandedOver(step, pid)
    return True


def not_handed_over(why: str, step: int, controls: Controls) -> Iterator[Event]:
    """Say that this process goes on, to the log and to who has asked."""
    said = f"{why}: not handed over, the run goes on in this process"
    yield Warned(said, step)
    for command in controls.stay():
        if command.id:
            yield Answered(type(command).__name__, command.id, False, said)


@dataclass(eq=False)
class _Kept:
    """A command, and of one that has been carried out what of it no checkpoint may know."""

    command: Command
    number: int | None = None  # of a change that was made: `Progress.changes` with it
    step: int = 0  # at which it was made
    stage: str = ""  # at whose end to stop

    def record(self) -> dict[str, Any]:
        return vars(self) | {"command": command_record(self.command)}


class KeptCommands:
    """What was asked of a run of several processes and would be forgotten with rank 0: a file, for the next one.

    A command is in it before its control file is removed. A question stays until it is answered, a pause until the run
    goes on, a stop to come until the run ends; a change of learning rate, pins or plan until a checkpoint has it.
    """

    def __init__(self, path: Path) -> None:
        """`path`: of the file, which is the agent's: what it holds was asked of an earlier rank 0."""
        self._path = path
        self._before = self._read()
        self._kept = list(self._before)
        self.progress = Progress()  # the run's, once it trains
        self.problem = ""  # why the next rank 0 will not know what is asked of this one

    def note(self, command: Command) -> None:
        """Keep `command`, which has not been done yet."""
        if not isinstance(command, Refused):
            self._kept.append(_Kept(with_identity(command)))
            self._write()

    def ask_again(self, progress: Progress) -> list[Command]:
        """What was asked of an earlier rank 0 and is not in `progress`, where the run goes on; it is given once."""
        before, self._before = self._before, []
        again = [kept for kept in before if kept.number is None or kept.number > progress.changes]
        for kept in again:
            kept.number = None
            if kept.stage and progress.of(kept.stage).done:
                kept.command = Stop(reason="the stage's end", id=kept.command.id)
        self._kept = [kept for kept in self._kept if kept in again or kept not in before]
        self._write()
        return [kept.command for kept in again]

    def follow(self, event: Event) -> None:
        """Take in an event: an answered command, or a checkpoint, after which there is less to keep."""
        if isinstance(event, CheckpointSaved):  # one of the same step may have begun before the change
            self._keep_if(lambda kept: kept.number is None or kept.step >= event.step)
        if not isinstance(event, Answered):
            return
        answered = next((kept for kept in self._kept if kept.command.id == event.id and kept.number is None), None)
        if answered is None:
            return
        match answered.command:
            case SetLearningRate() | Pin() | ChangePlan() if event.ok:
                answered.number, answered.step = self.progress.changes, self.progress.step
                self._write()
            case Stop(when="stage_end") if event.ok:
                answered.stage = self.progress.stage
                self._write()
            case Pause():
                pass
            case Resume():
                pauses = [each for each in self._kept[: self._kept.index(answered)] if isinstance(each.command, Pause)]
                self._keep_if(lambda kept: kept is not answered and kept not in pauses)
            case _:
                self._keep_if(lambda kept: kept is not answered)

    def _keep_if(self, holds: Callable[[_Kept], bool]) -> None:
        left = [kept for kept in self._kept if holds(kept)]
        if len(left) < len(self._kept):
            self._kept = left
            self._write()

    def _write(self) -> None:
        records = [kept.record() for kept in self._kept]
        try:
            write_whole(self._path, json.dumps(records).encode("utf-8"))
        except OSError as error:
            self.problem = error.strerror or type(error).__name__

    def _read(self) -> list[_Kept]:
        try:
            records = json.loads(self._path.read_bytes())
        except FileNotFoundError:
            return []
        return [_Kept(**each | {"command": read_command(each["command"], each["command"]["id"])}) for each in records]
