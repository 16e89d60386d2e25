"""A run's view: the same from live events and from journals, and bounded."""

import dataclasses
import json
import math
from collections.abc import Iterable
from contextlib import closing
from typing import Any

import pytest

from lmplay_tui.run import events as happened
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.run.journal import Journal, encode
from lmplay_tui.run.pace import Pace, StepTime
from lmplay_tui.run.view import MAX_DETAILED, MAX_LOG, MAX_PREDICTIONS, RunView
from tests.ui.fake import STAGES, Clock, fed, follow_line, prediction, stage_started, started, step_done, training


def seen(events: Iterable[happened.Event], clock: Clock | None = None) -> RunView:
    view = RunView(clock or Clock())
    for event in events:
        view.follow(event)
    return view


def journals(events: Iterable[happened.Event]) -> list[dict[str, Any]]:
    """What the recorder writes of these events: a metrics row for each step."""
    records = []
    for event in events:
        if isinstance(event, happened.StepDone):
            records.append(
                {
                    "step": event.step, "samples": event.rows, "stage_samples": event.stage_rows,
                    "tokens": event.tokens, "elapsed_s": event.elapsed_s, "stage": event.stage,
                    "train/loss": event.loss, "train/lr": event.lr, "time/step_s": event.step_s,
                }
            )  # fmt: skip
        elif isinstance(event, happened.Predicted):
            records.append({"step": event.step, "stage": event.stage, **event.record()["prediction"]})
        elif event.journaled:
            records.append(event.record() | {"time": "2026-09-21T12:00:00.000Z"})
    return records


def write_journals(run: RunFolder, records: Iterable[dict[str, Any]]) -> None:
    """Put each record behind what its journal holds."""
    for record in records:
        path = run.events if "event" in record else run.predictions if "prompt" in record else run.metrics
        with closing(Journal(path)) as journal:
            journal.write(record)


def test_journals_give_the_same_picture_as_live_events() -> None:
    live = seen(training(150))
    attached = RunView(Clock())
    for record in journals(training(150)):
        follow_line(attached, record)
    for name in ("train/loss", "val/loss", "eval/loss", "train/lr"):
        ours, theirs = live.history.series[name].points("rows"), attached.history.series[name].points("rows")
        assert ours.x.tolist() == theirs.x.tolist()
        assert ours.mean.tolist() == theirs.mean.tolist()
    assert [stage.state for stage in attached.stages] == [stage.state for stage in live.stages]
    assert [stage.rows_done for stage in attached.stages] == [stage.rows_done for stage in live.stages]
    assert len(attached.predictions) == len(live.predictions)
    assert [mark.kind for mark in attached.marks] == [mark.kind for mark in live.marks]


def test_journal_means_do_not_double_what_steps_have_told() -> None:
    view = seen([started(), stage_started(0, 0, 0), step_done(1, "topics", 10, 10, 5.0)])
    values = {"step": 1, "samples": 10, "tokens": 900, "elapsed_s": 0.25, "train/loss": 5.0, "perf/mfu": 0.3}
    view.follow(happened.MetricsLogged(values))
    assert len(view.history.series["train/loss"]) == 1
    assert view.history.series["perf/mfu"].last() == 0.3


def test_a_resume_drops_later_rows_marks_and_predictions() -> None:
    view = RunView(Clock())
    for record in [*journals(training(150)), {"resumed_from": 95}]:
        follow_line(view, record)
    assert view.history.series["train/loss"].points().x[-1] == 95
    assert max(mark.step for mark in view.marks) <= 95
    assert max(each.step for each in view.predictions) <= 95


def test_a_run_that_went_back_stands_where_it_began_again() -> None:
    """A viewer reads all of the events first: the lines of metrics that follow are of the process before, too."""
    view = RunView(Clock())
    stages = (dataclasses.replace(STAGES[0], rows_done=950), *STAGES[1:])
    begun = dataclasses.replace(started(resumed_from=95), rows=950, tokens=85_500, elapsed_s=23.5, stages=stages)
    rows = [record for record in journals(training(110)) if "train/loss" in record]
    for record in [begun.record(), *rows]:
        follow_line(view, record)
    assert [view.at.step, view.stages[0].rows_done] == [110, 1100]
    view.follow(happened.Rewound(95, "metrics"))
    assert [*view.at] == [95, 950, 85_500, 23.5]
    assert view.stages[0].rows_done == 950
    view.follow(happened.Rewound(40, "metrics"))
    assert view.at.step == 95, "of an earlier start"


