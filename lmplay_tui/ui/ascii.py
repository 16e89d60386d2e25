"""Drawing with ASCII only: for the console of a server, and for fonts without the signs that we use."""

import os

from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

_SIGNS = {
    "●": "*", "◌": "o", "‖": "=", "◐": "~", "■": "#", "✓": "+", "✗": "x", "▸": ">", "▶": ">", "▪": ".", "λ": "l",
    "✎": "e", "↻": "r", "⚑": "b", "━": "-", "•": "o", "◆": "#", "┈": ":", "┄": ".", "┊": ":", "…": "~", "–": "-",
    "—": "-", "·": ".", "→": ">", "←": "<", "↑": "^", "↓": "v", "↵": "/", "≠": "!", "−": "-", "×": "x", "░": ".",
    "▒": "%", "▓": "=", "█": "#", "▚": "v", "▞": "s", "▔": "-", "▁": "_", "▂": "_", "▃": "-", "▅": "-", "▆": "=",
    "▇": "=", "▎": "|", "▌": "|", "▐": "|", "▊": "|", "▍": "|", "▋": "|", "▏": "|", "▕": "|", "▉": "#", "°": "'",
    "▀": "#", "▄": "#", "╸": "-", "╺": "-", "❭": ">", "⌃": "^", "⭘": "o", "◉": "*", "○": "o", "▼": "v", "▲": "^",
    "²": "2", "¹": "1", "’": "'", "⏎": "~", "‘": "'", "“": '"', "”": '"',
    "🔎": "/ ",  # of two cells
}  # fmt: skip


def _table() -> dict[int, str]:
    table = {ord(sign): plain for sign, plain in _SIGNS.items()}
    for code in range(0x2500, 0x2580):  # box drawing: what it is like
        table.setdefault(code, "-" if code in (0x2500, 0x2501, 0x2504, 0x2505, 0x2508, 0x2509, 0x2550) else "+")
    for code in (0x2502, 0x2503, 0x2506, 0x2507, 0x250A, 0x250B, 0x2551, 0x2524, 0x251C):
        table[code] = "|"
    for code in range(0x2580, 0x25A0):  # blocks
        table.setdefault(code, "#")
    for code in range(0x2800, 0x2900):  # braille
        table[code] = " " if code == 0x2800 else "*"
    return table


_TABLE = _table()


def plain_signs(text: str) -> str:
    """`text` with a plain sign in the place of each that we draw with."""
    return text if text.isascii() else text.translate(_TABLE)


class AsciiFilter(LineFilter):
    """Replaces each sign that we draw with by a plain one of as many cells; the letters of texts stay."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        return [
            segment if segment.text.isascii() else Segment(plain_signs(segment.text), segment.style, segment.control)
            for segment in segments
        ]


def terminal_needs_ascii() -> bool:
    """The Linux console has some two hundred signs, and no braille."""
    return os.environ.get("TERM", "") in ("linux", "vt100", "vt220", "dumb")
