"""The keys that matter now, in one row: those of the focused pane, then those of the whole screen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from textual import events

from lmplay_tui.ui.messages import ActionAsked
from lmplay_tui.ui.widgets.lines import Lines, Piece


@dataclass(frozen=True)
class Key:
    """A key as the bar shows it, and the action that a click does."""

    sign: str
    label: str
    action: str
    owner: object = None

    @property
    def width(self) -> int:
        return len(self.sign) + len(self.label) + 3


@runtime_checkable
class KeysByState(Protocol):
    """Something whose keys do now this, now that."""

    def keys_now(self) -> Mapping[str, str]:
        """Actions whose keys do something else now than their bindings say, and what; "": nothing."""


class KeyBar(Lines, can_focus=False):
    """What does not fit is left out from the middle: `last` always stands at the end."""

    def __init__(self) -> None:
        super().__init__(id="keys")
        self._keys: Sequence[Key] = ()
        self._last: Sequence[Key] = ()
        self._places: list[tuple[int, Key]] = []  # end of each key on the row

    def show(self, keys: Sequence[Key], last: Sequence[Key]) -> None:
        if (keys, last) != (self._keys, self._last):
            self._keys, self._last = keys, last
            self._draw()

    def on_resize(self) -> None:
        self._draw()

    def _draw(self) -> None:
        room = self.size.width - sum(key.width for key in self._last)
        row: list[Piece] = []
        self._places = []
        used = 0
        for key in self._keys:
            if used + key.width > room:
                break
            used = self._add(row, key, used)
        if room > used:
            row.append((" " * (room - used), ""))
            used = room
        for key in self._last:
            used = self._add(row, key, used)
        self.show_rows([tuple(row)])

    def _add(self, row: list[Piece], key: Key, used: int) -> int:
        row += [(f" {key.sign}", "key"), (f" {key.label} ", "dim")]
        self._places.append((used + key.width, key))
        return used + key.width

    def on_click(self, event: events.Click) -> None:
        offset = event.get_content_offset(self)
        for end, key in self._places:
            if offset is not None and offset.x < end:
                self.post_message(ActionAsked(key.action, key.owner))
                return
