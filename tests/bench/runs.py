"""`resume` and `save`: what it costs to go on, and what a checkpoint costs the training."""

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.bench.settings import SETTINGS, plan_text

SAVES = 10


def _given(folder: Path) -> dict[str, Any]:
    plan = folder / "bench.toml"
    plan.write_text(plan_text(SETTINGS["S"], "pydocs"), encoding="utf-8", newline="\n")
    return {"training_plan": str(plan), "model": str(folder / "bench.lmp"), "out_dir": str(folder)}


def run_save(arguments: Any) -> dict[str, str]:
    """How long a save keeps the training from its weights, against `torch.save` of the same state.

    Each save is followed by a plain one of what it has written, so that what else the machine does meets both; what is
    compared is the median of the pairs' ratios. Copying runs beside a step's passes and takes its share of the cores
    and of memory's width: so the steps beside a save are timed against the others too.
    """
    import torch

    from lmplay_tui.options import Launch
    from lmplay_tui.run.controls import Controls, SaveNow, Stop
    from lmplay_tui.run.events import ActivityChanged, CheckpointSaved, StepDone
    from lmplay_tui.train.checkpoint import load_checkpoint
    from lmplay_tui.train.launch import run_events

    blocked: list[float] = []
    plain: list[float] = []
    beside: list[float] = []
    alone: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        controls = Controls()
        is_next = is_writing = False
        for event in run_events(Launch(_given(folder)), controls):
            match event:
                case StepDone():
                    if is_next:
                        beside.append(event.step_s)
                    elif event.step > 2 and not is_writing:
                        alone.append(event.step_s)
                    is_next = False
                    if event.step == 2 or (len(alone) > len(beside) and not is_writing):
                        controls.send(SaveNow())
                case ActivityChanged(activity="saving"):
                    is_next = is_writing = True
                case CheckpointSaved() if len(plain) < SAVES:
                    is_writing = False
                    blocked.append(event.blocked_s)
                    checkpoint = load_checkpoint(folder / "bench.lmp")
                    written = time.perf_counter()
                    torch.save(checkpoint, folder / "plain.lmp")
                    plain.append(time.perf_counter() - written)
                    (folder / "plain.lmp").unlink()
                    if len(plain) == SAVES:
                        controls.send(Stop())
    ratios = [kept / whole for kept, whole in zip(blocked, plain, strict=True)]
    return {
        "save: training blocked, first / later": f"{_ms(blocked[:1])} / {_ms(blocked[1:])} ms",
        "save: torch.save": f"{_ms(plain)} ms",
        "save: blocked, of torch.save": f"{ratios[0]:.3f} / {statistics.median(ratios[1:]):.3f}"
        f" (of {len(ratios) - 1} pairs {min(ratios[1:]):.3f} to {max(ratios[1:]):.3f})",
        "save: a step beside the copy / others": f"{_ms(beside)} / {_ms(alone)} ms",
    }


def _ms(seconds: list[float]) -> str:
    return f"{1000 * statistics.median(seconds):.1f}"


class _ManyRows:
    """A dataset of any number of rows, which holds none of them."""

    def __init__(self, count: int) -> None:
        self.num_rows = count

    def items(self, number: int) -> list[Any]:
        from lmplay_tui.data.samples import Item

        return [Item(f"Row {number}", f"This is row {number} of many. " * 8)]

    def fingerprint(self) -> str:
        return f"{self.num_rows} rows"


def _far_into_many_rows() -> dict[str, str]:
    """Opening a shuffled dataset and reading one batch: at the start of 1,000 rows, at the end of 100,000,000."""
    from lmplay_tui.data.batches import Position
    from lmplay_tui.data.order import Source, StagePart
    from lmplay_tui.data.splits import Segment
    from lmplay_tui.data.stage_data import StageData
    from lmplay_tui.data.tokenizer import load_tokenizer
    from lmplay_tui.plan.reading import parse_plan
    from lmplay_tui.train.settings import Settings

    plan = parse_plan(plan_text(SETTINGS["S"], "pydocs"), name="bench", file="bench", folder=Path.cwd())
    stage, tokenizer = plan.stages[0], load_tokenizer("gpt2")
    options = Settings(plan, {"shuffle": True}).for_stage(stage)
    rows = {}
    for count, at in ((1_000, 0), (100_000_000, 99_000_000)):
        begun = time.perf_counter()
        segments = (Segment("bench", 0, count),)
        source: Any = Source(stage.datasets[0], _ManyRows(count), None, segments)  # type: ignore[arg-type]
        data = StageData(stage, options, tokenizer, [StagePart(source, share=0.1, seed=0)])
        reading = data.batches(Position(at * 8 // 10))
        next(reading)
        reading.close()
        rows[f"open {count:,} rows, batch at row {at:,}"] = f"{1000 * (time.perf_counter() - begun):.0f} ms"
    return rows


def run_resume(arguments: Any) -> dict[str, str]:
    """From a finished checkpoint to the next step; and the first batch far into a large dataset."""
    from lmplay_tui.options import Launch
    from lmplay_tui.run.controls import Controls, Stop
    from lmplay_tui.run.events import Event, StageStarted, StepDone
    from lmplay_tui.train.launch import run_events

    def until_step(given: dict[str, Any]) -> Iterator[tuple[float, Event]]:
        controls, begun = Controls(), time.perf_counter()
        for event in run_events(Launch(given), controls):
            yield time.perf_counter() - begun, event
            if isinstance(event, StepDone):
                controls.send(Stop())

    with tempfile.TemporaryDirectory() as name:
        given = _given(Path(name))
        list(until_step(given))
        del given["training_plan"]
        ready = next(seconds for seconds, event in until_step(given) if isinstance(event, StageStarted))
    return {"resume S: until the first batch": f"{ready:.2f} s"} | _far_into_many_rows()
