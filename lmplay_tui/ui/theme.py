"""Colours: two themes of our own, the names that the style sheets use, and the styles of the panes' text.

The styles could be Textual's component classes, but Textual builds a node for each of them at each change of a widget's
classes: with some forty styles on a dozen widgets that was most of the time until the first frame.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from rich.style import Style
from textual.color import Color
from textual.theme import Theme


@dataclass(frozen=True)
class _Palette:
    """The colours of a theme by what they are for. Letters on each ground have a contrast of at least 4.5 (WCAG)."""

    primary: str
    secondary: str
    accent: str
    warning: str
    error: str
    success: str
    foreground: str
    background: str
    surface: str
    panel: str
    boost: str
    quiet: str  # letters that stand back
    faint: str  # what is no letter: axes, what is left of a bar
    cursor_line: str
    curve_raw: str
    frame: str
    p2: str  # of a truth token that was half expected
    p3: str

    def theme(self, name: str, *, dark: bool) -> Theme:
        return Theme(
            name=name, dark=dark, primary=self.primary, secondary=self.secondary, accent=self.accent,
            warning=self.warning, error=self.error, success=self.success, foreground=self.foreground,
            background=self.background, surface=self.surface, panel=self.panel, boost=self.boost,
            variables={"border": self.accent, "border-blurred": self.frame, **self.variables()},
        )  # fmt: skip

    def variables(self) -> dict[str, str]:
        """The names that our style sheets use beside Textual's own."""
        return {
            "quiet": self.quiet,
            "faint": self.faint,
            "cursor-line": self.cursor_line,
            "curve-raw": self.curve_raw,
            "frame": self.frame,
            "frame-focus": self.accent,
            # Truth tokens from hardly to surely expected.
            "p0": self.error,
            "p1": self.warning,
            "p2": self.p2,
            "p3": self.p3,
            "p4": self.success,
        }


_DARK = _Palette(
    primary="#6cb6ff", secondary="#b39df3", accent="#56d4c1", warning="#e9b65f", error="#f47c7c", success="#8ccf7e",
    foreground="#d3d9e4", background="#0e1116", surface="#12161d", panel="#1b212b", boost="#202733",
    quiet="#8a94a6", faint="#3a4555", cursor_line="#263142", curve_raw="#33557c", frame="#2b3441",
    p2="#a8adb6", p3="#c6ccd6",
)  # fmt: skip
_LIGHT = _Palette(
    primary="#1763b6", secondary="#6b48b8", accent="#0b7d70", warning="#96610a", error="#b3261e", success="#2e7d32",
    foreground="#22272e", background="#f4f5f7", surface="#fcfcfd", panel="#e8ebef", boost="#e1e5ea",
    quiet="#5d6775", faint="#b6bec9", cursor_line="#dbe4ee", curve_raw="#a9c5e4", frame="#c5ccd6",
    p2="#6b7280", p3="#444c56",
)  # fmt: skip
# The same for a terminal of 256 colours, of which these are some: each is shown as it was chosen. What is nearest to
# the colours above would be black on black, grey on grey.
_DARK_256 = _Palette(
    primary="#5fafff", secondary="#af87ff", accent="#5fd7d7", warning="#d7af5f", error="#ff8787", success="#87d787",
    foreground="#d0d0d0", background="#121212", surface="#1c1c1c", panel="#262626", boost="#3a3a3a",
    quiet="#9e9e9e", faint="#585858", cursor_line="#303030", curve_raw="#005f87", frame="#444444",
    p2="#a8a8a8", p3="#c6c6c6",
)  # fmt: skip
_LIGHT_256 = _Palette(
    primary="#005faf", secondary="#5f5faf", accent="#005f5f", warning="#875f00", error="#af0000", success="#005f00",
    foreground="#262626", background="#eeeeee", surface="#ffffff", panel="#e4e4e4", boost="#dadada",
    quiet="#585858", faint="#b2b2b2", cursor_line="#e4e4e4", curve_raw="#afd7ff", frame="#bcbcbc",
    p2="#585858", p3="#444444",
)  # fmt: skip

