"""The stages of the plan: how far, how good, how long still."""

import math
from datetime import tzinfo

from lmplay_tui.run.telling import shown_seconds
from lmplay_tui.run.view import RunView
from lmplay_tui.run.view_parts import StageView
from lmplay_tui.ui.widgets.lines import Lines, Piece, Row, bar, fitted, right
from lmplay_tui.ui.widgets.state_line import clock_time

_SIGNS = {"waiting": ("·", "dim"), "running": ("▸", "accent"), "done": ("✓", "good")}


def loss_text(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "–"


def rate_text(value: float) -> str:
    """Tokens a second: `987`, `9.1k`, `1.23M`."""
    if not math.isfinite(value):
        return "–"
    if value >= 1e6:
        return f"{value / 1e6:.2f}M"
    return f"{value / 1e3:.1f}k" if value >= 1e3 else f"{value:.0f}"


def short_count(value: float) -> str:
    """A count in at most six characters: `81,204`, `1.23M`."""
    for scale, unit in ((1e9, "B"), (1e6, "M")):
        if value >= scale:
            return f"{value / scale:.2f}{unit}"
    return f"{value:,.0f}"


class Curriculum(Lines):
    """One row a stage; the running one is marked and always in sight."""

    def __init__(self, *, zone: tzinfo | None = None) -> None:
        super().__init__(id="curriculum", classes="pane")
        self.border_title = "1 curriculum"
        self._zone = zone
        self._view: RunView | None = None
        self._shown_stage = -1

    def show(self, view: RunView) -> None:
        self._view = view
        width = self.size.width
        rows = [self._header(width)]
        rows += [self._stage_row(view, i, stage, width) for i, stage in enumerate(view.stages)]
        if not view.stages:
            rows = [((" the plan is being read", "dim"),)]
        self.show_rows(rows)
        whole = view.fraction_done
        self.border_subtitle = f"{whole:.0%} of the plan".replace("%", " %") if view.stages else ""
        if view.stage_index != self._shown_stage:
            self._shown_stage = view.stage_index
            self.scroll_to(y=max(view.stage_index + 2 - self.size.height, 0), animate=False)

    def on_resize(self) -> None:
        if self._view is not None:
            self.show(self._view)

    @staticmethod
    def _columns(width: int) -> dict[str, int]:
        """Which columns have room, and their widths: name and bar share what is left."""
        wanted = [("percent", 6), ("loss", 8), ("eta", 22), ("rows", 16), ("eval", 15), ("rate", 8)]
        columns: dict[str, int] = {}
        room = width - 3 - 14 - 8  # sign, least name, least bar
        for name, cells in wanted:
            if room >= cells:
                columns[name] = cells
                room -= cells
        columns["name"] = 14 + min(max(room, 0) // 2, 26)
        columns["bar"] = max(width - 3 - columns["name"] - sum(columns.get(n, 0) for n, _ in wanted), 0)
        return columns

    def _header(self, width: int) -> Row:
        columns = self._columns(width)
        titles = {"percent": "", "rows": "rows", "loss": "loss", "eval": "eval", "rate": "tok/s", "eta": "ends"}
        text = "   " + fitted("stage", columns["name"]) + " " * columns["bar"]
        text += "".join(right(titles[n], columns[n]) for n in ("percent", "rows", "loss", "eval", "rate", "eta") if n in columns)
        return ((text, "label"),)

    def _stage_row(self, view: RunView, index: int, stage: StageView, width: int) -> Row:
        columns = self._columns(width)
        sign, style = _SIGNS[stage.state]
        running = stage.state == "running"
        name = stage.name
        if running and view.state == "paused":
            sign, style = "‖", "warn"
        datasets = " + ".join(stage.datasets)
        extra = f"  {datasets}" + (f" ×{stage.epochs:g}" if stage.epochs != 1 else "")
        name_cells = columns["name"]
        head = fitted(name + extra, name_cells - 1) + " "
        shown = min(len(name), name_cells - 1)
        filled, left = bar(stage.fraction, columns["bar"] - 1)
        row: list[Piece] = [
            (f" {sign} ", style),
            (head[:shown], "strong" if running else ""),
            (head[shown:], "dim"),
            (filled, "done"),
            (left + " ", "todo"),
        ]
        texts: dict[str, Piece] = {
            "percent": (f"{stage.fraction:.0%}".replace("%", " %"), "strong" if running else "dim"),
            "rows": (f"{short_count(stage.rows_done)}/{short_count(stage.rows_total or 0)}", "" if running else "dim"),
            "loss": (loss_text(stage.loss), "train" if math.isfinite(stage.loss) else "dim"),
            "eval": self._eval(stage),
            "rate": (rate_text(stage.tokens_per_s), "" if running else "dim"),
            "eta": self._eta(view, index, stage),
        }
        for column in ("percent", "rows", "loss", "eval", "rate", "eta"):
            if column in columns:
                text, text_style = texts[column]
                row.append((right(text, columns[column]), text_style))
        return tuple(row)

    @staticmethod
    def _eval(stage: StageView) -> Piece:
        """The evaluation now; with what it was at the stage's own end once others have trained over it."""
        if not math.isfinite(stage.eval_now):
            return "–", "dim"
        if math.isfinite(stage.eval_at_end) and abs(stage.eval_now - stage.eval_at_end) >= 5e-4:
            worse = stage.eval_now > stage.eval_at_end
            return f"{stage.eval_at_end:.2f} → {stage.eval_now:.2f}", "warn" if worse else "good"
        return f"{stage.eval_now:.3f}", "eval"

    def _eta(self, view: RunView, index: int, stage: StageView) -> Piece:
        if stage.state == "done":
            took = f"took {shown_seconds(stage.seconds)}" if math.isfinite(stage.seconds) else "done"
            return took, "dim"
        if view.over:
            return "–", "dim"
        before = sum(each.rows_left for each in view.stages[: index + 1])
        left_s = view.pace.seconds_for(before)
        if not math.isfinite(left_s):
            return "–", "dim"
        text = f"{clock_time(view.now(), left_s, self._zone)} in {shown_seconds(left_s)}"
        return text, "" if stage.state == "running" else "dim"
