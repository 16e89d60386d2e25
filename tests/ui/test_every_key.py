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
from textual.widgets import Button, Input, TextArea

import lmplay_tui.ui
from lmplay_tui.run import controls
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.ui.app import LmplayApp
from lmplay_tui.ui.messages import StartAsked
from lmplay_tui.ui.screens.dashboard import PANES, Dashboard
from lmplay_tui.ui.screens.dialogs import ChoiceDialog, ChoiceList, TypingDialog
from lmplay_tui.ui.screens.help import Help
from lmplay_tui.ui.screens.runs import Runs
from lmplay_tui.ui.shown import shown
from lmplay_tui.ui.widgets.curves import Curves
from lmplay_tui.ui.widgets.picker import Picker
from lmplay_tui.ui.widgets.plan_pane import PlanPane
from lmplay_tui.ui.widgets.predictions import Predictions
from tests.ui.conftest import Open, text_of, whole_launcher
from tests.ui.fake import FakeSource, fed
from tests.ui.test_plan_editor import PLAN

Looked = Callable[[Any], object]  # of the case's `Seen`
Case = tuple[str, Looked]  # keys, the one that it is about last; what must then hold


class Seen:
    """What a case looks at."""

    def __init__(self, pilot: Pilot[int], source: FakeSource | None) -> None:
        self.app = pilot.app
        self.source = source

    @property
    def screen(self) -> Any:
        return self.app.screen

    @property
    def curves(self) -> Any:
        return self.screen.query_one(Curves).window

    @property
    def place(self) -> str:
        """Which prediction is looked at."""
        return str(self.screen.query_one(Predictions)._border_subtitle)

    @property
    def plan(self) -> PlanPane:
        return self.screen.query_one(PlanPane)

    @property
    def picked(self) -> int:
        return self.screen.query_one(Picker).index

    @property
    def chosen(self) -> int:
        return self.screen.query_one(ChoiceList).chosen

    @property
    def toasts(self) -> str:
        return " ".join(notice.message for notice in self.app._notifications)

    def sent(self, command: controls.Command) -> bool:
        assert self.source is not None
        return self.source.sent == [command]

    def asks(self, kind: type, title: str) -> bool:
        return isinstance(self.screen, kind) and title in text_of(self.app)

    def focus_is_in(self, name: str) -> bool:
        focused = self.app.focused
        return focused is not None and any(node.id == name for node in (focused, *focused.ancestors))


