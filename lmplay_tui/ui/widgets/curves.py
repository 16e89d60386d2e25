"""The curves: every metric of the run, with marks, a cursor, and an earlier run as a ghost."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from rich.cells import cell_len
from textual import events
from textual.actions import SkipAction
from textual.binding import Binding, BindingType

from lmplay_tui.formats import format_elapsed
from lmplay_tui.run.view import Mark, RunView
from lmplay_tui.scales import LABEL_CELLS, x_of
from lmplay_tui.text import one_line
from lmplay_tui.ui.messages import KeysChanged
from lmplay_tui.ui.tty.patches import set_titles
from lmplay_tui.ui.widgets.curve_window import CurveWindow, Group, groups_of
from lmplay_tui.ui.widgets.lines import Lines, Piece, Row, fitted, row_width


@dataclass(frozen=True, eq=False)
class Ghost:
    """An earlier run to compare with."""

    name: str
    view: RunView


class Curves(Lines):
    """As many charts as fit, the chosen one first."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "sideways(-1)", "metric", key_display="←→", tooltip="the chart before, or a step back"),
        Binding("right", "sideways(1)", "metric", show=False, tooltip="the next chart, or a step on"),
        Binding("up", "view(1)", "view", key_display="↑↓", tooltip="full, this stage, recent"),
        Binding("down", "view(-1)", "view", show=False, tooltip="recent, this stage, full"),
        Binding("plus,equals_sign", "zoom(1)", "zoom", key_display="+/-", tooltip="zoom in"),
        Binding("minus", "zoom(-1)", "zoom out", show=False),
        Binding("shift+left,comma", "pan(1)", "earlier", show=False, tooltip="look earlier"),
        Binding("shift+right,full_stop", "pan(-1)", "later", show=False, tooltip="look later"),
        Binding("y", "log_scale", "log", tooltip="logarithmic scale"),
        Binding("m", "smoothing", "smooth", tooltip="smoothing"),
        Binding("enter", "cursor", "cursor", tooltip="cursor: read the values"),
        Binding("a", "axis", "x axis", tooltip="x axis: step, rows, tokens, time"),
        Binding("left_square_bracket", "event(-1)", "event", key_display="[ ]", tooltip="the event before"),
        Binding("right_square_bracket", "event(1)", "next event", show=False),
        Binding("escape", "leave_cursor", "back", show=False, tooltip="put the cursor away"),
    ]

    def __init__(self, *, ascii_only: bool = False) -> None:
        super().__init__(id="curves", classes="pane")
        set_titles(self, "2 curves")
        self.window = CurveWindow()
        self._ascii_only = ascii_only
        self._view: RunView | None = None
        self._ghost: Ghost | None = None
        self._drawn: tuple[object, ...] = ()
        self._x_range = (0.0, 1.0)
        self._chart_width = 0
        self._num_charts = 1
        self._mark: Mark | None = None  # the one at the cursor

    # ---- data

    def show(self, view: RunView, ghost: Ghost | None = None) -> None:
        """Draw what has changed since the last call."""
        self._view, self._ghost = view, ghost
        signature = (
            view,
            view.history.version,
            len(view.marks),
            ghost,
            ghost and ghost.view.history.version,
            self.size,
        )
        if signature != self._drawn:
            self._drawn = signature
            self._redraw()

    def filter(self, pattern: str) -> None:
        """Show only the charts whose names hold these words."""
        self.window.pattern = pattern
        self.window.selected = 0
        self._redraw()

    def on_resize(self) -> None:
        self._redraw()

    # ---- drawing

    def _redraw(self) -> None:
        view = self._view
        width, height = self.size
        if view is None or width < 20 or height < 4:
            return
        self._titles()
        groups = groups_of(view.history.series, self.window.pattern)
        if not view.history.series:
            self.show_rows([((" the first step draws the first point", "dim"),)])
            return
        if not groups:
            self.show_rows([((f" no metric matches {self.window.pattern}; / to change the filter", "dim"),)])
            return
        self.window.selected = min(self.window.selected, len(groups) - 1)
        self._x_range = self.window.x_range(view)
        columns = 2 if width >= 130 else 1
        down = max(min(height // 11, 4), 1)
        self._num_charts = columns * down
        shown = self._shown(groups, columns * down)
        if len(shown) <= down:
            columns = 1
        self._chart_width = (width - (columns - 1) * 2) // columns
        self.show_rows(self._charts(view, groups, shown, columns, down))

    def _charts(self, view: RunView, groups: list[Group], shown: list[Group], columns: int, down: int) -> list[Row]:
        """The charts that are shown, in `down` rows of `columns`."""
        from lmplay_tui.ui.widgets.chart import ChartBuilder, notes_of

        ghost = None if self._ghost is None else (self._ghost.name, self._ghost.view)
        charts = ChartBuilder(
            view, self.window, self._x_range, self._chart_width, notes_of(self._places(view)), ghost, self._ascii_only
        )
        height, rows = self.size.height, []
        for line in range(down):
            below = line == down - 1 or (line + 1) * columns >= len(shown)  # the marks' signs stand there alone
            chart_height = height * (line + 1) // down - height * line // down
            drawn = [
                charts.rows(
                    group, chart_height, selected=len(groups) > 1 and groups.index(group) == self.window.selected,
                    signs=below, right=self._at_cursor(group, groups),
                )
                for group in shown[line * columns : (line + 1) * columns]
            ]  # fmt: skip
            if drawn:
                rows += _beside(drawn, self._chart_width)
        return rows

    def _shown(self, groups: list[Group], count: int) -> list[Group]:
        """The chosen chart and those after it; at the list's end those before it, so that the room is used."""
        start = min(self.window.selected, max(len(groups) - count, 0))
        return groups[start : start + count]

    def _titles(self) -> None:
        window = self.window
        words = [window.view, f"by {window.axis}"]
        if window.zoom:
            words.append(f"zoom ×{2**window.zoom}")
        if window.log:
            words.append("log")
        words.append(f"smoothed over {window.span} steps" if window.span > 1 else "not smoothed")
        if window.pattern:
            words.append(f"/{one_line(window.pattern, 40)}")
        set_titles(self, subtitle=" · ".join(words))

    def _places(self, view: RunView) -> list[tuple[float, Mark]]:
        """The marks and where they lie on the axis, in that order."""
        marks = list(view.marks)
        xs = view.history.locate_all([mark.step for mark in marks], self.window.axis)
        return sorted(((x, mark) for x, mark in zip(xs, marks, strict=True) if math.isfinite(x)), key=lambda p: p[0])

    def _at_cursor(self, group: Group, groups: list[Group]) -> list[Piece]:
        x = self.window.cursor
        if x is None:
            position = f" {groups.index(group) + 1}/{len(groups)} " if len(groups) > self._num_charts else ""
            return [(position, "dim")]
        where = format_elapsed(x) if self.window.axis == "time" else f"{x:,.0f}"
        text = f"{self.window.axis} {where}"
        if self._mark is not None:
            room = max(self._chart_width * 3 // 4 - len(text), 12)  # the title and its newest value stay
            text = f"{fitted(self._mark.text, min(cell_len(self._mark.text), room))} · {text}"
        return [(f" {text} ", "accent")]

    # ---- keys

    def keys_now(self) -> Mapping[str, str]:
        if self.window.cursor is None:
            return {"leave_cursor": ""}
        return {"sideways(-1)": "move", "cursor": "no cursor", "leave_cursor": "back"}

    def action_sideways(self, by: int) -> None:
        view = self._view
        if view is None:
            return
        if self.window.cursor is None:
            count = len(groups_of(view.history.series, self.window.pattern))
            self.window.selected = (self.window.selected + by) % max(count, 1)
        else:
            first, last = self._x_range
            step = (last - first) / max(self._chart_width - LABEL_CELLS - 2, 1)
            self._set_cursor(min(max(self.window.cursor + by * step, first), last))
        self._redraw()

    def action_view(self, by: int) -> None:
        self.window.next_view(by)
        self._redraw()

    def action_zoom(self, by: int) -> None:
        self.window.zoom = min(max(self.window.zoom + by, 0), 12)
        if not self.window.zoom:
            self.window.pan = 0.0
        self._redraw()

    def action_pan(self, by: int) -> None:
        self.window.pan = min(max(self.window.pan + by * 0.25, 0.0), 2.0**self.window.zoom)
        self._redraw()

    def action_log_scale(self) -> None:
        self.window.log = not self.window.log
        self._redraw()

    def action_smoothing(self) -> None:
        self.window.next_span()
        self._redraw()

    def action_axis(self) -> None:
        if self._view is not None:
            self.window.next_axis(self._view)
            self._redraw()

    def action_cursor(self) -> None:
        """Put the cursor at the newest point, or take it away."""
        if self.window.cursor is not None:
            self.action_leave_cursor()
        elif self._view is not None:
            self._set_cursor(min(self.window.now(self._view), self._x_range[1]))
            self._redraw()
            self.post_message(KeysChanged())

    def action_leave_cursor(self) -> None:
        if self.window.cursor is None:
            raise SkipAction  # the screen's own way back
        self.window.cursor = self._mark = None
        self._redraw()
        self.post_message(KeysChanged())

    def action_event(self, by: int) -> None:
        """Put the cursor at the next mark."""
        view = self._view
        if view is None:
            return
        places = self._places(view)
        if not places:
            return
        current = next((n for n, (_, mark) in enumerate(places) if mark is self._mark), None)
        if current is None:
            x = self.window.cursor if self.window.cursor is not None else math.inf
            before = sum(1 for place in places if place[0] < x)
            chosen = before - 1 if by < 0 else before
        else:
            chosen = current + by
        x, self._mark = places[min(max(chosen, 0), len(places) - 1)]
        self.window.cursor = x
        first, last = self._x_range
        if not first <= x <= last:
            self.window.view, self.window.zoom, self.window.pan = "full", 0, 0.0
        self._redraw()
        self.post_message(KeysChanged())

    def _set_cursor(self, x: float) -> None:
        self.window.cursor, self._mark = x, None

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """Zoom in, whichever pane has the focus."""
        event.stop()
        event.prevent_default()
        self.action_zoom(1)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        event.stop()
        event.prevent_default()
        self.action_zoom(-1)

    def on_click(self, event: events.Click) -> None:
        """Put the cursor where the mouse is."""
        if self._chart_width:
            offset = event.get_content_offset(self)
            if offset is not None:
                column = offset.x % (self._chart_width + 2) - LABEL_CELLS - 1
                self._set_cursor(x_of(column, self._x_range, self._chart_width - LABEL_CELLS - 1))
                self._redraw()


def _beside(charts: list[list[Row]], width: int) -> list[Row]:
    """Charts side by side."""
    if len(charts) == 1:
        return charts[0]
    rows = []
    for y in range(max(len(chart) for chart in charts)):
        row: list[Piece] = []
        for chart in charts:
            part = chart[y] if y < len(chart) else ()
            if row:
                row.append(("  ", ""))
            row += [*part, (" " * (width - row_width(part)), "")]
        rows.append(tuple(row))
    return rows
