"""The words of the panes' language of styles, as colours of the theme.

Component classes would do the same, but Textual builds a node for each of them at each change of a widget's classes:
with some forty styles on a dozen widgets that was most of the time until the first frame.
"""

from collections.abc import Mapping

from rich.style import Style
from textual.color import Color

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
NAMES = frozenset(_LOOKS) | {"cursor"}


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