def test_a_start_from_an_older_checkpoint_that_does_nothing_leaves_the_curves() -> None:
    view = RunView(Clock())
    for record in journals(training(150)):
        follow_line(view, record)
    view.follow(started(resumed_from=95))
    assert view.history.series["train/loss"].points().x[-1] == 150
    view.follow(step_done(96, "topics", 960, 960, 3.0))
    assert view.history.series["train/loss"].points().x.tolist() == list(range(1, 97))
    assert max(mark.step for mark in view.marks) <= 95


def test_forgetting_is_the_change_since_a_stages_own_end() -> None:
    def scores(**losses: float) -> dict[str, happened.EvaluationResult]:
        return {name: happened.EvaluationResult(loss, None, 1.0) for name, loss in losses.items()}

    view = seen([started(), stage_started(0, 0, 0)])
    view.follow(happened.Evaluated(5, "topics", 50, 1, scores(topics=2.91), True, 1.0))
    view.follow(happened.Evaluated(9, "docstrings", 90, 1, scores(docstrings=3.3, topics=3.05), True, 1.0))
    topics = view.stages[0]
    assert (topics.eval_at_end, topics.eval_now) == (2.91, 3.05)
    assert view.history.series["eval/loss"].last() == 3.3


def test_eta_counts_every_stage_that_is_left() -> None:
    clock = Clock()
    view = RunView(clock)
    for event in training(60):
        view.follow(event)
        if isinstance(event, happened.StepDone):
            clock.now += 0.5  # twenty rows a second
    assert view.seconds_left(view.stages[0]) == pytest.approx(30, rel=0.05)
    assert view.seconds_left() == pytest.approx((600 + 4800 + 2400) / 20, rel=0.05)


def test_what_is_not_known_is_not_promised() -> None:
    infos = (STAGES[0], happened.StageInfo("later", ("x",), 1.0, None, 0))
    view = RunView(clock := Clock())
    view.follow(happened.RunStarted("a", "cpu", 1, 0, 0, 0, infos, None, "", 1))
    view.follow(stage_started(0, 0, 0))
    for step in range(1, 61):
        view.follow(step_done(step, "topics", step * 10, step * 10, 3.0))
        clock.now += 0.5
    assert math.isfinite(view.seconds_left(view.stages[0]))
    assert math.isnan(view.seconds_left())
    assert view.fraction_done == 0.25


def test_a_changed_plan_keeps_what_stages_have_done() -> None:
    view = fed(150).view
    infos = (*STAGES, happened.StageInfo("more", ("pydocs",), 1.0, None, 0))
    view.follow(happened.PlanChanged(150, ("stage more: new",), "text", infos))
    assert [stage.name for stage in view.stages][-1] == "more"
    assert view.stage is not None and view.stage.name == "docstrings"
    assert math.isfinite(view.stages[0].eval_at_end)
    assert view.plan_text == "text"


def test_ends_are_states_and_the_past_of_a_resumed_run_is_not_its_end() -> None:
    view = seen([*training(20), happened.RunStopped(20, "a.lmp", "lmplay-tui --model a.lmp", "asked")])
    assert (view.state, view.over) == ("stopped", True)
    past = RunView(Clock())
    for record in journals([*training(20), happened.RunStopped(20, "a.lmp", "x", "asked")]):
        past.follow_past(happened.from_record(record))
    assert (past.state, past.over) == ("starting", False)
    assert len(past.history.series["train/loss"]) == 20


def test_floods_stay_within_bounds() -> None:
    view = seen([started()])
    for i in range(MAX_LOG + 500):
        view.follow(happened.Warned(f"warning {i}", i))
        view.follow(happened.Predicted(i, "topics", prediction(truth="one two")))
    assert len(view.log) == MAX_LOG
    assert len(view.predictions) <= MAX_PREDICTIONS
    assert sum(bool(each.prediction.top5) for each in view.predictions) <= MAX_DETAILED
    assert view.predictions[0].step < 10, "the run's beginning stays in reach"
    assert view.predictions[-1].step == MAX_LOG + 499


def test_validations_in_a_row_are_one_line_of_the_log() -> None:
    view = seen([started()])
    for step in (10, 20, 30):
        view.follow(happened.Validated(step, "topics", step, step, 3.0, None, 4, 0.1))
    assert [entry.text for entry in view.log][1:] == ["validated at step 30: loss 3.000"]


@pytest.mark.parametrize(
    "record", [{}, {"event": "Nonsense"}, {"event": "StepDone"}, {"step": "x", "a/b": []}, {"prompt": 1}]
)
def test_spoilt_lines_of_a_journal_are_passed_over(record: dict[str, Any]) -> None:
    view = seen(training(5))
    view.follow_past(happened.from_record(record))
    assert view.history.series["train/loss"].points().x[-1] == 5


