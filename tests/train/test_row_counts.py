"""Where the plan ends is known soon after it begins: the rows of later stages are counted beside the training."""

import threading
from collections.abc import Iterator
from pathlib import Path

from lmplay_tui.plan.schema import Stage
from lmplay_tui.run.controls import ChangePlan, Controls
from lmplay_tui.run.events import Event, PlanChanged, StageDone, StagesCounted, StageStarted
from lmplay_tui.run.view import RunView
from lmplay_tui.train.dataloader import RowCounts
from lmplay_tui.train.launch import run_events
from tests.train.runs import PLAN, given, write_plan


def wait_for_counts() -> None:
    for thread in threading.enumerate():
        if thread.name == "counting":
            thread.join()


def train_with_counts(controls: Controls, **options: object) -> Iterator[Event]:
    """A run in which the counting is always done before the next event."""
    for event in run_events(given(**options), controls):
        wait_for_counts()
        yield event


def counted(counts: RowCounts) -> None:
    wait_for_counts()
    assert counts.take_news()
    assert not counts.take_news()


def test_each_stage_is_counted_once_and_again_when_it_changes() -> None:
    asked: list[Stage] = []

    def count(stage: Stage) -> int | None:
        asked.append(stage)
        return None if stage.name == "b" else round(10 * stage.epochs)

    counts = RowCounts(count)
    a, b = Stage("a", ()), Stage("b", ())
    counts.begin([a, b])
    counted(counts)
    assert (counts.of(a), counts.of(b)) == (10, None)
    counts.begin([a, b])
    assert asked == [a, b]
    longer = Stage("a", (), epochs=2)
    assert counts.of(longer) is None
    counts.begin([longer, b])
    counted(counts)
    assert counts.of(longer) == 20 and asked == [a, b, longer]


def test_the_whole_plan_is_known_before_the_first_stage_is_done(place: Path) -> None:
    options = {"training_plan": write_plan(place), "model": str(place / "m.lmp"), "out_dir": str(place)}
    events = list(train_with_counts(Controls(), **options))
    at = {type(event): i for i, event in reversed(list(enumerate(events)))}
    news = events[at[StagesCounted]]
    assert isinstance(news, StagesCounted) and at[StagesCounted] < at[StageDone]
    opened = {event.stage: event.rows_total for event in events if isinstance(event, StageStarted)}
    assert {info.name: info.rows_total for info in news.stages} == opened and len(opened) == 3
    view = RunView()
    for event in events[: at[StagesCounted] + 1]:
        view.follow(event)
    assert [stage.rows_total for stage in view.stages] == list(opened.values())
    assert 0 < view.fraction_done < 1


def test_a_changed_plan_is_counted_anew(place: Path) -> None:
    longer = PLAN.replace("epochs = 1.2", "epochs = 2.4")
    controls = Controls()
    totals = {}
    options = {"training_plan": write_plan(place), "model": str(place / "m.lmp"), "out_dir": str(place)}
    for event in train_with_counts(controls, **options):
        if isinstance(event, StagesCounted):
            infos = {info.name: (info.epochs, info.rows_total) for info in event.stages}
            totals[infos["pairs"][0]] = infos["pairs"][1]
            if len(totals) == 1:
                controls.send(ChangePlan(longer))
        if isinstance(event, PlanChanged):
            assert {info.name: info.rows_total for info in event.stages}["pairs"] is None
    assert totals[1.2] is not None and totals[2.4] == 2 * totals[1.2]
