"""What may be asked of a running trainer. Plain values; the trainer reads them once a step.

Keys, buttons, signals and control files all end here. Nothing in this module touches torch or Textual, so that any
of them can use it.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

StopWhen = Literal["now", "stage_end"]


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
    """`factor` multiplies what holds now; `value` is the learning rate wanted at this very step. One of them."""

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


class Controls:
    """The mailbox between whoever holds the run and the trainer.

    `send` may be called from any thread and from signal handlers: it takes no lock (appending to a deque is atomic).
    `decide` is called by the trainer alone, once a step; `stop_now` is looked at between mini-batches.
    """

    def __init__(self) -> None:
        self._waiting: deque[Command] = deque()
        self.stop_now = False  # leave between mini-batches; the unfinished step is dropped
        self.stop_reason = ""
        self.sources: list[Callable[[], list[Command]]] = []  # looked at by `decide`, e.g. a folder of control files

    def send(self, command: Command) -> None:
        """Leave a command for the trainer's next look."""
        if isinstance(command, Stop | HandOver) and getattr(command, "when", "now") == "now":
            self.stop_reason = self.stop_reason or command.reason
            self.stop_now = True
        self._waiting.append(command)

    def decide(self, step: int) -> list[Command]:
        """The commands to obey after `step`, in the order they came. Under several devices, rank 0's answer counts."""
        for source in self.sources:
            for command in source():
                self.send(command)
        commands = []
        while self._waiting:
            commands.append(self._waiting.popleft())
        return commands
