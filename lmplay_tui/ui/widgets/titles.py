"""Titles in a widget's border: never markup, and painted alone when they change."""

from textual.content import Content
from textual.geometry import Region
from textual.widget import Widget


def set_titles(widget: Widget, title: str | None = None, subtitle: str | None = None) -> None:
    """Set the texts in the upper and the lower border; what is None or the same stays.

    Textual's own way reads a text as markup and paints the whole widget again.
    """
    rows = []
    if title is not None and title != _plain(widget._border_title):
        widget._border_title = Content(title)
        rows.append(-1)
    if subtitle is not None and subtitle != _plain(widget._border_subtitle):
        widget._border_subtitle = Content(subtitle) if subtitle else None
        rows.append(widget.size.height)
    if rows:
        widget.refresh(*(Region(-1, row, widget.size.width + 3, 1) for row in rows))


def _plain(content: Content | None) -> str:
    return content.plain if content is not None else ""