# class -> its keys in a story: each case ends with the key that it is about
STORIES: dict[str, list[Case]] = {
    "Commanding": [
        ("s", lambda s: s.sent(controls.SaveNow())),
        ("p", lambda s: s.sent(controls.Pause())),
        ("v", lambda s: s.sent(controls.ValidateNow())),
        ("2 ctrl+s", lambda s: s.sent(controls.SaveNow())),
        ("x", lambda s: s.asks(ChoiceDialog, "Stop training?")),
        ("escape l", lambda s: s.asks(TypingDialog, "Learning rate")),
        ("escape b", lambda s: s.asks(TypingDialog, "Bookmark")),
        ("escape g", lambda s: s.asks(TypingDialog, "Ask the model")),
        ("escape r", lambda s: s.asks(Runs, "runs")),
        ("escape slash", lambda s: s.asks(TypingDialog, "Filter the curves")),
        ("escape question_mark", lambda s: s.asks(Help, "save a checkpoint now")),
        ("escape f1", lambda s: s.asks(Help, "save a checkpoint now")),
        ("escape q", lambda s: s.asks(ChoiceDialog, "Leave the dashboard?")),
        ("escape ctrl+q", lambda s: s.asks(ChoiceDialog, "Leave the dashboard?")),
        ("escape z", lambda s: not s.screen.query_one("#log").display),
        ("escape", lambda s: s.screen.query_one("#log").display),
        *[(str(number), lambda s, n=number: s.focus_is_in(PANES[n - 1])) for number in (1, 2, 3, 5, 6)],
        ("4", lambda s: s.focus_is_in("plan-text")),
        ("escape e", lambda s: s.focus_is_in("plan-text")),
        ("ctrl+c", lambda s: s.sent(controls.Stop(reason="ctrl+c"))),
    ],
    "LmplayApp": [
        ("t", lambda s: s.app.theme == "lmplay-light"),
        ("ctrl+l", lambda s: not shown.known),
        ("ctrl+p", lambda s: "Search for commands" in text_of(s.app)),
        ("escape x ctrl+c", lambda s: s.sent(controls.Stop(reason="ctrl+c"))),
    ],
    "Curriculum": [
        ("1 up", lambda s: s.screen.query_one("#curriculum").chosen == 0),
        ("down", lambda s: s.screen.query_one("#curriculum").chosen == 1),
        ("enter", lambda s: s.asks(ChoiceDialog, "Stage docstrings")),
    ],
    "Curves": [
        ("2 right", lambda s: s.curves.selected == 1),
        ("left", lambda s: s.curves.selected == 0),
        ("up", lambda s: s.curves.view == "stage"),
        ("down", lambda s: s.curves.view == "full"),
        ("plus", lambda s: s.curves.zoom == 1),
        ("equals_sign", lambda s: s.curves.zoom == 2),
        ("minus", lambda s: s.curves.zoom == 1),
        ("shift+left", lambda s: s.curves.pan == 0.25),
        ("comma", lambda s: s.curves.pan == 0.5),
        ("shift+right", lambda s: s.curves.pan == 0.25),
        ("full_stop", lambda s: s.curves.pan == 0),
        ("y", lambda s: s.curves.log),
        ("m", lambda s: s.curves.span == 100),
        ("enter", lambda s: s.curves.cursor == 330),
        ("left_square_bracket", lambda s: s.curves.cursor == 300 and "saved" in text_of(s.app)),
        ("left_square_bracket right_square_bracket", lambda s: s.curves.cursor == 300),
        ("a", lambda s: s.curves.axis == "rows" and s.curves.cursor == 3000),
        ("escape", lambda s: s.curves.cursor is None),
    ],
    "Predictions": [
        ("3 left", lambda s: s.place == "32/33"),
        ("left right", lambda s: s.place == "32/33"),
        ("home", lambda s: s.place == "1/33"),
        ("end", lambda s: s.place == "newest of 33"),
        ("left_square_bracket", lambda s: s.place == "32/33"),
        ("left right_square_bracket", lambda s: s.place == "32/33"),
        ("up", lambda s: "validation only" in s.place),
        ("down", lambda s: "only" not in s.place),
        ("i", lambda s: s.sent(controls.Pin("Title: collections.OrderedDict"))),
        ("enter", lambda s: "true 'Return'" in text_of(s.app)),
        ("escape", lambda s: "true 'Return'" not in text_of(s.app)),
    ],
    "PlanPane": [
        ("4 x ctrl+s", lambda s: s.source.sent == [] and "not applied" in [n.title for n in s.app._notifications]),
        ("down down f8", lambda s: s.plan.query_one(TextArea).cursor_location == (0, 0)),
        ("f4", lambda s: s.plan.text == PLAN),
        ("f9", lambda s: "no file of this plan has changed" in s.toasts),
        ("f2", lambda s: s.asks(TypingDialog, "Save the plan")),
        ("escape escape", lambda s: not s.focus_is_in("plan")),
    ],
    "Picker": [
        ("r down", lambda s: s.picked == 1),
        ("j", lambda s: s.picked == 2),
        ("up", lambda s: s.picked == 1),
        ("k", lambda s: s.picked == 0),
        ("pagedown", lambda s: s.picked == 10),
        ("pageup", lambda s: s.picked == 0),
        ("enter", lambda s: s.screen.ghost is not None),
    ],
    "Runs": [
        ("r escape", lambda s: isinstance(s.screen, Dashboard) and s.screen.ghost is None),
        ("r r", lambda s: isinstance(s.screen, Dashboard) and s.screen.ghost is None),
        ("r q", lambda s: isinstance(s.screen, Dashboard) and s.screen.ghost is None),
        ("r enter r n", lambda s: isinstance(s.screen, Dashboard) and s.screen.ghost is None),
    ],
    "ChoiceDialog": [
        ("x down", lambda s: s.chosen == 1),
        ("up", lambda s: s.chosen == 0),
        ("j", lambda s: s.chosen == 1),
        ("k", lambda s: s.chosen == 0),
        ("tab", lambda s: s.chosen == 1),
        ("escape", lambda s: isinstance(s.screen, Dashboard) and s.source.sent == []),
        ("x enter", lambda s: s.sent(controls.Stop(when="now"))),
    ],
    "TypingDialog": [("b h escape", lambda s: isinstance(s.screen, Dashboard) and s.source.sent == [])],
    "Help": [
        (f"question_mark {key}", lambda s: isinstance(s.screen, Dashboard))
        for key in ("escape", "q", "question_mark", "f1", "enter")
    ],
}

