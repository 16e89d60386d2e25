"""The machine and the speed: meters, tokens a second, and where a step's time goes."""

import math
from collections.abc import Sequence

from lmplay_tui.run.pace import PARTS
from lmplay_tui.run.telling import shown_rate, shown_seconds
from lmplay_tui.run.view import RunView
from lmplay_tui.ui.machine import Reading
from lmplay_tui.ui.widgets.lines import Lines, Piece, Row, bar, fitted, row_width, wrapped
from lmplay_tui.ui.widgets.titles import set_titles

_FILLS = {  # a part is told by its filling as well as by its colour
    "data": "░", "forward": "█", "backward": "▓", "optimizer": "▒", "other": "·", "validate": "▚", "save": "▞",
}  # fmt: skip
_LABEL = 11


class System(Lines):
    """Meters on top, the step's time below."""

    def __init__(self) -> None:
        super().__init__(id="system", classes="pane")
        set_titles(self, "5 system")
        self._view: RunView | None = None
        self._readings: Sequence[Reading] = ()

    def show(self, view: RunView, readings: Sequence[Reading] | None = None) -> None:
        self._view = view
        if readings is not None:
            self._readings = readings
        width = self.size.width
        if width < 12:
            return
        rows: list[Row] = [((" " + fitted("device", _LABEL - 1), "label"), (view.device or "–", ""))]
        if view.num_parameters:
            rows[0] += ((f", {view.num_parameters / 1e6:.1f} M parameters", "dim"),)
        rows += [self._meter(reading, width) for reading in self._readings]
        rows.append(self._speed(view, width))
        rows += self._step_time(view, width)
        if view.note:
            rows += [((f" {line}", "dim"),) for line in wrapped(view.note, width - 2)]
        self.show_rows(rows)

    def on_resize(self) -> None:
        if self._view is not None:
            self.show(self._view)

    @staticmethod
    def _meter(reading: Reading, width: int) -> Row:
        cells = max(min(width - _LABEL - len(reading.text) - 3, 24), 0)
        label = (" " + fitted(reading.label, _LABEL - 1), "label")
        if reading.fraction is None or cells < 4:
            return (label, (reading.text, ""))
        filled, left = bar(reading.fraction, cells)
        style = "bad" if reading.fraction > 0.95 else "warn" if reading.fraction > 0.85 else "good"
        return (label, (filled, style), (left, "todo"), (f" {reading.text}", ""))

    @staticmethod
    def _speed(view: RunView, width: int) -> Row:
        pieces: list[Piece] = [(" " + fitted("speed", _LABEL - 1), "label")]
        pieces += [(shown_rate(view.pace.tokens_per_s), "strong"), (" tok/s", "dim")]
        mfu = view.history.get("perf/mfu")
        if mfu is not None and math.isfinite(mfu.last()):
            pieces += [("  MFU ", "dim"), (f"{mfu.last():.1%}".replace("%", " %"), "")]
        step = view.history.get("time/step_s")
        if step is not None and len(step):
            pieces += [("  step ", "dim"), (shown_seconds(step.recent_mean(20)), "")]
        shown = view.last_step.get("text_shown", view.last_step.get("data/text_shown"))
        if isinstance(shown, int | float) and math.isfinite(shown) and shown < 0.9995:
            pieces += [("  text shown ", "dim"), (f"{shown:.1%}".replace("%", " %"), "")]
        while row_width(pieces) > width and len(pieces) > 3:
            pieces = pieces[:-2]
        return tuple(pieces)

    @staticmethod
    def _step_time(view: RunView, width: int) -> list[Row]:
        shares = view.step_time.shares()
        if not shares:
            return []
        cells = max(width - _LABEL - 2, 1)
        pieces: list[Piece] = [(" " + fitted("step time", _LABEL - 1), "label")]
        end = done = 0.0
        for name in PARTS:
            end += shares[name] * cells
            count = round(end) - round(done)
            done = end
            if count:
                pieces.append((_FILLS[name] * count, name))
        legend: list[Piece] = [(" ", "")]
        used = 1
        rows: list[Row] = [tuple(pieces)]
        for name in PARTS:
            if shares[name] < 0.02:
                continue
            text = f" {name} {100 * shares[name]:.0f}  "
            if used + len(text) > width:
                rows.append(tuple(legend))
                legend, used = [(" ", "")], 1
            legend += [(_FILLS[name], name), (text, "dim")]
            used += len(text) + 1
        rows.append(tuple(legend))
        return rows + [((f" {line}", ""),) for line in wrapped(view.step_time.sentence(), width - 2)]
