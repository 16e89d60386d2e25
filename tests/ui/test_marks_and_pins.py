"""Spikes and warnings on the curves, pinned and asked prompts in the predictions, the plan's folder in the editor."""

import dataclasses
from pathlib import Path

import pytest
from textual.widgets import Input

from lmplay_tui.run import controls
from lmplay_tui.run import events as happened
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.run.recorder import Recorder
from lmplay_tui.ui.source import FolderSource
from lmplay_tui.ui.widgets.curves import Curves
from lmplay_tui.ui.widgets.plan_pane import PlanPane
from lmplay_tui.ui.widgets.predictions import Predictions
from tests.ui.conftest import Open, text_of, tick
from tests.ui.fake import Clock, FakeSource, fed, prediction, started, training

SPIKE = happened.LossSpiked(222, "docstrings", 5.62, 2.93, 21.0, 1010, 1019)
WARNING = happened.Warned("the disk is slow \x1b]52;c;aGk=\x07 [bold]here", 250)


@pytest.mark.long
@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)])
async def test_spikes_and_warnings_are_reached_with_brackets(dashboard: Open, size: tuple[int, int]) -> None:
    source = fed(270)
    source.waiting += [SPIKE, WARNING]
    async with dashboard(source, size) as pilot:
        await pilot.press("2", "end", "enter")
        curves = pilot.app.screen.query_one(Curves)
        assert "▲" in text_of(pilot.app), "its sign below the axis"
        seen: dict[float, str] = {}
        for _ in range(12):
            await pilot.press("left_square_bracket")
            seen.setdefault(curves.window.cursor or 0.0, text_of(pilot.app))
        assert "spike 5.620 after 2.930, rows 1010–1019" in seen[222.0]
        assert "the disk is slow ␛]52;c;aGk=␇ [bo" in seen[250.0]


async def test_an_attached_run_shows_the_same_marks(dashboard: Open, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run.lmp")
    run.create()
    recorder = Recorder(run)
    for event in [*training(40), dataclasses.replace(SPIKE, step=31), happened.Stalled("step", 30.0, 0.2, 33)]:
        recorder.record(event)
    recorder.close()
    source = FolderSource(run, Clock())
    source.poll()
    kinds = {(mark.kind, mark.step) for mark in source.view.marks}
    assert {("spike", 31), ("warning", 33)} <= kinds
    assert "rows 1,010 to 1,019 of stage docstrings" in run.log.read_text("utf-8")


async def test_pinned_prompts_are_shown_with_their_answers_through_the_run(dashboard: Open) -> None:
    source = fed(330)
    source.waiting.append(happened.PinsChanged(120, ("Once upon a time",)))
    for step, said in ((200, "a a a"), (260, "there was a"), (320, "there was a mill by the river")):
        answer = happened.Prediction("pinned", "Once upon a time", "", said, None, None)
        source.waiting.append(happened.Predicted(step, "docstrings", answer))
    source.waiting.append(happened.Predicted(321, "docstrings", prediction()))
    async with dashboard(source) as pilot:
        await pilot.press("3", "up", "up")
        pane = pilot.app.screen.query_one(Predictions)
        assert "pinned only · newest of 3" in str(pane._border_subtitle)
        shown = text_of(pilot.app)
        assert "Once upon a time" in shown and "there was a mill by the river" in shown
        assert "pinned" in shown
        await pilot.press("left_square_bracket")
        assert "there was a mill" not in text_of(pilot.app)
        assert "there was a" in text_of(pilot.app)
        await pilot.press("i")
        await pilot.pause()
        assert source.sent == [controls.Pin("Once upon a time")], "again: no longer"


@pytest.mark.long
async def test_an_answer_stays_on_the_screen(dashboard: Open, source: FakeSource) -> None:
    async with dashboard(source, (80, 24)) as pilot:
        await pilot.press("g")
        pilot.app.screen.query_one("#field-0", Input).value = "Say"
        await pilot.press("enter")
        await tick(pilot)
        assert "none yet: g asks the model" in text_of(pilot.app)
        answer = happened.Prediction("asked", "Say", "", "something wise", None, None)
        source.waiting += [
            happened.Predicted(331, "docstrings", answer), happened.Predicted(332, "docstrings", prediction()),
        ]  # fmt: skip
        await tick(pilot)
        assert "something wise" in text_of(pilot.app)


@pytest.mark.long
async def test_relative_paths_of_an_attached_plan_start_where_the_plan_lay(dashboard: Open, tmp_path: Path) -> None:
    (tmp_path / "plans").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data/rows.jsonl").write_text('{"text": "A mill."}\n')
    text = '[stages.a]\ndataset = "../data/rows.jsonl"\n'
    run = RunFolder(tmp_path / "deep/down/out/run.lmp")
    run.create()
    run.plan.write_text(text)
    recorder = Recorder(run)
    recorder.record(dataclasses.replace(started(), plan_folder=str(tmp_path / "plans")))
    recorder.close()
    source = FolderSource(run, Clock())
    async with dashboard(source) as pilot:
        await pilot.press("4")
        pane = pilot.app.screen.query_one(PlanPane)
        pane.replace_text(text + "epochs = 2\n")
        await pilot.pause()
        assert pane.problems == []
        pane.replace_text(text.replace("rows", "no_rows"))
        await pilot.pause()
        assert [problem.line for problem in pane.problems] == [2]
