"""An app at the end of a line: what its terminal can show, and how it is drawn on one that takes its time."""

import asyncio
import os
import time

from textual import events, on
from textual.filter import LineFilter, Monochrome, NoColor
from textual.message import Message

from lmplay_tui.ui.ascii import AsciiFilter, plain_signs, terminal_needs_ascii
from lmplay_tui.ui.colours import NoColours, SixteenColours
from lmplay_tui.ui.desktop import notification, reads_commands, title_sequence
from lmplay_tui.ui.key_order import OrderedKeysApp
from lmplay_tui.ui.messages import Rang, TitleChanged
from lmplay_tui.ui.output import QUESTION, Line

LAST_ANSWER_S = 0.5  # of a terminal, before it is given back


class TerminalApp(OrderedKeysApp):
    """Colours and signs by the terminal's kind; no picture while it has not taken the ones before."""

    def __init__(self, line: Line | None, *, ascii_only: bool) -> None:
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
