"""Terminals with few colours or with none that the user wants: what is shown by colour stays to be seen."""

from functools import lru_cache

from rich.color import Color as RichColor
from rich.color import ColorSystem
from rich.segment import Segment
from rich.style import Style
from textual.color import Color
from textual.filter import LineFilter

_REVERSE = Style(reverse=True)


class NoColours(LineFilter):
    """For `NO_COLOR`: no code for a colour is sent, not even for the terminal's own ones.

    Bold, underlined, dim and struck-out letters stay. Cells on another ground than their widget's (the chosen row,
    a selection, a cursor) are reversed instead. Textual's own filter makes grey of all colours.
    """

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        ground = background.rich_color
        return [
            segment if segment.style is None else Segment(segment.text, _plain(segment.style, ground), segment.control)
            for segment in segments
        ]


@lru_cache(1024)
def _plain(style: Style, ground: RichColor) -> Style:
    plain = style.without_color
    if style.meta:  # what the mouse does there
        plain += Style.from_meta(style.meta)
    stands_out = style.bgcolor is not None and not style.bgcolor.is_default and style.bgcolor != ground
    return plain + _REVERSE if stands_out and not style.reverse else plain


class SixteenColours(LineFilter):
    """Letters whose nearest colour of the sixteen is also that of their ground get a faint one that is seen."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        return [
            segment
            if segment.style is None or not segment.text.strip()
            else Segment(segment.text, _readable(segment.style), segment.control)
            for segment in segments
        ]


# Ground -> letters. What is that near to its ground in all colours (frames, what lies behind a dialog) is meant so.
_FAINT = {0: "bright_black", 8: "white", 15: "bright_black"}
_BRIGHT = (2, 3, 6, 7, 9, 10, 11, 13, 14)


@lru_cache(1024)
def _readable(style: Style) -> Style:
    letters, ground = _of_sixteen(style.color), _of_sixteen(style.bgcolor)
    if ground is None or letters != ground:
        return style
    return style + Style(color=_FAINT.get(ground, "black" if ground in _BRIGHT else "bright_white"))


def _of_sixteen(colour: RichColor | None) -> int | None:
    return None if colour is None else colour.downgrade(ColorSystem.STANDARD).number
