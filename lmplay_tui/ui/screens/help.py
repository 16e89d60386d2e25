"""Help, made from the bindings that there are: nothing is written twice."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.dom import DOMNode
from textual.screen import Screen
from textual.widget import Widget

from lmplay_tui.ui.screens.dialogs import Dialog
from lmplay_tui.ui.tty.patches import set_titles, title_of
from lmplay_tui.ui.widgets.lines import Lines, Piece, Row, fitted

_SIGNS = {
    "left": "←", "right": "→", "up": "↑", "down": "↓", "question_mark": "?", "slash": "/", "plus": "+", "minus": "-",
    "equals_sign": "=", "comma": ",", "full_stop": ".", "left_square_bracket": "[",
    "right_square_bracket": "]", "shift+left": "shift+←", "shift+right": "shift+→", "escape": "esc",
}  # fmt: skip


@dataclass(frozen=True)
class Action:
    """Something that a key does: its place, keys, what it does, and how to do it."""

    place: str
    keys: str
    said: str
    call: Callable[[], Any]

    @property
    def label(self) -> str:
        """Its name in a list of all: with the pane that it belongs to."""
        return self.said if self.place in ("everywhere", "screen") else f"{self.place}: {self.said}"


def key_sign(binding: Binding) -> str:
    """How a key is written: the binding's own way, or the first of its keys."""
    if binding.key_display:
        return binding.key_display
    return _SIGNS.get(binding.key.split(",")[0], binding.key.split(",")[0])


def bindings_of(node: DOMNode) -> list[Binding]:
    """The node's own bindings, as our classes declare them."""
    found: list[Binding] = []
    for kind in type(node).__mro__:
        if kind.__module__.startswith("lmplay_tui."):
            found += [each for each in kind.__dict__.get("BINDINGS", ()) if isinstance(each, Binding)]
    return found


def places_of(screen: Screen[Any]) -> list[tuple[str, DOMNode]]:
    """The screen, its panes and the application, each with its name."""
    places: list[tuple[str, DOMNode]] = [("everywhere", screen)]
    for pane in screen.query(".pane"):
        title = title_of(pane) or str(pane.id)
        places.append((title.split(" ")[1] if " " in title else title, pane))
    return [*places, ("screen", screen.app)]


def actions_of(screen: Screen[Any]) -> list[Action]:
    """Every action with a key, for help and palette. Actions of a pane are called on it, focused or not."""
    actions = []
    for place, node in places_of(screen):
        for binding in bindings_of(node):
            keys = " ".join(_SIGNS.get(key, key) for key in binding.key.split(","))
            said = binding.tooltip or binding.description
            actions.append(Action(place, keys, said, partial(_call, node, binding.action)))
    return actions


async def _call(node: DOMNode, action: str) -> None:
    if isinstance(node, Widget) and node.focusable:
        node.focus()
    await node.app.run_action(action, default_namespace=node)


class HelpText(Lines):
    """The keys in columns, place by place."""

    def __init__(self, actions: Iterable[Action]) -> None:
        super().__init__(id="help-text")
        self._actions = list(actions)

    def on_resize(self) -> None:
        blocks: dict[str, list[Row]] = {}
        for action in self._actions:
            row: Row = ((f" {fitted(action.keys, 13)} ", "key"), (fitted(action.said, 36), ""))
            blocks.setdefault(action.place, []).append(row)
        columns = max(self.size.width // 53, 1)
        heights = [0] * columns
        stacks: list[list[Row]] = [[] for _ in range(columns)]
        for place, rows in blocks.items():
            target = heights.index(min(heights))
            stacks[target] += [((f" {fitted(place, 50)}", "accent"),), *rows, ((" " * 51, ""),)]
            heights[target] += len(rows) + 2
        self.show_rows([self._joined([stack[y] if y < len(stack) else ((" " * 51, ""),) for stack in stacks])
                        for y in range(max(heights))])  # fmt: skip

    @staticmethod
    def _joined(parts: list[Row]) -> Row:
        row: list[Piece] = []
        for part in parts:
            row += [*part, ("  ", "")]
        return tuple(row)


class Help(Dialog[None]):
    """All keys of the screen below."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,question_mark,f1,enter", "dismiss_none", "close")]

    def __init__(self, actions: Iterable[Action]) -> None:
        super().__init__()
        self._actions = list(actions)

    def compose(self) -> ComposeResult:
        with Vertical(id="help") as box:
            set_titles(box, "keys", "esc back · the mouse works too · ctrl+p finds any action by name")
            yield HelpText(self._actions)

    def action_dismiss_none(self) -> None:
        self.answer(None)
