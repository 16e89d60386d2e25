"""A run without a trainer: a source that tests feed, and the events of a plausible training."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from lmplay_tui.run import controls
from lmplay_tui.run import events as happened
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.run.journal import stamp
from lmplay_tui.run.metric_names import RECENT_STEPS
from lmplay_tui.run.view import RunView

START = 1_790_000_000.0  # a Monday in September 2026, UTC


class Clock:
    """Time that stands still until a test moves it."""

    def __init__(self, now: float = START) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def follow_line(view: RunView, record: Mapping[str, Any]) -> None:
    """Give a view what an attached dashboard reads in a line of a journal."""
    event = happened.from_record(record)
    assert event is not None
    view.follow(event, stamp(record.get("time")))


class FakeSource:
    """Hands out the events that a test puts in, and remembers the commands."""

    def __init__(self, *, live: bool = True, folder: RunFolder | None = None) -> None:
        self.clock = Clock()
        self.view = RunView(self.clock)
        self.live = live
        self.folder = folder
        self.behind = False
        self.alive = True
        self.pid: int | None = None
        self.waiting: list[happened.Event] = []
        self.sent: list[controls.Command] = []
        self.exit_code: int | None = None

    @property
    def done(self) -> int | None:
        return self.exit_code if self.view.over else None

    def poll(self) -> bool:
        events, self.waiting = self.waiting, []
        for event in events:
            self.view.follow(event)
        return bool(events)

    def send(self, command: controls.Command) -> bool:
        self.sent.append(command)
        return True


PLAN = """\
# What it is for.
[stages.topics]
dataset = "pydocs"
epochs = 1

[stages.docstrings]  # the short ones
dataset = "pydocs"
epochs = 1.5

[stages.finetune]
dataset = "pydocs"
epochs = 0.5
"""

STAGES = (
    happened.StageInfo("topics", ("pydocs:topics",), 1.0, 1200, 0),
    happened.StageInfo("docstrings", ("pydocs", "wikitext"), 1.5, 4800, 0),
    happened.StageInfo("finetune", ("openorca",), 0.5, 2400, 0),
)

PROMPT = "Title: collections.OrderedDict"
TRUTH = "Return an instance of a dict subclass that has methods specialized for rearranging dictionary order."
SAID = "Return an the of a dict subclass that has been methods for the dictionary order."


def started(resumed_from: int | None = None) -> happened.RunStarted:
    return happened.RunStarted(
        name="gpt2ish_demo", device="cpu", num_parameters=2_130_000, step=resumed_from or 0, rows=0, tokens=0,
        stages=STAGES, resumed_from=resumed_from, note="bf16, 2 threads", pid=4711,
    )  # fmt: skip


def stage_started(index: int, step: int, rows: int) -> happened.StageStarted:
    info = STAGES[index]
    return happened.StageStarted(info.name, index, len(STAGES), info.rows_total or 0, 0, step, rows, 5.61)


def step_done(  # noqa: PLR0917
    step: int, stage: str, rows: int, stage_rows: int, loss: float, recent_loss: float | None = None
) -> happened.StepDone:
    return happened.StepDone(
        step=step, stage=stage, rows=rows, stage_rows=stage_rows, tokens=rows * 90, loss_tokens=800, step_tokens=900,
        samples=10, epoch=0.5, row=stage_rows, loss=loss,
        recent_loss=loss if recent_loss is None else recent_loss, accuracy=max(0.0, 0.62 - loss / 12), lr=6e-4,
        grad_norm=1.1, elapsed_s=step * 0.25, data_s=0.012, forward_s=0.08, backward_s=0.12, optimizer_s=0.02,
        step_s=0.25, text_shown=0.972,
    )  # fmt: skip


def prediction(
    said: str = SAID, truth: str = TRUTH, prompt: str = PROMPT, kind: str = "validation"
) -> happened.Prediction:
    words = truth.split(" ")
    tokens = tuple(word if i == 0 else " " + word for i, word in enumerate(words))
    chances = tuple(float(p) for p in np.random.default_rng(1).beta(0.6, 0.8, len(tokens)))
    tops = tuple(
        ((token, p), (" the", p / 2), (" a", p / 3), (" of", p / 5), (".", p / 9))
        for token, p in zip(tokens, chances, strict=True)
    )
    return happened.Prediction(kind, prompt, truth, said, 0.41, 3.217, tokens, chances, tops)


def training(steps: int, *, seed: int = 0) -> Iterator[happened.Event]:
    """The events of a run that is `steps` steps of ten rows into its plan."""
    noise = np.random.default_rng(seed).normal(0, 0.09, steps + 1)
    yield started()
    rows = 0
    losses: list[float] = []
    for index, info in enumerate(STAGES):
        if rows >= steps * 10:
            return
        yield stage_started(index, rows // 10, rows)
        stage_rows = 0
        while stage_rows < (info.rows_total or 0) and rows < steps * 10:
            rows, stage_rows = rows + 10, stage_rows + 10
            step = rows // 10
            loss = 2.6 + 5.7 * math.exp(-step / 70) + 0.4 * math.exp(-stage_rows / 500) + float(noise[step])
            loss += 2.5 if step == 222 else 0
            losses = [*losses[1 - RECENT_STEPS :], loss]
            yield step_done(step, info.name, rows, stage_rows, loss, sum(losses) / len(losses))
            if step % 10 == 0:
                yield happened.Validated(step, info.name, rows, rows * 90, loss + 0.12, 0.5 - loss / 14, 4, 0.2)
                yield happened.Predicted(step, info.name, prediction())
            if step % 60 == 0:
                scores = {info.name: happened.EvaluationResult(loss + 0.05, 0.4, 1.4)}
                yield happened.Evaluated(step, info.name, rows, rows * 90, scores, False, 1.0)
            if step % 100 == 0:
                yield happened.CheckpointSaved("out_gpt/gpt2ish_demo.lmp", step, rows, 25_600_000, 0.4, 0.1, "interval")
            if step == 180:
                yield happened.LearningRateChanged(step, 0.5)
            if step == 260:
                yield happened.Bookmarked(step, "looks like English now")
        if stage_rows == info.rows_total:
            done = {
                each.name: happened.EvaluationResult(2.91 + 0.1 * i, 0.4, 1.4)
                for i, each in enumerate(STAGES[: index + 1])
            }
            yield happened.Evaluated(rows // 10, info.name, rows, rows * 90, done, True, 1.0)
            yield happened.StageDone(info.name, index, rows // 10, rows, rows * 90, 187.0)


def fed(steps: int = 330, **kwargs: object) -> FakeSource:
    """A source whose run has been watched for so many steps, a quarter of a second each."""
    source = FakeSource(**kwargs)  # type: ignore[arg-type]
    for event in training(steps):
        source.waiting.append(event)
        if isinstance(event, happened.StepDone):
            source.clock.now = START + event.elapsed_s
            source.poll()
    source.waiting.append(happened.ActivityChanged("training"))
    source.poll()
    return source
