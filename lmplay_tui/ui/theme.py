"""Colours: two themes of our own, the names that the style sheets use, and the styles of the panes' text.

The styles could be Textual's component classes, but Textual builds a node for each of them at each change of a widget's
classes: with some forty styles on a dozen widgets that was most of the time until the first frame.
"""

from collections.abc import Mapping

from rich.style import Style
from textual.color import Color
from textual.theme import Theme

DARK = Theme(
    name="lmplay",
    primary="#6cb6ff",
    secondary="#b39df3",
    accent="#56d4c1",
    warning="#e9b65f",
    error="#f47c7c",
    success="#8ccf7e",
    foreground="#d3d9e4",
    background="#0e1116",
    surface="#12161d",
    panel="#1b212b",
    boost="#202733",
    dark=True,
    variables={"border": "#56d4c1", "border-blurred": "#2b3441"},
)

LIGHT = Theme(
    name="lmplay-light",
    primary="#1763b6",
    secondary="#6b48b8",
    accent="#0b7d70",
    warning="#96610a",
    error="#b3261e",
    success="#2e7d32",
    foreground="#22272e",
    background="#f4f5f7",
    surface="#fcfcfd",
    panel="#e8ebef",
    boost="#e1e5ea",
    dark=False,
    variables={"border": "#0b7d70", "border-blurred": "#c5ccd6"},
)

OURS = (DARK, LIGHT)
CYCLE = ("lmplay", "lmplay-light", "ansi-dark", "ansi-light", "nord", "gruvbox")  # what `t` goes through


def variables(theme: Theme) -> dict[str, str]:
    """The names that our style sheets use beside Textual's own."""
    if theme.ansi:
        return {
            "quiet": "ansi_default 60%",
            "faint": "ansi_bright_black",
            "cursor-line": "ansi_bright_black",
            "curve-raw": "ansi_bright_black",
            "frame": "ansi_bright_black",
            "frame-focus": "ansi_cyan",
        } | {
            f"p{i}": colour
            for i, colour in enumerate(("ansi_red", "ansi_yellow", "ansi_default", "ansi_default", "ansi_green"))
        }
    foreground, surface = theme.foreground or "#e0e0e0", theme.surface or "#1e1e1e"
    dark = theme.dark
    return {
        "quiet": "#8a94a6" if dark else "#5d6775",
        "faint": "#3a4555" if dark else "#b6bec9",
        "cursor-line": "#263142" if dark else "#dbe4ee",
        "curve-raw": "#33557c" if dark else "#a9c5e4",
        "frame": "#2b3441" if dark else "#c5ccd6",
        "frame-focus": theme.accent or theme.primary,
        # Truth tokens from hardly to surely expected.
        "p0": theme.error or foreground,
        "p1": theme.warning or foreground,
        "p2": "#a8adb6" if dark else "#6b7280",
        "p3": "#c6ccd6" if dark else "#444c56",
        "p4": theme.success or surface,
    }


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
