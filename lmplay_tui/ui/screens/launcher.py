"""Where a session begins: plans, runs, the device and the experiment; Enter starts."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Horizontal
from textual.screen import Screen
from textual.widgets import Button

from lmplay_tui.options import Launch
from lmplay_tui.plan.builtin import shipped_plans
from lmplay_tui.text import one_line
from lmplay_tui.ui.messages import ActionAsked, LeaveAsked, StartAsked
from lmplay_tui.ui.screens.dialogs import Choice, ChoiceDialog
from lmplay_tui.ui.screens.help import Help, actions_of, bindings_of, key_sign
from lmplay_tui.ui.tty.patches import in_background, set_titles
from lmplay_tui.ui.widgets.key_bar import Key, KeyBar
from lmplay_tui.ui.widgets.lines import Lines, Row
from lmplay_tui.ui.widgets.picker import Picker

if TYPE_CHECKING:
    from lmplay_tui.ui.launch_lists import LaunchLists
    from lmplay_tui.ui.run_list import RunEntry

FIRST = "demo"
PROCESSES: tuple[int | Literal["auto"], ...] = (1, 2, 4, 8, "auto")
NO_RUNS = "no runs yet: the first one will stand here"


def devices() -> list[str]:
    """What `--device` could say here; seen without torch, which takes more than a second to import."""
    found = ["auto", "cpu"]
    if Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidia0").exists():
        found.append("cuda")
    if sys.platform == "darwin":
        found.append("mps")
    return found


class Launcher(Screen[None]):
    """Choose what to train or to look at."""

    AUTO_FOCUS = "#plans"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "start", "start", show=True),
        Binding("tab", "app.focus_next", "plans / runs"),
        Binding("d", "device", "device"),
        Binding("m", "experiment", "experiment"),
        Binding("n", "processes", "processes", tooltip="how many train together: --nproc"),
        Binding("question_mark,f1", "help", "help", key_display="?"),
        Binding("q,ctrl+q", "leave", "quit", key_display="q"),
        Binding("ctrl+c", "leave", "quit", show=False, priority=True),
    ]

    def __init__(self, launch: Launch) -> None:
        super().__init__()
        self._launch = launch
        # Shipped plans, the demo first; the plans of this folder come behind them once they have been read.
        self._names = sorted(shipped_plans(), key=lambda name: (name != FIRST, "demo" not in name, name))
        self._num_shipped = len(self._names)
        self._lists: LaunchLists | None = None  # until they have been read, behind the first frame
        self._reading = 0  # how many times they have been asked for
        self._named = False  # what can be chosen is drawn, and nothing else yet
        self._among_runs = False  # that list has the focus, or had it last
        self._devices = devices()
        self._device = launch.options.device
        self._processes = launch.options.nproc
        self._experiment: str | None = launch.line.get("exp")  # None: the plan's own

    def compose(self) -> ComposeResult:
        with Horizontal(id="launcher-top"):
            yield Lines(id="launcher-title")
            yield Button("Start", id="start", compact=True)
        with Container(id="launcher"):
            yield Picker(id="plans", classes="pane")
            yield Picker(id="runs", classes="pane", empty=NO_RUNS)
            yield Lines(id="detail", classes="pane")
        yield KeyBar()

    def on_mount(self) -> None:
        set_titles(self.query_one("#plans"), "plans")
        set_titles(self.query_one("#runs"), "runs")
        for name in ("launcher-title", "detail"):
            self.query_one(f"#{name}", Lines).can_focus = False
        keys = [Key(key_sign(b), b.description, b.action, self) for b in bindings_of(self) if b.show]
        self.query_one(KeyBar).show(keys[:-2], keys[-2:])
        self.query_one("#runs").can_focus = False  # until it is known that there are any

    def on_resize(self, event: events.Resize) -> None:
        self._lay_out()
        self.call_after_refresh(self._draw)

    def read_anew(self) -> None:
        """Show the runs and plans as they are now."""
        self._reading += 1
        in_background(self.app, partial(self._read, self._lists, self._reading))

    def _read(self, before: "LaunchLists | None", reading: int) -> Callable[[], None]:
        """In a thread: the disk may be another machine's."""
        from lmplay_tui.ui.launch_lists import LaunchLists

        return partial(self._take, LaunchLists(self._launch.options, self._names[: self._num_shipped], before), reading)

    def _take(self, lists: "LaunchLists", reading: int) -> None:
        if reading == self._reading:  # else they have been asked for again
            self._lists, self._names = lists, lists.names
            self._lay_out()
            self._draw()
            self._measure_device()

    def _lay_out(self) -> None:
        width, height = self.size
        small = width < 100 or height < 28
        self.set_class(small, "-small")
        plans = min(len(self._names) + 3, height // 2)
        num_runs = len(self._lists.runs) if self._lists else 0
        runs = f" {min(max(num_runs, 1) + 3, max(height // 4, 4))}" if small else ""
        self.query_one("#launcher").styles.grid_rows = f"{plans}{runs} 1fr"

    # ---- drawing

    def _draw_names(self) -> None:
        """The first frame: what can be chosen. What there is to say of it is read and drawn behind it."""
        self._draw_title()
        names: list[Row] = [((one_line(name, 40), "strong"),) for name in self._names]
        self.query_one("#plans", Picker).show_items(names, head=(("plan", "label"),))
        self._named = True

    def was_painted(self) -> None:
        """A picture has been sent: once the names are on it, the rest may take its time."""
        if self._named:
            self._named = False
            self.call_later(self._draw_rest)

    def _draw_rest(self) -> None:
        if not self._reading:
            self.read_anew()

    def _draw_title(self) -> None:
        title: Row = (
            (" lmplay-tui ", "accent"), ("  device ", "dim"), (self._device, "strong"),
            ("  experiment ", "dim"), (self._experiment or "as the plan says", "strong" if self._experiment else ""),
            ("  processes ", "dim"), (str(self._processes), "" if self._processes == 1 else "strong"),
        )  # fmt: skip
        self.query_one("#launcher-title", Lines).show_rows([title])

    def _draw(self) -> None:
        if self._lists is None:
            self._draw_names()
            return
        self._draw_title()
        plans = self.query_one("#plans", Picker)
        head, rows = self._lists.plan_rows(self._names, self._wanted(), plans.room.width - 3)
        plans.show_items(rows, head=head)
        runs = self.query_one("#runs", Picker)
        head, rows = self._lists.run_rows(runs.room.width - 3)
        runs.show_items(rows, head=head)
        runs.can_focus = bool(self._lists.runs)
        self._draw_detail()

    def _meant(self) -> str:
        """What `auto` will be here."""
        if self._device != "auto":
            return self._device
        return next((name for name in self._devices if name in ("cuda", "mps")), "cpu")

    def _measure_device(self) -> None:
        """Find out how fast the chosen device computes; what is known is not asked again."""
        if self._lists is not None and self._lists.is_new(self._meant()):
            in_background(self.app, partial(self._measure, self._lists, self._meant()))

    def _measure(self, lists: "LaunchLists", device: str) -> Callable[[], None]:
        """In a thread: the user may choose another device meanwhile."""
        lists.measure(device)
        return self._draw

    def _draw_detail(self) -> None:
        """The plan or the run that is chosen in the list with the focus."""
        if self._lists is None:
            return
        detail = self.query_one("#detail", Lines)
        width = max(detail.room.width - 1, 20)
        index = self._chosen_run()
        if index is not None:
            set_titles(detail, one_line(self._lists.runs[index].folder.name, 40))
            detail.show_rows(self._lists.run_rows_in_full(index, width))
            return
        name = self._names[self.query_one("#plans", Picker).index]
        set_titles(detail, one_line(name, 40))
        detail.show_rows(self._lists.plan_rows_in_full(name, self._wanted(), width))

    def _chosen_run(self) -> int | None:
        """The number of the run that is chosen, where the list of runs has the focus or had it last."""
        return self.query_one("#runs", Picker).index if self._among_runs and self._lists and self._lists.runs else None

    @on(Picker.Moved)
    def _moved(self) -> None:
        self._draw_detail()

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        if isinstance(event.widget, Picker):  # a button that is clicked acts on what was chosen
            self._among_runs = event.widget.id == "runs"
        self._draw_detail()

    # ---- keys

    def action_device(self) -> None:
        here = self._devices.index(self._device) if self._device in self._devices else -1
        self._device = self._devices[(here + 1) % len(self._devices)]
        self._measure_device()
        self._draw()

    def action_experiment(self) -> None:
        """The plan's own, then each that there is."""
        from lmplay_tui.ui.launch_lists import EXPERIMENTS  # not for the first frame

        choices: list[str | None] = [None, *EXPERIMENTS]
        here = choices.index(self._experiment) if self._experiment in choices else 0
        self._experiment = choices[(here + 1) % len(choices)]
        self._draw()

    def action_processes(self) -> None:
        here = PROCESSES.index(self._processes) if self._processes in PROCESSES else -1
        self._processes = PROCESSES[(here + 1) % len(PROCESSES)]
        self._draw()

    def action_start(self) -> None:
        """Start the chosen plan, or ask what to do with the chosen run."""
        index = self._chosen_run()
        if index is not None and self._lists is not None:
            self._take_run(self._lists.runs[index])
        else:
            self._start(self._names[self.query_one("#plans", Picker).index])

    def on_button_pressed(self) -> None:
        self.action_start()

    @on(Picker.Picked)
    def _picked(self) -> None:
        self.action_start()

    def _start(self, name: str) -> None:
        if self._lists is not None and (problem := self._lists.problem_of(name)):
            self.notify(problem, severity="error", markup=False)
            return
        self.post_message(StartAsked({"training_plan": name, **self._chosen()}))

    def _chosen(self) -> dict[str, object]:
        return self._place() | ({"exp": self._experiment} if self._experiment else {})

    def _place(self) -> dict[str, object]:
        """Where it is trained."""
        same = self._processes == self._launch.options.nproc
        return {"device": self._device} | ({} if same else {"nproc": self._processes})

    def _wanted(self) -> dict[str, object]:
        """What a start would take: the options given, too."""
        return {**self._launch.line, **self._chosen(), "device": self._meant()}

    def _take_run(self, entry: "RunEntry") -> None:
        from lmplay_tui.ui.screens import dialogs

        path = str(entry.folder.model)
        if entry.alive:
            self.post_message(StartAsked({}, attach=path))
            return

        def answered(what: str | None) -> None:
            if what == "view":
                self.post_message(StartAsked({}, attach=path))
            elif what == "resume":
                self.post_message(StartAsked({"model": path, **self._place()}))
            elif what == "extend":
                self.app.push_screen(dialogs.extend_run_dialog(name), extended)
            elif what == "anew":
                self.post_message(StartAsked({"model": path, **self._place(), "reset_history": True}))

        def extended(answers: list[str] | None) -> None:
            if answers is not None:
                self.post_message(StartAsked({"model": path, **self._place(), "extend": float(answers[0])}))

        name = one_line(entry.folder.name, 60)
        if entry.state == "finished":
            self.app.push_screen(dialogs.finished_dialog(name), answered)
            return
        resume = Choice("r", "resume", "go on where it was saved", "resume")
        view = Choice("v", "view", "look at its curves, predictions and log", "view")
        anew = Choice("n", "start anew", "its checkpoints move to NAME.past, none is lost", "anew")
        self.app.push_screen(ChoiceDialog(name, "", [resume, view, anew]), answered)

    def action_help(self) -> None:
        self.app.push_screen(Help(actions_of(self)))

    def action_leave(self) -> None:
        self.post_message(LeaveAsked())

    @on(ActionAsked)
    async def _action_asked(self, message: ActionAsked) -> None:
        await self.app.run_action(message.action, default_namespace=self)
