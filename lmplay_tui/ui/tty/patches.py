"""Textual's app, fields, toasts and titles, where they do not do what a long run over a slow line needs.

In this order: keys act in the order in which they were typed, where many come at once; the app shows what its terminal
can show, and waits for one that takes its time; toasts may come late, after a stalled line or while the trainer holds
Python's lock; titles are no markup and are painted alone.
"""

import asyncio
import contextlib
import os
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from textual import events, on
from textual.app import App
from textual.await_remove import AwaitRemove
from textual.content import Content
from textual.driver import Driver
from textual.filter import LineFilter, Monochrome, NoColor
from textual.geometry import Region
from textual.message import Message
from textual.message_pump import MessagePump
from textual.notifications import Notification
from textual.widget import Widget
from textual.widgets import Input, _toast
from textual.widgets._toast import Toast, ToastHolder

from lmplay_tui.background import BackgroundCall
from lmplay_tui.text import plain_signs
from lmplay_tui.ui.messages import Rang, TitleChanged
from lmplay_tui.ui.tty.looks import (
    AsciiFilter,
    NoColours,
    PaletteColours,
    SixteenColours,
    notification,
    reads_commands,
    terminal_needs_ascii,
    title_sequence,
)
from lmplay_tui.ui.tty.painting import QUESTION, TerminalLine
from lmplay_tui.ui.tty.terminal_input import TerminalDriver

LAST_ANSWER_S = 0.5  # of a terminal, before it is given back
SHORTEST_S = 0.05  # a toast whose time is over when it is shown

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

    @property
    def message_queue_size(self) -> int:
        """What waits, keys that are held back too."""
        return super().message_queue_size + len(self._held_keys)

    async def on_event(self, event: events.Event) -> None:
        if not self.screen_stack and isinstance(
            event, events.InputEvent | events.AppFocus | events.AppBlur | events.Paste
        ):
            return  # typed ahead: the screen is being left
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


class TypedText:
    """Beside a Textual widget that text is typed into: what the widget itself binds a key to happens at once.

    Textual has the app look for bindings once a key has risen to it; letters do not rise, so those that were typed
    behind an arrow key or backspace would be in the text before it moves or deletes.
    """

    @property
    def takes_text(self) -> bool:
        """Whether letters go into the text."""
        return True

    async def _on_key(self: Any, event: events.Key) -> None:
        for binding in self._bindings.key_to_bindings.get(event.key, ()):
            if not binding.priority and await self.app.run_action(binding.action, default_namespace=self):
                event.stop()
                event.prevent_default()
                return


class TypedLine(TypedText, Input):
    """A field of a dialog."""


