"""A soak: a run that trains for an hour while all is done to it that may be, and what it has cost at each minute.

`python -m tests.faults.soak --minutes 60 [--folder DIR]`. A tiny model trains headless in a process of its own. One
viewer stays, another comes and goes (by its key, by a hang-up, by kill -9); every few seconds the run is told to save,
to validate, to pause, to take a plan with another interval of saves. In the last third it is killed at random too, and
resumed. Then its weights must be those of an undisturbed run of as many steps, memory, descriptors and threads must
have stayed level, and nothing may be left behind.
"""

import argparse
import contextlib
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from lmplay_tui.run.control_files import leave_command
from lmplay_tui.run.controls import ChangePlan
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.train.checkpoint import load_checkpoint
from lmplay_tui.train.checkpointer import strays
from tests.faults.programs import LINE, PLAN, saved_step, steps_in_journal
from tests.faults.terminals import Terminal, until
from tests.journals import read_journal
from tests.train.runs import differences, stop_after, write_plan, write_rows

LMPLAY_TUI = [sys.executable, "-m", "lmplay_tui.cli"]
CALM = 2 / 3  # of the time: none is killed
WARM_UP = 1 / 4  # of a process's samples: what it grows by at first is no leak
FIGURES = ("memory_mb", "descriptors", "threads")
# What a process may grow by in an hour: curves are kept to a size, lists of events and of rows are not kept.
ENOUGH_MINUTES = 20  # of a shorter soak the slope says nothing
MOST_GROWN = {"memory_mb": 30.0, "descriptors": 0.5, "threads": 0.5}


@dataclass(frozen=True)
class Sample:
    """What a process holds at a time."""

    pid: int
    at_s: float
    memory_mb: float
    descriptors: int
    threads: int


def sample(pid: int) -> Sample | None:
    """None where it has ended."""
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            memory = process.memory_info().rss / 1e6
            return Sample(pid, time.monotonic(), memory, process.num_fds(), process.num_threads())
    except psutil.Error:
        return None


def growth_an_hour(samples: list[Sample], figure: str) -> float:
    """The slope of a figure by least squares, without the warm-up; 0 for fewer than 4 samples."""
    samples = samples[round(len(samples) * WARM_UP) :]
    if len(samples) < 4:
        return 0.0
    hours = [each.at_s / 3600 for each in samples]
    values = [float(getattr(each, figure)) for each in samples]
    middle, level = sum(hours) / len(hours), sum(values) / len(values)
    spread = sum((hour - middle) ** 2 for hour in hours)
    return sum((hour - middle) * (value - level) for hour, value in zip(hours, values, strict=True)) / spread


