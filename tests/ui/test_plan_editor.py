"""The plan editor: problems at their lines, the effect before applying, and no typed text lost."""

import dataclasses
from pathlib import Path

import pytest
import tomlkit
from textual.widgets import TextArea

from lmplay_tui.data.batches import Position
from lmplay_tui.errors import UserError
from lmplay_tui.plan.reading import parse_plan
from lmplay_tui.run import controls
from lmplay_tui.run import events as happened
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.run.view_parts import StageView
from lmplay_tui.train.plan_changes import describe_changes
from lmplay_tui.train.progress import Progress, StageProgress
from lmplay_tui.ui.plan_effect import effect_rows, refusals
from lmplay_tui.ui.plan_steps import changed_plan
from lmplay_tui.ui.widgets.plan_pane import PlanNotes, PlanPane
from tests.ui.conftest import Open, text_of, tick
from tests.ui.fake import STAGES, FakeSource, fed, started

PLAN = """\
# What it is for.
[stages.topics]
dataset = "pydocs"
epochs = 1

[stages.docstrings]  # the short ones
dataset = "pydocs"
epochs = 1.5

[stages.finetune]
dataset = "pydocs"
epochs = 0.5
"""


@pytest.fixture
def planned(tmp_path: Path) -> FakeSource:
    folder = RunFolder(tmp_path / "run.lmp")
    folder.folder.mkdir()
    folder.plan.write_text(PLAN, encoding="utf-8", newline="\n")
    return fed(330, folder=folder)


def joined(rows: object) -> str:
    return "\n".join("".join(text for text, _ in row) for row in rows)  # type: ignore[attr-defined]


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
        assert "docstrings epochs 1.5 → 2  +1,600 rows" in notes
        assert "+40 s" in notes
        assert planned.sent == []
        await pilot.press("ctrl+s")
        await pilot.pause()
        assert planned.sent == [controls.ChangePlan(PLAN.replace("epochs = 1.5", "epochs = 2"))]


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


async def test_saving_as_never_writes_over_a_file(dashboard: Open, planned: FakeSource) -> None:
    Path("my_plan.toml").write_text("mine", encoding="utf-8")
    async with dashboard(planned) as pilot:
        await pilot.press("4", "f2", "enter")
        await pilot.pause()
        assert Path("my_plan.toml").read_text(encoding="utf-8") == "mine"


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


async def test_typed_text_outlives_a_change_of_panes_and_sizes(dashboard: Open, planned: FakeSource) -> None:
    async with dashboard(planned) as pilot:
        await pilot.press("4", *"abc", "escape", "2", "z", "4")
        await pilot.resize_terminal(80, 24)
        await tick(pilot)
        assert pilot.app.screen.query_one(PlanPane).text.startswith("abc")
        assert "edited" in text_of(pilot.app)


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
    source.view.apply(dataclasses.replace(started(), plan_text=text, plan_file=plan_file).record())


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


async def test_a_plan_with_local_data_is_saved_beside_them_or_says_that_it_misses_them(
    dashboard: Open, planned: FakeSource, tmp_path: Path
) -> None:
    plans = tmp_path / "plans"
    plans.mkdir()
    (plans / "mine.jsonl").write_text('{"text": "x"}\n', encoding="utf-8")
    text = PLAN.replace('"pydocs"', '"mine.jsonl"')
    planned.view.apply(dataclasses.replace(started(), plan_text=text, plan_folder=str(plans)).record())
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


async def test_a_number_that_is_none_is_not_extended(dashboard: Open, planned: FakeSource) -> None:
    async with dashboard(planned) as pilot:
        pane = pilot.app.screen.query_one(PlanPane)
        pane.replace_text(PLAN.replace("epochs = 1.5", "epochs = [1]"))
        await pilot.press("1", "enter")
        for key in ("e", "enter"):
            await pilot.press(key)
            await pilot.pause()
        assert any("mend it first" in notice.message for notice in pilot.app._notifications)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("epochs = 0.5", "epochs = 0.5\nlr = 0.1"), "finetune lr (not set) → 0.1"),
        (("[stages.topics]", "[train]\nlr = 6e-3\n[stages.topics]"), "train lr (not set) → 0.006"),
        (("# What it is for.", "# Else."), "nothing that trains changes"),
    ],
)
def test_effects_say_all_that_changes(change: tuple[str, str], said: str) -> None:
    view = fed(330).view
    rows = effect_rows(PLAN, PLAN.replace(*change), view, Path.cwd(), None)
    assert said in joined(rows)
    assert not refusals(PLAN, PLAN.replace(*change), view, Path.cwd())


