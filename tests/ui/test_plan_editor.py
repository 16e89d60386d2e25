"""The plan editor: problems at their lines, the effect before applying, and no typed text lost."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tomlkit
from textual.widgets import TextArea

from lmplay_tui.plan.reading import MAX_BYTES
from lmplay_tui.run import controls
from lmplay_tui.run import events as happened
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.run.status import StageView
from lmplay_tui.ui.screens.plan_editor import PlanEditor, changed_plan
from lmplay_tui.ui.screens.plan_effect import refusals
from lmplay_tui.ui.widgets.plan_pane import PlanNotes, PlanPane
from tests.ui.conftest import Open, joined, text_of, tick
from tests.ui.fake import PLAN, STAGES, FakeSource, fed, started
from tests.ui.test_plan_effects import KEPT, ON_LINE


@pytest.fixture
def planned(tmp_path: Path) -> FakeSource:
    folder = RunFolder(tmp_path / "run.lmp")
    folder.folder.mkdir()
    folder.plan.write_text(PLAN, encoding="utf-8", newline="\n")
    return fed(330, folder=folder)


async def test_problems_stand_at_their_lines_and_block_applying(dashboard: Open, planned: FakeSource) -> None:
    async with dashboard(planned) as pilot:
        await pilot.press("4")
        pane = pilot.app.screen.query_one(PlanPane)
        pane.replace_text(PLAN.replace("epochs = 1\n", "epochz = 1\n").replace("1.5", "-1"))
        await pilot.pause()
        assert [problem.line for problem in pane.problems] == [4, 8]
        notes = joined(pilot.app.screen.query_one(PlanNotes).rows)
        assert "did you mean epochs" in notes
        assert pane.query_one(TextArea).cursor_location[0] == 3  # where the texts part
        await pilot.press("f8")
        assert pane.query_one(TextArea).cursor_location[0] == 7
        await pilot.press("f8")
        assert pane.query_one(TextArea).cursor_location[0] == 3
        await pilot.press("ctrl+s")
        await pilot.pause()
        assert planned.sent == []


async def test_the_effect_is_shown_before_ctrl_s_applies_it(dashboard: Open, planned: FakeSource) -> None:
    async with dashboard(planned, price_per_hour=2.0) as pilot:
        await pilot.press("4")
        pane = pilot.app.screen.query_one(PlanPane)
        pane.replace_text(PLAN.replace("epochs = 1.5", "epochs = 2"))
        await pilot.pause()
        notes = joined(pilot.app.screen.query_one(PlanNotes).rows)
        assert "docstrings epochs 1.5 -> 2  +1,600 rows" in notes
        assert "+40 s" in notes
        assert planned.sent == []
        await pilot.press("ctrl+s")
        await pilot.pause()
        assert planned.sent == [controls.ChangePlan(PLAN.replace("epochs = 1.5", "epochs = 2"))]


@pytest.mark.long
async def test_buttons_do_what_their_keys_do(dashboard: Open, planned: FakeSource) -> None:
    async with dashboard(planned, (200, 60)) as pilot:
        pane = pilot.app.screen.query_one(PlanPane)
        pane.replace_text(PLAN + "\n# more\n")
        await pilot.pause()
        await pilot.click("#plan-apply")
        await pilot.pause()
        assert planned.sent == [controls.ChangePlan(PLAN + "\n# more\n")]
        await pilot.click("#plan-revert")
        await pilot.pause()
        assert pane.text == PLAN
        await pilot.click("#plan-save-as")
        await pilot.pause()
        await pilot.press("enter")
        await pilot.pause()
        assert Path("my_plan.toml").read_text(encoding="utf-8") == PLAN


@pytest.mark.long
async def test_saving_as_never_writes_over_a_file(dashboard: Open, planned: FakeSource) -> None:
    Path("my_plan.toml").write_text("mine", encoding="utf-8")
    async with dashboard(planned) as pilot:
        await pilot.press("4", "f2", "enter")
        await pilot.pause()
        assert Path("my_plan.toml").read_text(encoding="utf-8") == "mine"


@pytest.mark.long
async def test_a_plan_that_changes_on_disk_is_shown_unless_text_was_typed(dashboard: Open, planned: FakeSource) -> None:
    assert planned.folder is not None
    async with dashboard(planned) as pilot:
        await pilot.press("4")
        pane = pilot.app.screen.query_one(PlanPane)
        planned.folder.plan.write_text(PLAN + "# two\n", encoding="utf-8", newline="\n")
        await tick(pilot)
        assert pane.text.endswith("# two\n")
        pane.replace_text(PLAN + "# mine\n")
        planned.folder.plan.write_text(PLAN + "# three, longer\n", encoding="utf-8", newline="\n")
        await tick(pilot)
        assert pane.text.endswith("# mine\n")
        assert any("stays as it is" in notice.message for notice in pilot.app._notifications)


@pytest.mark.long
async def test_typed_text_outlives_a_change_of_panes_and_sizes(dashboard: Open, planned: FakeSource) -> None:
    async with dashboard(planned) as pilot:
        await pilot.press("4", *"abc", "escape", "2", "z", "4")
        await pilot.resize_terminal(80, 24)
        await tick(pilot)
        assert pilot.app.screen.query_one(PlanPane).text.startswith("abc")
        assert "edited" in text_of(pilot.app)


@pytest.mark.long_after(1)
@pytest.mark.parametrize(
    ("keys", "expected"),
    [(["e", "2", "enter"], "epochs = 3.5"), (["r"], "[stages.docstrings-2]"), (["f"], "epochs = 0.6")],
)
async def test_a_stage_is_changed_through_the_editor(
    dashboard: Open, planned: FakeSource, keys: list[str], expected: str
) -> None:
    async with dashboard(planned) as pilot:
        await pilot.press("1", "enter")
        await pilot.pause()
        for key in keys:
            if key == "2":
                await pilot.press("backspace")
            await pilot.press(key)
            await pilot.pause()
        await pilot.pause()
        pane = pilot.app.screen.query_one(PlanPane)
        assert expected in pane.text
        assert "# the short ones" in pane.text
        assert not pane.problems
        assert planned.sent == []


def test_skipping_takes_a_stage_out_and_repeating_keeps_the_order() -> None:
    stage = StageView("topics", rows_total=100, rows_done=0)
    assert "topics" not in changed_plan(PLAN, stage, "skip")
    names = list(tomlkit.parse(changed_plan(PLAN, stage, "repeat"))["stages"])
    assert names == ["topics", "topics-2", "docstrings", "finetune"]


def test_stages_at_the_top_level_are_changed_too() -> None:
    text = '[a]\ndataset = "pydocs"\n[b]\ndataset = "pydocs"\n'
    assert list(tomlkit.parse(changed_plan(text, StageView("a"), "repeat"))) == ["a", "a-2", "b"]
    with pytest.raises(KeyError):
        changed_plan(text, StageView("c"), "skip")


def test_finishing_never_ends_before_what_is_read() -> None:
    stage = StageView("docstrings", epochs=1.5, rows_total=4800, rows_done=2100)
    epochs = tomlkit.parse(changed_plan(PLAN, stage, "finish", rows_per_s=40))["stages"]["docstrings"]["epochs"]
    assert 2100 + 120 <= float(epochs) * 3200 <= 2100 + 130


def test_repeating_puts_the_copy_behind_what_has_begun() -> None:
    """Nothing may come between stages that have begun: the run would refuse it."""
    stage = StageView("topics", rows_total=100, rows_done=100, state="done")
    text = changed_plan(PLAN, stage, "repeat", begun=["topics", "docstrings"])
    assert list(tomlkit.parse(text)["stages"]) == ["topics", "docstrings", "topics-2", "finetune"]
    assert not refusals(PLAN, text, fed(330).view, Path.cwd())


@pytest.mark.long
async def test_a_finished_stage_is_repeated_from_its_key_as_the_run_allows_it(
    dashboard: Open, planned: FakeSource
) -> None:
    async with dashboard(planned) as pilot:
        await pilot.press("1", "up", "up", "enter")
        await pilot.pause()
        await pilot.press("r")
        await pilot.pause()
        pane = pilot.app.screen.query_one(PlanPane)
        assert "[stages.topics-2]" in pane.text
        assert not pane.problems


def test_extending_adds_to_the_number_in_the_text() -> None:
    typed = PLAN.replace("epochs = 1.5", "epochs = 4")
    text = changed_plan(typed, StageView("docstrings", epochs=1.5), "extend", epochs=0.5)
    assert tomlkit.parse(text)["stages"]["docstrings"]["epochs"] == 4.5
    unsaid = changed_plan('[a]\ndataset = "pydocs"\n', StageView("a"), "extend", epochs=1)
    assert tomlkit.parse(unsaid)["a"]["epochs"] == 2
    with pytest.raises(ValueError, match="could not convert"):
        changed_plan(typed.replace("epochs = 4", 'epochs = "x"'), StageView("docstrings"), "extend")


@pytest.mark.long
async def test_a_change_by_key_can_be_undone(dashboard: Open, planned: FakeSource) -> None:
    async with dashboard(planned) as pilot:
        await pilot.press("1", "enter")
        await pilot.pause()
        await pilot.press("r")
        await pilot.pause()
        pane = pilot.app.screen.query_one(PlanPane)
        assert pane.text != PLAN
        pane.query_one(TextArea).focus()
        await pilot.press("ctrl+z")
        assert pane.text == PLAN


def say_plan(source: FakeSource, text: str, plan_file: str = "") -> None:
    """The run says what its plan is, as it does when it starts."""
    source.view.follow(dataclasses.replace(started(), plan_text=text, plan_file=plan_file))


@pytest.mark.long
async def test_a_file_of_the_plan_that_another_hand_changes_becomes_an_edit(
    dashboard: Open, planned: FakeSource
) -> None:
    assert planned.folder is not None
    say_plan(planned, PLAN)
    async with dashboard(planned) as pilot:
        await pilot.press("4")
        pane = pilot.app.screen.query_one(PlanPane)
        changed = PLAN.replace("epochs = 1.5", "epochs = 2")
        planned.folder.plan.write_text(changed, encoding="utf-8", newline="\n")
        await tick(pilot)
        await tick(pilot)
        assert pane.text == changed
        assert "4 plan · edited" in text_of(pilot.app)
        assert any("plan.toml has changed" in notice.message for notice in pilot.app._notifications)
        assert pilot.app.screen.unsaved_plan is None  # type: ignore[attr-defined]  # it lies on disk
        await pilot.press("ctrl+s")
        await pilot.pause()
        assert planned.sent == [controls.ChangePlan(changed)]


async def test_the_runs_own_writing_of_its_file_is_no_news(dashboard: Open, planned: FakeSource) -> None:
    assert planned.folder is not None
    say_plan(planned, PLAN)
    changed = PLAN.replace("epochs = 1.5", "epochs = 2")
    async with dashboard(planned) as pilot:
        planned.folder.plan.write_text(changed, encoding="utf-8", newline="\n")
        await tick(pilot)
        planned.waiting.append(happened.PlanChanged(330, (), changed, STAGES))  # said behind it
        await tick(pilot)
        pane = pilot.app.screen.query_one(PlanPane)
        assert (pane.text, pane.edited) == (changed, False)
        assert not any("has changed:" in notice.message for notice in pilot.app._notifications)


@pytest.mark.long
async def test_the_file_that_a_run_was_given_is_offered_when_it_changes(
    dashboard: Open, planned: FakeSource, tmp_path: Path
) -> None:
    file = tmp_path / "given.toml"
    file.write_text(PLAN, encoding="utf-8", newline="\n")
    say_plan(planned, PLAN, str(file))
    async with dashboard(planned) as pilot:
        await pilot.press("4", "a")
        pane = pilot.app.screen.query_one(PlanPane)
        file.write_text(PLAN + "# two\n", encoding="utf-8", newline="\n")
        await tick(pilot)
        await tick(pilot)
        assert pane.text == "a" + PLAN
        assert any("f9 takes in" in notice.message for notice in pilot.app._notifications)
        await pilot.press("f9")
        assert pane.text == PLAN + "# two\n"
        await pilot.press("ctrl+z")
        assert pane.text == "a" + PLAN


@pytest.mark.parametrize("is_own", [True, False])
async def test_of_a_file_that_has_become_huge_no_more_than_a_plan_is_read(
    dashboard: Open, planned: FakeSource, tmp_path: Path, is_own: bool
) -> None:
    assert planned.folder is not None
    given = tmp_path / "given.toml"
    given.write_text(PLAN, encoding="utf-8", newline="\n")
    say_plan(planned, PLAN, str(given))
    async with dashboard(planned) as pilot:
        with (planned.folder.plan if is_own else given).open("a", encoding="utf-8") as file:
            file.write("# more\n" * 20_000)
        await tick(pilot)
        await tick(pilot)
        pane = pilot.app.screen.query_one(PlanPane)
        assert len(PLAN) < len(pane.text) <= MAX_BYTES + 1
        assert pane.problems[0].sentence.startswith(f"must have at most {MAX_BYTES} bytes")


@pytest.mark.long
async def test_text_that_was_saved_elsewhere_leaves_no_draft_and_can_still_be_applied(
    dashboard: Open, planned: FakeSource
) -> None:
    async with dashboard(planned) as pilot:
        screen = pilot.app.screen
        await pilot.press("4", "x")
        assert screen.unsaved_plan == "x" + PLAN  # type: ignore[attr-defined]
        await pilot.press("f2", "enter")
        await pilot.pause()
        assert Path("my_plan.toml").read_text(encoding="utf-8") == "x" + PLAN
        assert screen.unsaved_plan is None  # type: ignore[attr-defined]
        assert screen.query_one(PlanPane).edited
        await pilot.press("y")
        assert screen.unsaved_plan is not None  # type: ignore[attr-defined]


@pytest.mark.long
async def test_a_plan_with_local_data_is_saved_beside_them_or_says_that_it_misses_them(
    dashboard: Open, planned: FakeSource, tmp_path: Path
) -> None:
    plans = tmp_path / "plans"
    plans.mkdir()
    (plans / "mine.jsonl").write_text('{"text": "x"}\n', encoding="utf-8")
    text = PLAN.replace('"pydocs"', '"mine.jsonl"')
    planned.view.follow(dataclasses.replace(started(), plan_text=text, plan_folder=str(plans)))
    async with dashboard(planned) as pilot:
        await pilot.press("4", "f2")
        await pilot.pause()
        assert "plans/my_plan.toml" in text_of(pilot.app)
        await pilot.press("enter")
        await pilot.pause()
        assert (plans / "my_plan.toml").read_text(encoding="utf-8") == text
        assert not any("are found from" in notice.message for notice in pilot.app._notifications)
        await pilot.press("f2", *["delete"] * 30, *"other", "enter")
        await pilot.pause()
        assert (tmp_path / "other.toml").exists()
        assert any(f"are found from {plans}" in notice.message for notice in pilot.app._notifications)


@pytest.mark.long
async def test_a_plan_is_saved_beside_its_data_once_the_working_folder_is_gone(
    dashboard: Open, planned: FakeSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans, gone = tmp_path / "plans", tmp_path / "gone"
    plans.mkdir()
    gone.mkdir()
    planned.view.follow(dataclasses.replace(started(), plan_text=PLAN, plan_folder=str(plans)))
    async with dashboard(planned) as pilot:
        monkeypatch.chdir(gone)
        gone.rmdir()
        await pilot.press("4", "f2", "enter")
        await pilot.pause()
        assert (plans / "my_plan.toml").read_text(encoding="utf-8") == PLAN
        assert pilot.app.return_code is None


@pytest.mark.long
async def test_a_number_that_is_none_is_not_extended(dashboard: Open, planned: FakeSource) -> None:
    async with dashboard(planned) as pilot:
        pane = pilot.app.screen.query_one(PlanPane)
        pane.replace_text(PLAN.replace("epochs = 1.5", "epochs = [1]"))
        await pilot.press("1", "enter")
        for key in ("e", "enter"):
            await pilot.press(key)
            await pilot.pause()
        assert any("mend it first" in notice.message for notice in pilot.app._notifications)


@pytest.mark.long
async def test_an_overruled_edit_is_told_in_a_narrow_editor_too(dashboard: Open, planned: FakeSource) -> None:
    planned.view.follow(dataclasses.replace(started(), plan_text=PLAN, on_line=ON_LINE))
    async with dashboard(planned, (80, 24)) as pilot:
        await pilot.press("4")
        pilot.app.screen.query_one(PlanPane).replace_text(PLAN.replace("epochs = 0.5", "epochs = 0.5\nlr = 1e-4"))
        await pilot.pause()
        said = " ".join(text_of(pilot.app).replace("│", " ").split())
        assert f"nothing that trains changes ! lr: the command line's --lr 0.0003 {KEPT}" in said


async def test_what_the_run_would_refuse_stands_at_its_line_and_is_not_sent(
    dashboard: Open, planned: FakeSource
) -> None:
    async with dashboard(planned) as pilot:
        await pilot.press("4")
        pane = pilot.app.screen.query_one(PlanPane)
        pane.replace_text(PLAN.replace("epochs = 1.5", "epochs = 0.1"))
        await pilot.press("ctrl+s")
        await pilot.pause()
        assert "epochs are done already" in joined(pilot.app.screen.query_one(PlanNotes).rows)
        assert planned.sent == []


def editor_of(source: FakeSource, sent: list[object], notices: list[str]) -> PlanEditor:
    """The controller on a screen that only keeps what it is told to show."""
    screen: Any = SimpleNamespace(notify=lambda said, **_: notices.append(said))
    return PlanEditor(screen, source, lambda *command: sent.append(command), price_per_hour=None)


def test_paths_of_a_plan_start_beside_the_model_until_the_run_says_where(planned: FakeSource) -> None:
    editor = editor_of(planned, [], [])
    assert planned.folder is not None
    assert editor.folder == planned.folder.model.parent
    planned.view.follow(dataclasses.replace(started(), plan_folder="/home/anna/plans"))
    assert editor.folder == Path("/home/anna/plans")


def test_applying_gives_the_run_the_text_as_it_is() -> None:
    sent: list[object] = []
    editor_of(fed(330), sent, []).apply(PLAN + "# mine")
    assert sent == [(controls.ChangePlan(PLAN + "# mine"), "the plan changes with the next batch")]


def test_a_stage_of_a_run_that_is_over_is_not_changed(planned: FakeSource) -> None:
    planned.view.follow(happened.RunStopped(330, None, "", "key"))
    notices: list[str] = []
    editor_of(planned, [], notices).ask_stage_change(0)
    assert notices == ["the run is stopped"]


def test_a_check_says_what_the_run_would_refuse_only_of_a_plan_without_mistakes(planned: FakeSource) -> None:
    editor = editor_of(planned, [], [])
    (problem,) = editor.check(PLAN.replace("epochs = 1.5", "epochs = -1"))
    assert problem.key == "stages.docstrings.epochs"
    assert editor.check(PLAN) == ()


async def test_what_is_typed_behind_a_jump_stands_where_it_has_led(dashboard: Open, planned: FakeSource) -> None:
    async with dashboard(planned) as pilot:
        await pilot.press("4", "ctrl+end", "y", "ctrl+home", "#", "x", "enter")
        await pilot.pause()
        assert pilot.app.screen.query_one(PlanPane).text == f"#x\n{PLAN}y"
