"""Runs as a trainer would have recorded them, without training."""

import itertools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lmplay_tui.run import events
from lmplay_tui.run.charts import Curve
from lmplay_tui.run.folder import RunFolder, RunLock
from lmplay_tui.run.metric_names import STEP_METRICS
from lmplay_tui.run.ranks import RankRecorder, RankState, rank_figures
from lmplay_tui.run.recorder import Recorder
from lmplay_tui.run.statistics import RunStatistics
from tests.ui.fake import training


def falling(step: int) -> float:
    """A loss that falls as training losses do."""
    return 3.0 + 5.0 / math.sqrt(1 + step / 8)


def record_run(
    folder: Path,
    name: str,
    *,
    steps: int = 60,
    seed: int = 0,
    loss: Callable[[int], float] = falling,
    validate: bool = True,
    stages: Sequence[str] = ("first", "second"),
) -> list[Path]:
    """Write the statistics of a run of some stages of equal length and return the files' paths."""
    dice = random.Random(seed)
    statistics = RunStatistics(name)
    for step in range(steps):
        stage = stages[step * len(stages) // steps]
        value = loss(step) + dice.gauss(0, 0.05)
        accuracy = dice.random() * 0.5
        statistics.trained(stage, rows=5, tokens=1000, loss_tokens=800, loss=value, accuracy=accuracy)
        if validate and step % 2:
            statistics.validated(stage, rows=2, tokens=300, loss_tokens=200, loss=value + 0.1, accuracy=accuracy)
    return statistics.write(folder)


def curve(
    label: str, tokens: list[float], loss: list[float], accuracy: list[float] | None = None, split: str = "train"
) -> Curve:
    """A curve straight from numbers."""
    unknown = [math.nan] * len(tokens)
    return Curve(
        label=label, path=Path(f"{label}_{split}_stats.json"), name=label, stage=None, split=split,
        tokens=np.array(tokens, dtype=np.float64), loss=np.array(loss, dtype=np.float64),
        accuracy=np.array(accuracy or unknown, dtype=np.float64),
        character_accuracy=np.array(unknown, dtype=np.float64),
    )  # fmt: skip


def many_ranks(count: int, *, per_node: int = 8, slow: int | None = None, seed: int = 0) -> list[RankState]:
    """The ranks of a run on nodes of GPUs in the middle of a step; rank `slow` needs 24 % longer than the others."""
    dice = random.Random(seed)
    own = [0.2 * (1 + dice.uniform(-0.02, 0.02)) * (1.24 if rank == slow else 1.0) for rank in range(count)]
    return [
        RankState(
            rank, f"node{rank // per_node}", f"cuda:{rank % per_node}", 4711 + rank, "backward", 330, own[rank],
            max(own) - own[rank], 8192.0, (60 + dice.uniform(0, 9)) * 2**30, 80 * 2.0**30, dice.uniform(0.88, 0.99),
            dice.uniform(50, 80),
        )
        for rank in range(count)
    ]  # fmt: skip


def training_on(run: RunFolder, ranks: Sequence[RankState], steps: int = 330) -> RunLock:
    """A run on disk that this process trains with these ranks, as far as its files tell, until the lock is released."""
    run.create()
    lock = RunLock(run)
    lock.take()
    recorder = Recorder(run)
    for event in (replace(e, reduce_s=0.02) if isinstance(e, events.StepDone) else e for e in training(steps)):
        recorder.record(event)
        if isinstance(event, events.StepDone) and event.step % 5 == 0:
            recorder.record(events.MetricsLogged(_line_of(event, ranks)))
    recorder.begin_anew()  # `run.json` is up to date
    recorder.close()
    record_ranks(run, ranks)
    return lock


def _line_of(step: events.StepDone, ranks: Sequence[RankState]) -> dict[str, Any]:
    values = {metric: getattr(step, name) for metric, name in STEP_METRICS.items()}
    place = {
        "elapsed_s": step.elapsed_s, "step": step.step, "samples": step.rows, "stage_samples": step.stage_rows,
        "tokens": step.tokens, "stage": step.stage, "steps": 5,
    }  # fmt: skip
    return place | values | rank_figures(ranks, step.step_s) | {"perf/tokens_per_s": 3600.0, "perf/mfu": 0.413}


def record_ranks(run: RunFolder, ranks: Sequence[RankState], intervals: int = 10) -> None:
    """Write `ranks.json` as rank 0 of this process does once so many log intervals have been as this one."""
    recorder = RankRecorder(run.files, clock=itertools.count(0, 10).__next__)
    for _ in range(intervals):
        recorder.interval(ranks, 0.25)
    assert recorder.write(lambda: ranks)
