"""Every binding, button and clickable widget that our classes declare has a case here, or a test fails.

The cases are made from nothing but what a user sees: keys pressed, the mouse, and what became of the screen.
"""

import ast
import importlib
import pkgutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from textual import on
from textual.binding import Binding
from textual.dom import DOMNode
from textual.pilot import Pilot
from textual.strip import Strip
from textual.widgets import Button, Input

import lmplay_tui.ui
from lmplay_tui.options import Launch
from lmplay_tui.run import controls
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.ui.app import LmplayApp
from lmplay_tui.ui.messages import StartAsked
from lmplay_tui.ui.screens.dashboard import Dashboard
from lmplay_tui.ui.screens.dialogs import TypingDialog
from lmplay_tui.ui.tty.painting import shown
from lmplay_tui.ui.widgets.plan_pane import PlanPane
from tests.seams import Seams
from tests.ui.conftest import Open, text_of, whole_launcher
from tests.ui.fake import PLAN, FakeSource, fed
from tests.ui.key_cases import BUTTONS, CLICKS, IN_A_TERMINAL, LEAVING, ON_LAUNCHER, STORIES, Seen


def our_classes() -> Iterator[type]:
    """Every class of our screens and widgets."""
    for module in pkgutil.walk_packages(lmplay_tui.ui.__path__, "lmplay_tui.ui."):
        importlib.import_module(module.name)
    waiting: list[type] = [DOMNode]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        if kind.__module__.startswith("lmplay_tui.ui"):
            yield kind


def declared() -> set[tuple[str, str]]:
    return {
        (kind.__name__, key)
        for kind in our_classes()
        for binding in kind.__dict__.get("BINDINGS", ())
        for key in (binding.key if isinstance(binding, Binding) else binding[0]).split(",")
    }


def buttons_in_source() -> set[str]:
    """The `id` of every `Button(...)` in our source; one without fails."""
    found = set()
    for path in Path(lmplay_tui.ui.__path__[0]).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Button":
                (name,) = [each.value for each in node.keywords if each.arg == "id"]
                assert isinstance(name, ast.Constant)
                found.add(str(name.value))
    return found


def test_every_binding_has_a_case() -> None:
    cases = {(kind, keys.split()[-1]) for kind, story in STORIES.items() for keys, _ in story}
    cases |= {("Launcher", keys.split()[-1]) for keys, _ in ON_LAUNCHER} | {("Launcher", key) for key in LEAVING}
    assert declared() == cases | IN_A_TERMINAL


def test_every_button_has_a_case() -> None:
    assert buttons_in_source() == set(BUTTONS)


def test_every_clickable_widget_has_a_case() -> None:
    assert {kind.__name__ for kind in our_classes() if "on_click" in kind.__dict__} == set(CLICKS)


@pytest.fixture
def planned(tmp_path: Path) -> FakeSource:
    """A run with a plan, and a dozen earlier ones."""
    folder = RunFolder(tmp_path / "run.lmp")
    folder.create()
    folder.plan.write_text(PLAN, encoding="utf-8", newline="\n")
    for number in range(12):
        RunFolder(tmp_path / f"earlier{number}.lmp").create()
    return fed(330, folder=folder)


async def press(pilot: Pilot[Any], keys: str) -> None:
    for key in keys.split():
        await pilot.press(key)
    await pilot.pause()


async def begin_again(pilot: Pilot[Any], source: FakeSource) -> None:
    """No dialog, no toast, nothing sent, the curves in focus."""
    while not isinstance(pilot.app.screen, Dashboard):
        await pilot.press("escape")
    await press(pilot, "2")
    pilot.app.clear_notifications()
    source.sent.clear()


@pytest.mark.long_after(4)
@pytest.mark.parametrize("kind", STORIES)
async def test_every_key_does_what_it_says(dashboard: Open, planned: FakeSource, kind: str) -> None:
    async with dashboard(planned) as pilot:
        for keys, holds in STORIES[kind]:
            planned.sent.clear()
            shown.fit(1)
            list(shown.paint(0, 0, Strip.blank(1), Console()))  # as if a terminal had shown something
            await press(pilot, keys)
            assert holds(Seen(pilot, planned)), (keys, text_of(pilot.app))


class Launching(LmplayApp):
    """An application that remembers what shall be started."""

    started: object = None

    @on(StartAsked)
    def _start(self, message: StartAsked) -> None:
        message.prevent_default()  # nothing shall be trained
        self.started = message.line


@pytest.fixture
def launched(seams: Seams) -> Callable[[], Launching]:
    seams.put("devices", lambda: ["auto", "cpu"])
    seams.put("device speed", lambda device, half: 1e11)
    return lambda: Launching(Launch(), launcher=True, timers=False)


async def test_every_key_of_the_launcher(launched: Callable[[], Launching]) -> None:
    async with launched().run_test(size=(100, 30)) as pilot:
        await whole_launcher(pilot)
        for keys, holds in ON_LAUNCHER:
            await press(pilot, keys)
            assert holds(Seen(pilot, None)), (keys, text_of(pilot.app))
    for key in LEAVING:
        async with launched().run_test(size=(80, 24)) as pilot:
            await press(pilot, key)
            assert pilot.app.return_code == 0, key


