"""The dashboard's application: it starts a run or looks at one, and leaves the terminal as it was."""

import contextlib
import gc
import os
import signal
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, ClassVar

from textual import events, on
from textual.actions import SkipAction
from textual.app import App, SystemCommand
from textual.binding import Binding
from textual.screen import ModalScreen, Screen
from textual.widgets import Input

from lmplay_tui.errors import EXIT_LEFT_AT_ONCE, EXIT_OK, UserError
from lmplay_tui.options import Launch
from lmplay_tui.process import Interrupts
from lmplay_tui.text import printable
from lmplay_tui.ui import theme
from lmplay_tui.ui.messages import LeaveAsked, StartAsked, TitleChanged
from lmplay_tui.ui.tty.painting import TerminalLine, shown
from lmplay_tui.ui.tty.patches import TerminalApp, use_late_toasts
from lmplay_tui.ui.tty.signals import StrayPrints

# Each screen is imported when it is shown: the launcher's first frame waits for nothing of a run, and a run's for
# nothing of the launcher.
if TYPE_CHECKING:
    from lmplay_tui.ui.screens.dashboard import Dashboard
    from lmplay_tui.ui.screens.launcher import Launcher
    from lmplay_tui.ui.session import LiveSource
    from lmplay_tui.ui.source import RunSource

_HERE = Path(__file__).parent


