"""What panes, screens and the app ask of each other, and tell.

What a widget reports to its own screen alone (a row was clicked) is a class inside that widget.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from textual.message import Message

if TYPE_CHECKING:
    from lmplay_tui.run.controls import Command

StageChange = Literal["finish", "skip", "repeat", "extend"]


@dataclass
class CommandAsked(Message):
    """Something for the trainer to do."""

    command: "Command"


@dataclass
class KeysChanged(Message):
    """Keys of the focused pane do something else than before."""

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, KeysChanged)


@dataclass
class PaneAsked(Message):
    """Show and focus this pane."""

    name: str


@dataclass
class PlanEdited(Message):
    """The plan's text in the editor is another than before; only the newest counts."""

    text: str

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, PlanEdited)


@dataclass
class PlanApplied(Message):
    """Take this plan from the next batch on."""

    text: str


@dataclass
class StageAsked(Message):
    """A stage of the curriculum was taken, to be finished, skipped, repeated or extended."""

    index: int


@dataclass
class GhostAsked(Message):
    """Draw this run's curves behind ours; None: no longer."""

    path: str | None


@dataclass
class SavePlanAsked(Message):
    """Write this plan to a file of its own."""

    text: str


@dataclass
class LeaveAsked(Message):
    """Close the dashboard. `at_once`: do not wait for the trainer; the last checkpoint stands."""

    at_once: bool = False


@dataclass
class TitleChanged(Message):
    """What the terminal's title should say."""

    text: str

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, TitleChanged)


@dataclass
class PredictionsAsked(Message):
    """Show the newest prediction of this kind."""

    kind: str


@dataclass
class Rang(Message):
    """Something happened that one would come back for."""

    text: str


@dataclass
class StartAsked(Message):
    """Train with these options, or look at the run whose checkpoint has this path."""

    line: dict[str, object]  # options as on a command line
    attach: str | None = None


@dataclass
class ActionAsked(Message):
    """A key's action was asked for by the mouse; `owner` is the widget whose key it is."""

    action: str
    owner: object
