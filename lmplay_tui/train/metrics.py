"""What is measured on the way: means over the log interval, throughput, and what share of the device is used.

What the machine tells beside the training, for `metrics.jsonl`: memory, and how busy processor and GPU are.

What a person who is not looking would want to know: stalls, and losses that jump, with the rows they came from.
"""

import contextlib
import math
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import psutil
import torch
from torch import nn

from lmplay_tui.run.events import (
    STEP_METRICS,
    ActivityChanged,
    Event,
    LossSpiked,
    MetricsLogged,
    Stalled,
    StepDone,
    Warned,
)
from lmplay_tui.run.journal import rounded
from lmplay_tui.train.device import matmul_parameters
from lmplay_tui.train.progress import Progress

_MEANS = {name: key for name, key in STEP_METRICS.items() if name not in ("train/loss", "train/lr")}


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
    peak_from: str = "measured here"
    machine: Callable[[], dict[str, float]] = dict  # what it tells at the end of an interval
    steps: list[StepDone] = field(default_factory=list)
    scores: dict[str, float] = field(default_factory=dict)  # val/*, eval/*
    seconds: dict[str, float] = field(default_factory=dict)  # time/validate_s, time/save_s
    _has_doubted: bool = False  # the peak

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
        mfu = values.get("perf/mfu")
        if mfu is not None and mfu > 1 and not self._has_doubted:
            self._has_doubted = True
            peak = f"{self.peak_flops / 1e12:,.3g} TFLOP/s ({self.peak_from})"
            yield Warned(
                f"MFU {100 * mfu:.0f} %: the peak assumed for this device, {peak}, is too low; read MFU as a "
                "comparison with that figure",
                progress.step,
            )

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
        values: dict[str, Any] = {
            "train/loss": math.fsum(s.loss * s.loss_tokens for s in steps) / max(loss_tokens, 1),
            "train/lr": last.lr,
            "perf/tokens_per_s": tokens / seconds if seconds else 0.0,
            "perf/samples_per_s": rows / seconds if seconds else 0.0,
            "perf/mfu": flops / seconds / self.peak_flops if seconds and self.peak_flops else None,
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


# Seconds that decoding, splitting and the edit distance take a truth token, and what a device of a kind computes a
# second when it trains: rough on purpose. A measured time would make the statistics depend on the machine's mood.
_ACCURACY_S = 0.6e-6
_TYPICAL_FLOPS = {"cpu": 2e11, "cuda": 1.5e14, "mps": 5e12}


def accuracy_interval(flops: FlopCount, device_type: str) -> int:
    """Each how many steps the word accuracy of the training batch fits into 1 % of the time; 1 is every step."""
    per_token = (6.0 * (flops.body_parameters + flops.head_parameters)) / _TYPICAL_FLOPS.get(device_type, 2e11)
    return max(1, math.ceil(_ACCURACY_S / (0.01 * per_token)))


READ_EVERY_S = 1.0  # more often nobody looks, and a driver may take a millisecond to answer


class MachineMetrics:
    """Called once a log interval; what does not tell is left out."""

    def __init__(self, device: torch.device, clock: Callable[[], float] = time.monotonic) -> None:
        self._device = device
        self._clock = clock
        self._read_at = -READ_EVERY_S
        self._process = psutil.Process()
        psutil.cpu_percent()  # what it gives is since the last time that this thread asked

    def __call__(self) -> dict[str, float]:
        """`memory/...` and `sys/...`; nothing where the last reading is younger than a second."""
        now = self._clock()
        if now - self._read_at < READ_EVERY_S:
            return {}
        self._read_at = now
        asked: dict[str, Callable[[], float]] = {
            "memory/process_bytes": lambda: self._process.memory_info().rss,
            "memory/used": lambda: psutil.virtual_memory().percent / 100,
            "sys/cpu": lambda: psutil.cpu_percent() / 100,
        }
        asked |= self._of_the_device()
        values = {}
        for name, ask in asked.items():
            with contextlib.suppress(Exception):  # no such counter here, no driver, no rights: not told
                values[name] = float(ask())
        return values

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


STALL_FACTOR = 10  # of the time of the last steps
LEAST_STALL_S = 5.0  # below it nobody minds
LOOK_EVERY_S = 1.0  # at a step that has not ended
REMEMBERED = 100  # steps
ENOUGH = 30  # steps, before a loss can be called unusual
SPIKE_Z = 8.0  # robust z-score of a loss that is called a spike
_MAD_OF_NORMAL = 0.6745  # the median absolute deviation of a normal distribution, in standard deviations


def robust_z(value: float, values: list[float]) -> float:
    """How many standard deviations `value` lies above the median, by the median absolute deviation.

    Iglewicz and Hoaglin 1993: one earlier spike does not hide the next, as it would in a mean. The deviation counts
    as at least 1 % of the median: a loss that hardly moves makes no spike of a ripple.
    """
    middle = statistics.median(values)
    spread = statistics.median(abs(v - middle) for v in values)
    return _MAD_OF_NORMAL * (value - middle) / max(spread, 0.01 * abs(middle), 1e-12)


class Watch:
    """Looks at each step and at each wait for data. Knows nothing that a resume would need."""

    def __init__(self) -> None:
        self._hanging = Hanging()
        self._losses: deque[float] = deque(maxlen=REMEMBERED)
        self._seconds: deque[float] = deque(maxlen=REMEMBERED)
        self._usual_s: float | None = None  # their median
        self._spiking = False
        self._stage = ""  # whose losses they are: another stage's data have losses of their own
        self._wait_said = False

    def reporting_hangs(self, tell: Callable[[Event], None]) -> contextlib.AbstractContextManager[None]:
        """Within it, a step that hangs is told while it does: `tell` is called from a thread."""
        return self._hanging.watched(tell)

    def step_under_way(self, step: int) -> contextlib.AbstractContextManager[None]:
        """Within it, step number `step` is done."""
        if self._usual_s is None:
            return contextlib.nullcontext()
        return self._hanging.step(step, _stall_s(self._usual_s), self._usual_s)

    def step_done(self, step: StepDone, first_row: int) -> list[Event]:
        """What is unusual about the step. `first_row`: of the stage, where its batch began."""
        said: list[Event] = []
        if self._hanging.told:  # the state line speaks of it
            self._hanging.told = False
            said.append(ActivityChanged("training"))
        seconds = step.step_s - step.data_s
        if self._usual_s is not None and seconds > _stall_s(self._usual_s):
            said.append(Stalled("step", seconds, self._usual_s, step.step))
        if step.stage != self._stage:
            self._stage, self._spiking = step.stage, False
            self._losses.clear()
        z = robust_z(step.loss, list(self._losses)) if len(self._losses) >= ENOUGH else 0.0
        if z > SPIKE_Z and not self._spiking:
            usual = statistics.median(self._losses)
            said.append(LossSpiked(step.step, step.stage, step.loss, usual, z, first_row, step.stage_rows - 1))
        self._spiking = z > SPIKE_Z
        self._losses.append(step.loss)
        self._seconds.append(seconds)
        self._usual_s = statistics.median(self._seconds)
        self._wait_said = False
        return said

    def data_waited(self, seconds: float, step: int) -> list[Event]:
        """Say once a wait that no batch has come for so long."""
        if self._wait_said or seconds < (60.0 if self._usual_s is None else _stall_s(self._usual_s)):
            return []
        self._wait_said = self._hanging.told = True
        return [ActivityChanged("training", "waits for data"), Stalled("data", seconds, self._usual_s, step)]


def _stall_s(usual_s: float) -> float:
    return max(LEAST_STALL_S, STALL_FACTOR * usual_s)


@dataclass(frozen=True)
class _Step:
    number: int
    begun: float  # monotonic
    limit_s: float
    usual_s: float


class Hanging:
    """Tells of a step that hangs, from a thread: the trainer's own can say nothing until the step is over.

    What it tells goes where the trainer's events go. The two never tell at once: the thread does it within a step
    alone, and a step does not end meanwhile.
    """

    def __init__(self) -> None:
        self._step: _Step | None = None
        self._telling = threading.Lock()
        self.told = False  # since somebody has set it to False

    @contextlib.contextmanager
    def watched(self, tell: Callable[[Event], None]) -> Iterator[None]:
        """A thread looks every second."""
        over = threading.Event()
        thread = threading.Thread(target=self._look, args=(tell, over), name="hanging steps", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    @contextlib.contextmanager
    def step(self, number: int, limit_s: float, usual_s: float) -> Iterator[None]:
        self._step = _Step(number, time.monotonic(), limit_s, usual_s)
        try:
            yield
        finally:
            with self._telling:
                self._step = None

    def _look(self, tell: Callable[[Event], None], over: threading.Event) -> None:
        told_of: _Step | None = None
        while not over.wait(LOOK_EVERY_S):
            with self._telling:
                step = self._step
                if step is None or step is told_of or (seconds := time.monotonic() - step.begun) <= step.limit_s:
                    continue
                told_of, self.told = step, True
                tell(ActivityChanged("training", f"step {step.number} has not ended"))
                tell(Stalled("step", seconds, step.usual_s, step.number, lasts=True))
