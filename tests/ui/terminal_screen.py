"""What a real terminal shows: a program in a pseudo-terminal, its bytes as a screen of cells."""

import os
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import groupby

import pyte
from pyte.screens import Char
from wcwidth import wcwidth

from tests.faults.terminals import Terminal, until

SETTLED_S = 0.3


class _AnsweringScreen(pyte.Screen):
    """As terminals do, it says where the cursor is, and marks and joiners stand in the cell before them."""

    answer: Callable[[str], None]

    def write_process_input(self, data: str) -> None:
        self.answer(data)

    def draw(self, data: str) -> None:
        for mark, characters in groupby(data, key=lambda char: wcwidth(char) == 0):
            text = "".join(characters)
            if not mark:
                super().draw(text)
                continue
            line, x = self.buffer[self.cursor.y], max(self.cursor.x - 1, 0)
            x -= not line[x].data and x > 0  # the second cell of a wide character
            line[x] = line[x]._replace(data=line[x].data + text)


class ScreenTerminal(Terminal):
    """A program in a terminal of some size, and what stands on its screen."""

    def __init__(
        self, work: Callable[[], int], size: tuple[int, int] = (80, 24), environment: Mapping[str, str] | None = None
    ) -> None:
        def in_environment() -> int:
            os.environ.update({"COLUMNS": str(size[0]), "LINES": str(size[1])} | dict(environment or {}))
            return work()

        self._screen = _AnsweringScreen(*size)
        self._screen.answer = self.type
        self._stream = pyte.ByteStream(self._screen)
        self._fed = 0
        super().__init__(in_environment)
        self.resize(size[1], size[0])

    @property
    def screen(self) -> str:
        """The screen's lines as they stand now."""
        data = self.output[self._fed :]
        self._fed += len(data)
        self._stream.feed(data)
        return "\n".join(self._screen.display)

    @property
    def cursor_line(self) -> str:
        """The line that the terminal's own cursor stands in."""
        return self.screen.split("\n")[self._screen.cursor.y]

    @property
    def cells(self) -> list[list[Char]]:
        """The screen's cells as they stand now, with their colours and attributes."""
        assert self.screen
        return [[self._screen.buffer[y][x] for x in range(self._screen.columns)] for y in range(self._screen.lines)]

    def tour(self, stops: Iterable[tuple[str, str]]) -> None:
        """Type the keys of each stop and wait for its text; a text after `!` shall be gone."""
        for keys, seen in stops:
            self.type(keys)
            if seen.startswith("!"):
                until(partial(self._lacks, seen[1:]))
            else:
                self.shows(seen)

    def _lacks(self, text: str) -> bool:
        """And still does a moment later: in the middle of a picture it may lack what it shows before and after.

        A key that came right behind escape would be another one, with alt.
        """
        if text in self.screen:
            return False
        time.sleep(SETTLED_S)
        return text not in self.screen

    def shows(self, *texts: str) -> None:
        """Wait until all of these stand on the screen."""
        try:
            until(lambda: all(text in self.screen for text in texts))
        except TimeoutError:
            raise TimeoutError(f"{texts} do not stand on the screen:\n{self.screen}") from None
