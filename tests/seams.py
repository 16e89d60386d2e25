"""The places of the product where tests put something else: each once, with what it stands for.

What a test wants to happen it makes happen: by a parameter, a file, a full disk, a signal. These places are for what
cannot be made from outside. A module that moves changes its line here; `tests.house` keeps other tests from replacing
anything in the product.
"""

import contextlib
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

SEAMS = {
    # A disk, a hub, a memory that fails or is slow at a certain moment of a run.
    "row": "data.rows:Rows.items",
    "batches": "data.stage_data:batches",
    "open a stage": "train.dataloader:open_stage",
    "choose the run": "train.launch:choose_run",
    "read the start": "train.launch:read_start",
    "build the trainer": "train.launch:build_trainer",
    "state to save": "train.state:TrainState.checkpoint",
    "copy to save": "train.checkpointer:cpu_copy",
    "write a checkpoint": "train.checkpointer:write_checkpoint",
    "look for the parts": "train.checkpoint_parts:found_in",
    "write rank 0's part": "train.checkpoint_parts:write_part",
    "write a part": "train.follower:write_part",
    "link a checkpoint": "train.checkpointer:link_whole",
    "write statistics": "run.statistics:RunStatistics.write",
    "wait for a save": "train.checkpointer:CheckpointWriter.wait",
    "generate": "train.evaluation:generate",
    "predict": "train.evaluation:Scorer.predict",
    "leave a command": "train.handoff:leave_command",
    # A bug, at a certain moment.
    "metrics": "train.metrics:LogWindow.take",
    "record": "run.recorder:Recorder.record",
    "notify": "run.notify:Notifier.hear",
    "choose ways": "train.build:choose_ways",
    "pack": "train.gradients:pack",
    "packed attention": "models.gpt2ish:packed_attention",
    "hidden": "models.gpt2ish:GPT2ish.hidden",
    "trunk": "models.gpt2ish:GPT2ish.trunk",
    "update": "train.gradients:Gradients.update",
    "validate": "train.evaluation:Evaluator.validate",
    "answer": "train.evaluation:Evaluator.answer",
    "whole step": "train.train_step:TrainStep.is_whole",
    # What a run makes for itself, made with other limits, for another device.
    "columns from": "run.metric_rows:FROM_BYTES",
    "columns at least": "run.metric_columns:AT_LEAST_BYTES",
    "export looks every": "run.export:POLL_S",
    "strays": "train.process_group:STRAYS_WITHIN_S",
    "heartbeat": "run.folder:HEARTBEAT_S",
    "state written every": "run.recorder:STATUS_EVERY_S",
    "an answer takes at most": "commands.ctl:MOST_S",
    "proof shown": "train.stage_run:PROOF_SHOWN_S",
    "feed": "train.stage_run:Feed",
    "watch": "train.trainer:Watch",
    "peak": "train.trainer:peak_flops",
    "compilation": "train.trainer:Compilation",
    "checkpoint writer": "train.checkpointer:CheckpointWriter",
    "on done": "train.launch:run_on_done",
    # What leaves this process.
    "start a process": "train.launch:start_process",
    "post": "run.notify:post",
    "pictures": "train.launch:write_pngs",
    "headless": "commands.train:run_headless",
    "dashboard": "ui.run_app:run_dashboard",
    "picture of several runs": "commands.plot:draw_combined",
    "picture of a run": "run.plots:draw_own",
    "run": "train.launch:run_events",
    # What the screens stand on: a run, a disk, a machine.
    "live source": "ui.session:LiveSource",
    "detached source": "ui.session:detached_source",
    "watchdog": "ui.session:end_anyway",
    "devices": "ui.screens.launcher:devices",
    "device speed": "ui.launch_lists:device_flops",
    "readings": "ui.screens.dashboard:Machine",
    "runs of the launcher": "ui.launch_lists:find_runs",
    "runs of the dashboard": "ui.screens.runs:find_runs",
    "follow": "run.view:RunView.follow",
    "follow the past": "run.view:RunView.follow_past",
    "alive": "run.folder:RunFolder.alive",
    "status": "run.folder:RunFolder.status",
    "tail": "run.journal:Tail.read",
    "moment": "background:MOMENT_S",
    "bell": "ui.app:LmplayApp.bell",
}


class Seams:
    """Puts something else in a place of `SEAMS`, until the test ends."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.patch = patch

    def put(self, name: str, value: Any) -> Any:
        """Put `value` there; what it stands for is returned."""
        module, _, path = SEAMS[name].partition(":")
        owner: Any = importlib.import_module(f"lmplay_tui.{module}")
        *outer, last = path.split(".")
        for part in outer:
            owner = getattr(owner, part)
        real = getattr(owner, last, None)  # none: an attribute that each object sets
        self.patch.setattr(owner, last, value, raising=False)
        return real

    def around(self, name: str, call: Callable[..., Any]) -> None:
        """`call(real, *arguments)` is made instead of `real(*arguments)`."""
        real: Callable[..., Any] = self.put(name, lambda *args, **named: call(real, *args, **named))

    def watch(self, name: str, look: Callable[..., Any]) -> None:
        """`look(*arguments)` is made before each call; what it raises ends it."""

        def looked(real: Callable[..., Any], *args: Any, **named: Any) -> Any:
            look(*args, **named)
            return real(*args, **named)

        self.around(name, looked)


def raising(error: BaseException) -> Callable[..., Any]:
    """What raises `error` when it is called."""

    def call(*_: Any, **__: Any) -> Any:
        raise error

    return call


@contextlib.contextmanager
def for_a_while() -> Iterator[Seams]:
    """Seams that hold to the end of a `with`."""
    with pytest.MonkeyPatch.context() as patch:
        yield Seams(patch)


@pytest.fixture
def seams(monkeypatch: pytest.MonkeyPatch) -> Seams:
    """Something else in one of the product's few places for it, until the test ends."""
    return Seams(monkeypatch)
