"""The stages of the plan: how far, how good, how long still."""

import math
from datetime import tzinfo
from typing import ClassVar

from rich.cells import cell_len
from textual import events
from textual.binding import Binding, BindingType

from lmplay_tui.formats import format_clock, format_count, format_duration, format_loss, format_percent, format_rate
from lmplay_tui.run.events import RunFailed
from lmplay_tui.run.sentences import LEAST_TEXT_SHOWN, reasons
from lmplay_tui.run.status import StageView
from lmplay_tui.run.view import RunView
from lmplay_tui.ui.legend import STAGES, STATES
from lmplay_tui.ui.messages import StageAsked
from lmplay_tui.ui.tty.patches import set_titles
from lmplay_tui.ui.widgets.lines import Lines, Piece, Row, bar, fitted, right, wrapped

LEAST_DATASETS = 6  # cells: in fewer nothing is read
SHORT_BAR = 8  # cells


def failure_rows(view: RunView, width: int) -> list[Row]:
    """Why the run has failed, each reason in rows of its own; nothing where it has not, or is over otherwise."""
    if not isinstance(view.result, RunFailed):
        return [] if view.stages or not view.over else [((f" {view.state} before the plan was read", "dim"),)]
    rows: list[Row] = []
    for reason in reasons(view.result):
        first, *rest = wrapped(reason, max(width - 4, 10))
        rows += [((" ✗ ", "bad"), (first, "bad")), *((("   ", ""), (line, "bad")) for line in rest)]
    return rows