@pytest.mark.long
async def test_every_button_by_mouse_and_by_keyboard(
    dashboard: Open, planned: FakeSource, launched: Callable[[], Launching]
) -> None:
    async with dashboard(planned, (200, 60)) as pilot:
        for button in pilot.app.screen.query(Button):
            button.active_effect_duration = 0  # else Enter right after a click is taken for the same press
        for name in sorted(set(BUTTONS) - {"start"}):
            await begin_again(pilot, planned)
            await pilot.click(f"#{name}")
            await pilot.pause()
            assert BUTTONS[name](Seen(pilot, planned)), (name, planned.sent, text_of(pilot.app))
            await begin_again(pilot, planned)
            pilot.app.screen.query_one(f"#{name}").focus()
            await press(pilot, "enter")
            assert BUTTONS[name](Seen(pilot, planned)), (name, planned.sent, text_of(pilot.app))
    async with launched().run_test(size=(100, 30)) as pilot:
        await whole_launcher(pilot)
        await pilot.click("#start")
        await pilot.pause()
        assert BUTTONS["start"](Seen(pilot, None))


@pytest.mark.long
async def test_every_click(dashboard: Open, planned: FakeSource) -> None:
    async with dashboard(planned) as pilot:
        for kind, (keys, where, offset, holds) in CLICKS.items():
            await pilot.resize_terminal(*((80, 24) if kind == "PaneTabs" else (120, 40)))
            await begin_again(pilot, planned)
            await press(pilot, keys)
            if kind == "PlanNotes":
                pilot.app.screen.query_one(PlanPane).check_now()
                await pilot.pause()
            await pilot.click(where, offset=offset)
            await pilot.pause()
            assert holds(Seen(pilot, planned)), (kind, text_of(pilot.app))


@pytest.mark.long
async def test_the_letters_of_choices_win_over_the_keys_that_move(dashboard: Open, planned: FakeSource) -> None:
    async with dashboard(planned) as pilot:
        await press(pilot, "1 down enter k")
        assert "finetune" not in pilot.app.screen.query_one(PlanPane).text


LETTERS = [*sorted({key for _, key in declared() if len(key) == 1}), "slash", "question_mark", "full_stop", "comma"]
TYPED = "".join({"slash": "/", "question_mark": "?", "full_stop": ".", "comma": ","}.get(key, key) for key in LETTERS)


@pytest.mark.long_after(1)
@pytest.mark.parametrize("keys", ["l", "b", "g", "slash", "4 f2", "1 enter e", "6 slash"])
async def test_no_letter_acts_while_a_line_is_typed(dashboard: Open, planned: FakeSource, keys: str) -> None:
    async with dashboard(planned) as pilot:
        await press(pilot, keys)
        dialog = pilot.app.screen
        assert isinstance(dialog, TypingDialog)
        field = dialog.query(Input).first()
        field.value = ""
        await press(pilot, " ".join(LETTERS))
        assert field.value == TYPED
        assert pilot.app.screen is dialog
        assert planned.sent == []
        await pilot.press("ctrl+s", "f2", "f4", "f8")
        assert pilot.app.screen is dialog
        assert planned.sent == []


@pytest.mark.long
async def test_no_letter_acts_in_the_plan_and_in_the_palette(dashboard: Open, planned: FakeSource) -> None:
    async with dashboard(planned) as pilot:
        theme = pilot.app.theme
        await press(pilot, "4 " + " ".join(LETTERS))
        assert pilot.app.screen.query_one(PlanPane).text == TYPED + PLAN
        await press(pilot, "ctrl+p " + " ".join(LETTERS))
        assert pilot.app.screen.query_one(Input).value == TYPED
        await pilot.app.workers.wait_for_complete()
        await press(pilot, "escape")
        assert planned.sent == []
        assert pilot.app.theme == theme


async def test_ctrl_s_saves_what_has_the_focus(dashboard: Open, planned: FakeSource) -> None:
    changed = "# new\n" + PLAN
    async with dashboard(planned, (200, 60)) as pilot:
        pane = pilot.app.screen.query_one(PlanPane)
        pane.replace_text(changed)
        for focused, command in (
            ("plan-text", controls.ChangePlan(changed)),
            ("plan-revert", controls.ChangePlan(changed)),  # a button of the editor
            ("curriculum", controls.SaveNow()),
            ("curves", controls.SaveNow()),
            ("predictions", controls.SaveNow()),
            ("system", controls.SaveNow()),
            ("log", controls.SaveNow()),
            ("save", controls.SaveNow()),
        ):
            pilot.app.screen.query_one(f"#{focused}").focus()
            await press(pilot, "ctrl+s")
            assert planned.sent == [command], focused
            planned.sent.clear()


@pytest.mark.long
async def test_everything_is_reached_by_tab_alone(launched: Callable[[], Launching], dashboard: Open) -> None:
    async with dashboard(fed(330), (200, 60)) as pilot:
        wanted = {widget.id for widget in pilot.app.screen.focus_chain}
        assert {"plan-text", "plan-apply", "curriculum", "log", "save"} <= wanted
        for key in ("tab", "shift+tab"):
            seen = set()
            for _ in wanted:
                seen.add(pilot.app.focused.id if pilot.app.focused is not None else None)
                await pilot.press(key)
            assert wanted == seen, key
    async with launched().run_test(size=(80, 24)) as pilot:
        await press(pilot, "tab")  # the list of runs is empty
        assert pilot.app.focused is not None
        assert pilot.app.focused.id == "start"
        await press(pilot, "tab")
        assert pilot.app.focused.id == "plans"
