"""Helpers to run the real trainer in a test and to compare what it leaves."""

import contextlib
import itertools
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch

from lmplay_tui.options import Launch
from lmplay_tui.run.controls import Bookmark, Command, Controls, Stop
from lmplay_tui.run.events import Answered, Event, RunDone, RunStopped, StepDone
from lmplay_tui.train.checkpoint import load_checkpoint
from lmplay_tui.train.launch import run_events

Kind = TypeVar("Kind", bound=Event)

SENTENCES = [
    "The mill stood by the river.", "Nobody had used it for years!", "Was it haunted?", "Anna did not think so.",
    "She went in, and the door closed behind her.", "Inside it was dark; a clock ticked.", "It was still running.",
    "How could that be?", "She wound it up again.", "Then she went home.",
]  # fmt: skip

# What the plans of small models begin with.
SMALL = """\
[train]
exp = "test_runner"
num_blocks = 2
embed_dim = 16
num_heads = 2
context_len = 64
tokenizer = "bytes"
batch_size = 6
"""

PLAN = (
    SMALL
    + """\
lr = 0.01
dropout = 0.1
validation_interval = 5
validation_batch_size = 2
eval_interval = 12
eval_samples = 6
log_interval = 2
[stages.stories]
dataset = "stories.jsonl"
epochs = 0.4
[stages.pairs]
dataset = "pairs.jsonl"
epochs = 1.2
optimizer = "adam"
lr_schedule = "cosine"
shuffle = true
[stages.both]
datasets = ["stories.jsonl", "pairs.jsonl"]
weights = [0.3, 0.7]
epochs = 0.2
optimizer = "adam"
"""
)


TINY = """\
[train]
exp = "test_runner"
num_blocks = 1
embed_dim = 16
num_heads = 2
context_len = 64
tokenizer = "bytes"
"""


def given(**options: Any) -> Launch:
    """The start that a command line with these options asks for."""
    launch = Launch({"device": "cpu", "mini_batch_size": 2, **options})
    assert launch.options  # valid
    return launch


def write_rows(folder: Path) -> None:
    """Two small datasets: `stories.jsonl` (title, text) and `pairs.jsonl` (prompt, truth)."""
    rows = [{"title": f"Story {i}", "text": " ".join(SENTENCES[i % 7 :] * (1 + i % 3))} for i in range(40)]
    rows[5]["text"] = ""
    (folder / "stories.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    pairs = [{"prompt": f"What is {i} and {i}?", "truth": f"It is {2 * i}. Of course."} for i in range(20)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs), encoding="utf-8")


def write_plan(folder: Path, text: str = PLAN, name: str = "plan.toml") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def train(controls: Controls | None = None, **options: Any) -> list[Event]:
    return list(run_events(given(**options), controls or Controls()))


class Undisturbed:
    """A run of a plan to its end, in `whole/` of a folder with the datasets: trained once, read by many tests.

    Each test finds the folder at the same place as it was after the training: `again()`.
    """

    def __init__(self, folder: Path, plan: str) -> None:
        self.place = folder / "place"
        self._kept = folder / "kept"
        self.place.mkdir()
        write_rows(self.place)
        self.plan = write_plan(self.place, plan)
        with contextlib.chdir(self.place):
            self.events = train(training_plan=self.plan, model="whole/m.lmp", out_dir="whole")
        assert isinstance(self.events[-1], RunDone), self.events[-1]
        self.losses = losses(self.events)
        self.state = state_of(self.place / "whole/m.lmp")
        self.statistics = statistics_of(self.place / "whole")
        self.place.rename(self._kept)

    def again(self) -> Path:
        shutil.rmtree(self.place, ignore_errors=True)
        shutil.copytree(self._kept, self.place)
        return self.place


def stop_after(step: int, **options: Any) -> list[Event]:
    """Train, and stop once `step` is done."""
    controls = Controls()
    events = []
    for event in run_events(given(**options), controls):
        events.append(event)
        if isinstance(event, StepDone) and event.step == step:
            controls.send(Stop())
    return events


class StopsAtLook(Controls):
    """Asks to stop when the trainer looks for the n-th time: between any two mini-batches, while validating, ..."""

    def __init__(self, look: int) -> None:
        super().__init__()
        self._looks = itertools.count(1)
        self._look = look

    @property
    def stop_now(self) -> bool:
        return next(self._looks) >= self._look

    @stop_now.setter
    def stop_now(self, value: bool) -> None:
        pass


class Broken(Bookmark):
    """A command that leads to a bug: `KeyError: 'a bug'` where it is carried out."""

    def __getattribute__(self, name: str) -> Any:
        if name == "note":
            raise KeyError("a bug")
        return super().__getattribute__(name)


def losses(events: list[Event]) -> list[tuple[int, str, float, float | None]]:
    return [(e.step, e.stage, e.loss, e.accuracy) for e in events if isinstance(e, StepDone)]


def last(events: list[Event]) -> Event:
    return events[-1]


def was_stopped(events: list[Event]) -> bool:
    return isinstance(events[-1], RunStopped)


def differences(a: Any, b: Any, path: str = "") -> Iterator[str]:
    """Where two trees of plain values and tensors differ by a bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        if a.dtype != b.dtype or a.shape != b.shape or not torch.equal(a, b):
            yield path
    elif isinstance(a, dict) and isinstance(b, dict):
        for key in a.keys() | b.keys():
            if key not in a or key not in b:
                yield f"{path}/{key} (missing)"
            else:
                yield from differences(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from differences(x, y, f"{path}/{i}")
    elif a != b and not (isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b)):
        yield f"{path}: {a!r} != {b!r}"


def state_of(path: Path) -> dict[str, Any]:
    """A checkpoint without what depends on the clock or on the way there."""
    checkpoint = load_checkpoint(path)
    progress = checkpoint["runner"]["state"]["progress"]
    del progress["elapsed_s"], progress["saved_rows"], progress["best_eval_loss"], progress["best_step"]
    del progress["numbered"]
    for stage in (*progress["stages"].values(), *checkpoint["curriculum"]["state"].values()):
        del stage["elapsed_s"]
    return checkpoint


def statistics_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*_stats.json")}


def answers(events: list[Event]) -> dict[str, Answered]:
    return {event.id: event for event in events if isinstance(event, Answered)}


def progress_of(path: str | Path) -> dict:
    return load_checkpoint(Path(path))["runner"]["state"]["progress"]


def step_of(path: str | Path) -> int:
    """The step that a checkpoint is of."""
    return int(progress_of(path)["step"])


def ask_at(step: int, *commands: Command, launch: Launch | None = None, **options: Any) -> list[Event]:
    """Train as `launch` says, or with these options, and send the commands once `step` is done."""
    controls = Controls()
    events: list[Event] = []
    for event in run_events(launch or given(**options), controls):
        events.append(event)
        if isinstance(event, StepDone) and event.step == step:
            for command in commands:
                controls.send(command)
    return events


def of(kind: type[Kind], events: list[Event]) -> list[Kind]:
    """Those of a kind, in their order."""
    return [event for event in events if isinstance(event, kind)]
