"""What is sent to the terminal: the cells that differ from what it shows, and no picture before it has taken the last.

Textual paints whole regions anew, and most of their cells are what they were. `Shown` remembers what was sent; each
picture is compared with it cell by cell.

A line that stalls or crawls holds what was sent in buffers that cannot be seen from here: the kernel's, ssh's, the
network's. So each picture ends with a question that every terminal answers: where its cursor is. While the answer
lacks (`TerminalLine`), no further picture is made; what has changed is painted once, as it then is, when the terminal
has caught up.

`use_our_output` puts our writer, compositor and updates in the place of Textual's.
"""

import contextlib
import os
import re
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from queue import Queue
from typing import IO, Any, ClassVar

from rich.console import Console, RenderableType
from rich.segment import Segment
from rich.style import Style
from textual import _compositor
from textual import screen as textual_screen
from textual._compositor import ChopsUpdate, Compositor, LayoutUpdate
from textual.drivers import linux_driver
from textual.drivers._writer_thread import WriterThread
from textual.geometry import Region
from textual.screen import Screen
from textual.strip import Strip

from lmplay_tui.ui.tty.screen_cells import cells_of, differing_spans

_JOINING = re.compile("[\u200d\ufe0f\U0001f3fb-\U0001f3ff]")
Cell = tuple[str, Style | None]


class Shown:
    """What each row of the terminal holds, as it was sent; a row that is not known is sent whole."""

    def __init__(self) -> None:
        self._rows: dict[int, list[Cell]] = {}
        self._width = 0

    @property
    def known(self) -> bool:
        """Whether anything is known of what the terminal shows."""
        return bool(self._rows)

    def forget(self) -> None:
        """Nothing is known of the terminal any more: another one, another size, or another program wrote on it."""
        self._rows.clear()

    def fit(self, width: int) -> None:
        """The terminal has so many columns."""
        if width != self._width:
            self._width = width
            self._rows.clear()

    def paint(self, y: int, x: int, strip: Strip, console: Console) -> Iterator[str]:
        """What to send so that the cells of row `y` from column `x` on show `strip`."""
        new, plain = cells_of((text, style) for text, style, _control in strip)
        if x + len(new) > self._width:  # of a size that the terminal has no more, or not yet
            self._rows.pop(y, None)
            yield f"\x1b[{y + 1};{x + 1}H{strip.render(console)}"
            return
        row = self._rows.get(y)
        if row is None:
            row = self._rows[y] = [("", None)] * self._width  # no cell looks like that
        old = row[x : x + len(new)]
        if old == new:
            return
        row[x : x + len(new)] = new
        # How wide terminals take characters of another width is not certain: such a row is sent whole, and so heals.
        spans = differing_spans(old, new) if plain and all(len(char) == 1 for char, _ in old) else [(0, len(new))]
        is_joined = not plain and _JOINING.search(strip.text) is not None
        if is_joined:
            spans = _split_at_joined(new)
        for first, beyond in spans:
            if _JOINING.search(new[first][0]):  # a terminal may draw it in fewer cells: these hold nothing else then
                blank = Strip([Segment(" " * (beyond - first), new[first][1])])
                yield f"\x1b[{y + 1};{x + first + 1}H{blank.render(console)}"
            part = _strip(new[first:beyond]) if is_joined else strip.crop(first, beyond)
            yield f"\x1b[{y + 1};{x + first + 1}H{part.render(console)}"


def _strip(cells: list[Cell]) -> Strip:
    """Cells as a strip; Textual's own cutting may cut through a joined character."""
    parts = groupby(cells, key=lambda cell: cell[1])
    return Strip([Segment("".join(char for char, _ in part), style) for style, part in parts])


def _split_at_joined(cells: list[Cell]) -> list[tuple[int, int]]:
    """The row in parts, so that what follows a joined character is placed by its column, not by where that ended.

    Terminals differ in how wide they take emoji with joiners, skin tones and variation selectors.
    """
    spans: list[tuple[int, int]] = []
    begin = i = 0
    while i < len(cells):
        beyond = i + 1
        if _JOINING.search(cells[i][0]):
            while beyond < len(cells) and not cells[beyond][0]:
                beyond += 1
            spans += [(begin, i)] if begin < i else []
            spans.append((i, beyond))
            begin = beyond
        i = beyond
    return [*spans, (begin, len(cells))] if begin < len(cells) else spans


shown = Shown()  # there is one terminal, and Textual makes its updates without asking us


class ExactUpdate(ChopsUpdate):
    """Sends the cells that differ; Textual's own sends all from the widget's left edge to the last changed one."""

    def render_segments(self, console: Console) -> str:
        sequences: list[str] = []
        for y, first, beyond in self.spans:
            for end, (x, strip) in zip(self.chop_ends[y], self.chops[y].items(), strict=False):
                if strip is None or x >= beyond or end <= first:
                    continue
                start = max(x, first)
                sequences += shown.paint(y, start, strip.crop(start - x, min(end, beyond) - x), console)
        return "".join(sequences)


class ExactLayout(LayoutUpdate):
    """The whole screen, of which only what differs is sent."""

    def render_segments(self, console: Console) -> str:
        shown.fit(self.region.width)
        sequences: list[str] = []
        for y, strips in enumerate(self.strips, self.region.y):
            sequences += shown.paint(y, self.region.x, Strip.join(strips), console)
        return "".join(sequences)


ALLOWANCE = 4096  # bytes on their way: half a second of 64 kbit/s; keys that follow each other need not wait
ASK_AGAIN_S = 5.0  # an answer may get lost
PATIENCE_S = 60.0  # a terminal that answers no more still gets a picture a minute
QUESTION = "\x1b[6n"
MAX_REGIONS = 1000


