"""The plan editor: problems at their lines, the effect before applying, and no typed text lost."""

from pathlib import Path

import pytest
import tomlkit
from textual.widgets import TextArea

from lmplay_tui.run import controls
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.run.view_parts import StageView
from lmplay_tui.ui.plan_effect import effect_rows
from lmplay_tui.ui.plan_steps import changed_plan
from lmplay_tui.ui.widgets.plan_pane import PlanNotes, PlanPane
from tests.ui.conftest import Open, text_of, tick
from tests.ui.fake import FakeSource, fed

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
        await pilot.press("f8")
        assert pane.query_one(TextArea).cursor_location[0] == 3
        await pilot.press("f8")
        assert pane.query_one(TextArea).cursor_location[0] == 7
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
        assert "docstrings 1.5 → 2 epochs  +1,600 rows" in notes
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


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("epochs = 1.5", "epochs = 0.1"), "epochs are done already"),
        (('[stages.topics]\ndataset = "pydocs"\nepochs = 1\n', ""), "topics has begun and cannot be removed"),
        (("epochs = 0.5", "epochs = 0.5\nlr = 0.1"), "finetune other options"),
        (("# What it is for.", "# Else."), "nothing that trains changes"),
    ],
)
def test_effects_say_what_cannot_be_and_what_does_not_matter(change: tuple[str, str], said: str) -> None:
    view = fed(330).view
    rows = effect_rows(PLAN, PLAN.replace(*change), view, Path.cwd(), None)
    assert said in joined(rows)