def test_pace_forgets_old_marks_and_starts_anew() -> None:
    pace = Pace(window_s=100)
    for second in range(200):
        pace.mark(second, second * 5 if second < 100 else 500 + (second - 100) * 20, 0)
    assert pace.rows_per_s == pytest.approx(20, rel=0.05)
    pace.clear()
    assert math.isnan(pace.rows_per_s)


def test_step_time_names_the_waste_before_the_work() -> None:
    times = StepTime()
    times.step(1.0, {"data": 0.2, "forward": 0.3, "backward": 0.4})
    assert times.sentence().startswith("20 % of the time waiting for data")
    assert times.shares()["other"] == pytest.approx(0.1)
    fine = StepTime()
    fine.step(1.0, {"data": 0.01, "forward": 0.3, "backward": 0.6})
    assert fine.sentence() == "60 % of the time in the backward pass"


SPIKE = happened.LossSpiked(
    step=7, stage="topics", loss=8.25, usual_loss=3.1, z=21.0, first_row=60, last_row=69
)  # fmt: skip


def test_spikes_and_warnings_are_marks_live_and_from_the_journal() -> None:
    events = [
        *training(9), SPIKE, happened.Stalled("step", 12.0, 0.3, 8), happened.Warned("the disk is slow", 9),
    ]  # fmt: skip
    attached = RunView(Clock())
    for record in journals(events):
        follow_line(attached, json.loads(encode(record)))
    for view in (seen(events), attached):
        marks = [(mark.kind, mark.step, mark.text) for mark in view.marks if mark.kind in ("spike", "warning")]
        assert marks == [
            ("spike", 7, "spike 8.250 after 3.100, rows 60–69"),
            ("warning", 8, "step 8 took 12 s, the steps before it 0.3 s"),
            ("warning", 9, "the disk is slow"),
        ]
        assert "loss spike at step 7: 8.250 after 3.100 (rows 60 to 69 of stage topics)" in [e.text for e in view.log]


def test_what_is_pinned_is_known_live_attached_and_after_a_resume() -> None:
    events = [started(), happened.PinsChanged(3, ("Once upon", "x")), happened.PinsChanged(4, ("Once upon",))]
    assert seen(events).pinned == ["Once upon"]
    resumed = dataclasses.replace(started(resumed_from=2), pinned=("from the checkpoint",))
    view = RunView(Clock())
    for record in journals([*events, resumed]):
        follow_line(view, json.loads(encode(record)))
    assert view.pinned == ["from the checkpoint"]


def test_the_plans_folder_is_the_runs() -> None:
    view = seen([dataclasses.replace(started(), plan_folder="/home/anna/plans")])
    assert view.plan_folder == "/home/anna/plans"


def test_what_is_paid_for_counts_from_the_start_to_the_end() -> None:
    """Validating, saving and pausing cost what training costs; time when nothing ran costs nothing."""
    clock = Clock()
    begun = dataclasses.replace(started(resumed_from=2), elapsed_s=100.0)
    view = seen([begun, step_done(3, "topics", 30, 30, 5.0)], clock)
    assert view.spent_s == 100.0
    clock.now += 60
    view.follow(happened.Paused(3))
    assert view.spent_s == 160.0
    view.follow(happened.RunStopped(3, "m.lmp", "go on", "asked"))
    clock.now += 3600
    assert view.spent_s == 160.0
    view.state = "dead"
    assert view.spent_s == view.at.time


def test_scores_stand_at_their_time_before_any_metric_has_been_read() -> None:
    """`attach` reads events first."""
    view = RunView()
    view.follow(happened.Validated(50, "topics", 500, 4500, 3.0, 0.2, 4, 0.1, elapsed_s=12.5))
    scores = {"topics": happened.EvaluationResult(2.9, 0.3, 1.4)}
    view.follow(happened.StageStarted("topics", 0, 1, 1000, 500, 50, 500, None))
    view.follow(happened.Evaluated(60, "topics", 600, 5400, scores, False, 1.0, elapsed_s=15.0))
    for metric, at in (("val/loss", 12.5), ("eval/loss", 15.0)):
        series = view.history.get(metric)
        assert series is not None and series.points("time").x.tolist() == [at]


def test_a_plans_text_has_whole_characters() -> None:
    """Half a character, from a command or a journal, would end the editor that shows the plan."""
    live = happened.PlanChanged(61, (), "title = 'EVIL\udc9b\ud800'", ())
    for event in (live, happened.from_record(json.loads(encode(live.record())))):
        view = fed(1).view
        assert event is not None
        view.follow(event)
        assert view.plan_text == "title = 'EVIL??'"