class LmplayApp(TerminalApp):
    """One run at a time: from the launcher, at once, or attached."""

    TITLE = "lmplay-tui"
    CSS_PATH: ClassVar[list[str | PurePath]] = [
        _HERE / "widgets" / "lines.tcss",
        _HERE / "screens" / "dashboard.tcss",
        _HERE / "screens" / "dialogs.tcss",
        _HERE / "screens" / "launcher.tcss",
    ]
    ENABLE_COMMAND_PALETTE = True
    BINDINGS: ClassVar[list[Any]] = [
        Binding("t", "next_theme", "theme", show=False),
        Binding("ctrl+p", "command_palette", "palette", show=False),
        Binding("ctrl+l", "redraw", "redraw", show=False, tooltip="paint the whole screen anew"),
        Binding("ctrl+c", "interrupt", "stop gracefully", show=False, priority=True),
        Binding("ctrl+z", "suspend_process", "to the shell, until fg", show=False),
    ]

    def __init__(
        self,
        launch: Launch,
        *,
        source: "RunSource | None" = None,
        launcher: bool = False,
        stray: StrayPrints | None = None,
        line: TerminalLine | None = None,
        give_back: Callable[[], None] = lambda: None,
        timers: bool = True,
    ) -> None:
        """`give_back`: the terminal to the shell, should the screen be stuck. `timers` False: a test calls `tick`."""
        super().__init__(line, ascii_only=launch.options.ascii)
        use_late_toasts()
        self._first_launch = self.launch = launch
        self.source: RunSource | None = None
        self.trainer: LiveSource | None = None  # the source, where it trains in this process
        self._dashboard: Dashboard | None = None
        if source is not None:
            self._take(source)
        self._launcher = launcher
        self._launcher_screen: Launcher | None = None
        self._stray = stray
        self._give_back = give_back
        self._starting = False  # a process of its own, which takes a while to speak
        self._ticks = timers
        self.leave_wanted = False  # set by signal handlers, looked at by `tick`
        self.left_at_once = False
        self.crashed: Exception | None = None  # a bug of the screen's
        self.last_status = EXIT_OK  # of the run that was started last and left for the launcher
        self.last_lines: list[str] = []  # that say what became of it
        self.unsaved_plan: str | None = None  # what stood in the editor when the screen was left
        self._interrupts = Interrupts()
        for ours in theme.our_themes(self.console.color_system):
            self.register_theme(ours)
        # Already here, before any style sheet is read: a change has all of them read again.
        self.set_reactive(App.theme, theme.DARK_NAME)
        self.stylesheet.set_variables(self.get_css_variables())

    def get_theme_variable_defaults(self) -> dict[str, str]:
        return theme.variables(self.current_theme)

    def on_mount(self) -> None:
        self.theme = os.environ.get("TEXTUAL_THEME") or theme.DARK_NAME
        self.animation_level = "none"
        if self.source is not None:
            self.show_run(self.source)
        else:
            self.show_launcher()
        if self._ticks:
            self.set_interval(1 / self.launch.options.refresh_hz, self.tick)

    def on_ready(self) -> None:
        """The screen is laid out; what holds the interpreter for long begins once it has been painted, too."""
        self.call_after_refresh(self._begin)

    def _begin(self) -> None:
        """The first frame stands: now torch may take the interpreter for a second."""
        gc.freeze()  # what start-up has made stays: one search through it took longer than to paint the frame
        gc.enable()  # off since the command began
        self._start_trainer()

    def _start_trainer(self) -> None:
        trainer = self.trainer
        if trainer is not None and not trainer.started:
            from lmplay_tui.ui.session import end_anyway

            trainer.start()
            end_anyway(trainer, self._give_back)

    # ---- screens

    def show_launcher(self) -> None:
        from lmplay_tui.ui.screens.launcher import Launcher

        self._launcher_screen = Launcher(self.launch)
        self.push_screen(self._launcher_screen)

    def show_run(self, source: "RunSource") -> None:
        """Look at a run, whatever was shown before."""
        from lmplay_tui.ui.screens.dashboard import Dashboard

        self._take(source)
        dashboard = Dashboard(source, self.launch.options, ascii_only=self.ascii_only)
        if not source.live:
            source.poll()
        self._dashboard = dashboard
        if isinstance(self.screen, Dashboard):
            self.switch_screen(dashboard)
        else:
            self.push_screen(dashboard)

    def _take(self, source: "RunSource") -> None:
        from lmplay_tui.ui.session import LiveSource

        self.source = source
        self.trainer = source if isinstance(source, LiveSource) else None

    @on(StartAsked)
    def _start(self, message: StartAsked) -> None:
        """Train, or look at a run: what was chosen in the launcher, or on the screen of a run that is finished.

        A second answer, typed before the first has taken effect, does nothing.
        """
        from lmplay_tui.run.folder import RunFolder
        from lmplay_tui.ui.session import LiveSource
        from lmplay_tui.ui.source import FolderSource

        if self.leave_wanted or self._starting or (self.source is not None and self.source.done is None):
            return
        if message.attach is not None:
            self.show_run(FolderSource(RunFolder(Path(message.attach))))
            return
        if self.source is None:
            before = self._first_launch
        else:  # the same run again: what was chosen for its start before holds no more
            before = self.launch.without("extend", "reset_history")
        self.launch = before.with_options(**message.line)
        if self.launch.is_apart:
            self._starting = True
            self.notify("starting it in a process of its own", timeout=20)
            self.run_worker(self._start_detached, thread=True, exit_on_error=False)
            return
        self.show_run(LiveSource(self.launch))
        self.call_after_refresh(self._start_trainer)

    def _start_detached(self) -> None:
        """In a thread, for it waits until the process speaks."""
        from lmplay_tui.ui.session import detached_source

        try:
            source = detached_source(self.launch)
        except UserError as error:
            said = printable(error, 2000)
            self.call_from_thread(self.notify, said, title="not started", severity="error", markup=False)
        else:
            self.call_from_thread(self.show_run, source)
        finally:
            self._starting = False

    def post_display_hook(self) -> None:
        """A picture has been sent: the launcher reads on behind its first one."""
        super().post_display_hook()
        if self._launcher_screen is not None and self.screen is self._launcher_screen:
            self._launcher_screen.was_painted()

    # ---- time

    def tick(self) -> None:
        """Some times a second: take in what is new, leave when it is over."""
        self._paint_held()
        source = self.source
        if self.left_at_once:
            self.exit(EXIT_LEFT_AT_ONCE)
            return
        if source is None:
            if self.leave_wanted:
                self.exit(self.last_status)
            return
        if self._stray is not None:
            self.keep_prints(self._stray.new_lines())
        if self._dashboard is not None and self._dashboard.composed and self.return_code is None:
            self._dashboard.tick()
        done, view = source.done, source.view
        gone = source.live and done is not None and (view.state == "stopped" or view.handed_over is not None)
        if gone or (self.leave_wanted and (done is not None or not source.live)):
            self.exit(EXIT_OK if done is None else done)

    def keep_prints(self, lines: Sequence[str]) -> None:
        """Prints that must not reach the screen: into the log, and of our own trainer into the run's `log.txt`."""
        if self.source is None:
            return
        for line in lines:
            self.source.view.say("info", line)
        if self.trainer is not None:
            self.trainer.keep_prints(lines)

    def take_print(self, text: str) -> bool:
        """Python's prints and warnings go the same way as those of native code."""
        if self._stray is not None:
            self._stray.write(text)
        return self._stray is not None

    # ---- leaving

    @on(LeaveAsked)
    def _leave(self, message: LeaveAsked) -> None:
        if message.at_once:
            self.left_at_once = True
            self.exit(EXIT_LEFT_AT_ONCE)
        elif self._launcher and self.source is not None and (self.source.view.over or not self.source.live):
            self._go_back(self.source)
        else:
            done = self.source.done if self.source is not None else self.last_status
            self.exit(EXIT_OK if done is None else done)

    def _go_back(self, source: "RunSource") -> None:
        """To the launcher, where a run that is over, or another process's, was chosen; what was typed is kept."""
        from lmplay_tui.ui.ending import ending_lines, keep_draft, left_lines

        self._keep_what_was_typed()
        if source.live and source.done is not None:
            self.last_status, self.last_lines = source.done, ending_lines(source.view)
        elif self.launch.is_apart:
            self.last_status, self.last_lines = EXIT_OK, left_lines(source.view)
        if self.unsaved_plan is not None:
            self.notify(keep_draft(self.unsaved_plan, source.folder), timeout=15, markup=False)
        self.source = self.trainer = self._dashboard = self.unsaved_plan = None
        self.launch = self._first_launch
        assert self._launcher_screen is not None  # below all others
        while self.screen is not self._launcher_screen:
            self.pop_screen()
        self._launcher_screen.read_anew()
        self._set_title(TitleChanged(self.TITLE))
        gc.unfreeze()  # what the run has left, for the next one's sake
        gc.collect()

    def stop_by_signal(self, name: str) -> None:
        """From a signal handler: only sets flags. A second SIGINT soon after leaves at once, as the key does."""
        self._leave_when_done()
        if name == signal.SIGINT.name and self._interrupts.is_second():
            self.left_at_once = True
        if self.trainer is not None:
            self.trainer.stop(name)

    def save_by_signal(self) -> None:
        """From a signal handler: only leaves a command."""
        if self.trainer is not None:
            self.trainer.save()

    def line_lost(self) -> None:
        """From a signal handler: the terminal is gone, and the app leaves whatever becomes of the run."""
        self._leave_when_done()
        if self.trainer is not None and self.launch.options.on_hangup != "stop":
            self.trainer.hand_over("the line was lost")
        else:
            self.stop_by_signal(signal.SIGHUP.name)

    def _leave_when_done(self) -> None:
        """Also from a signal handler."""
        self.leave_wanted = True
        if self.trainer is not None:
            self.trainer.leaving = True

    def exit(self, *args: Any, **kwargs: Any) -> None:
        """However it is left: what has been typed is still known afterwards."""
        self._leaving = True
        self._leave_when_done()
        self._keep_what_was_typed()
        super().exit(*args, **kwargs)

    def _keep_what_was_typed(self) -> None:
        if self._dashboard is not None:
            self.unsaved_plan = self._dashboard.unsaved_plan

    def note_bug(self, error: Exception) -> None:
        """A bug of the screen's ends the screen, never the run; nor is it the end of what was typed."""
        if self.crashed is None:
            self.crashed = error
            self._leave_when_done()
            with contextlib.suppress(Exception):  # the screen that has failed may be in pieces
                self._keep_what_was_typed()

    def action_interrupt(self) -> None:
        """Ctrl+C while a dialog is open: what it means on the screen below."""
        if isinstance(self.screen, ModalScreen):
            for screen in reversed(self.screen_stack):
                if screen is self._dashboard:
                    self._dashboard.action_interrupt()
                    return
                if self._launcher_screen is not None and screen is self._launcher_screen:
                    self._launcher_screen.action_leave()
                    return
        raise SkipAction

    async def action_quit(self) -> None:
        """Ctrl+Q, which Textual takes to leave at once: ask as `q` does; in a dialog, nothing."""
        if self.screen in (self._launcher_screen, self._dashboard):
            await self.run_action("screen.leave")

    # ---- keys and colours

    async def act(self, event: events.Key | events.Paste) -> None:
        """What is pasted into a field loses its control characters; the plan editor shows them as signs."""
        if isinstance(event, events.Paste) and self.screen_stack and isinstance(self.focused, Input):
            event.text = printable(event.text)
        if isinstance(event, events.Key) and self._dashboard is not None:
            self._dashboard.note_key()
        await super().act(event)

    def on_resize(self) -> None:
        """Terminals differ in what is left of a picture when their size changes."""
        self.action_redraw()

    def action_redraw(self) -> None:
        """Send everything anew: something else has written on the screen."""
        shown.forget()
        if self.screen_stack:
            self.screen.refresh()

    def action_next_theme(self) -> None:
        """Go to the next of a few themes; the palette has them all."""
        names = [name for name in theme.CYCLE if name in self.available_themes]
        here = names.index(self.theme) if self.theme in names else -1
        self.theme = names[(here + 1) % len(names)]
        self.notify(f"theme {self.theme}", timeout=2, markup=False)

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """Every action of the keys, by name."""
        from lmplay_tui.ui.screens.help import actions_of

        for action in actions_of(screen):
            yield SystemCommand(action.label, action.keys, action.call)
        yield SystemCommand("theme", "choose the colours", self.action_change_theme)
