"""One number has one value: a run's train loss and val loss, wherever they are shown, at one step of a real run."""

import csv
import io
import json
import re
from pathlib import Path

import pytest

from lmplay_tui.commands import export, plot, runs, status
from lmplay_tui.commands.train import Headless
from lmplay_tui.options import Launch
from lmplay_tui.run.charts import PlotOptions, level_chart, load_curves
from lmplay_tui.run.controls import Controls, Stop
from lmplay_tui.run.events import MetricsLogged, StepDone
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.run.metric_names import OF_STEPS, RECENT_LOSS, RECENT_STEPS
from lmplay_tui.run.statistics import read_statistics, statistics_path
from lmplay_tui.run.view import RunView
from lmplay_tui.train.launch import run_events
from lmplay_tui.ui.app import LmplayApp
from lmplay_tui.ui.notices import terminal_title
from lmplay_tui.ui.run_list import find_runs, run_detail, run_table
from lmplay_tui.ui.session import LiveSource
from lmplay_tui.ui.source import FolderSource
from lmplay_tui.ui.widgets.chart import ChartBuilder
from lmplay_tui.ui.widgets.curve_window import CurveWindow, Group
from lmplay_tui.ui.widgets.lines import Lines
from tests.train.conftest import _one_thread, place  # noqa: F401
from tests.train.runs import TINY, given, write_plan
from tests.ui.conftest import joined
from tests.ui.fake import Clock, FakeSource, started

PLAN = (
    TINY
    + """\
batch_size = 1
lr = 0.01
validation_interval = 7
validation_batch_size = 2
eval_samples = 2
log_interval = 10
[stages.stories]
dataset = "stories.jsonl"
[stages.pairs]
dataset = "pairs.jsonl"
epochs = 2
"""
)
STOPS_AT = 48  # inside the second stage, and between two lines of the log
NUMBER = r"(\d+\.\d+)"


def found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    assert match is not None, f"{pattern!r} is not in:\n{text}"
    return match[1]


class Trained:
    """A part of the run as it was trained: what a live dashboard and a headless start saw of it."""

    def __init__(self, plan: str, stop_at: int | None = None) -> None:
        options = {"training_plan": plan, "model": "m.lmp"}
        controls = Controls()
        self.lines: list[str] = []
        source = LiveSource(given(**options))
        if Path("m.lmp").exists():
            source._remember(RunFolder(Path("m.lmp")))
            while source.poll():
                pass
        self.view = source.view
        headless = Headless(self, given(**options).options)  # type: ignore[arg-type]
        for event in run_events(given(**options), controls):
            self.view.follow(event)
            headless.say(event)
            if isinstance(event, StepDone) and event.step == stop_at:
                controls.send(Stop())

    def write(self, line: str) -> None:
        self.lines.append(line)

    warn = write


async def screen_of(view: RunView, step: int) -> dict[str, str]:
    """What a dashboard shows of it."""
    assert view.at.step == step
    source = FakeSource()
    source.view = view
    app = LmplayApp(Launch(), source=source, timers=False)
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.pause()
        app.screen.refresh_now()  # type: ignore[attr-defined]
        await pilot.pause()
        curves = joined(app.screen.query_one("#curves", Lines).rows)
        table = joined(app.screen.query_one("#curriculum", Lines).rows)
    at = table.splitlines()[0].index(" loss") + len(" loss")
    loss = next(
        line[:at].split()[-1] for line in table.splitlines()[1:] if line.strip().startswith(("▸ pairs", "✓ pairs"))
    )
    return {
        "curves": found(rf"train {NUMBER}", curves), "curves, val": found(rf"val {NUMBER}", curves),
        "curriculum": loss, "title": f"{view.train_loss:.2f}" if view.over else found(NUMBER, terminal_title(view)),
    }  # fmt: skip


def attached(run: RunFolder) -> RunView:
    source = FolderSource(run, Clock())
    while source.behind or not source.view.over:
        source.poll()
    return source.view


async def table(
    trained: Trained, capsys: pytest.CaptureFixture[str], step: int
) -> tuple[dict[str, str], dict[str, str]]:
    """Train loss and val loss, each by the place that shows it."""
    run = RunFolder(Path("m.lmp"))
    live, seen = await screen_of(trained.view, step), await screen_of(attached(run), step)
    resumed = LiveSource(Launch({"model": "m.lmp"}))
    resumed._remember(run)
    while resumed.poll():
        pass
    again = await screen_of(resumed.view, step)
    train = {f"{who}: {where}": value for who, said in (("live", live), ("attached", seen), ("resumed", again))
             for where, value in said.items()}  # fmt: skip
    val = {name: train.pop(name) for name in list(train) if name.endswith("val")}

    def said(main: object, *words: str) -> str:
        capsys.readouterr()
        assert main(list(words), "lmplay-tui") == 0  # type: ignore[operator]
        return capsys.readouterr().out

    shown = said(status.main, "m.lmp")
    train["status"], val["status"] = found(rf"train loss +{NUMBER}", shown), found(rf"val loss +{NUMBER}", shown)
    told = json.loads(said(status.main, "m.lmp", "--json"))
    assert told["step"] == step
    train["status --json"], val["status --json"] = f"{told['train_loss']:.6f}", f"{told['val_loss']:.6f}"
    accuracy = found(rf"val accuracy +{NUMBER}", shown)
    assert accuracy == f"{told['val_accuracy']:.3f}" == f"{trained.view.val_accuracy:.3f}"
    assert accuracy in next(line for line in reversed(trained.lines) if "  validated at step" in line)
    train["status --line"] = found(rf"loss {NUMBER}", said(status.main, "m.lmp", "--line"))
    listed = said(runs.main).splitlines()
    for name, losses in (("train loss", train), ("val loss", val)):
        losses["runs"] = listed[1][: listed[0].index(name) + len(name)].split()[-1]
    [entry] = find_runs(None)
    titles, [row] = run_table([entry], 120)
    head = joined([titles])
    for name, losses in (("train loss", train), ("val loss", val)):
        losses["launcher's list"] = joined([row])[: head.index(name) + len(name)].split()[-1]
        losses["launcher's detail"] = found(rf"{name} +{NUMBER}", joined(run_detail(entry, 80)))
    train["headless"] = found(rf"loss {NUMBER}", next(line for line in trained.lines if f"step {step} " in line))
    rows = list(csv.DictReader(io.StringIO(said(export.main, "m.lmp", "--to", "csv", "--output", "-"))))
    train["csv"] = f"{float([row[RECENT_LOSS] for row in rows if row[OF_STEPS]][-1]):.6f}"
    val["csv"] = f"{float([row['val/loss'] for row in rows if row['val/loss']][-1]):.6f}"
    folder = Path("out_gpt")
    for split, losses in (("train", train), ("validate", val)):
        path = statistics_path(folder, "m", None, split)
        key = "loss" if split == "train" else "last_loss"
        losses["statistics file"] = f"{read_statistics(path).averages[key]:.6f}"
        chart = level_chart(load_curves([path])[0], "loss", PlotOptions())
        assert chart is not None
        losses["picture"] = chart.end_text(chart.lines[0]).split()[0]
    train["plot --terminal"] = found(rf"a m {NUMBER}", said(plot.main, "--terminal", "--plot-train", "m"))
    val["plot --terminal"] = found(rf"a m {NUMBER}", said(plot.main, "--terminal", "m"))
    return train, val


