"""The only gate for foreign text (data, model output, file names, exceptions) to a terminal; our signs in ASCII.

And the one to the file system: which text can name a file at all.
"""

import re

# Written out as ranges because asking `unicodedata` about every code point would cost 0.2 s at start;
# a test compares them with `unicodedata`.
_DROPPED = (  # format characters (category Cf) without a shape, but for the joiners that emoji and Indic scripts need
    "\u00ad\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b\u2060-\u2064\ufeff\ufff9-\ufffb"
    "\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0001\U000e0020-\U000e007f"
)
_REPLACED = (  # C1 controls, text direction, line separators, surrogates, private use
    "\x80-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2065-\u206f\ud800-\udfff\ue000-\uf8ff"
    "\U000f0000-\U000fffff\U00100000-\U0010ffff"
)
_FOREIGN = re.compile(f"[\x00-\x09\x0b-\x1f\x7f{_DROPPED}{_REPLACED}]")
# More than a few marks upon one letter pile up over other lines; no language needs them.
_MARKS = "[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]"
_PILED_UP = re.compile(f"({_MARKS}{{4}}){_MARKS}+")
_IS_DROPPED = re.compile(f"[{_DROPPED}]")


def _shown(match: re.Match[str]) -> str:
    char = match.group()
    code = ord(char)
    if char == "\t":
        return "    "
    if code < 0x20:
        return chr(0x2400 + code)  # the control's picture: a user sees that something was there
    if code == 0x7F:
        return "\u2421"
    return "" if _IS_DROPPED.match(char) else "\ufffd"


def printable(text: object, limit: int | None = None) -> str:
    """`str(text)` without anything that a terminal acts on; newlines stay, tabs become spaces, marks do not pile up.

    `limit`: at most so many characters, the last one an ellipsis where text was cut.
    The result is still not markup: give it to widgets as `Content` or `Text`, never as a markup string.
    """
    source = str(text)
    if limit is not None and len(source) > limit:
        source = source[: max(limit - 1, 0)] + "…"
    if source.isascii() and source.isprintable():  # most text: two looks that cost less than the searches
        return source
    shown = _PILED_UP.sub(r"\1", _FOREIGN.sub(_shown, source))
    if limit is not None and len(shown) > limit:  # a tab became four
        shown = shown[: max(limit - 1, 0)] + "…"
    return shown


def one_line(text: object, limit: int = 200) -> str:
    """`printable` on a single line: runs of white space become one space."""
    return printable(" ".join(str(text).split()), limit)


def can_name_a_file(text: str) -> bool:
    """Whether the system can be asked for such a path: one with NUL, or half a character, raises `ValueError`.

    U+DC80 to U+DCFF are no halves there: each stands for a byte of a name that is not UTF-8 (PEP 383).
    """
    return re.search("[\0\ud800-\udc7f\udd00-\udfff]", text) is None


# Signs that we draw with, and what stands for them where a terminal knows ASCII alone: of as many cells.
_SIGNS = {
    "●": "*", "◌": "o", "‖": "=", "◐": "~", "■": "#", "✓": "+", "✗": "x", "▸": ">", "▶": ">", "▪": ".", "λ": "l",
    "✎": "e", "↻": "r", "⚑": "b", "━": "#", "•": "o", "◆": "@", "┈": ":", "┄": ".", "┊": ":", "…": "~", "–": "-",
    "—": "-", "·": ".", "→": ">", "←": "<", "↑": "^", "↓": "v", "↵": "/", "≠": "!", "−": "-", "×": "x", "░": ".",
    "▒": "%", "▓": "=", "█": "#", "▚": "v", "▞": "s", "▔": "-", "▁": "_", "▂": "_", "▃": "-", "▅": "-", "▆": "=",
    "▇": "=", "▎": "|", "▌": "|", "▐": "|", "▊": "|", "▍": "|", "▋": "|", "▏": "|", "▕": "|", "▉": "#", "°": "'",
    "▀": "#", "▄": "#", "╸": "-", "╺": "-", "❭": ">", "⌃": "^", "⭘": "o", "◉": "*", "○": "o", "▼": "v", "▲": "^",
    "²": "2", "¹": "1", "’": "'", "⏎": "~", "‘": "'", "“": '"', "”": '"',
    "▖": "r", "�": "?", "🔎": "/ ",  # of two cells
}  # fmt: skip


def _table() -> dict[int, str]:
    table = {ord(sign): plain for sign, plain in _SIGNS.items()}
    for code in range(0x2500, 0x2580):  # box drawing: what it is like
        table.setdefault(code, "-" if code in (0x2500, 0x2501, 0x2504, 0x2505, 0x2508, 0x2509, 0x2550) else "+")
    for code in (0x2502, 0x2503, 0x2506, 0x2507, 0x250A, 0x250B, 0x2551, 0x2524, 0x251C):
        table[code] = "|"
    for code in range(0x2580, 0x25A0):  # blocks
        table.setdefault(code, "#")
    for code in range(0x2400, 0x2427):  # pictures of control characters
        table[code] = "?"
    for code in range(0x2800, 0x2900):  # braille
        table[code] = " " if code == 0x2800 else "*"
    return table


_TABLE = _table()


def plain_signs(text: str) -> str:
    """`text` with a plain sign in the place of each that we draw with."""
    return text if text.isascii() else text.replace("↵ ", "\\n").translate(_TABLE)
