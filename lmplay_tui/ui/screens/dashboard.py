"""The dashboard: six panes on one run, live or attached, and the keys by which the run is commanded."""

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from textual import events, on
from textual.actions import SkipAction
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Horizontal
from textual.dom import DOMNode
from textual.reactive import Reactive
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Button, Input, TextArea

from lmplay_tui.formats import time_zone
from lmplay_tui.options import TrainOptions
from lmplay_tui.process import TWICE_WITHIN_S, Interrupts
from lmplay_tui.run import controls
from lmplay_tui.run.events import RunDone
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.run.learning_rate import parse_lr
from lmplay_tui.run.view import RunView
from lmplay_tui.text import one_line
from lmplay_tui.ui import notices
from lmplay_tui.ui.hints import Hints
from lmplay_tui.ui.messages import (
    ActionAsked,
    CommandAsked,
    GhostAsked,
    KeysChanged,
    LeaveAsked,
    PaneAsked,
    PlanApplied,
    PlanEdited,
    PredictionsAsked,
    Rang,
    SavePlanAsked,
    StageAsked,
    StartAsked,
    TitleChanged,
)
from lmplay_tui.ui.screens import dialogs
from lmplay_tui.ui.screens.help import keys_now
from lmplay_tui.ui.screens.plan_editor import PlanEditor
from lmplay_tui.ui.source import FolderSource, RunSource
from lmplay_tui.ui.widgets.curriculum import Curriculum, failure_rows
from lmplay_tui.ui.widgets.curves import Curves, Ghost
from lmplay_tui.ui.widgets.key_bar import KeyBar
from lmplay_tui.ui.widgets.log_pane import LogPane
from lmplay_tui.ui.widgets.plan_pane import PlanPane
from lmplay_tui.ui.widgets.predictions import Predictions
from lmplay_tui.ui.widgets.state_line import Compact, PaneTabs, StateLine
from lmplay_tui.ui.widgets.system import Machine, MachineReading, System

PANES = ("curriculum", "curves", "predictions", "plan", "system", "log")
CURVES_EVERY_S = 4.0  # a slow line: the curves are most of what is sent
MACHINE_EVERY_S = 2.0