def one_value(losses: dict[str, str]) -> None:
    exact = float(losses["statistics file"])
    for where, shown in losses.items():
        digits = len(shown.partition(".")[2])
        assert shown == f"{exact:.{digits}f}" or abs(float(shown) - exact) < 0.51 * 10**-digits, (where, losses)


async def test_a_loss_is_the_same_wherever_it_is_shown(place: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    """Live, attached, resumed, stopped and finished; in commands, lists, pictures and exports."""
    plan = write_plan(place, PLAN)
    stopped = Trained(plan, stop_at=STOPS_AT)
    for losses in await table(stopped, capsys, STOPS_AT):
        assert len(losses) > 8
        one_value(losses)
    whole = Trained(plan)
    last = int(whole.view.at.step)
    assert whole.view.state == "finished" and last > RECENT_STEPS > STOPS_AT
    for losses in await table(whole, capsys, last):
        one_value(losses)


def drawn(view: RunView, *metrics: str) -> str:
    """A chart of it, with its title: the raw points and the smoothed line."""
    charts = ChartBuilder(view, CurveWindow(), (0.0, 60.0), 90, [])
    group = Group("chart", metrics or (OF_STEPS,))
    return joined(charts.rows(group, 14, selected=False, signs=False, right=[]))


def test_rates_memory_and_shares_are_drawn_as_they_are() -> None:
    """Their legend names the newest value; that of a metric which scatters, the mean over the steps of the frame."""
    view = RunView(Clock())
    view.follow(started())
    names = ("train/lr", "memory/used", "perf/mfu", "data/text_shown", "sys/cpu", "train/grad_norm")
    for step in range(10, 70, 10):
        values = dict.fromkeys(names, 0.25 if step < 60 else 0.75)
        line = {"step": step, "steps": 10, "samples": step, "tokens": step, "elapsed_s": step, "stage": "topics"}
        view.follow(MetricsLogged({**line, OF_STEPS: 3.0, RECENT_LOSS: 3.0, **values}))
    shown = {name: drawn(view, name).splitlines()[0] for name in names}
    assert "0.35" in shown.pop("train/grad_norm"), "five lines of ten steps: 0.25 four times, 0.75 once"
    assert all("0.75" in title for title in shown.values()), shown


def test_a_resume_leaves_the_curves_as_they_were(place: Path) -> None:  # noqa: F811
    """The raw points beside the smoothed line, too: those of steps give way to their line's, live as for viewers."""
    plan = write_plan(place, PLAN)
    live = Trained(plan, stop_at=STOPS_AT).view
    seen = attached(RunFolder(Path("m.lmp")))
    for name in (OF_STEPS, "train/accuracy", "train/grad_norm", "train/lr", RECENT_LOSS):
        ours, theirs = live.history.series[name].points(), seen.history.series[name].points()
        for part in ("x", "mean", "least", "greatest", "count"):
            assert getattr(ours, part).tolist() == getattr(theirs, part).tolist(), (name, part)
    again = LiveSource(Launch({"model": "m.lmp"}))
    again._remember(RunFolder(Path("m.lmp")))
    while again.poll():
        pass
    assert drawn(live) == drawn(seen) == drawn(again.view)
    points = live.history.series[OF_STEPS].points()
    assert points.x.tolist() == [10, 20, 30, 35, 40, STOPS_AT], "a line at the first stage's end, and at the stop"
    assert points.count.tolist() == [10, 10, 10, 5, 5, 8]


def test_a_line_of_a_short_interval_weighs_little(place: Path) -> None:  # noqa: F811
    """After a stop and a resume, a line stands for what came since."""
    plan = write_plan(place, PLAN)
    Trained(plan, stop_at=STOPS_AT)
    events = list(run_events(given(training_plan=plan, model="m.lmp"), Controls()))
    lines = [event.values for event in events if isinstance(event, MetricsLogged) and OF_STEPS in event.values]
    assert [(line["step"], line["steps"]) for line in lines][:2] == [(50, 2), (60, 10)]