class Soak:
    """A run in a folder, its viewers, and what has been done to them."""

    def __init__(self, folder: Path, seconds: float, seed: int, sample_s: float) -> None:
        self.folder, self.seconds, self.sample_s = folder, seconds, sample_s
        self.dice = random.Random(seed)
        self.run = RunFolder(folder / "m.lmp")
        self.samples: dict[str, list[Sample]] = {"trainer": [], "viewer": []}
        self.done: dict[str, int] = {}
        self.wrong: list[str] = []
        self.first_kill_at_s = math.inf
        self._trainer: subprocess.Popen[bytes] | None = None
        self._open = contextlib.ExitStack()
        self._guest: Terminal | None = None
        self._paused = False

    def go(self) -> None:
        """All of it, to the trainer's end in order. What is not as it should be is in `wrong`."""
        write_rows(self.folder)
        write_plan(self.folder, PLAN)
        begun = time.monotonic()
        with self._open:
            self._start(LINE)
            until(lambda: steps_in_journal(self.run) >= 3)
            watching = self._viewer()
            sampled = begun
            while (spent := time.monotonic() - begun) < self.seconds:
                if self._trainer is not None and self._trainer.poll() is not None:
                    self.wrong.append(f"the trainer has ended with {self._trainer.poll()}")
                    break
                if watching.ended:
                    self.wrong.append(f"the viewer has ended: {watching.output[-1000:]!r}")
                    break
                self._something(kills=spent > CALM * self.seconds)
                if time.monotonic() - sampled >= self.sample_s:
                    sampled = time.monotonic()
                    self._look(watching)
                time.sleep(self.dice.uniform(0.5, 3.0))
            self._end(watching)

    def _start(self, line: list[str]) -> None:
        with (self.folder / "printed").open("ab") as printed:
            self._trainer = subprocess.Popen(
                [*LMPLAY_TUI, "--headless", *line, "--device", "cpu", "--out-dir", "."],
                cwd=self.folder, stdin=subprocess.DEVNULL, stdout=printed, stderr=printed,
            )  # fmt: skip

    @property
    def _pid(self) -> int:
        assert self._trainer is not None
        return self._trainer.pid

    def _viewer(self) -> Terminal:
        words = [*LMPLAY_TUI, "attach", str(self.run.model)]
        return self._open.enter_context(Terminal(lambda: os.execv(words[0], words)))

    def _something(self, *, kills: bool) -> None:
        kinds = ["save", "validate", "pause", "edit", "guest", "guest", "status", "runs", "keys"]
        kind = self.dice.choice([*kinds, "kill"] if kills else kinds)
        if self._paused and kind not in ("kill", "guest"):
            kind = "resume"
        self.done[kind] = self.done.get(kind, 0) + 1
        match kind:
            case "save" | "validate" | "pause" | "resume":
                self._paused = kind == "pause" or (self._paused and kind != "resume")
                self._say("ctl", "m", kind)
            case "status" | "runs":
                self._say(*(["status", "m"] if kind == "status" else ["runs"]))
            case "edit":
                leave_command(self.run, ChangePlan(f"{PLAN}save_interval = {self.dice.randrange(1000, 4000)}\n"))
            case "kill":
                self._kill()
            case "guest":
                self._come_or_go()
            case "keys" if self._guest is not None:
                self._guest.type(self.dice.choice(["1", "2", "3", "4", "5", "6", "z", "\t", "?\x1b", "\x1b[B", "j"]))

    def _say(self, *words: str) -> None:
        said = subprocess.run(
            [*LMPLAY_TUI, *words], check=False, cwd=self.folder, capture_output=True, text=True, timeout=300
        )
        if said.returncode or "Traceback" in said.stderr:
            self.wrong.append(f"{words}: status {said.returncode}, {said.stderr[-500:]}")

    def _kill(self) -> None:
        assert self._trainer is not None
        self.first_kill_at_s = min(self.first_kill_at_s, time.monotonic())
        self._trainer.kill()
        self._trainer.wait()
        self._paused = False
        self._start(["--model", "m.lmp", "--mini-batch-size", "2"] if self.run.model.exists() else LINE)
        until(lambda: self.run.alive() and self.run.status().get("pid") == self._pid)  # else its first look at the lock

    def _come_or_go(self) -> None:
        if self._guest is None:
            self._guest = self._viewer()
            return
        guest, self._guest = self._guest, None
        how = self.dice.choice(["quit", "hang up", "kill"])
        self.done[f"viewer: {how}"] = self.done.get(f"viewer: {how}", 0) + 1
        if how == "quit":
            until(lambda: b"\x1b[?1049h" in guest.output or guest.ended)
            guest.type("\x1b\x1b")
            time.sleep(1.0)
            guest.type("q")
        elif how == "hang up":
            guest.hang_up()
        else:
            os.kill(guest.pid, 9)
        status = guest.wait()
        if b"Traceback" in guest.output or (how == "quit" and (status or not guest.restored)):
            self.wrong.append(f"a viewer: {how}, status {status}, {guest.output[-500:]!r}")

    def _look(self, watching: Terminal) -> None:
        assert self._trainer is not None
        for name, pid in (("trainer", self._trainer.pid), ("viewer", watching.pid)):
            if (found := sample(pid)) is not None:
                self.samples[name].append(found)
        if b"Traceback" in watching.output:
            self.wrong.append(f"the viewer: {watching.output[-3000:]!r}")
        watching.output = b""
        held = ", ".join(
            f"{name} {last[-1].memory_mb:.1f} MB {last[-1].descriptors} fd {last[-1].threads} threads"
            for name, last in self.samples.items()
            if last
        )
        print(f"{time.strftime('%H:%M:%S')} step {self.run.status().get('step', 0)}: {held}", flush=True)

    def _end(self, watching: Terminal) -> None:
        assert self._trainer is not None
        if self._guest is not None:
            self._guest.hang_up()
            self._guest.wait()
        if self._trainer.poll() is None:
            self._trainer.terminate()
        if status := self._trainer.wait(300):
            self.wrong.append(f"the trainer's end: status {status}")
        watching.type("q")
        if status := watching.wait():
            self.wrong.append(f"the viewer's end: status {status}, {watching.output[-500:]!r}")
        self.wrong += self._left_behind()

    def _left_behind(self) -> Iterator[str]:
        if self.run.alive():
            yield "a process holds the run"
        for name in (*strays(self.run), *self.run.control.iterdir()):
            yield f"left behind: {name}"
        said = (self.folder / "printed").read_text(errors="replace")
        if "Traceback" in said:
            yield f"the trainer printed a traceback: {said[-3000:]}"
        for event in read_journal(self.run.events):
            if event["event"] == "Answered" and not event["ok"]:
                yield f"not done: {event}"
        known = {"m.lmp", "m.prev.lmp", "m.best.lmp", "m.stories.lmp", "m.run"}
        known |= {"plan.toml", "stories.jsonl", "pairs.jsonl", "printed"}
        for path in self.folder.iterdir():
            if path.name not in known and not path.name.endswith("_stats.json"):
                yield f"left behind: {path.name}"
        if self._has_trained() and saved_step(self.run) != steps_in_journal(self.run):
            yield f"saved is step {saved_step(self.run)}, and the journal ends with {steps_in_journal(self.run)}"

    def _has_trained(self) -> bool:
        """Whether the last process has: until it does, what a killed one wrote behind its checkpoint stands."""
        starts = [each for each in read_journal(self.run.events) if each["event"] == "RunStarted"]
        return starts[-1]["pid"] == self._pid and saved_step(self.run) > starts[-1]["step"]

    def longest(self, name: str) -> list[Sample]:
        """The samples of that process of a name which lived longest."""
        by_process: dict[int, list[Sample]] = {}
        for each in self.samples[name]:
            by_process.setdefault(each.pid, []).append(each)
        return max(by_process.values(), key=len, default=[])

    def grown(self) -> dict[str, float]:
        """By how much each figure of each process grew in an hour: of the process that lived longest.

        Before the first kill and after it apart, each with its own warm-up: a viewer needs more memory once, when the
        run that it looks at goes on from a checkpoint and its journals are read anew.
        """
        return {
            f"{name} {figure}, {when}": growth_an_hour([each for each in self.longest(name) if belongs(each)], figure)
            for name in self.samples
            for figure in FIGURES
            for when, belongs in (
                ("calm", lambda each: each.at_s < self.first_kill_at_s),
                ("killed", lambda each: each.at_s >= self.first_kill_at_s),
            )
        }

    def compare(self) -> None:
        """Train as many steps undisturbed, and hold the weights to those."""
        os.chdir(self.folder)
        torch.set_num_threads(1)  # as the trainer had: with two the sums are others
        step = saved_step(self.run)
        stop_after(step, training_plan="plan.toml", model="alone/m.lmp", out_dir="alone")
        alone, soaked = (load_checkpoint(path)["model"]["state"] for path in (Path("alone/m.lmp"), self.run.model))
        self.wrong += [f"weights differ: {place}" for place in differences(alone, soaked)]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=18)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory(prefix="lmplay-soak-") as made:
        folder = given.folder or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        soak = Soak(folder, 60 * given.minutes, given.seed, sample_s=60.0)
        soak.go()
        for name, value in soak.grown().items():
            print(f"{name}: {value:+.2f} an hour")
            if given.minutes >= ENOUGH_MINUTES and value > MOST_GROWN[name.split()[1].strip(",")]:
                soak.wrong.append(f"{name} has grown by {value:.2f} an hour")
        print(f"done: {soak.done}; step {saved_step(soak.run)}", flush=True)
        soak.compare()
        print("\n".join(soak.wrong) or "all as it should be")
        return bool(soak.wrong)


if __name__ == "__main__":
    sys.exit(main())