class TerminalLine:
    """How much of what was sent has arrived. Counted in the thread that writes, asked in the one that paints."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.sent = 0  # bytes handed over to be written
        self.written = 0  # of these, what the terminal's device has taken
        self.shown = 0  # of these, what the terminal has answered for
        self.held = False  # a picture waits
        self._answers = False  # the terminal has answered once
        self._asked: int | None = None  # what the answer that is awaited will be for
        self._asked_at = self._painted_at = -1e9

    @property
    def behind(self) -> bool:
        """Whether the next picture has to wait."""
        if self.sent - self.written > ALLOWANCE:
            return True
        return self._answers and self.sent - self.shown > ALLOWANCE and self._clock() - self._painted_at < PATIENCE_S

    @property
    def awaits_answer(self) -> bool:
        return self._answers and self._asked is not None

    def painted(self) -> None:
        """A picture is on its way."""
        self._painted_at = self._clock()

    def wants_to_ask(self) -> bool:
        """Whether to ask now; if so, the question counts as asked."""
        now = self._clock()
        if self.sent == self.shown or (self._asked is not None and now - self._asked_at < ASK_AGAIN_S):
            return False
        if self._asked is not None and self.written < self.sent:
            return False  # the last question has not even left
        self._asked, self._asked_at = self.sent + len(QUESTION), now
        return True

    def answered(self) -> None:
        self._answers = True
        if self._asked is not None:
            self.shown, self._asked = self._asked, None


class SafeWriter(WriterThread):
    """A writer that outlives its terminal, says that it is gone where no signal does, and never blocks the event loop.

    Textual's own dies at the first write to a closed line; its queue of 30 fills and blocks the event loop for ever.
    Here pictures wait before they are made, so that what is queued stays little.
    """

    line: ClassVar[TerminalLine] = TerminalLine()

    def __init__(self, file: IO[str]) -> None:
        super().__init__(file)
        self._queue = Queue()
        shown.forget()  # a writer is made when the terminal is taken, or taken again

    def write(self, text: str) -> None:
        self.line.sent += len(text)
        super().write(text)

    def run(self) -> None:
        dead = False
        while (text := self._queue.get()) is not None:
            if not dead:
                try:
                    self._file.write(text)
                    if self._queue.qsize() == 0:
                        self._file.flush()
                except (OSError, ValueError):
                    dead = True
                    os.kill(os.getpid(), signal.SIGHUP)
            self.line.written += len(text)
        with contextlib.suppress(OSError, ValueError):
            self._file.flush()


Span = tuple[int, int, int]  # of a row: y, first cell, beyond the last


class PatientCompositor(Compositor):
    """Makes no picture while the terminal is behind, and remembers what it would have painted.

    Of a picture it asks only those widgets that have a part in it, and only for these rows.
    """

    line: ClassVar[TerminalLine] = TerminalLine()
    _painted: Sequence[Span] | None = None  # what the picture that is being made changes; None: all of it

    def render_update(
        self, full: bool = False, screen_stack: list[Screen[Any]] | None = None, simplify: bool = False
    ) -> RenderableType | None:
        if not simplify and self.root is not None and self.root.app._batch_count:
            return None  # Textual would make one and drop it, the whole first one too; what to paint stays known
        if simplify or not self.line.behind:  # simplified: a screenshot, which is not for the terminal
            self.line.held = False
            update = super().render_update(full, screen_stack, simplify)
            if update is not None:
                self.line.painted()
            return update
        if full:
            self._dirty_regions.add(self.size.region)
        if len(self._dirty_regions) > MAX_REGIONS:
            spans = self._regions_to_spans(self._dirty_regions)
            self._dirty_regions = {Region(first, y, beyond - first, 1) for y, first, beyond in spans}
        self.line.held = True
        return None

    def render_partial_update(self) -> ChopsUpdate | None:
        self._painted = list(self._regions_to_spans(self._dirty_regions))
        try:
            return super().render_partial_update()
        finally:
            self._painted = None

    def _get_renders(self, crop: Region | None = None) -> Iterable[tuple[Region, Region, list[Strip]]]:
        """Textual's own takes each widget whole that lies between the first change and the last."""
        if self._painted is None:
            yield from super()._get_renders(crop)
            return
        left = self._painted
        for widget, (region, clip) in self.visible_widgets.items():  # the foremost first
            seen = region.intersection(clip)
            x, right, rows = seen.x, seen.right, seen.line_range
            ys = [y for y, first, beyond in left if y in rows and first < right and beyond > x]
            if ys:
                part = Region(x, ys[0], seen.width, ys[-1] + 1 - ys[0])  # spans come from top to bottom
                yield region, part, widget.render_lines(part.translate(-region.offset))
                left = [span for span in left if not (span[0] in rows and x <= span[1] and span[2] <= right)]


def use_our_output() -> TerminalLine:
    """Put our writer and our updates in the place of Textual's; all are looked up when they are needed."""
    line = SafeWriter.line = PatientCompositor.line = TerminalLine()
    setattr(_compositor, "ChopsUpdate", ExactUpdate)  # noqa: B010  (a name that the module owns)
    setattr(_compositor, "LayoutUpdate", ExactLayout)  # noqa: B010  (the same)
    setattr(linux_driver, "WriterThread", SafeWriter)  # noqa: B010  (a name that the module imports)
    setattr(textual_screen, "Compositor", PatientCompositor)  # noqa: B010  (the same)
    return line
