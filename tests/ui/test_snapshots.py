"""Stored snapshots of every screen, at three sizes: characters, colours, cursor and focus.

After a wanted change: `python -m pytest tests/ui/test_snapshots.py --update-snapshots`, then look at `git diff`.
A snapshot is a text file in `snapshots/`; `snapshot.py` says how to read it.
"""

import difflib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from textual.geometry import Region
from textual.pilot import Pilot
from textual.widgets import TextArea

from lmplay_tui.options import Launch
from lmplay_tui.run import events as happened
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.run.journal import Journal
from lmplay_tui.run.ranks import Ranks, Straggler
from lmplay_tui.ui.app import LmplayApp
from lmplay_tui.ui.widgets.plan_pane import PlanPane
from lmplay_tui.ui.widgets.system import Machine, MachineReading
from tests.run.recorded_runs import many_ranks
from tests.seams import Seams
from tests.ui.conftest import tick, whole_launcher
from tests.ui.fake import PLAN, FakeSource, fed, follow_line, step_done, training
from tests.ui.snapshot import dump, hold_still

STORED = Path(__file__).parent / "snapshots"
SIZES = ((80, 24), (120, 40), (200, 60))
DIALOG, HELP = "#dialog", "#help"

Look = tuple[str, str, str | None]  # the snapshot's name, keys before it, what of the screen it is of (None: all)


@dataclass(frozen=True)
class Sitting:
    """One dashboard, or launcher, looked at again and again."""

    source: Callable[[], FakeSource | None]
    looks: Sequence[Look]
    options: dict[str, Any] = field(default_factory=dict)


def planned(steps: int = 330) -> FakeSource:
    """A run with its plan on disk, and an earlier run beside it."""
    folder = RunFolder(Path("out_gpt/gpt2ish_demo.lmp"))
    folder.create()
    folder.plan.write_text(PLAN, encoding="utf-8", newline="\n")
    _earlier_run()
    return fed(steps, folder=folder)


def _earlier_run() -> None:
    earlier = RunFolder(Path("out_gpt/first_try.lmp"))
    earlier.create()
    journal = Journal(earlier.metrics)
    for event in training(250, seed=1):
        if isinstance(event, happened.StepDone):
            values = {"step": event.step, "samples": event.rows, "tokens": event.tokens, "elapsed_s": event.elapsed_s}
            journal.write(values | {"train/loss": event.loss + 0.3, "train/accuracy": event.accuracy})
    status = {"name": "first_try", "state": "stopped", "step": 250, "val_loss": 3.127}
    earlier.write_status(status | {"heartbeat": time.time() - 3.2 * 3600})


def with_events(*events: happened.Event, exit_code: int | None = None, steps: int = 330) -> Callable[[], FakeSource]:
    def made() -> FakeSource:
        source = planned(steps)
        source.exit_code, source.waiting = exit_code, list(events)
        return source

    return made


def not_begun() -> FakeSource:
    source = FakeSource()
    source.waiting = [happened.ActivityChanged("downloading", "wikimedia/wikipedia 20231101.en", 0.34)]
    return source


def attached() -> FakeSource:
    """Another process's run, of a device whose peak is known, and no run beside it."""
    source = fed(330, live=False)
    follow_line(source.view, {"step": 330, "samples": 3300, "tokens": 297_000, "elapsed_s": 82.5, "perf/mfu": 0.413})
    return source


def of_ranks(count: int) -> FakeSource:
    """A run of several processes, of which one is slow."""
    source = attached()
    ranks = tuple(many_ranks(count, slow=2))
    source.view.ranks = Ranks(ranks, source.clock.now, 1, "node0", Straggler(2, "node0", "GPU 2", 0.238))
    return source


def launched() -> None:
    _earlier_run()
    mine = "# My own words, then the demo's.\n[stages.mine]\ndataset = 'pydocs'\nepochs = 2\n"
    Path("my_words.toml").write_text(mine, encoding="utf-8")
    Path("broken.toml").write_text("[stages.a]\ndatasett = 'pydocs'\n", encoding="utf-8")


PROBLEMS = " ".join(["4", *["down"] * 12, *"[stages.b]", "enter", *"epochz=1"])
EFFECT = " ".join(["4", *["down"] * 11, "end", *["backspace"] * 3, *"2.5"])
COMMAND = "lmplay-tui --model out_gpt/gpt2ish_demo.lmp"