ON_LAUNCHER: list[Case] = [
    ("tab", lambda s: not s.focus_is_in("plans")),
    ("d", lambda s: "device cpu" in text_of(s.app)),
    ("m", lambda s: "experiment gpt2ish" in text_of(s.app)),
    ("question_mark", lambda s: isinstance(s.screen, Help)),
    ("escape f1", lambda s: isinstance(s.screen, Help)),
    ("escape shift+tab enter", lambda s: s.app.started == {"training_plan": "demo", "device": "cpu", "exp": "gpt2ish"}),
]
IN_A_TERMINAL = {("LmplayApp", "ctrl+z")}  # tests/faults/test_lost_lines.py presses it
LEAVING = ("q", "ctrl+q", "ctrl+c")  # each ends the launcher

BUTTONS: dict[str, Looked] = {
    "save": lambda s: s.sent(controls.SaveNow()),
    "pause": lambda s: s.sent(controls.Pause()),
    "stop": lambda s: s.asks(ChoiceDialog, "Stop training?"),
    "plan-apply": lambda s: "nothing is changed" in s.toasts,
    "plan-save-as": lambda s: s.asks(TypingDialog, "Save the plan"),
    "plan-revert": lambda s: s.plan.text == PLAN,
    "start": lambda s: s.app.started == {"training_plan": "demo", "device": "auto"},
}

# class with `on_click` -> keys before, what is clicked and where, what must then hold
CLICKS: dict[str, tuple[str, str, tuple[int, int], Looked]] = {
    "PaneTabs": ("4", "#tabs", (33, 0), lambda s: s.focus_is_in("predictions")),
    "Curriculum": ("", "#curriculum", (8, 3), lambda s: s.screen.query_one("#curriculum").chosen == 1),
    "Curves": ("2", "#curves", (40, 6), lambda s: s.curves.cursor is not None),
    "KeyBar": ("2", "#keys", (30, 0), lambda s: s.curves.log),
    "Picker": ("r", "#runs-list", (8, 2), lambda s: s.picked == 2),
    "ChoiceList": ("x", "#choices", (8, 1), lambda s: s.sent(controls.Stop(when="stage_end"))),
    "PlanNotes": (
        "4 x down down down",
        "#plan-notes",
        (8, 0),
        lambda s: s.plan.query_one(TextArea).cursor_location == (0, 0),
    ),
}


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
        self.started = message.given


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Launching]:
    monkeypatch.setattr("lmplay_tui.ui.screens.launcher.devices", lambda: ["auto", "cpu"])
    monkeypatch.setattr("lmplay_tui.ui.launch_lists.device_flops", lambda device, half: 1e11)
    return lambda: Launching({}, launcher=True, timers=False)


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


async def test_the_letters_of_choices_win_over_the_keys_that_move(dashboard: Open, planned: FakeSource) -> None:
    async with dashboard(planned) as pilot:
        await press(pilot, "1 down enter k")
        assert "finetune" not in pilot.app.screen.query_one(PlanPane).text


LETTERS = [*sorted({key for _, key in declared() if len(key) == 1}), "slash", "question_mark", "full_stop", "comma"]
TYPED = "".join({"slash": "/", "question_mark": "?", "full_stop": ".", "comma": ","}.get(key, key) for key in LETTERS)


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
