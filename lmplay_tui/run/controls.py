"""What may be asked of a running trainer. Plain values; the trainer reads them once a step.

Keys, buttons, signals and control files all end here. Nothing in this module touches torch or Textual, so that any
of them can use it.

Commands for a run as files in `NAME.run/control/`: any shell, any viewer, on any machine that sees the folder.

One uniquely named JSON file a command (`{"command": "SetLearningRate", "factor": 0.5}`), or an empty file named
`save`, `stop`, `pause`, `resume` or `validate`. The run answers each with an `Answered` event that carries the file's
name (without `.json`) as `id`.

The learning rate: schedules and warm-up, what a person types at the keyboard, and what becomes of it, in figures.
"""

import contextlib
import json
import math
import os
import re
import stat
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from lmplay_tui.files import write_whole
from lmplay_tui.formats import format_lr
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.text import one_line

if TYPE_CHECKING:
    from pydantic import TypeAdapter

StopWhen = Literal["now", "stage_end"]
Taken = TypeVar("Taken")


@dataclass(frozen=True)
class Command:
    """The base of all commands. `id` names one that came from a control file and waits for an answer."""

    id: str = field(default="", kw_only=True)


@dataclass(frozen=True)
class SaveNow(Command):
    pass


@dataclass(frozen=True)
class Stop(Command):
    when: StopWhen = "now"
    reason: str = "asked"


@dataclass(frozen=True)
class Pause(Command):
    pass


@dataclass(frozen=True)
class Resume(Command):
    pass


@dataclass(frozen=True)
class ValidateNow(Command):
    pass


@dataclass(frozen=True)
class SetLearningRate(Command):
    """`factor` multiplies what holds; `value` is the learning rate wanted: a warm-up leads up to it. One of them."""

    value: float | None = None
    factor: float | None = None


@dataclass(frozen=True)
class Bookmark(Command):
    note: str = ""


@dataclass(frozen=True)
class Ask(Command):
    """A prompt to answer with the weights of the next step. `temperature` 0: greedy."""

    prompt: str
    max_tokens: int = 64
    temperature: float = 0.0
    top_k: int | None = None


@dataclass(frozen=True)
class Pin(Command):
    """Answer this prompt at each evaluation from now on; again: no longer."""

    prompt: str


@dataclass(frozen=True)
class ChangePlan(Command):
    """The plan's new text; what has run is locked."""

    text: str


@dataclass(frozen=True)
class HandOver(Command):
    """Save, start the run in a process of its own, leave."""

    reason: str = "asked"


@dataclass(frozen=True)
class Refused(Command):
    """What stood in a control file was no command: `reason` says why. It is answered, and nothing else happens."""

    reason: str = ""


class StopRequested(Exception):
    """A stop was asked for; what was under way (a step, a validation, a download) did not happen."""


class Controls:
    """The mailbox between whoever holds the run and the trainer.

    `send` may be called from any thread and from signal handlers: it takes no lock (appending to a deque is atomic).
    `decide` is called by the trainer alone, once a step; `wants_stop` between mini-batches and while it waits.
    """

    def __init__(self) -> None:
        self._waiting: deque[Command] = deque()
        self._leaving: deque[Stop | HandOver] = deque()  # stops and hand-overs: answered when the trainer has left
        self.stop_now = False  # leave between mini-batches; the unfinished step is dropped
        self.stop_reason = ""
        self.sources: list[Callable[[], list[Command]]] = []  # looked at by the trainer, e.g. a folder of control files

    def send(self, command: Command) -> None:
        """Leave a command for the trainer's next look."""
        if isinstance(command, Stop | HandOver) and getattr(command, "when", "now") == "now":
            self._leaving.append(command)
            self.stop_reason = self.stop_reason or command.reason
            self.stop_now = True
        else:
            self._waiting.append(command)

    def wants_stop(self) -> bool:
        """Whether to leave between mini-batches; looks at the sources too, which limit themselves."""
        for source in self.sources:
            for command in source():
                self.send(command)
        return self.stop_now

    def decide(self, step: int) -> list[Command]:
        """The commands to obey after `step`, in the order they came. Under several devices, rank 0's answer counts."""
        self.wants_stop()
        return _emptied(self._waiting)

    @property
    def hands_over(self) -> bool:
        """Whether to leave means that another process goes on: only if nobody wants the run to stop."""
        leaving = list(self._leaving)
        return bool(leaving) and all(isinstance(command, HandOver) for command in leaving)

    def stay(self) -> list[Command]:
        """Handing over has not worked: forget that it was asked for, and give what asked. A stop holds."""
        leaving = _emptied(self._leaving)
        self._leaving.extend(command for command in leaving if not isinstance(command, HandOver))
        self.stop_now, self.stop_reason = False, ""
        if self._leaving:  # looked at last: a signal may send a stop between any two of these lines
            self.stop_now, self.stop_reason = True, self._leaving[0].reason
        return [command for command in leaving if isinstance(command, HandOver)]

    def take_waiting(self) -> list[Command]:
        """What nobody has obeyed yet; it is the caller's now."""
        return _emptied(self._waiting)

    def left_over(self) -> list[Command]:
        """What nobody has answered when the run is over."""
        return [*_emptied(self._leaving), *self.take_waiting()]


