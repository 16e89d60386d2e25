"""What comes from the terminal: bytes of any kind as keys, pastes, mouse and answers; none of them ends the screen.

Textual decodes strictly, so one byte of a Latin-1 terminal ends its input thread and with it the app; what it does not
know it types letter by letter, so that the answer to another program's question presses our shortcuts; a paste whose
end is lost swallows every key that follows. Here the bytes are cut into whole sequences (ECMA-48, section 5.4; xterm's
"Control Sequences") before Textual's parser sees them: one that it does not know does nothing. What silence ends, ends
by the silence of the terminal, also where the app comes to the bytes late.
"""

import codecs
import os
import re
import select
import shutil
import signal
import time
from collections import deque
from collections.abc import Generator, Iterator

from textual import constants, events
from textual._xterm_parser import XTermParser
from textual.drivers.linux_driver import LinuxDriver
from textual.geometry import Size
from textual.message import Message

MOST_COLUMNS, MOST_ROWS = 1000, 400  # that we draw: a terminal can claim to have billions of cells
PASTE_SILENCE_S = 2.0  # a paste whose end has not come by then has none
MOST_PASTED = 1 << 22  # characters; the rest of a longer paste is a paste of its own
SEQUENCE_SILENCE_S = 0.5  # a sequence that a slow line cuts in two goes on before
LOST_AFTER_S = 1.0  # of a terminal that cannot be read, without a hang-up's signal
CATCHES_UP_S = 0.01
LOOK_S = 0.1  # at most so long until it is seen that the app leaves
READ_BYTES = 1 << 10
MOST_WAITING = 64  # messages that the app has not come to: more are made when it has, so that it can always be left
MOST_AHEAD = 1 << 18  # bytes that are read until then: in what the terminal's line keeps, no silence can be seen
LONGEST = 32  # characters of a sequence that Textual's parser knows; it types a longer one letter by letter

PASTE, PASTE_END = "\x1b[200~", "\x1b[201~"
_WHOLE = re.compile(
    r"\x1b\[\[[A-E]"  # F1 to F5 of the Linux console
    r"|\x1b\[M[\s\S]{3}"  # the mouse of a terminal that does not know how to report it in digits
    r"|\x1b\[(?![M\[])[0-?]*[ -/]*[@-~]"  # CSI
    r"|\x1bO[ -~]"  # SS3
    r"|\x1b[^\x1b\[OP\]X^_]"  # alt and a key
    r"|[^\x1b]+"  # what is typed
)
_STRING = re.compile(r"\x1b[\]PX^_]")  # OSC, DCS, SOS, PM, APC: a title, a colour that another program has asked for
_END_OF_STRING = re.compile(r"\x07|\x1b\\|\x1b(?=[^\\])")  # another sequence ends it, too
_BEGUN = re.compile(r"\x1b(?:\[(?:\[|M[\s\S]{0,2}|[0-?]*[ -/]*)|O)?\Z")


class TerminalInput:
    """Bytes in, messages out, whatever the bytes are and however they are cut."""

    def __init__(self) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._parser = XTermParser()
        self._rest = ""  # what may be the beginning of a sequence
        self._pasted: list[str] | None = None  # while a paste lasts
        self._in_string = False

    def feed(self, data: bytes) -> Iterator[Message]:
        """The messages of these bytes; what is not whole yet is kept."""
        text, self._rest = self._rest + self._decode(data), ""
        while text:
            if self._pasted is not None:
                text = yield from self._paste(text)
            elif self._in_string:
                text = self._skip_string(text)
            elif found := _WHOLE.match(text):
                text = text[found.end() :]
                if found[0] == PASTE:
                    self._pasted = []
                else:
                    yield from self._messages_of(found[0])
            elif found := _STRING.match(text):
                text, self._in_string = text[found.end() :], True
            elif len(text) <= READ_BYTES and _BEGUN.match(text):
                text, self._rest = "", text
            elif text.startswith("\x1b\x1b"):
                text = text[1:]
                yield events.Key("escape", "\x1b")
            else:  # noise between the beginning and a sign that cannot follow it
                text = text[1:].lstrip("[O0123456789:;<=>?")

    def tick(self, silent_s: float) -> Iterator[Message]:
        """The messages of what has begun and has not gone on for `silent_s` seconds."""
        if self._pasted is not None:
            if silent_s >= PASTE_SILENCE_S:
                yield from self._end_paste(self._rest)
                self._rest = ""
        elif self._rest == "\x1b" and not self._in_string:
            if silent_s >= constants.ESCAPE_DELAY:
                self._rest = ""
                yield events.Key("escape", "\x1b")
        elif silent_s >= SEQUENCE_SILENCE_S:
            self._rest, self._in_string = "", False

    def _paste(self, text: str) -> Generator[Message, None, str]:
        """Take what belongs to the paste; what is left behind its end."""
        assert self._pasted is not None
        text, end, behind = text.partition(PASTE_END)
        if not end:
            self._rest = _last_of(text, PASTE_END)
            text = text.removesuffix(self._rest)
        self._pasted.append(text)
        if end or sum(map(len, self._pasted)) > MOST_PASTED:
            yield from self._end_paste()
            self._pasted = None if end else []
        return behind

    def _end_paste(self, rest: str = "") -> Iterator[Message]:
        text = "".join([*(self._pasted or ()), rest])
        self._pasted = None
        yield events.Paste(text.replace("\x00", ""))

    def _skip_string(self, text: str) -> str:
        """What is left behind the end of a string, which is for another program."""
        if found := _END_OF_STRING.search(text):
            self._in_string = False
            return text[found.end() if found[0] != "\x1b" else found.start() :]
        self._rest = "\x1b" if text.endswith("\x1b") else ""
        return ""

    def _messages_of(self, sequence: str) -> Iterator[Message]:
        """What Textual's parser makes of it; nothing where it does not know it."""
        messages: list[Message] = []
        try:
            if sequence[0] == "\x1b" and len(sequence) == 2:
                messages += map(_with_alt, self._parser.feed(sequence[1]))
            elif sequence[0] != "\x1b" or len(sequence) <= LONGEST:
                messages += self._parser.feed(sequence)
        except Exception:  # a code point that there is not, a number that is too large
            messages = []
        if not messages:  # it may be waiting for more of a sequence that is whole
            self._parser = _like(self._parser)
        yield from filter(_can_be_written, messages)