def test_several_effects_are_summed() -> None:
    rows = effect_rows(PLAN, PLAN.replace("1.5", "2").replace("0.5", "0.25"), fed(330).view, Path.cwd(), 2.0)
    said = [" ".join(line.split()) for line in joined(rows).splitlines()]
    assert said == [
        "~ docstrings epochs 1.5 → 2 +1,600 rows +40 s +0.02",
        "~ finetune epochs 0.5 → 0.25 -1,200 rows −30 s −0.02",
        "all together +400 rows +10 s +0.01",
    ]
    same = effect_rows(
        PLAN, PLAN.replace("1.5", "2").replace("0.5", "0.16666666666666666"), fed(330).view, Path.cwd(), 2.0
    )
    assert joined(same).splitlines()[-1] == " all together  as many rows as before"


KEPT = "holds, after a resume too; this edit changes nothing: only another --lr at a start does"
ON_LINE = {"lr": "--lr 0.0003", "mini_batch_size": "--mini-batch-size 4"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("epochs = 0.5", "epochs = 0.5\nlr = 1e-4"),
         [" nothing that trains changes", f" ! lr: the command line's --lr 0.0003 {KEPT}"]),
        (("epochs = 0.5", "epochs = 1\nmini_batch_size = 8"),
         [" ~ finetune epochs 0.5 → 1  +2,400 rows", " ! mini_batch_size: the command line's --mini-batch-size 4 "
          "holds; this edit changes nothing until a start without it"]),
        (("epochs = 0.5", 'epochs = 0.5\n[stages.new]\ndataset = "pydocs"\nlr = 1e-4'),
         [" + new new, 1 epochs  rows are counted when it is applied",
          f" ! lr: the command line's --lr 0.0003 {KEPT}"]),
    ],
)  # fmt: skip
def test_what_the_command_line_overrules_is_said_to_change_nothing(change: tuple[str, str], said: list[str]) -> None:
    view = fed(330).view
    view.apply(dataclasses.replace(started(), on_line=ON_LINE).record())
    assert joined(effect_rows(PLAN, PLAN.replace(*change), view, Path.cwd(), None)).splitlines() == said


async def test_an_overruled_edit_is_told_in_a_narrow_editor_too(dashboard: Open, planned: FakeSource) -> None:
    planned.view.apply(dataclasses.replace(started(), plan_text=PLAN, on_line=ON_LINE).record())
    async with dashboard(planned, (80, 24)) as pilot:
        await pilot.press("4")
        pilot.app.screen.query_one(PlanPane).replace_text(PLAN.replace("epochs = 0.5", "epochs = 0.5\nlr = 1e-4"))
        await pilot.pause()
        said = " ".join(text_of(pilot.app).replace("│", " ").split())
        assert f"nothing that trains changes ! lr: the command line's --lr 0.0003 {KEPT}" in said


def test_another_order_of_what_has_not_begun_is_said() -> None:
    text = PLAN + '[stages.last]\ndataset = "pydocs"\n'
    swapped = text.replace("stages.finetune", "stages.x").replace("stages.last", "stages.finetune")
    swapped = swapped.replace("stages.x", "stages.last").replace("epochs = 0.5\n", "") + "epochs = 0.5\n"
    assert "stages another order" in joined(effect_rows(text, swapped, fed(330).view, Path.cwd(), None))


REFUSED = [
    (("epochs = 1.5", "epochs = 0.1"), 8),
    (('[stages.topics]\ndataset = "pydocs"\nepochs = 1\n', ""), 3),
    (("epochs = 1.5", "epochs = 1.5\nshuffle = true"), 9),
    (("[stages.topics]", "[train]\nshuffle = true\n[stages.topics]"), 4),
    (("[stages.topics]", "[train]\ncontext_len = 64\n[stages.topics]"), 3),
    (("[stages.topics]", "[train]\nseed = 7\n[stages.topics]"), 3),
    (('[stages.topics]\ndataset = "pydocs"', '[stages.topics]\ndataset = "wikitext"'), 2),
]


@pytest.mark.parametrize(("change", "line"), REFUSED)
def test_the_editor_refuses_what_the_trainer_would_refuse_in_its_words(change: tuple[str, str], line: int) -> None:
    text = PLAN.replace(*change)
    old, new = (parse_plan(each, name="plan", file="plan", folder=Path.cwd()) for each in (PLAN, text))
    topics = StageProgress(Position(row=1200), rows_total=1200, rows_per_epoch=1200, done=True)
    progress = Progress(stages={"topics": topics, "docstrings": StageProgress(Position(row=2100), rows_per_epoch=3200)})
    with pytest.raises(UserError) as refused:
        describe_changes(old, new, progress)
    problems = refusals(PLAN, text, fed(330).view, Path.cwd())
    assert "\n".join(f"{problem.key}: {problem.sentence}" for problem in problems) == str(refused.value)
    assert min(problem.line for problem in problems) == line


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
