"""`lmplay-tui` without a command: the dashboard, or headless where there is no terminal for it."""

import gc
import json
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from lmplay_tui.commands.output import to_stderr
from lmplay_tui.errors import EXIT_BUG, EXIT_OK, UserError
from lmplay_tui.options import Launch, TrainOptions
from lmplay_tui.process import RANK_VARIABLES, is_child_alive

WAITS_S = 60.0  # for the preflight, which itself ends far sooner, behind the imports of the screen
ENDS_WITHIN_S = 0.5  # a process that is killed, unless a disk holds it
_SCREEN_IN_PARTS = (
    "asyncio", "textual.css.styles", "textual.widget", "textual.app",
    "lmplay_tui.ui.run_app", "lmplay_tui.ui.screens.dashboard",
)  # fmt: skip

DESCRIPTION = """\
Train small language models under a dashboard in the terminal.

Without options it opens the launcher. With --training-plan, --model, --resume FILE or --start it starts at once.
Without a terminal it trains headless.

commands, each with --help:
"""
EPILOG = "Try: lmplay-tui --training-plan demo"


def main(arguments: Sequence[str], prog: str) -> int:
    """Parse the line, choose between dashboard and headless, run.

    Raises `UserError` with all that is wrong with the start, as far as it is known before the screen opens.
    """
    gc.disable()  # what is imported stays; searching it for garbage takes a tenth of the time to the first frame
    launch = _parsed(arguments, prog) if arguments else Launch(prog=prog)
    dashboard = wants_dashboard(launch.options)
    launcher = dashboard and not launch.names_a_run and not launch.options.start
    if not launcher and not launch.names_a_run:
        launch = launch.with_options(training_plan="demo")
    if not dashboard:
        from lmplay_tui.commands.train import run_headless

        gc.enable()
        return run_headless(launch)
    if launcher:
        from lmplay_tui.ui.run_app import run_dashboard

        return run_dashboard(launch, launcher=True)
    preflight = _Preflight(launch)
    for module in _SCREEN_IN_PARTS:
        import_module(module)
        preflight.refuse(wait_s=0)
    preflight.refuse(wait_s=WAITS_S)
    from lmplay_tui.ui.run_app import run_dashboard

    if launch.is_apart:
        from lmplay_tui.train.launch import start_detached

        return run_dashboard(launch, attach=start_detached(launch)[0])
    return run_dashboard(launch)


class _Preflight:
    """What is wrong with a start, found by a child process while this one imports the screen.

    The child imports what a first frame must not wait for (pydantic, and pyarrow where the data are files). It is
    waited for before the screen opens, but not for ever. Over a pipe it says, a line of JSON each, what it waits for
    (a text) and last the problems (a list).
    """

    def __init__(self, launch: Launch) -> None:
        self._pid, self._said = 0, b""
        self._problems: list[str] = []
        if threading.active_count() > 1:  # a lock that another thread holds would never be free in the child
            from lmplay_tui.train.preflight import problems_of

            self._problems = problems_of(launch, to_stderr)
            return
        self._pipe, write = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            self._look(launch, write)
        os.close(write)

    @staticmethod
    def _look(launch: Launch, pipe: int) -> NoReturn:
        """In the child: it ends here, whatever happens, and prints nothing."""

        def say(what: str | list[str]) -> None:
            left = json.dumps(what).encode() + b"\n"
            while left:
                left = left[os.write(pipe, left) :]

        try:
            for stream in (1, 2):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
            from lmplay_tui.train.preflight import problems_of

            say(problems_of(launch, say))
        except BaseException:  # a bug of the check's is no reason not to start
            os._exit(EXIT_BUG)
        os._exit(EXIT_OK)

    def refuse(self, *, wait_s: float) -> None:
        """Raise `UserError` with what has been found, a line a problem. Nothing after `wait_s`: the run says it."""
        deadline = time.monotonic() + wait_s
        while self._pid and select.select([self._pipe], [], [], max(deadline - time.monotonic(), 0))[0]:
            more = os.read(self._pipe, 1 << 16)
            self._said += more
            if not more:
                self._leave()  # it was killed, or failed
            while b"\n" in self._said:
                line, _, self._said = self._said.partition(b"\n")
                self._hear(json.loads(line))
        if self._pid and wait_s:
            self._leave()  # it hangs
        if self._problems:
            raise UserError("\n".join(self._problems))

    def _hear(self, said: str | list[str]) -> None:
        if isinstance(said, str):
            to_stderr(said)
            return
        self._problems = said
        self._leave()

    def _leave(self) -> None:
        """End the child, which has no more to say. One that a disk holds cannot be ended: it is not waited for."""
        os.close(self._pipe)
        os.kill(self._pid, signal.SIGKILL)
        deadline = time.monotonic() + ENDS_WITHIN_S
        while is_child_alive(self._pid) and time.monotonic() < deadline:
            time.sleep(0.002)
        self._pid = 0


def _parsed(arguments: Sequence[str], prog: str) -> Launch:
    """Only where there is something to parse: the bare launcher needs nothing of a run before its first frame."""
    from lmplay_tui.command_line import command_list
    from lmplay_tui.commands.train import parse

    return parse(arguments, prog, DESCRIPTION + command_list(), EPILOG)


def wants_dashboard(options: TrainOptions) -> bool:
    """Whether there is a terminal that can show a screen, and nothing asks for plain lines."""
    if options.headless or options.json_lines:
        return False
    if options.exp == "list" or options.describe or options.save_datasets:
        return False
    if os.environ.keys() & RANK_VARIABLES:
        from lmplay_tui.train.process_group import place_of  # not for the first frame of all others

        if place_of(os.environ) is not None:  # one of several that torchrun or srun has started: none has the screen
            return False
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
