"""A dashboard with a million steps behind it: memory on the way, then what a refresh of its whole screen takes.

`python -m tests.bench.many_points [STEPS]`. The steps' events go through the live source and the dashboard's own ticks;
pictures are made as for a terminal, which counts them and throws them away.
"""

import asyncio
import gc
import json
import math
import os
import statistics
import sys
import time
from dataclasses import replace
from typing import Any

import psutil
from textual.drivers.headless_driver import HeadlessDriver

from lmplay_tui.options import Launch
from lmplay_tui.run import events as happened
from lmplay_tui.ui.app import LmplayApp
from lmplay_tui.ui.screens.dashboard import Dashboard
from lmplay_tui.ui.session import LiveSource
from lmplay_tui.ui.tty.painting import use_our_output

SIZES = ((80, 24), (120, 40), (200, 60))
STEPS = 1_000_000
BETWEEN_TICKS = 500  # steps
REFRESHES = 25
STAGE = happened.StageInfo("pretraining", ("pydocs",), 1.0, 20_000_000, 0)


class _Nowhere(HeadlessDriver):
    """A terminal that is there, reads at once and shows nothing."""

    @property
    def is_headless(self) -> bool:
        return False

    def write(self, data: str) -> None:
        data.encode()


class Run:
    """The events of a long run: each step, and from time to time all else that fills a metric."""

    def __init__(self) -> None:
        self.source = LiveSource(Launch())
        self.step = 0
        self._put(
            happened.RunStarted(
                name="long", device="cpu", num_parameters=2_130_000, step=0, rows=0, tokens=0, stages=(STAGE,),
                resumed_from=None, note="", pid=os.getpid(),
            ),
            happened.StageStarted("pretraining", 0, 1, 20_000_000, 0, 0, 0, 5.61),
            happened.ActivityChanged("training"),
        )  # fmt: skip
        self._done = happened.StepDone(
            step=0, stage="pretraining", rows=0, stage_rows=0, tokens=0, loss_tokens=800, step_tokens=900, samples=10,
            epoch=0.5, row=0, loss=0.0, recent_loss=0.0, accuracy=0.4, lr=6e-4, grad_norm=1.1, elapsed_s=0.0,
            data_s=0.012, forward_s=0.08, backward_s=0.12, optimizer_s=0.02, step_s=0.25, text_shown=0.972,
        )  # fmt: skip

    def _put(self, *events: happened.Event) -> None:
        for event in events:
            self.source._put(event)

    def go_on(self, steps: int) -> None:
        for _ in range(steps):
            self.step += 1
            step = self.step
            loss = 2.6 + 5.7 * math.exp(-step / 2e5) + 0.2 * math.sin(step * 1.7)
            done = replace(
                self._done, step=step, rows=10 * step, stage_rows=10 * step, tokens=900 * step, loss=loss,
                recent_loss=loss, elapsed_s=step * 0.25,
            )  # fmt: skip
            self._put(done)
            if step % 10 == 0:
                self._rest(step, loss)

    def _rest(self, step: int, loss: float) -> None:
        at = {"step": step, "steps": 10, "samples": 10 * step, "tokens": 900 * step, "elapsed_s": step * 0.25}
        values: dict[str, Any] = at | {
            "train/loss": loss, "train/recent_loss": loss, "train/lr": 6e-4, "train/grad_norm": 1.1,
            "time/step_s": 0.25, "perf/tokens_per_s": 3600.0 + step % 7, "perf/samples_per_s": 40.0, "perf/mfu": 0.31,
            "memory/rss_mb": 900.0, "sys/cpu": 0.97,
        }  # fmt: skip
        self._put(happened.MetricsLogged(values))
        if step % 100 == 0:
            self._put(happened.Validated(step, "pretraining", 10 * step, 900 * step, loss + 0.1, 0.4, 4, 0.2))
            said = f"The list of step {step} is a sequence of its own ."
            self._put(
                happened.Predicted(
                    step, "pretraining",
                    happened.Prediction("validation", "Title: list", "A list is a sequence .", said, 0.4, 3.2),
                )
            )  # fmt: skip
        if step % 5000 == 0:
            scores = {"pretraining": happened.EvaluationResult(loss + 0.05, 0.4, 1.4)}
            self._put(happened.Evaluated(step, "pretraining", 10 * step, 900 * step, scores, False, 1.0))
            self._put(happened.CheckpointSaved("long.lmp", step, 10 * step, 25_600_000, 0.4, 0.1, "interval"))


def _say(**figures: Any) -> None:
    """Past Textual, which keeps what is printed while it shows something."""
    os.write(1, (json.dumps(figures) + "\n").encode())


async def _memory(run: Run, screen: Dashboard, steps: int) -> None:
    """Feed the whole run, tick by tick; the resident memory at a tenth, half and all of it."""
    process, found = psutil.Process(), []
    for _ in range(0, steps, BETWEEN_TICKS):
        run.go_on(BETWEEN_TICKS)
        while run.source.poll():
            pass
        screen.tick(now=run.step * 0.01)
        await asyncio.sleep(0)
        if run.step in (steps // 10, steps // 2, steps):
            await asyncio.sleep(0.1)
            found.append(process.memory_info().rss / 2**20)
    _say(name="memory", rss_mb=[round(megabytes, 1) for megabytes in found])


async def _refreshes(run: Run, app: LmplayApp, size: tuple[int, int]) -> None:
    """Processor milliseconds, for nothing else shall count: all panes anew on a new step, and each cell sent again."""
    found: dict[str, list[float]] = {"all_panes_ms": [], "every_cell_ms": []}
    screen = app.screen
    assert isinstance(screen, Dashboard)
    for name, times in found.items():
        for _ in range(REFRESHES):
            run.go_on(10)
            while run.source.poll():
                pass
            run.source.view.say("info", f"a line of step {run.step}")
            await asyncio.sleep(0.01)
            screen._machine_at = -1e9
            begun = time.thread_time()
            screen.refresh_now()
            if name == "every_cell_ms":
                screen.refresh()
            screen._on_timer_update()
            times.append(1000 * (time.thread_time() - begun))
    figures = {name: round(statistics.median(times), 1) for name, times in found.items()}
    _say(name="refresh", size=f"{size[0]}x{size[1]}", **figures)


async def _looked_at(run: Run, size: tuple[int, int], steps: int) -> None:
    app = LmplayApp(Launch(), source=run.source, timers=False)
    app.driver_class = _Nowhere
    run.source.started = True  # its events come from here, not from a trainer
    showing = asyncio.create_task(app.run_async(size=size))
    await asyncio.sleep(1.0)
    assert isinstance(app.screen, Dashboard)
    gc.freeze()  # as the live source does at the first step
    with app._context():
        if steps:
            await _memory(run, app.screen, steps)
        app.clear_notifications()  # what they cost is not a refresh's
        await asyncio.sleep(0.2)
        await _refreshes(run, app, size)
    app.exit(0)
    await showing


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else STEPS
    use_our_output()
    run = Run()
    for size in SIZES:
        asyncio.run(_looked_at(run, size, steps - run.step if run.step < steps else 0))


if __name__ == "__main__":
    main()