DARK_NAME = "lmplay"
LIGHT_NAME = "lmplay-light"
CYCLE = (DARK_NAME, LIGHT_NAME, "ansi-dark", "ansi-light", "nord", "gruvbox")  # what `t` goes through


def our_themes(color_system: str | None) -> tuple[Theme, Theme]:
    """The dark one and the light one, in colours of a terminal of this kind ("256", "truecolor", ...)."""
    dark, light = (_DARK_256, _LIGHT_256) if color_system == "256" else (_DARK, _LIGHT)
    return dark.theme(DARK_NAME, dark=True), light.theme(LIGHT_NAME, dark=False)


def variables(theme: Theme) -> dict[str, str]:
    """The names that our style sheets use beside Textual's own, for a theme that is not ours."""
    if theme.ansi:
        return {
            "quiet": "ansi_default 60%",
            "faint": "ansi_bright_black",
            "cursor-line": "ansi_bright_black",
            "curve-raw": "ansi_bright_black",
            "frame": "ansi_bright_black",
            "frame-focus": "ansi_cyan" if theme.dark else "ansi_blue",
        } | {
            f"p{i}": colour
            for i, colour in enumerate(("ansi_red", "ansi_yellow", "ansi_default", "ansi_default", "ansi_green"))
        }
    ours = (_DARK if theme.dark else _LIGHT).variables()
    its = {"frame-focus": theme.accent or theme.primary, "p0": theme.error, "p1": theme.warning, "p4": theme.success}
    return ours | {name: colour for name, colour in its.items() if colour}


# name -> the theme's variable, and how the letters look: what is told by colour is told by these or by a sign as well
_LOOKS: dict[str, tuple[str, str]] = {
    "dim": ("quiet", ""),
    "label": ("quiet", ""),
    "strong": ("", "bold"),
    "accent": ("accent", "bold"),
    "good": ("success", ""),
    "warn": ("warning", ""),
    "bad": ("error", "bold"),
    "key": ("accent", "bold"),
    "train": ("primary", ""),
    "val": ("warning", ""),
    "eval": ("success", "bold"),
    "ghost": ("secondary", ""),
    "raw": ("curve-raw", ""),
    "axis": ("faint", ""),
    "done": ("primary", ""),
    "todo": ("faint", ""),
    "data": ("warning", ""),
    "forward": ("primary", ""),
    "backward": ("secondary", ""),
    "reduce": ("foreground", ""),
    "optimizer": ("accent", ""),
    "other": ("quiet", ""),
    "validate": ("success", ""),
    "save": ("error", ""),
    "wrong": ("warning", ""),
    "missing": ("error", "strike"),
    "extra": ("error", ""),
    "p0": ("p0", "underline"),
    "p1": ("p1", ""),
    "p2": ("p2", ""),
    "p3": ("p3", ""),
    "p4": ("p4", ""),
}
# where there are no colours: how the letters look instead
_WITHOUT_COLOURS = {
    "dim": "dim", "label": "dim", "axis": "dim", "todo": "dim", "raw": "dim", "other": "dim",
    "p0": "bold underline", "p1": "underline", "p4": "dim",
}  # fmt: skip


def styles_of(variables: Mapping[str, str], *, colours: bool = True) -> dict[str, Style]:
    """The styles by name, in the colours of a theme's variables; `colours` False: they will not be seen."""
    styles = {}
    for name, (variable, letters) in _LOOKS.items():
        value, *faded = variables[variable].split() if variable else [""]  # `ansi_default 60%`: only faded letters
        color = Color.parse(value).rich_color if value else None
        words = (letters if colours else _WITHOUT_COLOURS.get(name, letters)).split()
        styles[name] = Style(
            color=color,
            dim=True if faded or "dim" in words else None,
            bold="bold" in words or None,
            underline="underline" in words or None,
            strike="strike" in words or None,
        )
    styles["cursor"] = Style(bgcolor=Color.parse(variables["cursor-line"]).rich_color)
    return styles
