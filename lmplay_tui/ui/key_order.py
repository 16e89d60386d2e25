"""Keys in the order in which they were typed, where many come at once: over a slow line they do."""

from collections import deque
from functools import partial

from textual import events
from textual.app import App
from textual.message_pump import MessagePump
from textual.widget import Widget
from textual.widgets import Input, TextArea

# What a key brings about is said from widget to widget: the key itself, what the widget says of it (submitted, picked),
# what its screen asks for then (a dialog, a pane), and the answer's callback. Each round waits for one more of these.
ROUNDS = 4


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
        if not isinstance(event, events.Key | events.Paste) or event.is_forwarded:
            await super().on_event(event)
        elif isinstance(event, events.Key) and event.key == "ctrl+c":  # what stops a run waits for nothing
            await super().on_event(event)
        elif self._key_acts:
            self._held_keys.append(event)
        else:
            await self.act(event)

    async def act(self, event: events.Key | events.Paste) -> None:
        """It is this one's turn."""
        focused = self.focused
        await super().on_event(event)
        # A letter goes into the text: what comes behind it stands behind it in the same queue.
        if not (isinstance(event, events.Key) and event.is_printable and _takes_text(focused)):
            self._key_acts = True
            self._go_round(focused, ROUNDS)

    def _go_round(self, focused: Widget | None, rounds: int) -> None:
        """Pass behind all that waits at the focus and above it, up to the app, so many times; then the next one acts."""
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


def _takes_text(widget: Widget | None) -> bool:
    return isinstance(widget, Input) or (isinstance(widget, TextArea) and not widget.read_only)
