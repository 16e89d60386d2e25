"""Several processes that train one run on this machine: started, looked at, killed."""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from pytest_socket import enable_socket

from lmplay_tui.commands.output import Output
from lmplay_tui.commands.train import Headless, parse
from lmplay_tui.commands.train import main as trainer_main
from lmplay_tui.run.controls import Controls
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.train.agent import HangLimits, RestartLimit, train_together
from tests.faults.forks import Child
from tests.faults.terminals import until
from tests.journals import read_journal

ORPHANS_WITHIN_S = 5.0
TRAINS_AGAIN_WITHIN_S = 15.0


def line(
    model: Path, *words: str, plan: str = "plan.toml", count: int | None = 2, mini_batch_size: int = 2
) -> list[str]:
    """The command line of such a run on processors. `count` None: something else starts the processes."""
    several = [] if count is None else ["--nproc", str(count)]
    return [
        "--training-plan", plan, "--model", str(model.absolute()), "--device", "cpu",
        "--mini-batch-size", str(mini_batch_size), *several, *words,
    ]  # fmt: skip


class Together(Child):
    """`lmp_trainer --nproc` in a child of ours. Use as a context.

    `most`: restarts an hour, where they are not as many as the program allows. `limits`: when one hangs.
    """

    def __init__(self, words: list[str], *, most: int | None = None, limits: HangLimits | None = None) -> None:
        self.run = RunFolder(Path(words[words.index("--model") + 1]).absolute())
        self.output = self.run.model.with_suffix(".out")

        def work(report: Callable[[Any], None]) -> None:
            out = os.open(self.output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(out, 1)
            os.dup2(out, 2)
            enable_socket()  # in that process; what it starts is not pytest's
            os._exit(_train(words, most, limits))

        super().__init__(work)

    @property
    def is_killed(self) -> bool:
        return self._status is not None and self._status < 0

    @property
    def lives(self) -> bool:
        return psutil.pid_exists(self.pid) and psutil.Process(self.pid).status() != psutil.STATUS_ZOMBIE

    @property
    def said(self) -> str:
        return self.output.read_text() if self.output.exists() else ""

    def ranks(self) -> dict[int, int]:
        """The numbers of its processes by their ranks, as far as they are there."""
        found: dict[int, int] = {}
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self.pid).children():
                with contextlib.suppress(psutil.Error, KeyError):
                    if child.status() != psutil.STATUS_ZOMBIE:
                        found[int(child.environ()["RANK"])] = child.pid
        return found

    def kill_rank(self, rank: int, number: int = signal.SIGKILL) -> int:
        """Kill one of its processes as soon as it is there; its number."""
        until(lambda: rank in self.ranks() or not psutil.pid_exists(self.pid))
        pid = self.ranks()[rank]
        os.kill(pid, number)
        return pid


def _train(words: list[str], most: int | None, limits: HangLimits | None) -> int:
    if most is None and limits is None:
        return trainer_main(words, "lmp_trainer")
    launch = parse(words, "lmp_trainer", "", "")
    count = launch.options.nproc
    assert isinstance(count, int)
    with Output(None) as out:
        say = Headless(out, launch.options).say
        limit = RestartLimit() if most is None else RestartLimit(most)
        return train_together(launch, count, Controls(), say, quiet=False, limit=limit, limits=limits)


def events_of(run: RunFolder, kind: str) -> list[dict]:
    return [event for event in read_journal(run.events) if event["event"] == kind]


def processes_of(run: RunFolder) -> list[psutil.Process]:
    """The ranks that train it, whosever children they are by now."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and str(run.model) in process.cmdline():
                found.append(process)
    return found


def crowded() -> float:
    """By how much all takes longer here than on a machine whose processors have nothing else to do."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def assert_no_orphan(run: RunFolder, within_s: float = ORPHANS_WITHIN_S) -> None:
    deadline = time.monotonic() + within_s * crowded()
    while (left := processes_of(run)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left, left