def _last_of(text: str, sequence: str) -> str:
    """The end of the text that may be the beginning of the sequence."""
    return next((text[-n:] for n in range(len(sequence) - 1, 0, -1) if text.endswith(sequence[:n])), "")


def _with_alt(message: Message) -> Message:
    """As Textual names it: a letter with alt, but any other key as it is."""
    if not isinstance(message, events.Key) or len(message.key) != 1:
        return message
    shift = "shift+" if message.key.isupper() else ""
    return events.Key(f"alt+{shift}{message.key.lower()}", message.character)


def _like(parser: XTermParser) -> XTermParser:
    """A parser at the beginning of a sequence, which knows what this one knows of the terminal."""
    new = XTermParser()
    new.last_x, new.last_y, new.mouse_pixels = parser.last_x, parser.last_y, parser.mouse_pixels
    new.terminal_size, new.terminal_pixel_size = parser.terminal_size, parser.terminal_pixel_size
    return new


def _can_be_written(message: Message) -> bool:
    """Not so half a character, which a terminal can name by its number."""
    if not isinstance(message, events.Key):
        return True
    return not any("\ud800" <= sign <= "\udfff" for sign in message.key + (message.character or ""))


def bounded(width: int, height: int) -> Size:
    """The size of the picture for a terminal of such a size."""
    return Size(max(1, min(width, MOST_COLUMNS)), max(1, min(height, MOST_ROWS)))


class TerminalDriver(LinuxDriver):
    """Textual's driver with our input, and no picture larger than we can paint."""

    def run_input_thread(self) -> None:
        """Read until the app leaves. A terminal that is gone without a signal is as good as hung up."""
        typed, came_at, lost_since = TerminalInput(), time.monotonic(), None
        # Bytes, and seconds of silence, that the app has not come to. A silence is seen while it lasts or never: what
        # comes behind it lies in the terminal's line as if it had come at once.
        ahead: deque[bytes | float] = deque()
        bytes_ahead = 0
        while not self.exit_event.is_set():
            is_behind = self._app.message_queue_size > MOST_WAITING
            if ahead and not is_behind:
                part = ahead.popleft()
                bytes_ahead -= len(part) if isinstance(part, bytes) else 0
                for message in typed.feed(part) if isinstance(part, bytes) else typed.tick(part):
                    self.process_message(message)
            if bytes_ahead >= MOST_AHEAD:
                self.exit_event.wait(CATCHES_UP_S if is_behind else 0)
                continue
            look_s = CATCHES_UP_S if is_behind else 0 if ahead else LOOK_S
            try:
                data = os.read(self.fileno, READ_BYTES) if select.select([self.fileno], [], [], look_s)[0] else None
            except (OSError, ValueError):
                data = b""
            if data == b"":  # its end: to ask again at once would spin
                self.exit_event.wait(LOOK_S)
                lost_since = lost_since or time.monotonic()
                if time.monotonic() - lost_since > LOST_AFTER_S:
                    os.kill(os.getpid(), signal.SIGHUP)
                    lost_since = None
                continue
            lost_since = None
            if data:
                came_at, bytes_ahead = time.monotonic(), bytes_ahead + len(data)
            elif ahead and isinstance(ahead[-1], float):
                ahead.pop()  # it lasts
            ahead.append(data or time.monotonic() - came_at)

    def process_message(self, message: Message) -> None:
        """A size that the terminal reports counts where it has said that it reports them; else it is noise."""
        if isinstance(message, events.Resize):
            if not self._in_band_window_resize:
                return
            size = bounded(*message.size)
            message = events.Resize(size, size, pixel_size=message.pixel_size)
        super().process_message(message)

    def _get_terminal_size(self) -> tuple[int, int]:
        return bounded(*shutil.get_terminal_size())
