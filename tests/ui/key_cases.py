"""What each key, button and click of the dashboard does, as a user sees it: the cases of `test_every_key.py`."""

from collections.abc import Callable
from typing import Any

from textual.pilot import Pilot
from textual.widgets import TextArea

from lmplay_tui.run import controls
from lmplay_tui.ui.screens.dashboard import PANES, Dashboard
from lmplay_tui.ui.screens.dialogs import ChoiceDialog, ChoiceList, TypingDialog
from lmplay_tui.ui.screens.help import Help
from lmplay_tui.ui.screens.runs import Runs
from lmplay_tui.ui.tty.painting import shown
from lmplay_tui.ui.widgets.curves import Curves
from lmplay_tui.ui.widgets.picker import Picker
from lmplay_tui.ui.widgets.plan_pane import PlanPane
from lmplay_tui.ui.widgets.predictions import Predictions
from tests.ui.conftest import text_of
from tests.ui.fake import PLAN, FakeSource

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
    "Dashboard": [
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
        ("f5", lambda s: not s.screen.query_one("#log").display),
        ("f5", lambda s: s.screen.query_one("#log").display),
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
        ("m", lambda s: s.curves.span == 200),
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
        ("ctrl+end", lambda s: s.plan.query_one(TextArea).cursor_location == s.plan.query_one(TextArea).document.end),
        ("ctrl+home", lambda s: s.plan.query_one(TextArea).cursor_location == (0, 0)),
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
        (f"question_mark {key}", lambda s: isinstance(s.screen, Dashboard)) for key in ("escape", "q", "f1", "enter")
    ]
    + [
        ("question_mark question_mark", lambda s: s.asks(Help, "how to read the screen")),
        ("question_mark", lambda s: s.asks(Help, "save a checkpoint now")),
        ("tab", lambda s: s.asks(Help, "how to read the screen")),
    ],
}

ON_LAUNCHER: list[Case] = [
    ("tab", lambda s: not s.focus_is_in("plans")),
    ("d", lambda s: "device cpu" in text_of(s.app)),
    ("m", lambda s: "experiment gpt2ish" in text_of(s.app)),
    ("n", lambda s: "processes 2" in text_of(s.app)),
    ("question_mark", lambda s: isinstance(s.screen, Help)),
    ("escape f1", lambda s: isinstance(s.screen, Help)),
    (
        "escape shift+tab enter",
        lambda s: s.app.started == {"training_plan": "demo", "device": "cpu", "nproc": 2, "exp": "gpt2ish"},
    ),
]
IN_A_TERMINAL = {("LmplayApp", "ctrl+z")}  # tests/faults/test_hangups.py presses it
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
