"""Leaving the dashboard with a plan in the editor that was not applied: the text is never lost silently."""

from pathlib import Path

import pytest

from lmplay_tui.run.folder import RunFolder
from lmplay_tui.ui.app import LmplayApp
from lmplay_tui.ui.drafts import keep_draft
from lmplay_tui.ui.widgets.plan_pane import PlanPane
from tests.ui.conftest import Open
from tests.ui.fake import FakeSource, fed


@pytest.mark.parametrize("way", ["q", "ctrl+c", "signal", "ctrl+c twice", "nothing typed", "applied"])
async def test_what_was_typed_is_known_when_the_screen_is_gone(dashboard: Open, tmp_path: Path, way: str) -> None:
    run = RunFolder(tmp_path / "m.lmp")
    run.create()
    run.plan.write_text('[stages.a]\ndataset = "pydocs"\n', encoding="utf-8")
    source = fed(60, live=way in ("ctrl+c twice", "applied"), folder=run)
    async with dashboard(source) as pilot:
        app = pilot.app
        assert isinstance(app, LmplayApp)
        app.tick()
        await pilot.press("e")
        if way != "nothing typed":
            await pilot.press(*"# x")
        app.screen.query_one(PlanPane).check_now()
        if way == "applied":
            await pilot.press("ctrl+s")
            run.plan.write_text(app.screen.query_one(PlanPane).text, encoding="utf-8")
            app.tick()
        await pilot.press("escape")
        match way:
            case "signal":
                app.stop_by_signal("SIGTERM")
                app.tick()
            case "applied":
                app.exit(0)
            case _:
                await pilot.press(*{"ctrl+c twice": ["ctrl+c", "ctrl+c"], "ctrl+c": ["ctrl+c"]}.get(way, ["q"]))
        await pilot.pause()
    lost = way not in ("nothing typed", "applied")
    assert app.unsaved_plan == ('# x[stages.a]\ndataset = "pydocs"\n' if lost else None)


def test_a_draft_is_kept_beside_the_run_and_no_earlier_one_is_lost(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "m.lmp")
    run.create()
    folder = run.plan.parent
    assert keep_draft("one", run).endswith(f"it is kept in {folder / 'plan.draft.toml'}")
    assert keep_draft("two", run).endswith("plan.draft-2.toml")
    assert (folder / "plan.draft.toml").read_text() == "one"
    assert (folder / "plan.draft-2.toml").read_text() == "two"


def test_a_draft_finds_another_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    gone = RunFolder(tmp_path / "gone" / "m.lmp")  # the run's folder has vanished
    assert str(tmp_path / "plan.draft.toml") in keep_draft("text", gone)
    assert (tmp_path / "plan.draft.toml").read_text() == "text"


async def test_buttons_of_a_run_that_is_over_say_so(dashboard: Open, source: FakeSource) -> None:
    async with dashboard(source) as pilot:
        buttons = pilot.app.screen.query("#top Button")
        assert len(buttons) == 3 and not any(button.disabled for button in buttons)
        source.view.state = "finished"
        pilot.app.tick()  # type: ignore[attr-defined]
        assert all(button.disabled for button in buttons)
