"""A start that fails behind its first frame says why: state line, curriculum, log, and the plan at its lines."""

from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import TextArea

from lmplay_tui.errors import EXIT_TRAINING, EXIT_USAGE
from lmplay_tui.run.events import ActivityChanged, RunFailed
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.ui.ending import ending_lines
from lmplay_tui.ui.widgets.curriculum import Curriculum
from lmplay_tui.ui.widgets.log_pane import LogPane
from lmplay_tui.ui.widgets.plan_pane import PlanNotes, PlanPane
from lmplay_tui.ui.widgets.state_line import StateLine
from tests.ui.conftest import Open, joined, text_of, tick
from tests.ui.fake import FakeSource, fed

PLAN = """\
[train]
lr = 1e-3

[datasets.mine]
path = "user/rows"
text = "txt"

[stages.one]
dataset = "mine"

[stages.two]
datasets = ["pydocs", "tinystories"]
"""
# What the run says; the plan's line of each, where it has one.
REASONS = [
    ("dataset mine: there is no column txt; it has body", 4),
    ("dataset tinystories: the hub has no dataset roneneldan/TinyStories, or it is private", 12),
    ("m.toml:2: train.lr: must be below 1e-4 here", 2),
    ("--device: cuda is not available here; use --device cpu, or a CUDA build of torch", 0),
]


def failed(tmp_path: Path, *reasons: str, exit_code: int = EXIT_USAGE) -> FakeSource:
    source = FakeSource(folder=RunFolder(tmp_path / "m.lmp"))
    source.exit_code = exit_code
    source.waiting = [
        ActivityChanged("loading", "the plan and the checkpoint"),
        RunFailed("\n".join(reasons), exit_code, 0, None),
    ]
    return source


@pytest.fixture
def plan(tmp_path: Path) -> str:
    file = tmp_path / "m.toml"
    file.write_text(PLAN, encoding="utf-8")
    return str(file)


SIZES = [(80, 24), (100, 30), (120, 40), (200, 60)]


@pytest.mark.parametrize("number", range(len(SIZES)), ids=["dataset", "of a mixture", "plan", "device"])
async def test_the_reason_stands_wherever_one_looks(dashboard: Open, tmp_path: Path, plan: str, number: int) -> None:
    (reason, line), size = REASONS[number], SIZES[number]
    source = failed(tmp_path, reason)
    async with dashboard(source, size=size, training_plan=plan) as pilot:
        await _settle(pilot)
        screen = pilot.app.screen
        said = reason.partition(": must")[0]
        state = joined(screen.query_one(StateLine).rows)
        assert state.startswith(" ✗ failed")
        assert said[:20] in state
        curriculum = " ".join(joined(screen.query_one(Curriculum).rows).split())
        assert "✗ " + reason in curriculum
        assert "is being read" not in curriculum
        pane = screen.query_one(PlanPane)
        if line:
            assert pane.display
            assert pane.query_one(TextArea).text == PLAN
            assert [problem.line for problem in pane.problems] == [line]
            assert pane.query_one(TextArea).cursor_location[0] == line - 1
            notes = " ".join(joined(screen.query_one(PlanNotes).rows).split())
            assert notes.startswith(f"✗ {line} ")
            assert reason.removeprefix("m.toml:2: ") in notes
        assert not isinstance(screen.focused, TextArea), "`q` leaves, and is not typed into the plan"
        await pilot.press("q")
        await pilot.pause()
        assert pilot.app.return_value == EXIT_USAGE
    assert ending_lines(source.view) == [reason]


async def _settle(pilot: Pilot[int]) -> None:
    for _ in range(4):
        await tick(pilot)
        await pilot.pause()


async def test_each_of_several_reasons_has_a_line_of_its_own(dashboard: Open, tmp_path: Path, plan: str) -> None:
    reasons = [reason for reason, _ in REASONS]
    source = failed(tmp_path, *reasons)
    async with dashboard(source, size=(160, 50), training_plan=plan) as pilot:
        await _settle(pilot)
        screen = pilot.app.screen
        log = [line[12:].strip() for line in joined(screen.query_one(LogPane).rows).splitlines()]
        assert log[-4:] == [f"failed: {reasons[0]}", *reasons[1:]]
        assert f"{reasons[0]} (and 3 more)" in joined(screen.query_one(StateLine).rows)
        curriculum = joined(screen.query_one(Curriculum).rows)
        assert all(reason in curriculum for reason in reasons)
        assert [problem.line for problem in screen.query_one(PlanPane).problems] == [4, 12, 2, 0]
        assert screen.query_one(PlanPane).query_one(TextArea).cursor_location[0] == 1
        assert len(pilot.app._notifications) == 1, "one toast, not one a reason"
    assert ending_lines(source.view) == reasons


async def test_trouble_of_the_hub_is_no_fault_of_the_plan(dashboard: Open, tmp_path: Path, plan: str) -> None:
    source = failed(tmp_path, "dataset mine: the hub cannot be reached; check the network", exit_code=EXIT_TRAINING)
    async with dashboard(source, training_plan=plan) as pilot:
        await _settle(pilot)
        assert not pilot.app.screen.query_one(PlanPane).problems
        assert "✗ dataset mine: the hub cannot" in joined(pilot.app.screen.query_one(Curriculum).rows)


@pytest.mark.parametrize(("key", "asked"), [("q", "Leave the dashboard?"), ("x", "Stop training?")])
async def test_what_becomes_of_a_run_is_not_asked_once_it_has_failed(dashboard: Open, key: str, asked: str) -> None:
    source = fed(30)
    async with dashboard(source) as pilot:
        await pilot.press(key)
        await tick(pilot)
        assert asked in text_of(pilot.app)
        source.waiting = [RunFailed("the loss is not finite", EXIT_TRAINING, 30, "a.lmp")]
        await tick(pilot)
        await tick(pilot)
        assert asked not in text_of(pilot.app)
        assert "the loss is not finite" in text_of(pilot.app)


async def test_a_run_that_fails_under_way_keeps_its_stages_in_sight(dashboard: Open) -> None:
    source = fed(330)
    async with dashboard(source) as pilot:
        source.waiting = [RunFailed("the loss is not finite", EXIT_TRAINING, 330, "a.lmp")]
        await _settle(pilot)
        rows = joined(pilot.app.screen.query_one(Curriculum).rows).splitlines()
        assert any("docstrings" in row for row in rows)
        assert rows[-1].strip() == "✗ the loss is not finite"