class TerminalApp(OrderedKeysApp):
    """Colours and signs by the terminal's kind; no picture while it has not taken the ones before."""

    def __init__(self, line: TerminalLine | None, *, ascii_only: bool) -> None:
        """`line`: to a real terminal."""
        super().__init__()
        self._line = line
        self._leaving = False
        self._title_to_send: str | None = None
        self.ascii_only = ascii_only or terminal_needs_ascii()
        self.no_color = bool(os.environ.get("NO_COLOR"))  # an empty one means nothing
        self._filters = self._our_filters()

    def _our_filters(self) -> list[LineFilter]:
        """Textual's and ours, by what the terminal can show and the user wants to see."""
        filters = [each for each in self._filters if not isinstance(each, Monochrome | NoColor)]
        if self.no_color:
            filters.insert(0, NoColours())  # the first: those that make other colours of colours find none
        elif self.console.color_system == "standard":
            filters.append(SixteenColours())
        elif self.console.color_system == "256":
            filters.append(PaletteColours())
        return [*filters, AsciiFilter()] if self.ascii_only else filters

    @on(TitleChanged)
    def _set_title(self, message: TitleChanged) -> None:
        """Not by Textual's `title`, whose change paints the whole screen again."""
        self._title_to_send = message.text
        self._send_title()

    def _send_title(self) -> None:
        """The newest one, once the terminal has taken the pictures before."""
        if self._title_to_send is not None and self._line is not None and not self._line.behind:
            self._to_terminal(title_sequence(self._title_to_send, os.environ))
            self._title_to_send = None

    @on(Rang)
    def _ring(self, message: Rang) -> None:
        """The bell, which tmux marks the window with, and a notification on the desktop."""
        self.bell()
        self._to_terminal(notification(message.text, os.environ))

    def _to_terminal(self, sequence: str) -> None:
        if sequence and self._driver is not None and not self.is_headless:
            self._driver.write(plain_signs(sequence) if self.ascii_only else sequence)

    def _set_pointer_shape(self, shape: str) -> None:
        """The mouse pointer's, which Textual sends to any terminal."""
        if reads_commands(os.environ):
            super()._set_pointer_shape(shape)

    # ---- what Textual would do by itself

    def get_driver_class(self) -> type[Driver]:
        return TerminalDriver

    def take_print(self, text: str) -> bool:
        """Whether the app takes what Python code prints or warns of; Textual drops the rest."""
        return False

    def _print(self, text: str, stderr: bool = False) -> None:
        if not self.take_print(text):
            super()._print(text, stderr)

    def note_bug(self, error: Exception) -> None:
        """A bug of the screen's is about to end the app."""

    def _handle_exception(self, error: Exception) -> None:
        self.note_bug(error)
        super()._handle_exception(error)

    def panic(self, *renderables: Any) -> None:
        """Textual calls it where a thread of its own fails: it would leave as if the user had asked to."""
        self.note_bug(RuntimeError("Textual has given up"))
        self._fatal_error()

    def _fatal_error(self) -> None:
        """Textual would draw the traceback with all variables; ours is written by what has started the app."""
        self._close_messages_no_wait()

    # ---- the line

    def post_message(self, message: Message) -> bool:
        """The terminal's answers are taken at once, whatever else waits."""
        if not isinstance(message, events.CursorPosition) or self._line is None:
            return super().post_message(message)
        self._line.answered()
        if self._line.held:
            self.call_later(self._paint_held)
        self._ask()
        return True

    def post_display_hook(self) -> None:
        """A picture has been sent, or has to wait."""
        self._ask()

    def _ask(self) -> None:
        if self._line is not None and self._driver is not None and not self._leaving and self._line.wants_to_ask():
            self._driver.write(QUESTION)

    def _paint_held(self) -> None:
        """Paint what had to wait, as it is now, once the terminal has caught up."""
        self._send_title()
        if self._line is None or not self._line.held or self._batch_count:  # of a batch no picture is sent
            return
        if self._line.behind:
            self._ask()
        else:
            # What has changed since the last look at the widgets, too: a refresh forgets which of them changed.
            self.screen._compositor.update_widgets(self.screen._dirty_widgets)
            self.screen._compositor_refresh()

    async def _process_messages_loop(self) -> None:
        """However it ends, also by a bug: an answer that is still on its way would be typed into the shell."""
        try:
            await super()._process_messages_loop()
        finally:
            self._leaving = True
            end = time.monotonic() + LAST_ANSWER_S
            while self._line is not None and self._line.awaits_answer and time.monotonic() < end:
                await asyncio.sleep(0.01)


class LateToast(Toast):
    """A toast whose time is over when it is made goes at once.

    Textual's own sets a timer of a negative time, which never ends and never lets the event loop go on. Where the next
    notification comes before the timer of one whose time is over, it removes the toast and leaves its holder, a widget
    with a task of its own, for as long as the screen is there.
    """

    def __init__(self, notification: Notification) -> None:
        super().__init__(notification)
        self._timeout = max(self._timeout, SHORTEST_S)

    def remove(self) -> AwaitRemove:
        """With its holder, which is nothing without it."""
        return self.parent.remove() if isinstance(self.parent, ToastHolder) else super().remove()

    def on_unmount(self) -> None:
        """What it looked like goes at once: the widget itself waits for Python's search for garbage."""
        self._styles_cache.clear()


def use_late_toasts() -> None:
    """Put our toasts in the place of Textual's, which are looked up when one is shown."""
    setattr(_toast, "Toast", LateToast)  # noqa: B010  (a name that the module owns)


def set_titles(widget: Widget, title: str | None = None, subtitle: str | None = None) -> None:
    """Set the texts in the upper and the lower border; what is None or the same stays.

    Textual's own way reads a text as markup and paints the whole widget again.
    """
    rows = []
    if title is not None and title != _plain(widget._border_title):
        widget._border_title = Content(title)
        rows.append(-1)
    if subtitle is not None and subtitle != _plain(widget._border_subtitle):
        widget._border_subtitle = Content(subtitle) if subtitle else None
        rows.append(widget.size.height)
    if rows:
        widget.refresh(*(Region(-1, row, widget.size.width + 3, 1) for row in rows))


def title_of(widget: Widget) -> str:
    """The text in the upper border, as it was given."""
    return _plain(widget._border_title)


def _plain(content: Content | None) -> str:
    return content.plain if content is not None else ""


def in_background(app: App[Any], work: Callable[[], Callable[[], None]]) -> None:
    """Do `work` in a thread, then what it gives in the app's own, where what `work` raises is raised, too.

    Unlike with Textual's workers, what hangs does not keep the app from being left.
    """

    def deliver(call: BackgroundCall[Callable[[], None]]) -> None:
        def show() -> None:
            call.result()()

        with contextlib.suppress(RuntimeError):  # the app has been left meanwhile
            app.call_later(show)

    BackgroundCall(work, then=deliver)
