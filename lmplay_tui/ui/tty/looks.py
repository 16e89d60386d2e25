"""What this terminal can show: plain signs for ASCII, 256 colours, sixteen or none, and commands outside its screen.

For the console of a server, for fonts without our signs, for `NO_COLOR`. What colour says is also said by a sign or by
the look of the letters. A title and a notification on the desktop are sent only where they would not be shown as text;
over SSH only `TERM` and the multiplexer's variables say what the terminal is.
"""

import os
from collections.abc import Mapping
from functools import lru_cache

from rich.color import Color as RichColor
from rich.color import ColorSystem
from rich.color_triplet import ColorTriplet
from rich.segment import Segment
from rich.style import Style
from textual.color import Color
from textual.filter import LineFilter

from lmplay_tui.text import one_line, plain_signs


class AsciiFilter(LineFilter):
    """Replaces each sign that we draw with by a plain one of as many cells; the letters of texts stay."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        plain: list[Segment] = []
        rest = ""  # of a sign of two cells, whose second is the blank that the next segment begins with
        for segment in segments:
            text = rest + segment.text[1:] if rest and segment.text.startswith(" ") else segment.text
            rest = "n" if text.endswith("↵") else ""
            text = text[:-1] + "\\" if rest else text
            plain.append(Segment(plain_signs(text), segment.style, segment.control))
        return plain


def terminal_needs_ascii() -> bool:
    """The Linux console has some two hundred signs, and no braille."""
    return os.environ.get("TERM", "") in ("linux", "vt100", "vt220", "dumb")


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


LEAST_CONTRAST = 4.5  # of letters to their ground (WCAG 2, AA)
_LEVELS = (0, 95, 135, 175, 215, 255)  # of red, green and blue in xterm's 256 colours
_PALETTE = {16 + 36 * r + 6 * g + b: ColorTriplet(_LEVELS[r], _LEVELS[g], _LEVELS[b])
            for r in range(6) for g in range(6) for b in range(6)}  # fmt: skip
_PALETTE |= {232 + i: ColorTriplet(8 + 10 * i, 8 + 10 * i, 8 + 10 * i) for i in range(24)}


class PaletteColours(LineFilter):
    """For 256 colours: each one is the nearest of them, and letters that can be read in all colours still can.

    Rich's own way down takes dark grey for black. Our themes are made of these colours; Textual's mixtures are not.
    """

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        return [
            segment if segment.style is None else Segment(segment.text, _of_palette(segment.style), segment.control)
            for segment in segments
        ]


@lru_cache(1024)
def _of_palette(style: Style) -> Style:
    letters, ground = _triplet(style.color), _triplet(style.bgcolor)
    if letters is None and ground is None:
        return style
    below = None if ground is None else _nearest(ground)
    above = None if letters is None else _nearest(letters)
    if letters is not None and ground is not None and above is not None and below is not None:
        wanted = min(contrast(letters, ground), LEAST_CONTRAST)
        if contrast(_PALETTE[above], _PALETTE[below]) < wanted:
            above = _nearest(letters, _PALETTE[below], wanted)
    return style + Style(
        color=None if above is None else RichColor.from_ansi(above),
        bgcolor=None if below is None else RichColor.from_ansi(below),
    )


def _triplet(colour: RichColor | None) -> ColorTriplet | None:
    return None if colour is None else colour.triplet


@lru_cache(1024)
def _nearest(colour: ColorTriplet, ground: ColorTriplet | None = None, least: float = 0.0) -> int:
    """The colour's number among the 256; of those that have this contrast to the ground, where one is given."""
    able = [n for n, each in _PALETTE.items() if ground is None or contrast(each, ground) >= least] or list(_PALETTE)
    return min(able, key=lambda n: _distance(_PALETTE[n], colour))


def _distance(a: ColorTriplet, b: ColorTriplet) -> float:
    """How different two colours look: the differences weighted by how red they are ("redmean")."""
    red, green, blue = (x - y for x, y in zip(a, b, strict=True))
    mean = (a.red + b.red) / 2
    return (2 + mean / 256) * red**2 + 4 * green**2 + (2 + (255 - mean) / 256) * blue**2


def contrast(a: ColorTriplet, b: ColorTriplet) -> float:
    """The contrast ratio of two colours, 1 to 21 (WCAG 2)."""
    light, dark = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@lru_cache(1024)
def _luminance(colour: ColorTriplet) -> float:
    red, green, blue = (
        share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in colour.normalized
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


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


# Terminals that read an operating system command (OSC) to its end whether or not they know it. The Linux console of
# older kernels, serial lines and GNU screen do not: they show its text.
_READ_COMMANDS = (
    "xterm", "tmux", "alacritty", "foot", "wezterm", "ghostty", "kitty", "rxvt-unicode", "st-", "konsole", "contour",
    "iterm", "mintty", "vte", "gnome",
)  # fmt: skip


def reads_commands(environ: Mapping[str, str]) -> bool:
    """Whether the terminal takes commands that it does not know without showing them."""
    return "TMUX" in environ or environ.get("TERM", "").startswith(_READ_COMMANDS)


def title_sequence(text: str, environ: Mapping[str, str]) -> str:
    """Sets the window's title; nothing where that could be shown as text."""
    return f"\x1b]2;{one_line(text, 100)}\x07" if reads_commands(environ) else ""


def notification(text: str, environ: Mapping[str, str]) -> str:
    """A notification on the desktop (OSC 9); nothing where that could be shown as text.

    tmux swallows OSC 9. It hands on what is wrapped as its pass-through where `allow-passthrough` is on, and drops it
    silently where not. The words before the text keep it from being read as one of OSC 9's numbered commands.
    """
    if not reads_commands(environ):
        return ""
    sequence = f"\x1b]9;lmplay-tui: {one_line(text, 200)}\x07"
    if "TMUX" in environ or environ.get("TERM", "").startswith("tmux"):
        doubled = sequence.replace("\x1b", "\x1b\x1b")
        return f"\x1bPtmux;{doubled}\x1b\\"
    return sequence