class Curriculum(Lines):
    """One row a stage below the columns' titles; the running one is marked, and in sight unless one looks around."""

    num_fixed = 1

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "move(-1)", "stage", key_display="↑↓", tooltip="the stage above"),
        Binding("down", "move(1)", "stage", show=False, tooltip="the stage below"),
        Binding("enter", "take", "change stage", tooltip="finish, skip, repeat or extend it"),
    ]

    def __init__(self, *, zone: tzinfo | None = None) -> None:
        super().__init__(id="curriculum", classes="pane")
        set_titles(self, "1 curriculum")
        self._zone = zone
        self._view: RunView | None = None
        self._shown_stage = -1
        self.chosen = 0  # the stage that keys act on

    def show(self, view: RunView) -> None:
        self._view = view
        width = self.room.width
        table = self._table(view, width) if view.stages else []
        self.show_rows([*table, *failure_rows(view, width)] or [((" the plan is being read", "dim"),)])
        whole = view.fraction_done
        set_titles(self, subtitle=f"{format_percent(whole)} of the plan" if view.stages else "")
        if view.stage_index != self._shown_stage:
            self._shown_stage = self.chosen = view.stage_index
            self._show_running()
        elif not self.has_focus and not self.mouse_hover:
            self._show_running()

    def _show_running(self) -> None:
        """The running stage, and the one that follows where there is room; why the run has failed, where it has."""
        if self._view is not None and self._view.over:
            self.keep_in_sight(len(self.rows) - 1)
        if self._view is not None and self._shown_stage >= 0 and self._view.state != "failed":
            self.keep_in_sight(min(self._shown_stage + 2, len(self._view.stages)))
            self.keep_in_sight(self._shown_stage + 1)

    def on_focus(self) -> None:
        self._again()

    def on_blur(self) -> None:
        self._again()

    def _again(self) -> None:
        if self._view is not None:
            self.show(self._view)

    def action_move(self, by: int) -> None:
        if self._view is not None and self._view.stages:
            self.chosen = min(max(self.chosen + by, 0), len(self._view.stages) - 1)
            self.show(self._view)
            self.keep_in_sight(self.chosen + 1)

    def action_take(self) -> None:
        if self._view is not None and self.chosen < len(self._view.stages):
            self.post_message(StageAsked(self.chosen))

    def on_click(self, event: events.Click) -> None:
        index = self.row_at(event) - 1
        if self._view is not None and 0 <= index < len(self._view.stages):
            self.chosen = index
            self.show(self._view)

    def on_resize(self) -> None:
        if self._view is not None:
            self.show(self._view)

    def _table(self, view: RunView, width: int) -> list[Row]:
        """Header and stages. Columns are as wide as their texts; those that have no room are left out."""
        titles = {"percent": "", "loss": "loss", "eta": "ends"}
        if any(stage.text_shown < LEAST_TEXT_SHOWN for stage in view.stages):
            titles["text"] = "text shown"
        if any(stage.rows_without_sample for stage in view.stages):
            titles["empty"] = "empty"  # rows without a sample
        titles |= {"rows": "rows", "eval": "eval", "rate": "tok/s"}
        cells = [self._cells(view, i, stage) for i, stage in enumerate(view.stages)]
        names = [(stage.name, self._datasets(stage)) for stage in view.stages]
        least_name = min(max(len(name) for name, _ in names) + 1, 24)
        widths: dict[str, int] = {}
        room = width - 3 - least_name - 7
        for column, title in titles.items():  # in the order of what is missed most
            wanted = max(len(title), *(cell_len(row[column][0]) for row in cells)) + 2
            if room >= wanted:
                widths[column] = wanted
                room -= wanted
        longest = max(cell_len(name) + cell_len(more) for name, more in names) + 2
        # Names have their whole length where a bar of some cells is left, which says little more for being longer.
        name_width = min(longest, least_name + max(room - SHORT_BAR, room // 2, 0))
        bar_width = min(width - 3 - name_width - sum(widths.values()), 60)
        spare = (width - 3 - name_width - bar_width - sum(widths.values())) // max(len(widths), 1)
        widths = {column: cells + min(max(spare, 0), 8) for column, cells in widths.items()}
        places = ("percent", "rows", "empty", "text", "loss", "eval", "rate", "eta")
        order = [column for column in places if column in widths]
        head = "   " + fitted("stage", name_width + bar_width) + "".join(right(titles[c], widths[c]) for c in order)
        rows: list[Row] = [((head, "label"),)]
        for i, stage in enumerate(view.stages):
            row = [*self._start(view, stage, name_width, bar_width, chosen=i == self.chosen and self.has_focus)]
            row += [(right(cells[i][c][0], widths[c]), cells[i][c][1]) for c in order]
            rows.append(tuple(row))
        return rows

    @staticmethod
    def _datasets(stage: StageView) -> str:
        return "  " + " + ".join(stage.datasets) + (f" ×{stage.epochs:g}" if stage.epochs != 1 else "")

    def _start(self, view: RunView, stage: StageView, name_width: int, bar_width: int, *, chosen: bool) -> list[Piece]:
        sign, style, _ = STAGES[stage.state]
        running = stage.state == "running"
        if running and view.state == "paused":
            sign, style, _ = STATES["paused"]
        datasets = self._datasets(stage) if name_width - 1 - cell_len(stage.name) >= LEAST_DATASETS else ""
        text = fitted(stage.name + datasets, name_width - 1) + " "
        shown = min(len(stage.name), name_width - 1)
        here = " cursor" if chosen else ""
        filled, left = bar(stage.fraction, bar_width - 1)
        return [
            (f" {sign} ", style),
            (text[:shown], ("strong" if running else "") + here),
            (text[shown:], "dim" + here),
            (filled, "done"),
            (left + " ", "todo"),
        ]

    def _cells(self, view: RunView, index: int, stage: StageView) -> dict[str, Piece]:
        running = stage.state == "running"
        quiet = "" if running else "dim"
        return {
            "percent": (format_percent(stage.fraction), "strong" if running else "dim"),
            "rows": (
                f"{format_count(stage.rows_done)}/{format_count(stage.rows_total)}" if stage.rows_total else "–",
                quiet,
            ),
            "empty": (format_count(stage.rows_without_sample) if stage.rows_without_sample else "–", quiet),
            "text": self._text_shown(stage),
            "loss": (format_loss(stage.loss), "train" if math.isfinite(stage.loss) else "dim"),
            "eval": self._eval(stage),
            "rate": (format_rate(stage.tokens_per_s), quiet),
            "eta": self._eta(view, index, stage),
        }

    @staticmethod
    def _text_shown(stage: StageView) -> Piece:
        """The share of the text read that reached a sample; much left out is marked, by a sign and by colour."""
        if not math.isfinite(stage.text_shown):
            return "–", "dim"
        if stage.text_shown < LEAST_TEXT_SHOWN:
            return f"! {format_percent(stage.text_shown, 1)}", "warn"
        return format_percent(stage.text_shown, 1), "dim"

    @staticmethod
    def _eval(stage: StageView) -> Piece:
        """The evaluation now; with what it was at the stage's own end once others have trained over it."""
        if not math.isfinite(stage.eval_now):
            return "–", "dim"
        if math.isfinite(stage.eval_at_end) and abs(stage.eval_now - stage.eval_at_end) >= 5e-4:
            worse = stage.eval_now > stage.eval_at_end
            return f"{stage.eval_at_end:.2f} -> {stage.eval_now:.2f}", "warn" if worse else "good"
        return f"{stage.eval_now:.3f}", "eval"

    def _eta(self, view: RunView, index: int, stage: StageView) -> Piece:
        if stage.state == "done":
            took = f"took {format_duration(stage.seconds)}" if math.isfinite(stage.seconds) else "done"
            return took, "dim"
        if view.over:
            return "–", "dim"
        before = sum(each.rows_left for each in view.stages[: index + 1])
        left_s = view.pace.seconds_for(before) if math.isfinite(before) else math.nan
        if not math.isfinite(left_s):
            return "–", "dim"
        text = f"{format_clock(view.now(), left_s, self._zone)} in {format_duration(left_s)}"
        return text, "" if stage.state == "running" else "dim"
