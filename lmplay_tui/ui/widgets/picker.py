"""A list to choose from: arrows, Enter, or the mouse."""

from collections.abc import Sequence
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message

from lmplay_tui.ui.widgets.lines import Lines, Row


class Picker(Lines):
    """Rows of which one is chosen. The chosen row is marked by a sign, and in colour where the list has the focus."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "up", show=False),
        Binding("down,j", "move(1)", "down", show=False),
        Binding("pageup", "move(-10)", "up", show=False),
        Binding("pagedown", "move(10)", "down", show=False),
        Binding("enter", "pick", "choose", show=False),
    ]

    class Moved(Message):
        """Another row is chosen."""

        def __init__(self, picker: "Picker", index: int) -> None:
            super().__init__()
            self.picker, self.index = picker, index

        @property
        def control(self) -> "Picker":
            return self.picker

    class Picked(Moved):
        """The chosen row was taken."""

    def __init__(self, *, id: str, empty: str = "", classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._items: list[Row] = []
        self._head: list[Row] = []
        self._empty = empty
        self._filled = False  # by `show_items`, even with nothing
        self.index = 0

    def show_items(self, items: Sequence[Row], index: int | None = None, head: Row | None = None) -> None:
        """What can be chosen; `index`: which is. `head`: the columns' titles, above what can be chosen."""
        self._filled = True
        self._items = list(items)
        self._head = [] if head is None else [(("   ", ""), *head)]
        self.index = min(max(self.index if index is None else index, 0), max(len(items) - 1, 0))
        self._draw()

    def on_focus(self) -> None:
        self._draw()

    def on_blur(self) -> None:
        self._draw()

    def on_resize(self) -> None:
        self._draw()

    def _draw(self) -> None:
        if not self._filled:
            return
        rows: list[Row] = list(self._head) if self._items else []
        for i, item in enumerate(self._items):
            here = " cursor" if i == self.index and self.has_focus else ""
            sign = "▸ " if i == self.index else "  "
            rows.append(((" " + sign, f"accent{here}"), *((text, (style + here).strip()) for text, style in item)))
        self.show_rows(rows or [((f" {self._empty}", "dim"),)])
        self.num_fixed = len(self._head)
        self.keep_in_sight(self.index + self.num_fixed)

    def action_move(self, by: int) -> None:
        if self._items:
            self._choose(min(max(self.index + by, 0), len(self._items) - 1))

    def _choose(self, index: int) -> None:
        if index != self.index:
            self.index = index
            self._draw()
            self.post_message(self.Moved(self, index))

    def action_pick(self) -> None:
        if self._items:
            self.post_message(self.Picked(self, self.index))

    def on_click(self, event: events.Click) -> None:
        index = self.row_at(event) - len(self._head)
        if 0 <= index < len(self._items):
            if index == self.index:
                self.action_pick()
            else:
                self._choose(index)
