"""The whole run in a few short rows, for a terminal too small for panes; and the row of panes to choose from."""

from collections.abc import Sequence
from datetime import tzinfo

from textual import events

from lmplay_tui.run.telling import shown_rate, shown_seconds
from lmplay_tui.run.view import RunView
from lmplay_tui.ui.clock import clock_time
from lmplay_tui.ui.messages import PaneAsked
from lmplay_tui.ui.widgets.curriculum import loss_text
from lmplay_tui.ui.widgets.lines import Lines, Row, bar, row_width


class Compact(Lines, can_focus=False):
    """State, stage, loss and when it ends."""

    def __init__(self, *, zone: tzinfo | None = None) -> None:
        super().__init__(id="compact")
        self._zone = zone

    def show(self, view: RunView) -> None:
        width = self.size.width
        stage = view.stage
        filled, left = bar(view.fraction_done, max(width - 8, 4))
        percent = f" {view.fraction_done:.0%}".replace("%", " %")
        rows: list[Row] = [((filled, "done"), (left, "todo"), (percent, "strong"))]
        if stage is not None:
            rows.append(((f"{view.stage_index + 1}/{len(view.stages)} ", "dim"), (stage.name, "strong")))
            loss = view.history.get("val/loss")
            rows.append(
                (
                    ("loss ", "dim"), (loss_text(stage.loss), "train"),
                    ("  val ", "dim"), (loss_text(loss.last() if loss else float("nan")), "val"),
                )
            )  # fmt: skip
        rows.append(
            (("step ", "dim"), (f"{view.at.step:,.0f}", ""), (f"  {shown_rate(view.pace.tokens_per_s)} tok/s", "dim"))
        )
        left_s = view.seconds_left()
        if left_s == left_s and not view.over:  # noqa: PLR0124  (NaN: not known)
            ends = clock_time(view.now(), left_s, self._zone)
            rows.append((("ends ", "dim"), (ends, "strong"), (f" in {shown_seconds(left_s)}", "dim")))
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
                self.post_message(PaneAsked(i + 1))
                return
