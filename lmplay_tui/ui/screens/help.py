"""Help: what keys do, from the bindings that there are, and how to read the screen, from what screens are made of."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, ClassVar

from rich.cells import cell_len
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.dom import DOMNode
from textual.keys import REPLACED_KEYS, key_to_character
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Input

from lmplay_tui.ui.legend import sections
from lmplay_tui.ui.screens.dialogs import Dialog
from lmplay_tui.ui.tty.patches import set_titles, title_of
from lmplay_tui.ui.widgets.key_bar import Key, KeysByState
from lmplay_tui.ui.widgets.lines import Lines, Piece, Row, fitted, wrapped

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
    return _declared(type(node))


@cache
def _declared(of: type[DOMNode]) -> list[Binding]:
    found: list[Binding] = []
    for kind in of.__mro__:
        if kind.__module__.startswith("lmplay_tui."):
            found += [each for each in kind.__dict__.get("BINDINGS", ()) if isinstance(each, Binding)]
    return found


def keys_now(focused: Widget | None, nodes: Iterable[DOMNode]) -> list[Key]:
    """What keys do at the moment: those of each node in turn, but none that another node before it, or text, takes.

    Where letters go into a text no letter is a key.
    """
    typing = focused is not None and bool(getattr(focused, "takes_text", False))
    found = [Key("enter", "take it", "", focused)] if isinstance(focused, Input) else []
    taken: set[str] = set()
    for node in nodes:
        said = node.keys_now() if isinstance(node, KeysByState) else {}
        for binding in bindings_of(node):
            free = [key for key in binding.key.split(",") if key not in taken and not (typing and _types(key))]
            label = said.get(binding.action, binding.description if binding.show else "")
            if not label and binding.action in said:
                continue
            if free and label:
                whole = free[0] == binding.key.split(",")[0]
                sign = key_sign(binding) if whole else _SIGNS.get(free[0], free[0])
                found.append(Key(sign, label, binding.action, node))
            taken |= set(free)
    return found


def _types(key: str) -> bool:
    """Whether the key puts a character into a text."""
    character = key_to_character(REPLACED_KEYS.get(key, key))
    return character is not None and character.isprintable()


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


Block = tuple[str, list[Row]]  # a title, and rows of `_BLOCK_CELLS`
_BLOCK_CELLS = 51


def key_blocks(actions: Iterable[Action]) -> list[Block]:
    """The keys, place by place."""
    blocks: dict[str, list[Row]] = {}
    for action in actions:
        row: Row = ((f" {fitted(action.keys, 13)} ", "key"), (fitted(action.said, _BLOCK_CELLS - 15), ""))
        blocks.setdefault(action.place, []).append(row)
    return list(blocks.items())


def legend_blocks() -> list[Block]:
    """Every sign, colour and term of the screens, and what it means."""
    blocks = []
    for title, signs in sections():
        cells = min(max(cell_len(sign.sign) for sign in signs), 30)
        rows: list[Row] = []
        for sign, style, means in signs:
            for i, line in enumerate(wrapped(means, _BLOCK_CELLS - cells - 2)):
                head = f" {fitted(sign if i == 0 else '', cells)} "
                rows.append(((head, style if i == 0 else ""), (fitted(line, _BLOCK_CELLS - cells - 2), "")))
        blocks.append((title, rows))
    return blocks


class HelpText(Lines):
    """Blocks of rows in as many columns as fit, one about as long as the other."""

    def __init__(self, blocks: Iterable[Block], id: str) -> None:
        super().__init__(id=id, classes="help-text")
        self._blocks = list(blocks)

    def on_resize(self) -> None:
        columns = max(self.room.width // (_BLOCK_CELLS + 2), 1)
        heights = [0] * columns
        stacks: list[list[Row]] = [[] for _ in range(columns)]
        blank: Row = ((" " * _BLOCK_CELLS, ""),)
        for title, rows in self._blocks:
            target = heights.index(min(heights))
            stacks[target] += [((f" {fitted(title, _BLOCK_CELLS - 1)}", "accent"),), *rows, blank]
            heights[target] += len(rows) + 2
        self.show_rows([self._joined([stack[y] if y < len(stack) else blank for stack in stacks])
                        for y in range(max(heights))])  # fmt: skip

    @staticmethod
    def _joined(parts: list[Row]) -> Row:
        row: list[Piece] = []
        for part in parts:
            row += [*part, ("  ", "")]
        return tuple(row[:-1])


class Help(Dialog[None]):
    """All keys of the screen below; behind them, what its signs, colours and terms mean."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("question_mark,tab", "turn", "keys / how to read this", key_display="?"),
        Binding("escape,q,f1,enter", "dismiss_none", "close"),
    ]
    _TITLES = (
        ("keys", "? how to read the screen · esc back · ctrl+p finds any action by name"),
        ("how to read the screen", "? keys · esc back"),
    )

    def __init__(self, actions: Iterable[Action]) -> None:
        super().__init__()
        self._actions = list(actions)
        self._page = 0

    def compose(self) -> ComposeResult:
        with Vertical(id="help"):
            yield HelpText(key_blocks(self._actions), id="help-keys")
            yield HelpText(legend_blocks(), id="help-legend")

    def on_mount(self) -> None:
        self._show_page()

    def _show_page(self) -> None:
        set_titles(self.query_one("#help"), *self._TITLES[self._page])
        for page, text in enumerate(self.query(HelpText)):
            text.display = page == self._page
            if text.display:
                text.focus()

    def action_turn(self) -> None:
        self._page = 1 - self._page
        self._show_page()

    def action_dismiss_none(self) -> None:
        self.answer(None)