def _emptied(commands: deque[Taken]) -> list[Taken]:
    taken = []
    while commands:
        taken.append(commands.popleft())
    return taken


POLL_S = 0.5
MAX_BYTES = 1 << 18  # a plan has at most 64 KiB
MAX_FILES = 1000  # a look: more than that is no person's doing

PLAIN: dict[str, Command] = {
    "save": SaveNow(),
    "stop": Stop(),
    "pause": Pause(),
    "resume": Resume(),
    "validate": ValidateNow(),
}

_KINDS: dict[str, type[Command]] = {
    kind.__name__: kind
    for kind in (
        SaveNow, Stop, Pause, Resume, ValidateNow, SetLearningRate, Bookmark,
        Ask, Pin, ChangePlan, HandOver,
    )
}  # fmt: skip


@cache
def _reader(kind: str) -> "TypeAdapter[Command]":
    """Made when such a command has come: who only leaves commands, as a screen does, needs none."""
    from pydantic import ConfigDict, TypeAdapter  # here: a screen, and the commands beside a run, wait for none

    strict = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    return TypeAdapter(type(kind, (_KINDS[kind],), {"__pydantic_config__": strict}))


def leave_command(run: RunFolder, command: Command) -> str:
    """Leave a command for the run and give its identity: the `id` of the answer, its own if it has one.

    Raises `OSError`.
    """
    identity = command.id or f"{time.time_ns():020d}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    values = {"command": type(command).__name__} | asdict(command) | {"id": identity}
    write_whole(run.control / f"{identity}.json", json.dumps(values).encode("utf-8"))
    return identity