SITTINGS: dict[str, Sitting] = {
    "training": Sitting(
        planned,
        [
            ("dashboard", "", None),
            ("stop", "x", DIALOG),
            ("stage", "escape 1 enter", DIALOG),
            ("extend", "e", DIALOG),
            ("quit", "escape q", DIALOG),
            ("learning-rate", "escape l", DIALOG),
            ("learning-rate-wrong", "minus 1 enter", DIALOG),
            ("bookmark", "escape b", DIALOG),
            ("ask", "escape g", DIALOG),
            ("filter", "escape slash", DIALOG),
            ("runs", "escape r", DIALOG),
            ("help", "escape question_mark", HELP),
            ("palette", "escape ctrl+p", None),
            ("curriculum", "escape escape 1 z", None),
            ("curves", "2", None),
            ("predictions", "3", None),
            ("predictions-tokens", "enter right right", None),
            ("system", "escape 5", None),
            ("log", "6", None),
            ("plan", "4", None),
            ("save-plan", "f2", DIALOG),
            ("curves-ghost-cursor", "escape escape r enter 2 enter" + 5 * " left_square_bracket", None),
            ("curves-metrics", "escape down y slash t i m e slash enter", None),
        ],
        {"price_per_hour": 2.0},
    ),
    "problems": Sitting(planned, [("plan-problems", PROBLEMS, None)]),
    "effect": Sitting(planned, [("plan-effect", EFFECT, None)], {"price_per_hour": 2.0}),
    "begins": Sitting(not_begun, [("begins", "", None)]),
    "paused": Sitting(with_events(happened.Paused(330)), [("paused", "", None)]),
    "done": Sitting(
        with_events(happened.RunDone(840, "out_gpt/gpt2ish_demo.lmp", 310.0), exit_code=0, steps=840),
        [("done", "", None)],
    ),
    "attached": Sitting(
        attached,
        [
            ("attached", "5 z", None),
            ("runs-none", "r", DIALOG),
            ("curves-none", "escape 2 slash x y enter", "#curves"),
        ],
    ),
    "finished": Sitting(
        with_events(happened.RunDone(840, "out_gpt/gpt2ish_demo.lmp", 0.0, already=True), exit_code=0, steps=840),
        [("finished", "", DIALOG), ("extend-run", "e", DIALOG)],
    ),
    "left-out": Sitting(
        with_events(
            happened.DatasetOpened("pydocs", "text = text, title = title; left out: id", ("one note",), 90, 10, 100, 7),
            happened.TextLeftOut("finetune", "openorca", 0.314, 160),
            replace(step_done(331, "docstrings", 3310, 2110, 2.6), text_shown=0.022, rows_without_sample=1234),
        ),
        [("left-out", "6 z", None), ("left-out-curriculum", "escape 1", "#curriculum")],
    ),
    "stopped": Sitting(
        with_events(happened.RunStopped(330, "out_gpt/gpt2ish_demo.lmp", COMMAND, "asked"), exit_code=None),
        [("stopped", "", None)],
    ),
    "failed": Sitting(
        with_events(
            happened.Warned("loss spike: 5.1 where 2.7 was usual; rows 2,210 to 2,219 of docstrings", 222),
            happened.RunFailed(
                "stage docstrings, step 331: the loss is NaN; the last checkpoint is intact, "
                "the state is in gpt2ish_demo.corrupted.lmp. Try a lower --lr or --grad-clip 1",
                exit_code=3,
                step=331,
                path="out_gpt/gpt2ish_demo.lmp",
            ),
            exit_code=3,
        ),
        [("failed", "", None)],
    ),
    "ascii": Sitting(planned, [("ascii", "", None), ("ascii-predictions", "3 z enter", None)], {"ascii": True}),
    "light": Sitting(planned, [("light", "t", None)]),
    "ranks": Sitting(lambda: of_ranks(8), [("ranks", "5", "#system")]),
    "many-ranks": Sitting(lambda: of_ranks(64), [("many-ranks", "5", "#system")]),
    "launcher": Sitting(
        launched,
        [
            ("launcher", "", None),
            ("launcher-broken-plan", 7 * "down ", None),
            ("launcher-runs", "tab", None),
            ("launcher-run", "enter", DIALOG),
            ("launcher-help", "escape question_mark", HELP),
        ],
    ),
}
COMPACT = ((60, 20), (44, 12))
ALL = [(name, size) for size in SIZES for name in reversed(SITTINGS)]  # the first of them are the quickest


