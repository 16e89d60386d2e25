"""The dashboard's keys that speak to the run: save, stop, pause, learning rate, asking, leaving."""

import time
from collections.abc import Mapping
from typing import Any, ClassVar

from textual.actions import SkipAction
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import Button, Input, TextArea

from lmplay_tui.run import controls
from lmplay_tui.run.journal import number
from lmplay_tui.run.learning_rate import parse_lr
from lmplay_tui.run.view import RunView
from lmplay_tui.ui import notices
from lmplay_tui.ui.messages import GhostAsked, LeaveAsked, PredictionsAsked, Rang, StartAsked, TitleChanged
from lmplay_tui.ui.screens import questions
from lmplay_tui.ui.screens.runs import Runs
from lmplay_tui.ui.source import Source
from lmplay_tui.ui.terminal import TWICE_WITHIN_S


class Commanding(Screen[None]):
    """A screen on a run that can be told what to do. `view` and `source` are the dashboard's."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "save", "save", tooltip="save a checkpoint now"),
        Binding("x", "stop", "stop", tooltip="stop: now, or at the stage's end"),
        Binding("p", "pause", "pause", tooltip="pause, or go on"),
        Binding("v", "validate", "validate", show=False, tooltip="validate now"),
        Binding("l", "learning_rate", "lr", tooltip="change the learning rate"),
        Binding("e", "pane(4)", "plan", tooltip="edit the plan"),
        Binding("b", "bookmark", "bookmark", show=False, tooltip="bookmark this step, with a note"),
        Binding("g", "ask", "ask", tooltip="ask the model"),
        Binding("r", "runs", "runs", tooltip="other runs: one as a ghost"),
        Binding("slash", "filter", "filter", show=False, key_display="/", tooltip="filter the curves or the log"),
        Binding("z", "zoom", "max", show=False, tooltip="the focused pane alone, or all"),
        Binding("escape", "back", "back", show=False),
        Binding("1", "pane(1)", "curriculum", show=False, tooltip="show the curriculum"),
        Binding("2", "pane(2)", "curves", show=False, tooltip="show the curves"),
        Binding("3", "pane(3)", "predictions", show=False, tooltip="show the predictions"),
        Binding("4", "pane(4)", "plan", show=False, tooltip="show the plan editor"),
        Binding("5", "pane(5)", "system", show=False, tooltip="show the system"),
        Binding("6", "pane(6)", "log", show=False, tooltip="show the log"),
        Binding("ctrl+s", "save", "save", show=False, tooltip="save what has the focus"),
        Binding("question_mark,f1", "help", "help", key_display="?", tooltip="these keys"),
        Binding("q,ctrl+q", "leave", "quit", key_display="q", tooltip="leave: stop, detach or stay"),
        Binding(
            "ctrl+c",
            "interrupt",
            "stop gracefully",
            show=False,
            priority=True,
            tooltip="stop; twice: leave at once",
        ),
    ]

    source: Source
    options: Mapping[str, Any]

    def __init__(self) -> None:
        super().__init__()
        self._interrupted_at = -1e9
        self._news = notices.News()
        self._terminal_title = ""
        self._asked_how_to_go_on = False

    @property
    def view(self) -> RunView:
        return self.source.view

    def _tell(self, command: controls.Command, said: str) -> None:
        """Send a command, and say so; where nothing runs any more, say that."""
        if self.view.over:
            self.notify(f"the run is {self.view.state}", severity="warning", markup=False)
            return
        if not self.source.send(command):
            self.notify(self.view.log[-1].text, severity="warning", markup=False)
        elif said:
            self.notify(said, timeout=3, markup=False)

    # ---- saving, stopping, pausing

    def action_save(self) -> None:
        self._tell(controls.SaveNow(), "saving after this step")

    def action_validate(self) -> None:
        self._tell(controls.ValidateNow(), "validating after this step")

    def action_pause(self) -> None:
        if self.view.state == "paused":
            self._tell(controls.Resume(), "")
        else:
            self._tell(controls.Pause(), "pausing after this step")

    def action_stop(self) -> None:
        if self.view.over:
            self.notify(f"the run is {self.view.state}; q leaves", markup=False)
            return
        stage = self.view.stage.name if self.view.stage else ""

        def answered(when: questions.StopAnswer | None) -> None:
            if when is not None:
                said = "stopping: saving what has been trained" if when == "now" else "stopping at the stage's end"
                self._tell(controls.Stop(when=when), said)

        self.app.push_screen(questions.stop_dialog(stage), answered)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        actions = {"save": self.action_save, "pause": self.action_pause, "stop": self.action_stop}
        if event.button.id in actions:
            event.stop()
            actions[event.button.id]()

    def action_leave(self) -> None:
        """Leave at once where nothing is lost by it, else ask."""
        if self.view.over or not self.source.live:
            self.post_message(LeaveAsked())
            return

        def answered(what: questions.QuitAnswer | None) -> None:
            if what == "stop":
                self._tell(controls.Stop(), "stopping: saving what has been trained")
            elif what == "detach":
                self._tell(controls.HandOver(), "saving, then going on without this terminal")

        self.app.push_screen(questions.quit_dialog(), answered)

    def action_interrupt(self) -> None:
        """Ctrl+C: copies where text is selected, else stops; again within five seconds it leaves at once."""
        focused = self.app.focused
        if isinstance(focused, TextArea | Input) and focused.selected_text:
            raise SkipAction
        if self.view.over or not self.source.live:
            self.post_message(LeaveAsked())
            return
        now = time.monotonic()
        if now - self._interrupted_at <= TWICE_WITHIN_S:
            self.post_message(LeaveAsked(at_once=True))
            return
        self._interrupted_at = now
        self.source.send(controls.Stop(reason="ctrl+c"))
        self.notify("stopping: saving what has been trained; ctrl+c again leaves at once", timeout=TWICE_WITHIN_S)

    # ---- what is typed

    def action_learning_rate(self) -> None:
        lr = self.view.last_step.get("lr", self.view.last_step.get("train/lr"))

        def answered(answers: list[str] | None) -> None:
            command = parse_lr(answers[0]) if answers else None
            if command is not None:
                self._tell(command, "the learning rate changes with the next step")

        self.app.push_screen(questions.lr_dialog(None if lr is None else number(lr), self.view.lr_factor), answered)

    def action_bookmark(self) -> None:
        def answered(answers: list[str] | None) -> None:
            if answers is not None:
                self._tell(controls.Bookmark(answers[0]), "")

        self.app.push_screen(questions.bookmark_dialog(int(self.view.at.step)), answered)

    def action_ask(self) -> None:
        def answered(answers: list[str] | None) -> None:
            if answers is not None:
                self._tell(questions.asked(answers), "asked: the answer comes with the next step")
                self.post_message(PredictionsAsked("asked"))

        self.app.push_screen(questions.ask_dialog(), answered)

    def action_help(self) -> None:
        from lmplay_tui.ui.screens.help import Help, actions_of

        self.app.push_screen(Help(actions_of(self)))

    def action_runs(self) -> None:
        def answered(path: str | None) -> None:
            if path is not None:
                self.post_message(GhostAsked(path or None))

        self.app.push_screen(Runs(self.options.get("out_dir"), self.view.name), answered)

    # ---- a start of a run that is finished

    def ask_how_to_go_on(self) -> None:
        """Nothing was trained, for the plan was done before this start: look at it, extend it or start anew."""
        result = self.view.result or {}
        if self._asked_how_to_go_on or not (self.source.live and result.get("already")):
            return
        self._asked_how_to_go_on = True
        model = str(result.get("path"))

        def answered(what: questions.FinishedAnswer | None) -> None:
            if what == "extend":
                self.app.push_screen(questions.extend_run_dialog(self.view.name), extended)
            elif what == "anew":
                self.post_message(StartAsked({"model": model, "reset_history": True}))

        def extended(answers: list[str] | None) -> None:
            if answers is not None:
                self.post_message(StartAsked({"model": model, "extend": float(answers[0])}))

        self.app.push_screen(questions.finished_dialog(self.view.name), answered)

    # ---- news

    def tell_news(self) -> None:
        """Toasts, the bell and the title, for what has happened since the last time."""
        for notice in self._news.of(self.view):
            self.notify(notice.text, title=notice.title, severity=notice.severity, timeout=notice.seconds, markup=False)
            if notice.rings:
                self.post_message(Rang(f"{self.view.name}: {notice.text}"))
        title = notices.terminal_title(self.view)
        if title != self._terminal_title:
            self._terminal_title = title
            self.post_message(TitleChanged(title))