class ControlFiles:
    """The commands that lie in a run's control folder, taken out of it: a source of `Controls`."""

    def __init__(self, run: RunFolder, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = run.control
        self._clock = clock
        self._looked_at = -POLL_S
        self._stuck: set[str] = set()  # files that cannot be removed: obeyed once

    def sweep(self) -> None:
        """Remove what was meant for a process that is no more."""
        for entry in self._entries():
            self._remove(entry)

    def __call__(self) -> list[Command]:
        """The new commands, oldest first; looks at most twice a second."""
        now = self._clock()
        if now - self._looked_at < POLL_S:
            return []
        self._looked_at = now
        return [self._take(entry) for entry in self._entries() if not self._is_unfinished(entry)]

    def _entries(self) -> list[Path]:
        try:
            with os.scandir(self._folder) as entries:
                names = [entry.name for _, entry in zip(range(MAX_FILES), entries, strict=False)]
        except OSError:
            return []
        return [self._folder / name for name in sorted(names) if name not in self._stuck]

    def _is_unfinished(self, path: Path) -> bool:
        return path.name.endswith(".tmp") or path.name.startswith(".")

    def _take(self, path: Path) -> Command:
        identity = path.name.removesuffix(".json")
        try:
            data = _content(path)
            command = _parsed(path.name, data, identity)
        except (OSError, ValueError, RecursionError) as error:
            said = error.strerror if isinstance(error, OSError) else error
            command = Refused(f"control/{one_line(path.name, 80)}: {one_line(said)}", id=identity)
        self._remove(path)
        return command

    def _remove(self, path: Path) -> None:
        try:
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            else:
                path.unlink(missing_ok=True)
        except OSError:
            self._stuck.add(path.name)


def _content(path: Path) -> bytes:
    """The bytes of a plain file: nothing else that a folder may hold is opened for good."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    with contextlib.closing(os.fdopen(descriptor, "rb")) as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("is not a plain file")
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"is larger than {MAX_BYTES // 1024} KiB")
    return data


def _parsed(name: str, data: bytes, identity: str) -> Command:
    """The command in a file. Raises `ValueError`."""
    if name in PLAIN:
        return replace(PLAIN[name], id=identity)
    if not name.endswith(".json"):
        raise ValueError(f"is no command; those are {', '.join(PLAIN)}, or a .json file")
    values: Any = json.loads(data)
    if not isinstance(values, dict) or str(values.get("command")) not in _KINDS:
        raise ValueError(f'needs "command", one of {", ".join(_KINDS)}')
    kind = str(values.pop("command"))
    from pydantic import ValidationError  # here, as in `_reader`

    try:
        # As JSON, because only there strictness lets a table become one of our classes.
        return _reader(kind).validate_json(json.dumps(values | {"id": identity}))
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from None


_FACTOR = re.compile(r"^[*x×]\s*")


def parse_lr(text: str) -> SetLearningRate | None:
    """`*0.5` or `x0.5`: a factor of what holds now; `1e-4`: the value wanted. None: neither."""
    text = text.strip()
    factor = _FACTOR.match(text)
    try:
        number = float(text[factor.end() :] if factor else text)
    except ValueError:
        return None
    if not 0 < number < math.inf:
        return None
    return SetLearningRate(factor=number) if factor else SetLearningRate(value=number)


COSINE_FLOOR = 0.1
WSD_DECAY_SHARE = 0.2


def schedule(kind: str, progress: float) -> float:
    """The factor of the learning rate at `progress` (rows done / rows of the stage, 0 to 1): a pure function, 0 to 1.

    constant: 1.
    cosine: from 1 to 0.1 along half a cosine (Loshchilov & Hutter, arXiv:1608.03983; the floor of a tenth is that of
    GPT-3, arXiv:2005.14165 appendix B, and of Chinchilla, arXiv:2203.15556).
    linear: from 1 to 0 (BERT, arXiv:1810.04805; why to zero: Bergsma et al., arXiv:2502.15938).
    wsd: 1, and over the last fifth down to 0 as 1 - sqrt (warm-up, stable, decay: MiniCPM, arXiv:2404.06395; share
    and shape of the decay: Hägele et al., arXiv:2405.18392).
    """
    progress = min(max(progress, 0.0), 1.0)
    if kind == "constant":
        return 1.0
    if kind == "cosine":
        return COSINE_FLOOR + (1 - COSINE_FLOOR) * (1 + math.cos(math.pi * progress)) / 2
    if kind == "linear":
        return 1.0 - progress
    if kind == "wsd":
        decayed = max(progress - (1 - WSD_DECAY_SHARE), 0.0) / WSD_DECAY_SHARE
        return 1.0 - math.sqrt(min(decayed, 1.0))
    raise ValueError(f"unknown schedule {kind}")


def warmup(step_since_start: int, *, fraction: float, steps: int) -> float:
    """The factor of a warm-up: `fraction` at its first step (0), 1 after `steps` steps, a straight line between."""
    return 1.0 if step_since_start >= steps else fraction + (1.0 - fraction) * step_since_start / steps


def rate_sentence(lr: float, factor: float, step: int, follows: str) -> str:
    """What a request at the keyboard has made of the learning rate; `follows` is its `outlook`."""
    said = f"learning rate {format_lr(lr)} (x {factor:.4g} of the schedule) from step {step:,} on"
    return f"{said}: {follows}" if follows else said


@dataclass(frozen=True)
class StageRate:
    """What a stage says of its learning rate."""

    stage: str
    lr: float
    schedule: str


def outlook(
    now: StageRate,
    progress: float,
    later: Sequence[StageRate],
    *,
    factor: float,
    next_lr: float,
    warm_up_ends: int | None,
) -> str:
    """What becomes of the learning rate once the keyboard has set `factor`, in figures; empty: it stays as it is.

    `progress`: of the stage under way, 0 to 1; `next_lr`: of the next step; `warm_up_ends`: at which step, where one
    is under way.
    """
    said = []
    if warm_up_ends is not None:
        said.append(f"{format_lr(next_lr)} now, the warm-up leads up to it until step {warm_up_ends:,}")
    end = now.lr * schedule(now.schedule, 1.0) * factor
    if schedule(now.schedule, 1.0) != schedule(now.schedule, progress):
        said.append(f"{now.schedule} brings it to {format_lr(end)} at the end of stage {now.stage}")
    level = now.lr * schedule(now.schedule, progress) * factor
    for stage in later:
        begins = stage.lr * factor
        if not math.isclose(begins, level, rel_tol=1e-6):
            said.append(f"stage {stage.stage} (lr {format_lr(stage.lr)}) begins with {format_lr(begins)}")
    return "; ".join(said)


def rate_jump(rate: StageRate, rows_done: int, rows_before: int, rows_after: int, *, factor: float = 1.0) -> str | None:
    """What other rows of a stage under way do to its learning rate: one line with figures; None: next to nothing.

    A schedule runs over its stage's rows: extend one that has ended, and it stands in its middle again.
    """
    if not rows_done:
        return None
    before = rate.lr * factor * schedule(rate.schedule, rows_done / max(rows_before, 1))
    after = rate.lr * factor * schedule(rate.schedule, rows_done / max(rows_after, 1))
    if abs(after - before) <= 0.01 * max(after, before):
        return None
    return (
        f"stage {rate.stage}: the learning rate jumps from {format_lr(before)} to {format_lr(after)}: its "
        f"{rate.schedule} schedule is spread over {rows_after:,} rows instead of {rows_before:,}"
    )