class FixedMachine(Machine):
    """The same readings everywhere."""

    def read(self, device: str, pid: int | None = None) -> list[MachineReading]:
        memory = MachineReading("memory", 0.44, "6.9 of 16 GiB, ours 1.2")
        if device != "cuda:0":
            return [MachineReading("cpu", 0.93, "93 % of 8"), memory]
        return [
            MachineReading("gpu 0", 0.97, "97 % 311 W 71 °C"),
            MachineReading("vram 0", 0.88, "70.1 of 80 GiB"),
            memory,
        ]


@pytest.fixture(autouse=True)
def _same_everywhere(seams: Seams, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLORTERM", "truecolor")  # the names are of its colours
    seams.put("readings", FixedMachine)
    seams.put("device speed", lambda device, half: 1.1e11)
    seams.put("devices", lambda: ["auto", "cpu", "cuda"])


@asynccontextmanager
async def opened(sitting: Sitting, size: tuple[int, int]) -> AsyncIterator[Pilot[Any]]:
    source = sitting.source()
    app = LmplayApp(Launch({"tz": "UTC", **sitting.options}), source=source, launcher=source is None, timers=False)
    async with app.run_test(size=size) as pilot:
        if source is None:
            await whole_launcher(pilot)
        yield pilot


async def settled(pilot: Pilot[Any]) -> None:
    """Everything is drawn, and nothing moves."""
    await pilot.pause()
    await tick(pilot)
    for pane in pilot.app.screen.query(PlanPane):
        pane.check_now()  # it would after a while without a key
        await pilot.pause()
        text = pane.query_one(TextArea)
        text.move_cursor(text.cursor_location, center=True)  # how far it has scrolled depends on when notes came
    hold_still(pilot.app)
    await pilot.pause()


def difference(name: str, size: tuple[int, int], shown: str, update: bool) -> str:
    """How a screen differs from its stored snapshot; empty where it does not."""
    path = STORED / f"{name}-{size[0]}x{size[1]}.txt"
    stored = path.read_text(encoding="utf-8") if path.exists() else ""
    if shown == stored:
        return ""
    if update:
        path.write_text(shown, encoding="utf-8", newline="\n")
        return ""
    return "\n".join(difflib.unified_diff(stored.splitlines(), shown.splitlines(), path.name, "now", lineterm="", n=1))


async def look(sitting: Sitting, size: tuple[int, int], update: bool) -> list[str]:
    found = []
    async with opened(sitting, size) as pilot:
        await settled(pilot)
        for name, keys, part in sitting.looks:
            await pilot.press(*keys.split())
            await settled(pilot)
            region: Region | None = pilot.app.screen.query_one(part).region if part else None
            found.append(difference(name, size, dump(pilot.app, region), update))
    return [each for each in found if each]


@pytest.mark.long_after(7)
@pytest.mark.parametrize(("name", "size"), ALL, ids=[f"{name}-{size[0]}x{size[1]}" for name, size in ALL])
async def test_screens_are_as_stored(name: str, size: tuple[int, int], pytestconfig: pytest.Config) -> None:
    found = await look(SITTINGS[name], size, pytestconfig.getoption("--update-snapshots"))
    assert not found, "\n\n".join(found)


@pytest.mark.parametrize("size", COMPACT, ids=lambda size: f"{size[0]}x{size[1]}")
async def test_small_terminals_are_as_stored(size: tuple[int, int], pytestconfig: pytest.Config) -> None:
    found = await look(Sitting(planned, [("compact", "", None)]), size, pytestconfig.getoption("--update-snapshots"))
    assert not found, "\n\n".join(found)


def test_every_stored_snapshot_is_looked_at() -> None:
    names = {f"{name}-{w}x{h}.txt" for s in SITTINGS.values() for name, _, _ in s.looks for w, h in SIZES}
    names |= {f"compact-{w}x{h}.txt" for w, h in COMPACT}
    assert {path.name for path in STORED.iterdir()} == names