class Dashboard(Screen[None]):
    """Polls its source and hands what it finds to the panes."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "save", "save", tooltip="save a checkpoint now"),
        Binding("x", "stop", "stop", tooltip="stop: now, or at the stage's end"),
        Binding("p", "pause", "pause", tooltip="pause, or go on"),
        Binding("v", "validate", "validate", show=False, tooltip="validate now"),
        Binding("l", "learning_rate", "lr", tooltip="change the learning rate"),
        Binding("e", "pane('plan')", "plan", tooltip="edit the plan"),
        Binding("b", "bookmark", "bookmark", show=False, tooltip="bookmark this step, with a note"),
        Binding("g", "ask", "ask", tooltip="ask the model"),
        Binding("r", "runs", "runs", tooltip="other runs: one as a ghost"),
        Binding("slash", "filter", "filter", show=False, key_display="/", tooltip="filter the curves or the log"),
        Binding("z,f5", "zoom", "max", show=False, tooltip="one pane alone, or all; f5 in a text"),
        Binding("escape", "back", "back", show=False),
        Binding("1", "pane('curriculum')", "curriculum", show=False, tooltip="show the curriculum"),
        Binding("2", "pane('curves')", "curves", show=False, tooltip="show the curves"),
        Binding("3", "pane('predictions')", "predictions", show=False, tooltip="show the predictions"),
        Binding("4", "pane('plan')", "plan", show=False, tooltip="show the plan editor"),
        Binding("5", "pane('system')", "system", show=False, tooltip="show the system"),
        Binding("6", "pane('log')", "log", show=False, tooltip="show the log"),
        Binding("ctrl+s", "save", "save", show=False, tooltip="save what has the focus"),
        Binding("question_mark,f1", "help", "help", key_display="?", tooltip="these keys"),
        Binding("q,ctrl+q", "leave", "quit", key_display="q", tooltip="leave: stop, detach or stay"),
        Binding(
            "ctrl+c", "interrupt", "stop gracefully", show=False, priority=True, tooltip="stop; twice: leave at once"
        ),
    ]

    AUTO_FOCUS = "#curves"
    focused: Reactive[Widget | None] = Reactive(None, repaint=False)  # Textual's paints the whole screen again

    def __init__(self, source: RunSource, options: TrainOptions, *, ascii_only: bool = False) -> None:
        super().__init__()
        self.source = source
        self.options = options
        self.plan_editor = PlanEditor(
            self, source, self._send, price_per_hour=options.price_per_hour, asked=options.training_plan
        )
        self.ghost: Ghost | None = None
        self.ghost_source: RunSource | None = None
        self._catching_up = self._was_behind = False
        self._interrupts = Interrupts()
        self._question: dialogs.ChoiceDialog[Any] | None = None  # the last about the run's end
        self._news = notices.News()
        self._terminal_title = ""
        self._asked_how_to_go_on = False
        self._ascii_only = ascii_only
        self._zone = time_zone(options.tz)
        self._machine = Machine()
        self._readings: Sequence[MachineReading] = ()
        self._curves_at = self._machine_at = -1e9
        self._shown_pane = "curriculum"
        self._cells: tuple[int, int] = (0, 0)
        self._layout = "-medium"
        self._zoomed = False
        self._rows_now = ""
        self._buttons = (False, False)  # as they are made: whether it is paused, and over

    def compose(self) -> ComposeResult:
        with Horizontal(id="top"):
            price = self.options.price_per_hour
            yield StateLine(zone=self._zone, price_per_hour=price, attached=not self.source.live)
            yield Button("Save", id="save", compact=True)
            yield Button("Pause", id="pause", compact=True)
            yield Button("Stop", id="stop", compact=True)
        yield PaneTabs(PANES)
        yield Compact(zone=self._zone)
        with Container(id="body"):
            yield Curriculum(zone=self._zone)
            yield Curves(ascii_only=self._ascii_only)
            yield Predictions()
            yield PlanPane(self.plan_editor.check)
            yield System()
            yield LogPane(zone=self._zone)
        yield Hints(self._lay_out)
        yield KeyBar()

    @property
    def view(self) -> RunView:
        """What is known of the run."""
        return self.source.view

    @property
    def composed(self) -> bool:
        """Whether its panes are there: not yet when it was just pushed, never where the app was left just then."""
        return self.is_mounted and bool(self.children)

    # ---- time

    def tick(self, now: float | None = None) -> None:
        """Take in what is new and show it; called some times a second."""
        now = asyncio.get_running_loop().time() if now is None else now
        if not self._catching_up:
            self.catch_up()
        self.show_news()
        self._take_back_question()
        self.ask_how_to_go_on()
        if self.plan_editor.shows_new_failure():
            self.set_focus(None)  # what is typed now was not meant for the editor
            self._choose_pane("plan", focus=False)
        if self.app.screen is self or not self.is_current:
            self.plan_editor.follow_run()
        self.draw(now)

    def catch_up(self) -> None:
        """Take in what is new; the journals of a long run in pieces, one behind the other, with keys between them."""
        self._catching_up = False
        sources = [source for source in (self.source, self.ghost_source) if source is not None]
        for source in sources:
            source.poll()
        if any(source.behind for source in sources):
            self._catch_up_soon()
        elif self._was_behind:
            self._was_behind = False
            self.refresh_now()

    def _catch_up_soon(self) -> None:
        if not self._catching_up:
            self._catching_up = self._was_behind = True
            # The loop turns meanwhile: keys come first. Not by a timer of Textual's: one that begins late never rings.
            asyncio.get_running_loop().call_later(0.001, self.call_next, self.catch_up)

    def draw(self, now: float) -> None:
        """Hand the run to each pane that is in sight."""
        if self.app.return_code is not None:  # the screen is left: its panes go, one by one
            return
        view = self.view
        self.query_one(StateLine).show(view)
        self._draw_buttons(view)
        self._show_keys()
        if self.has_class("-tiny"):
            self.query_one(Compact).show(view)
            return
        self._draw_if_seen(Curriculum, lambda pane: pane.show(view))
        self._draw_if_seen(Predictions, lambda pane: pane.show(view))
        self._draw_if_seen(LogPane, lambda pane: pane.show(view))
        if now - self._curves_at >= CURVES_EVERY_S:
            self._curves_at = now
            self._draw_if_seen(Curves, lambda pane: pane.show(view, self.ghost))
        self._draw_if_seen(System, lambda pane: pane.show(view, self._read_machine(now)))
        self._lay_rows(view)

    def _draw_buttons(self, view: RunView) -> None:
        shown = (view.state == "paused", view.over)
        if shown == self._buttons:
            return
        paused, over = self._buttons = shown
        self.query_one("#pause", Button).label = "Go on" if paused else "Pause"
        for button in self.query("#top Button"):
            button.disabled = over  # nothing listens any more

    def _read_machine(self, now: float) -> Sequence[MachineReading]:
        """The machine's newest readings; asked for only while the pane is in sight."""
        if now - self._machine_at >= MACHINE_EVERY_S:
            self._machine_at = now
            alone = self.view.ranks is None  # else each rank's line tells of its own GPU and memory
            self._readings = self._machine.read(*(self.view.device, self.source.pid) if alone else ("", None))
        return self._readings

    def _draw_if_seen(self, kind: type[Any], show: Callable[[Any], None]) -> None:
        pane = self.query_one(kind)
        if pane.display and pane.size.width:
            show(pane)

    def refresh_now(self) -> None:
        """Draw all panes at once, the curves too."""
        self._curves_at = -1e9
        self.draw(asyncio.get_running_loop().time())

    def show_news(self) -> None:
        """Show toasts, ring and set the terminal's title, for what has happened since the last time."""
        for notice in self._news.of(self.view):
            self.notify(notice.text, title=notice.title, severity=notice.severity, timeout=notice.seconds, markup=False)
            if notice.rings:
                self.post_message(Rang(f"{self.view.name}: {notice.text}"))
        title = notices.terminal_title(self.view)
        if title != self._terminal_title:
            self._terminal_title = title
            self.post_message(TitleChanged(title))

    # ---- layout

    def on_mount(self) -> None:
        if not self.children:  # the app was left before it was composed
            return
        self._choose_pane("curves", focus=False)
        if self.source.behind:
            self.call_after_refresh(self.catch_up)

    def on_resize(self, event: events.Resize) -> None:
        if not self.children:
            return
        width, height = event.size
        self._cells = (width, height)
        layout = "-large" if width >= 160 and height >= 45 else "-medium"
        if width < 100 or height < 28:
            layout = "-single"
        if width < 50 or height < 14:
            layout = "-tiny"
        self._layout = layout
        self._lay_out()

    def _lay_out(self) -> None:
        """Set the classes by which the style sheet places the panes."""
        shown = "-zoomed" if self._zoomed and self._layout != "-tiny" else self._layout
        for name in ("-large", "-medium", "-single", "-tiny", "-zoomed"):
            self.set_class(name == shown, name)
        self._lay_rows(self.view)
        self.call_after_refresh(self.refresh_now)

    def _lay_rows(self, view: RunView) -> None:
        """The grid's rows: the curriculum as high as its stages, where these leave room; the rest shared."""
        failure = failure_rows(view, max(self._cells[0] - 4, 10))  # how wide the pane is does not hang on its rows
        hints = self.query_one(Hints)
        height = self._cells[1] - 2 - (hints.size.height if hints.display else 0)
        stages = min(max(len(view.stages), 1) + 3, max(height // 4, 6), 11) + min(len(failure), 6)
        body = self.query_one("#body")
        if self.has_class("-single") or self.has_class("-zoomed"):
            beside = self._shown_pane != "curriculum" and not self.has_class("-zoomed") and self._cells[1] >= 22
            self.query_one(Curriculum).set_class(beside or self._shown_pane == "curriculum", "-shown")
            rows = f"{min(stages, 8 if failure else 6)} 1fr" if beside else "1fr"
        elif self.has_class("-large"):
            rows = f"{stages} 3fr 2fr 14"
        else:
            log = max(min(self._cells[1] // 5, 9), 6)
            right = height - stages - log  # predictions above the system, which gets what they can spare
            wanted, left = (12, 12) if view.ranks is None else (14, 10)  # a line each for eight ranks
            rows = f"{stages} 1fr {min(max(right - left, 4), wanted)} {log}"
        if rows != self._rows_now:
            self._rows_now = rows
            body.styles.grid_rows = rows

    def _choose_pane(self, name: str, *, focus: bool = True) -> None:
        if focus:  # else the pane that is hidden hands its focus to the next one, and that one would be chosen
            self.set_focus(None)
        self._shown_pane = name
        self.query_one(PaneTabs).choose(PANES.index(name))
        for each in PANES:
            self.query_one(f"#{each}").set_class(each == name, "-shown")
        self.set_class(name == "plan", "-planning")
        self._lay_rows(self.view)
        if focus:
            target: Widget = self.query_one("#plan-text" if name == "plan" else f"#{name}")
            self.set_focus(target)  # at once: `target.focus()` would wait behind the keys that follow
        self.call_after_refresh(self.refresh_now)

    def action_pane(self, name: str) -> None:
        self._choose_pane(name)

    @on(PaneAsked)
    def _pane_asked(self, message: PaneAsked) -> None:
        self._choose_pane(message.name)

    @on(PredictionsAsked)
    def _predictions_asked(self, message: PredictionsAsked) -> None:
        """An answer shall not be gone with the next validation."""
        self.query_one(Predictions).choose_kind(message.kind)
        self._choose_pane("predictions")

    def action_zoom(self) -> None:
        """The chosen pane alone, or all of them again."""
        self._zoomed = not self._zoomed
        self._lay_out()
        self._show_keys()

    def note_key(self) -> None:
        """A key was pressed, whatever it does."""
        if self.composed:
            self.query_one(Hints).put_away()

    def action_back(self) -> None:
        if self._zoomed:
            self.action_zoom()
        elif self._shown_pane == "plan":
            self._choose_pane("curves")

    # ---- keys

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        """The pane with the focus is the one that is shown where there is room for one."""
        if event.widget is not self.focused:  # keys in quick succession: the focus has gone on meanwhile
            return
        pane = self._pane_of(event.widget)
        if pane is not None and pane.id is not None and pane.id != self._shown_pane:
            self._choose_pane(pane.id, focus=False)
        self._show_keys()

    def on_descendant_blur(self) -> None:
        if self.focused is None:  # the keys of the pane that had it mean nothing any more
            self._show_keys()

    @on(KeysChanged)
    def _keys_changed(self) -> None:
        self._show_keys()

    def on_screen_suspend(self) -> None:
        """A dialog has the keys now."""
        self._show_keys()

    def on_screen_resume(self) -> None:
        self._show_keys()

    @staticmethod
    def _pane_of(widget: Widget | None) -> DOMNode | None:
        nodes = () if widget is None else (widget, *widget.ancestors)
        return next((node for node in nodes if node.id in PANES), None)

    def keys_now(self) -> Mapping[str, str]:
        """What the screen's keys do that depends on the run, and on what is shown."""
        said: dict[str, str] = {"back": "all panes"} if self._zoomed else {}
        if self._shown_pane == "plan":
            said["zoom"] = "all panes" if self._zoomed else "max"
        if self.view.state == "paused":
            said["pause"] = "go on"
        return said | (dict.fromkeys(("save", "stop", "pause", "learning_rate", "ask"), "") if self.view.over else {})

    def _show_keys(self) -> None:
        """What keys do now: the dialog's that is open; else the pane's, then the screen's, help and leaving always."""
        if not self.composed or not self.app.screen_stack:
            return
        bar, screen = self.query_one(KeyBar), self.app.screen
        if screen is not self:
            bar.show(keys_now(screen.focused, [screen]), [])
            return
        pane = self._pane_of(self.focused)
        keys = keys_now(self.focused, [node for node in (pane, self) if node is not None])
        last = [key for key in keys if key.action in ("help", "leave") and key.owner is self]
        bar.show([key for key in keys if key not in last], last)

    @on(ActionAsked)
    async def _action_asked(self, message: ActionAsked) -> None:
        if isinstance(message.owner, DOMNode):
            await self.app.run_action(message.action, default_namespace=message.owner)

    def action_help(self) -> None:
        from lmplay_tui.ui.screens.help import Help, actions_of

        self.app.push_screen(Help(actions_of(self)))

    # ---- what is drawn with the run

    @on(GhostAsked)
    def _ghost_asked(self, message: GhostAsked) -> None:
        """Draw another run's curves behind ours; its journals are read a piece at each tick."""
        self.ghost = self.ghost_source = None
        if message.path is not None:
            folder = RunFolder(Path(message.path))
            self.ghost_source = FolderSource(folder)
            self.ghost = Ghost(one_line(folder.name, 40), self.ghost_source.view)
            self.ghost_source.poll()
            if self.ghost_source.behind:
                self._catch_up_soon()
        self.refresh_now()

    def action_runs(self) -> None:
        from lmplay_tui.ui.screens.runs import Runs  # here: no first frame waits for it

        def answered(path: str | None) -> None:
            if path is not None:
                self.post_message(GhostAsked(path or None))

        self.app.push_screen(Runs(self.options.out_dir, self.view.name), answered)

    def action_filter(self) -> None:
        """Filter the log where it has the focus, else the curves."""
        in_log = self._shown_pane == "log"
        pane = self.query_one(LogPane) if in_log else self.query_one(Curves)

        def answered(answers: list[str] | None) -> None:
            if answers is not None:
                pane.filter(answers[0])
                self.refresh_now()

        what, pattern = (
            ("the log", self.query_one(LogPane).pattern)
            if in_log
            else ("the curves", self.query_one(Curves).window.pattern)
        )
        self.app.push_screen(dialogs.filter_dialog(what, pattern), answered)

    # ---- commands

    def _send(self, command: controls.Command, said: str) -> None:
        """Send a command, and say so; where nothing runs any more, say that."""
        if self.view.over:
            self.notify(f"the run is {self.view.state}", severity="warning", markup=False)
            return
        if not self.source.send(command):
            self.notify(self.view.log[-1].text, severity="warning", markup=False)
        elif said:
            self.notify(said, timeout=3, markup=False)

    @on(CommandAsked)
    def _command_asked(self, message: CommandAsked) -> None:
        self._send(message.command, "")

    def action_save(self) -> None:
        self._send(controls.SaveNow(), "saving after this step")

    def action_validate(self) -> None:
        self._send(controls.ValidateNow(), "validating after this step")

    def action_pause(self) -> None:
        if self.view.state == "paused":
            self._send(controls.Resume(), "")
        else:
            self._send(controls.Pause(), "pausing after this step")

    def action_stop(self) -> None:
        if self.view.over:
            self.notify(f"the run is {self.view.state}; q leaves", markup=False)
            return
        stage = self.view.stage.name if self.view.stage else ""

        def answered(when: dialogs.StopAnswer | None) -> None:
            if when is not None:
                said = "stopping: saving what has been trained" if when == "now" else "stopping at the stage's end"
                self._send(controls.Stop(when=when), said)

        self._question = dialogs.stop_dialog(stage)
        self.app.push_screen(self._question, answered)

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

        def answered(what: dialogs.QuitAnswer | None) -> None:
            if what == "stop":
                self._send(controls.Stop(), "stopping: saving what has been trained")
            elif what == "detach":
                self._send(controls.HandOver(), "saving, then going on without this terminal")

        self._question = dialogs.quit_dialog()
        self.app.push_screen(self._question, answered)

    def _take_back_question(self) -> None:
        """What becomes of the run is not asked any more once it has ended by itself."""
        if self.view.over and self._question is not None:
            if self._question.is_attached:
                self._question.answer(None)
            self._question = None

    def action_interrupt(self) -> None:
        """Ctrl+C: copies where text is selected, else stops; again within five seconds it leaves at once."""
        focused = self.app.focused
        if isinstance(focused, TextArea | Input) and focused.selected_text:
            self.notify("copied; ctrl+c stops the run where no text is selected")
            raise SkipAction
        if self.view.over or not self.source.live:
            self.post_message(LeaveAsked())
            return
        if self._interrupts.is_second():
            self.post_message(LeaveAsked(at_once=True))
            return
        self.source.send(controls.Stop(reason="ctrl+c"))
        self.notify("stopping: saving what has been trained; ctrl+c again leaves at once", timeout=TWICE_WITHIN_S)

    def action_learning_rate(self) -> None:
        lr = self.view.lr if math.isfinite(self.view.lr) else None

        def answered(answers: list[str] | None) -> None:
            command = parse_lr(answers[0]) if answers else None
            if command is not None:
                self._send(command, "the learning rate changes with the next step")

        self.app.push_screen(dialogs.lr_dialog(lr, self.view.lr_factor), answered)

    def action_bookmark(self) -> None:
        def answered(answers: list[str] | None) -> None:
            if answers is not None:
                self._send(controls.Bookmark(answers[0]), "")

        self.app.push_screen(dialogs.bookmark_dialog(int(self.view.at.step)), answered)

    def action_ask(self) -> None:
        def answered(answers: list[str] | None) -> None:
            if answers is not None:
                self._send(dialogs.asked(answers), "asked: the answer comes with the next step")
                self.post_message(PredictionsAsked("asked"))

        self.app.push_screen(dialogs.ask_dialog(), answered)

    # ---- a start of a run that is finished

    def ask_how_to_go_on(self) -> None:
        """Nothing was trained, for the plan was done before this start: look at it, extend it or start anew."""
        result = self.view.result
        if self._asked_how_to_go_on or not (self.source.live and isinstance(result, RunDone) and result.already):
            return
        self._asked_how_to_go_on = True
        model = result.path

        def answered(what: dialogs.FinishedAnswer | None) -> None:
            if what == "extend":
                self.app.push_screen(dialogs.extend_run_dialog(self.view.name), extended)
            elif what == "anew":
                self.post_message(StartAsked({"model": model, "reset_history": True}))

        def extended(answers: list[str] | None) -> None:
            if answers is not None:
                self.post_message(StartAsked({"model": model, "extend": float(answers[0])}))

        self.app.push_screen(dialogs.finished_dialog(self.view.name), answered)

    # ---- the plan

    @property
    def unsaved_plan(self) -> str | None:
        """What was typed into the plan editor and has been neither applied nor saved."""
        return self.plan_editor.unsaved if self.composed else None

    @on(PlanEdited)
    def _plan_edited(self, message: PlanEdited) -> None:
        self.plan_editor.show_effect(message.text)

    @on(PlanApplied)
    def _plan_applied(self, message: PlanApplied) -> None:
        self.plan_editor.apply(message.text)

    @on(SavePlanAsked)
    def _save_plan_asked(self, message: SavePlanAsked) -> None:
        self.plan_editor.ask_file_to_save(message.text)

    @on(StageAsked)
    def _stage_asked(self, message: StageAsked) -> None:
        self.plan_editor.ask_stage_change(message.index)
