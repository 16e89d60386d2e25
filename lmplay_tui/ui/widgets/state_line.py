"""The run in few rows: its state line, and for a terminal too small for panes a compact view and the panes' tabs."""

import math
from collections.abc import Sequence
from datetime import tzinfo

from rich.cells import cell_len
from textual import events

from lmplay_tui.formats import format_clock, format_cost, format_duration, format_loss, format_percent, format_rate
from lmplay_tui.run.view import RunView
from lmplay_tui.ui.legend import STATES
from lmplay_tui.ui.messages import PaneAsked
from lmplay_tui.ui.widgets.lines import Lines, Piece, Row, bar, fitted, row_width, spread

SHORTEST_DETAIL = 8  # cells; less says nothing
SHORTEST_NAME = 4


class StateLine(Lines, can_focus=False):
    """State, activity and for how long; stage, step, when it ends, what it costs."""

    def __init__(
        self, *, zone: tzinfo | None = None, price_per_hour: float | None = None, attached: bool = False
    ) -> None:
        """`attached`: the run belongs to another process, and leaving does not touch it."""
        super().__init__(id="state")
        self._attached = attached
        self._zone = zone
        self._price_per_hour = price_per_hour

    def show(self, view: RunView) -> None:
        state = view.state
        sign, style, _ = STATES.get(state, STATES["running"])
        doing = view.activity if state in ("running", "starting") else state
        begin: list[Piece] = [(f" {sign} ", style), (doing, f"{style} strong")]
        own = doing == view.activity  # else what is told of the activity is of another one
        if own and view.fraction is not None:
            begin.append((f" {format_percent(view.fraction)}", style))
        place: list[Piece] = []
        since = view.now() - view.activity_since
        if own and not view.over and (doing != "training" or state == "paused"):
            place.append((f" {format_duration(max(since, 0) // 1)}", "dim"))
        stage = view.stage
        if stage is not None:
            place += [(f"  {view.stage_index + 1}/{len(view.stages)} ", "dim"), (stage.name, "")]
        if view.at.step:
            place += [("  step ", "dim"), (f"{view.at.step:,.0f}", "")]
        rest: list[Piece] = [(f"  {view.name}", "dim")] if view.name else []
        attached: list[Piece] = [("  attached", "accent")] if self._attached and not view.over else []
        end = [*self._cost(view), *self._end(view)]
        detail: list[Piece] = [(f" {view.detail}", "dim")] if own and view.detail else []
        whole = row_width([*begin, *detail, *place, *rest, *attached])
        if whole + row_width(end) > self.size.width:  # when it ends is missed more than what it costs
            end = self._end(view) if self.size.width >= 36 else []
        if detail and view.at.step:  # the step is missed more than the rest of a sentence that the log has too
            room = self.size.width - row_width([*begin, *place, *attached, *end])
            text = detail[0][0]
            detail = [(fitted(text, min(room, cell_len(text))), "dim")] if room >= SHORTEST_DETAIL else []
        if attached and row_width([*begin, *detail, *place, *rest, *attached, *end]) > self.size.width:
            # Whose run it is has its whole word: the title has the name, and the curriculum the stage's.
            rest, attached = [], [(" attached", "accent")]
            over = row_width([*begin, *detail, *place, *attached, *end]) - self.size.width
            if over > 0 and stage is not None:
                shortened = fitted(stage.name, max(cell_len(stage.name) - over, SHORTEST_NAME))
                place = [(shortened if piece == (stage.name, "") else piece[0], piece[1]) for piece in place]
        self.show_rows([spread([*begin, *detail, *place, *rest, *attached], end, self.size.width)])

    @staticmethod
    def _left(view: RunView) -> tuple[float, str]:
        """Seconds to the plan's end, or to the stage's where later stages are not counted; and which it is."""
        left_s = view.seconds_left()
        if not math.isfinite(left_s) and view.stage is not None:
            return view.seconds_left(view.stage), " stage ends "
        return left_s, " ends "

    def _cost(self, view: RunView) -> list[Piece]:
        if self._price_per_hour is None:
            return []
        left_s, what = self._left(view)
        cost = format_cost(self._price_per_hour, view.spent_s)
        if math.isfinite(left_s) and what == " ends " and not view.over:
            cost += f" of {format_cost(self._price_per_hour, view.spent_s + left_s)}"
        return [(f" {cost} ", "dim")]

    def _end(self, view: RunView) -> list[Piece]:
        left_s, what = self._left(view)
        if view.over or not math.isfinite(left_s) or not view.stages:
            return []
        return [
            (what, "dim"),
            (format_clock(view.now(), left_s, self._zone), "strong"),
            (f" in {format_duration(left_s)} " if self.size.width > 70 else " ", "dim"),
        ]


class Compact(Lines, can_focus=False):
    """State, stage, loss and when it ends."""

    def __init__(self, *, zone: tzinfo | None = None) -> None:
        super().__init__(id="compact")
        self._zone = zone

    def show(self, view: RunView) -> None:
        width = self.size.width
        stage = view.stage
        filled, left = bar(view.fraction_done, max(width - 8, 4))
        percent = f" {format_percent(view.fraction_done)}"
        rows: list[Row] = [((filled, "done"), (left, "todo"), (percent, "strong"))]
        if stage is not None:
            rows.append(((f"{view.stage_index + 1}/{len(view.stages)} ", "dim"), (stage.name, "strong")))
            loss = view.history.get("val/loss")
            rows.append(
                (
                    ("loss ", "dim"), (format_loss(stage.loss), "train"),
                    ("  val ", "dim"), (format_loss(loss.last() if loss else float("nan")), "val"),
                )
            )  # fmt: skip
        rows.append(
            (("step ", "dim"), (f"{view.at.step:,.0f}", ""), (f"  {format_rate(view.pace.tokens_per_s)} tok/s", "dim"))
        )
        left_s = view.seconds_left()
        if left_s == left_s and not view.over:  # noqa: PLR0124  (NaN: not known)
            ends = format_clock(view.now(), left_s, self._zone)
            rows.append((("ends ", "dim"), (ends, "strong"), (f" in {format_duration(left_s)}", "dim")))
        rows.append((("s save  x stop  q quit", "dim"),))
        self.show_rows(rows)


class PaneTabs(Lines, can_focus=False):
    """The panes by number, where only one fits."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(id="tabs")
        self._names = names
        self._chosen = 0

    def choose(self, index: int) -> None:
        self._chosen = index
        self._draw()

    def on_resize(self) -> None:
        self._draw()

    def _draw(self) -> None:
        row: list[tuple[str, str]] = []
        short = self.size.width < sum(len(name) + 4 for name in self._names)
        for i, name in enumerate(self._names):
            here = i == self._chosen
            row += [
                (f" {i + 1}", "key cursor" if here else "key"),
                (f" {name[:4] if short and not here else name} ", "strong cursor" if here else "dim"),
            ]
        row.append((" ", ""))
        self.show_rows([tuple(row)])

    def on_click(self, event: events.Click) -> None:
        offset = event.get_content_offset(self)
        if offset is None or not self.rows:
            return
        row = self.rows[0]
        for i in range(len(self._names)):
            if offset.x < row_width(row[: 2 * i + 2]):
                self.post_message(PaneAsked(self._names[i]))
                return
