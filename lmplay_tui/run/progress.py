"""What steps and lines of `metrics.jsonl` do to a run's view: where it is, its curves, its pace."""

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from lmplay_tui.run.axes import At
from lmplay_tui.run.journal import number
from lmplay_tui.run.metric_names import OF_STEPS, STEP_METRICS
from lmplay_tui.run.view_parts import StageView
from lmplay_tui.text import one_line

if TYPE_CHECKING:
    from lmplay_tui.run.metric_rows import MetricRows
    from lmplay_tui.run.view import RunView

Record = Mapping[str, Any]

_metric_name = lru_cache(1024)(one_line)  # some twenty names on each line
_PARTS = ("data", "forward", "backward", "optimizer")


def step_done(view: "RunView", record: Record) -> None:
    """A live run's step."""
    view.at = At(number(record["step"]), number(record["rows"]), number(record["tokens"]), number(record["elapsed_s"]))
    view.lives_by_steps = True
    view.last_step = record
    for metric, key in STEP_METRICS.items():
        value = record.get(key)
        if value is not None:
            view.history.add(metric, view.at, number(value))
    stage = view.find_stage(record)
    if stage is not None:
        view.pace.mark(view.now(), view.at.rows, view.at.tokens)
        _follow(view, stage, int(number(record.get("stage_rows", 0))))
        stage.follow_text(record.get("text_shown"), record.get("rows_without_sample"))
    view.step_time.step(
        number(record.get("step_s", 0)), {part: number(record.get(f"{part}_s", 0)) for part in _PARTS}
    )


def metrics_line(view: "RunView", row: Record) -> None:
    """A line of `metrics.jsonl`. One of scores alone moves nothing: they have come as an event."""
    at = At(
        number(row.get("step")), number(row.get("samples")), number(row.get("tokens")), number(row.get("elapsed_s"))
    )
    for name, value in row.items():
        if "/" not in name or value is None or name.startswith(("val/", "eval/")):
            continue  # validation and evaluation come as events, with their own step
        if not (view.lives_by_steps and name in STEP_METRICS):
            view.history.add(_metric_name(name, 60), at, number(value))
    if view.lives_by_steps or row.get(OF_STEPS) is None:
        return
    steps = max(int(at.step - view.at.step), 1)
    view.at, view.last_step = at, row
    stage = view.find_stage(row)
    if stage is not None:
        view.pace.mark(at.time, at.rows, at.tokens)
        _follow(view, stage, int(number(row.get("stage_samples", 0))))
        stage.follow_text(row.get("data/text_shown"), row.get("data/rows_without_sample"))
    view.step_time.step(
        number(row.get("time/step_s", 0)), {part: number(row.get(f"time/{part}_s", 0)) for part in _PARTS}, steps
    )


def metric_rows(view: "RunView", rows: "MetricRows") -> None:
    """Many lines of `metrics.jsonl`: the same as each of them alone."""
    for name, (values, _) in rows.metrics.items():
        if not (view.lives_by_steps and name in STEP_METRICS):
            view.history.add_many(name, rows.at, values)
    if view.lives_by_steps or rows.last is None:
        return
    import numpy as np

    at = rows.at[rows.of_steps]
    steps = np.maximum(np.trunc(np.diff(at[:, 0], prepend=view.at.step)), 1.0)
    view.at, view.last_step = At(*at[-1].tolist()), rows.last
    stage = view.find_stage(rows.last)
    if stage is not None:
        view.pace.mark_many(at[:, 3].tolist(), at[:, 1].tolist(), at[:, 2].tolist())
        _follow(view, stage, int(number(rows.last.get("stage_samples", 0))))
        stage.follow_text(rows.last.get("data/text_shown"), rows.last.get("data/rows_without_sample"))
    view.step_time.step_many(
        rows.values("time/step_s"), {part: rows.values(f"time/{part}_s") for part in _PARTS}, steps
    )


def _follow(view: "RunView", stage: StageView, rows_done: int) -> None:
    """The stage has got so far, now; the pace is marked."""
    if view.state == "starting":
        view.state = "running"
    if stage.state != "done":
        stage.state = "running"
        view.stage_index = view.stages.index(stage)
    stage.rows_done = rows_done
    loss = view.history.get("train/loss")
    stage.loss = loss.recent_mean(50) if loss else math.nan
    stage.tokens_per_s = view.pace.tokens_per_s
