"""The lines of `metrics.jsonl`: means over the log interval, scores, throughput, and what the machine measures."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import psutil
import torch
from torch import nn

from lmplay_tui.process import ProcessorLoad
from lmplay_tui.run.events import Event, MetricsLogged, StepDone, Warned
from lmplay_tui.run.journal import rounded
from lmplay_tui.run.metric_names import STEP_METRICS
from lmplay_tui.run.ranks import Straggler
from lmplay_tui.train.device import MEASURED, matmul_parameters
from lmplay_tui.train.progress import Progress

READ_EVERY_S = 1.0  # a driver may take a millisecond to answer
_OF_ALL_OR_LAST = ("train/loss", "train/recent_loss", "train/lr")
_MEANS = {name: key for name, key in STEP_METRICS.items() if name not in _OF_ALL_OR_LAST}
# Seconds that decoding, splitting and the edit distance take a truth token, and what a device of a kind computes a
# second when it trains: rough on purpose. A measured time would make the statistics depend on the machine's mood.
_ACCURACY_S = 0.6e-6
_TYPICAL_FLOPS = {"cpu": 2e11, "cuda": 1.5e14, "mps": 5e12}


@dataclass(frozen=True)
class FlopCount:
    """Floating-point operations of training on a batch, forward and backward.

    (6 x matmul parameters (the head's on loss tokens only) + 12 x blocks x width x length) x tokens: the PaLM
    paper's appendix B, with the head counted where it is computed.
    """

    body_parameters: int
    head_parameters: int
    num_blocks: int
    embed_dim: int

    @classmethod
    def of_model(cls, model: nn.Module, model_args: Mapping[str, Any]) -> "FlopCount":
        """Counted from a model and the arguments that it was built with."""
        body, head = matmul_parameters(model)
        return cls(body, head, model_args["num_blocks"] or 0, model_args["embed_dim"] or 0)

    def of(self, num_tokens: int, num_loss_tokens: int, length: float) -> float:
        """`length`: mean length of the samples, in tokens."""
        attention = 12 * self.num_blocks * self.embed_dim * length * num_tokens
        return 6.0 * (self.body_parameters * num_tokens + self.head_parameters * num_loss_tokens) + attention


@dataclass
class LogWindow:
    """What `metrics.jsonl` has yet to hear: the steps since its last line of steps, and the scores of this moment.

    `rows`: read by the run so far.
    """

    flops: FlopCount
    peak_flops: float
    rows: int
    peak_from: str = MEASURED  # then it becomes what the run itself has reached, where that is more
    machine: Callable[[], dict[str, float]] = dict  # what it tells at the end of an interval
    num_ranks: int = 1  # `peak_flops` is what one of them could do
    # Where there are several: given the seconds a step, their figures of the interval, and a straggler newly found.
    ranks: Callable[[float], tuple[Mapping[str, float], Straggler | None]] | None = None
    steps: list[StepDone] = field(default_factory=list)
    scores: dict[str, float] = field(default_factory=dict)  # val/*, eval/*
    seconds: dict[str, float] = field(default_factory=dict)  # time/validate_s, time/save_s
    _has_doubted: bool = False  # the peak
    _reached: float = 0.0  # FLOP/s of the last interval, where it is above a measured peak
    _straggler: Straggler | None = None  # of which the next line tells

    def add(self, step: StepDone) -> None:
        self.steps.append(step)

    def score(self, values: Mapping[str, float]) -> None:
        """Scores of the weights as they are now: they are to be written before the next step."""
        self.scores.update(values)

    def spend(self, name: str, seconds: float) -> None:
        """Seconds beside the steps, of which the next line tells."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def logged(self, progress: Progress, *, steps: bool) -> Iterator[Event]:
        """The line that is due where the run stands (see `take`), and once what is wrong with the peak in it."""
        values = self.take(progress, steps=steps)
        if values is None:
            return
        yield MetricsLogged(values)
        if self._straggler is not None:
            yield Warned(self._straggler.sentence(), progress.step)
            self._straggler = None
        yield from self._doubts(values.get("perf/mfu"), progress.step)

    def _doubts(self, mfu: float | None, step: int) -> Iterator[Event]:
        """Once, that the peak is too low."""
        before = self.peak_flops
        self.peak_flops, self._reached = max(before, self._reached), 0.0
        if self._has_doubted or mfu is None or (mfu <= 1 and self.peak_flops == before):
            return
        self._has_doubted = True
        peak = f"{before / 1e12:,.3g} TFLOP/s ({self.peak_from})"
        if self.peak_flops > before:
            said = f"the peak of this device, {peak}, is too low: something else used it meanwhile, say. MFU is the "
            yield Warned(f"{said}share of the most that this run has reached from here on", step)
            return
        said = f"MFU {100 * mfu:.0f} %: the peak assumed for this device, {peak}, is too low; read MFU as a "
        yield Warned(f"{said}comparison with that figure", step)

    def take(self, progress: Progress, *, steps: bool) -> dict[str, Any] | None:
        """The line of `metrics.jsonl` that is due where the run stands; None: there is nothing to write.

        `steps`: the steps so far are due, and scores stand in their line; else scores have a line of their own.
        """
        steps = steps and bool(self.steps)
        if not steps and not self.scores:
            return None
        values = _place(progress)
        if steps:
            rows, self.rows = progress.rows - self.rows, progress.rows
            values |= self._of_steps(rows) | self.machine()
            if self.ranks is not None:
                figures, self._straggler = self.ranks(values["time/step_s"])
                values |= figures
            self.steps = []
        values |= self.scores | self.seconds
        self.scores, self.seconds = {}, {}
        return {name: rounded(value) for name, value in values.items()}

    def _of_steps(self, rows: int) -> dict[str, Any]:
        """Means over the steps. `rows`: that were read for them.

        The loss is a mean over loss tokens, so that it does not depend on how steps fall into lines. Throughput
        counts the whole step, waiting for data included, but not validation and saving.
        """
        steps, last = self.steps, self.steps[-1]
        seconds = math.fsum(s.step_s for s in steps)
        tokens = sum(s.step_tokens for s in steps)
        loss_tokens = sum(s.loss_tokens for s in steps)
        flops = sum(self.flops.of(s.step_tokens, s.loss_tokens, s.step_tokens / s.samples) for s in steps)
        rate = flops / seconds / self.num_ranks if seconds else math.nan  # of each device
        peak = self.peak_flops
        if peak and rate > peak and self.peak_from == MEASURED:
            peak = self._reached = rate
        values: dict[str, Any] = {
            "steps": len(steps),
            "train/loss": math.fsum(s.loss * s.loss_tokens for s in steps) / max(loss_tokens, 1),
            "train/recent_loss": last.recent_loss,
            "train/lr": last.lr,
            "perf/tokens_per_s": tokens / seconds if seconds else 0.0,
            "perf/samples_per_s": rows / seconds if seconds else 0.0,
            "perf/mfu": rate / peak if seconds and peak else None,
            "data/text_shown": last.text_shown,
            "data/rows_without_sample": last.rows_without_sample,
        }
        for name, attribute in _MEANS.items():
            known = [value for s in steps if (value := getattr(s, attribute)) is not None]
            if known:
                values[name] = math.fsum(known) / len(known)
        return values


def _place(progress: Progress) -> dict[str, Any]:
    """Where the run stands, as each line of `metrics.jsonl` begins."""
    of_stage = progress.of(progress.stage)
    row, per_epoch = of_stage.position.row, max(of_stage.rows_per_epoch or 0, 1)
    return {
        "elapsed_s": round(progress.elapsed_s, 3),
        "step": progress.step,
        "samples": progress.rows,
        "stage_samples": row,
        "tokens": progress.tokens,
        "stage": progress.stage,
        "epoch": round(row / per_epoch, 6),
        "row": row % per_epoch,
    }


def accuracy_interval(flops: FlopCount, device_type: str) -> int:
    """Each how many steps the word accuracy of the training batch fits into 1 % of the time; 1 is every step."""
    per_token = (6.0 * (flops.body_parameters + flops.head_parameters)) / _TYPICAL_FLOPS.get(device_type, 2e11)
    return max(1, math.ceil(_ACCURACY_S / (0.01 * per_token)))


class MachineMetrics:
    """What the machine tells beside the training: memory, and how busy processor and GPU are.

    Called once a log interval; what cannot be read is left out.
    """

    def __init__(self, device: torch.device, clock: Callable[[], float] = time.monotonic) -> None:
        self._device = device
        self._clock = clock
        self._read_at = -READ_EVERY_S
        self._process = psutil.Process()
        self._load = ProcessorLoad()

    def __call__(self) -> dict[str, float]:
        """`memory/...` and `sys/...`; nothing where the last reading is younger than a second."""
        now = self._clock()
        if now - self._read_at < READ_EVERY_S:
            return {}
        self._read_at = now
        asked: dict[str, Callable[[], float]] = {
            "memory/process_bytes": lambda: self._process.memory_info().rss,
            "memory/used": lambda: psutil.virtual_memory().percent / 100,
            "sys/cpu": self._load,
        }
        asked |= self._of_the_device()
        values = {}
        for name, ask in asked.items():
            with contextlib.suppress(Exception):  # no such counter here, no driver, no rights: left out
                values[name] = float(ask())
        return {name: value for name, value in values.items() if math.isfinite(value)}

    def _of_the_device(self) -> dict[str, Callable[[], float]]:
        device = self._device
        if device.type == "mps":
            return {"memory/device_bytes": torch.mps.current_allocated_memory}
        if device.type != "cuda":
            return {}
        return {
            "memory/device_bytes": lambda: _peak_bytes(device),
            "memory/device_used": lambda: _share_used(device),
            "sys/gpu": lambda: torch.cuda.utilization(device) / 100,
            "sys/gpu_watts": lambda: torch.cuda.power_draw(device) / 1000,
            "sys/gpu_celsius": lambda: torch.cuda.temperature(device),
        }


def _peak_bytes(device: torch.device) -> int:
    """The most that tensors took at once since the last call."""
    peak = torch.cuda.max_memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    return peak


def _share_used(device: torch.device) -> float:
    free, total = torch.cuda.mem_get_info(device)
    return 1 - free / total
