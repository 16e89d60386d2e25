"""What stands on a screen as text: its characters, then its styles row by row in the words of the theme.

A style is a letter; `a12b3` are twelve cells in style a and three in style b. The legend says what a letter means:
foreground, background and looks, each colour by the name that the theme has for it.
"""

from collections.abc import Mapping
from itertools import groupby
from string import ascii_letters
from typing import Any

from rich.cells import cell_len
from rich.style import Style
from textual.app import App
from textual.color import Color
from textual.geometry import Region
from textual.widgets import Input, TextArea

from lmplay_tui.ui import theme

_LOOKS = ("bold", "dim", "italic", "underline", "strike", "reverse")
_NAMES = (
    "foreground", "background", "surface", "panel", "boost", "primary", "secondary", "accent", "warning", "error",
    "success", "quiet", "faint", "cursor-line", "curve-raw", "frame", "frame-focus", "p2", "p3",
)  # fmt: skip


def hold_still(app: App[Any]) -> None:
    """No blinking cursor and no toast: both come and go with the clock."""
    app.clear_notifications()
    for field in (*app.screen.query(Input), *app.screen.query(TextArea)):
        field.cursor_blink = False


def dump(app: App[Any], part: Region | None = None) -> str:
    """The screen, or a part of it, as text."""
    width, height = app.size
    part = part or Region(0, 0, width, height)
    names = _colour_names(app)
    letters: dict[str, str] = {}
    shown, styled = [], []
    for strip in app.screen._compositor.render_strips()[part.y : part.bottom]:
        row = strip.crop(part.x, part.right)
        shown.append("".join(segment.text for segment in row).rstrip())
        cells = [(_said(segment.style, names), cell_len(segment.text)) for segment in row]
        styled.append(
            "".join(
                f"{letters.setdefault(style, (ascii_letters + '0123456789')[len(letters)])}{sum(n for _, n in run)}"
                for style, run in ((style, list(run)) for style, run in groupby(cells, lambda cell: cell[0]))
            )
        )
    place = "" if part.size == app.size else f", {part.width}x{part.height} at {part.x},{part.y}"
    legend = [f"{letter}  {style}" for style, letter in letters.items()]
    return "\n".join([f"{width}x{height}{place}", *shown, "", *_repeated(styled), "", *legend]) + "\n"


def _repeated(rows: list[str]) -> list[str]:
    """The same row many times in one line."""
    runs = [(row, len(list(run))) for row, run in groupby(rows)]
    return [row if count == 1 else f"{row} x{count}" for row, count in runs]


def _colour_names(app: App[Any]) -> Mapping[str, str]:
    variables = app.current_theme.to_color_system().generate() | theme.variables(app.current_theme)
    found: dict[str, str] = {}
    for name in _NAMES:
        value = variables.get(name, "")
        if value.startswith("#"):
            found.setdefault(Color.parse(value).hex.lower(), name)
    return found


def _said(style: Style | None, names: Mapping[str, str]) -> str:
    if style is None:
        return "plain"
    words = [look for look in _LOOKS if getattr(style, look)]
    for color, before in ((style.color, ""), (style.bgcolor, "on ")):
        if color is not None:
            value = color.triplet.hex.lower() if color.triplet is not None else color.name
            words.append(before + names.get(value, value))
    return " ".join(words) or "plain"
