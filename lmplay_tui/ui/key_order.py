"""Keys in the order in which they were typed, where many come at once: over a slow line they do."""

from collections import deque
from functools import partial

from textual import events
from textual.app import App
from textual.message_pump import MessagePump
from textual.widget import Widget
from textual.widgets import Input

# What a key brings about is said from widget to widget: the key itself, what the widget says of it (submitted, picked),
# what its screen asks for then (a dialog, a pane), and the answer's callback. Each round waits for one more of these.
ROUNDS = 4
MOVES = frozenset({"up", "down", "left", "right", "pageup", "pagedown", "home", "end"})  # inside of what has the focus


class OrderedKeysApp(App[int]):
    """What is typed or pasted waits until the key before has done its work, and acts where the focus is then.

    Textual hands a key to the widget that has the focus when the key comes, and looks for its binding once it has
    risen to the app: keys right behind one that opens a dialog would act on the screen below it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._held_keys: deque[events.Key | events.Paste] = deque()
        self._key_acts = False

    async def on_event(self, event: events.Event) -> None:
        stops = isinstance(event, events.Key) and event.key == "ctrl+c"  # which waits for nothing
        if stops or not isinstance(event, events.Key | events.Paste) or event.is_forwarded:
            await super().on_event(event)
        elif self._key_acts:
            self._held_keys.append(event)
        else:
            await self.act(event)

    async def act(self, event: events.Key | events.Paste) -> None:
        """It is this one's turn. Once the screen is being left there is nothing that it could act on."""
        if not self.screen_stack:
            return
        focused = self.focused
        await super().on_event(event)
        if isinstance(event, events.Paste) or not _leaves_the_focus(event, focused):
            self._key_acts = True
            self._go_round(focused, ROUNDS)

    def _go_round(self, focused: Widget | None, rounds: int) -> None:
        """Pass behind what waits at the focus and above it, up to the app, so many times; then the next one acts."""
        if not self.screen_stack:
            return
        node = self.screen if focused is None else focused
        self._hop([*node.ancestors_with_self, self], rounds)

    def _hop(self, pumps: list[MessagePump], rounds: int) -> None:
        while pumps:
            pump, *pumps = pumps
            if pump.call_later(partial(self._hop, pumps, rounds)):  # not where it is being removed
                return
        if rounds > 1:
            self._go_round(self.focused, rounds - 1)
        else:
            self.call_next(self._act_held)

    async def _act_held(self) -> None:
        self._key_acts = False
        while self._held_keys and not self._key_acts:
            await self.act(self._held_keys.popleft())


def _leaves_the_focus(event: events.Key, focused: Widget | None) -> bool:
    """Whether what is typed behind the key goes the same way: a key that is held down waits for nothing."""
    if focused is not None and getattr(focused, "takes_text", False):
        return event.is_printable or (event.key != "enter" and event.key in focused._bindings.key_to_bindings)
    return event.key in MOVES


async def act_at_once(widget: Widget, event: events.Key) -> None:
    """What the widget itself binds the key to, from the `_on_key` of a widget that `takes_text`.

    Textual has the app look for bindings once a key has risen to it; letters do not rise, so those that were typed
    behind an arrow key or backspace would be in the text before it moves or deletes.
    """
    for binding in widget._bindings.key_to_bindings.get(event.key, ()):
        if not binding.priority and await widget.app.run_action(binding.action, default_namespace=widget):
            event.stop()
            event.prevent_default()
            return


class TypedLine(Input):
    """A field of a dialog."""

    takes_text = True

    async def _on_key(self, event: events.Key) -> None:
        await act_at_once(self, event)
