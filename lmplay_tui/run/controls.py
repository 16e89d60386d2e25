"""What can be asked of a running trainer, and the mailbox from which it takes that, once a step.

Keys, buttons, signals and control files all end here. Nothing in this module touches torch or Textual, so that any of
them can use it.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import field
from typing import Literal, TypeVar

from lmplay_tui.structs import Struct

StopWhen = Literal["now", "stage_end"]
Taken = TypeVar("Taken")


class Command(Struct):
    """The base of all commands. `id` names one that came from a control file and waits for an answer."""

    id: str = field(default="", kw_only=True)


class SaveNow(Command):
    pass


class Stop(Command):
    when: StopWhen = "now"
    reason: str = "asked"


class Pause(Command):
    pass


class Resume(Command):
    pass


class ValidateNow(Command):
    pass


class SetLearningRate(Command):
    """`factor` multiplies what holds; `value` is the learning rate wanted: a warm-up leads up to it. One of them."""

    value: float | None = None
    factor: float | None = None


class Bookmark(Command):
    note: str = ""


class Ask(Command):
    """A prompt to answer with the weights of the next step. `temperature` 0: greedy."""

    prompt: str
    max_tokens: int = 64
    temperature: float = 0.0
    top_k: int | None = None


class Pin(Command):
    """Answer this prompt at each evaluation from now on; again: no longer."""

    prompt: str


class ChangePlan(Command):
    """The plan's new text; what has run is locked."""

    text: str


class HandOver(Command):
    """Save, start the run in a process of its own, leave."""

    reason: str = "asked"


class Refused(Command):
    """What stood in a control file was no command: `reason` says why. It is answered, and nothing else happens."""

    reason: str = ""


class StopRequested(Exception):
    """A stop was asked for; what was under way (a step, a validation, a download) did not happen."""


class Controls:
    """The trainer's mailbox: screens, signals and other processes leave commands in it.

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

    def decide(self) -> list[Command]:
        """The commands to do before the next step, in the order they came."""
        self.wants_stop()
        return _emptied(self._waiting)

    @property
    def hands_over(self) -> bool:
        """Whether to leave means that another process goes on: only if no command asks for a stop."""
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
        """What has not been done yet; it is the caller's now."""
        return _emptied(self._waiting)

    def left_over(self) -> list[Command]:
        """What has no answer when the run is over."""
        return [*_emptied(self._leaving), *self.take_waiting()]


def _emptied(commands: deque[Taken]) -> list[Taken]:
    taken = []
    while commands:
        taken.append(commands.popleft())
    return taken
