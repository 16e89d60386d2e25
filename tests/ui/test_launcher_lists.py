"""What the launcher says of plans and runs before anything is opened."""

import math
import os
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest

from lmplay_tui.models.registry import experiments
from lmplay_tui.options import Launch
from lmplay_tui.plan.builtin import KNOWN_NAMES, shipped_plans
from lmplay_tui.plan.reading import MAX_LINE, parse_plan, read_plan
from lmplay_tui.plan.schema import Plan
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.run.status import SavedStatus
from lmplay_tui.ui.app import LmplayApp
from lmplay_tui.ui.launch_lists import (
    SHAPES,
    about_rows,
    device_flops,
    estimate,
    plan_detail,
    plan_head,
    plan_name_cells,
    plan_row,
)
from lmplay_tui.ui.messages import StartAsked
from lmplay_tui.ui.run_list import RunEntry, find_runs, run_detail, run_table
from lmplay_tui.ui.screens.dialogs import ChoiceDialog
from lmplay_tui.ui.widgets.key_bar import KeyBar
from lmplay_tui.ui.widgets.lines import Lines, row_width
from lmplay_tui.ui.widgets.picker import Picker
from tests.seams import Seams
from tests.ui.conftest import joined, until, whole_launcher
from tests.ui.fake import FakeSource

SPEED = 150e9


def plan_of(text: str) -> Plan:
    return parse_plan(text, name="p", file="p.toml", folder=Path("/"))


def entry(**status: Any) -> RunEntry:
    """A run that is over. Stages: name, rows done, rows of all."""
    stages = [
        {"name": name, "datasets": ["x"], "epochs": 1.0, "rows_done": done, "rows_total": total}
        for name, done, total in status.pop("stages", ())
    ]
    said = SavedStatus({"state": "stopped", "stages": stages, **status}, alive=False)
    return RunEntry(RunFolder(Path("gpt2ish_p.lmp")), said.state, said, age_s=60.0)


def test_the_shapes_are_the_registry_s() -> None:
    assert {name: (e.num_blocks, e.embed_dim) for name, e in experiments().items()} == SHAPES


@pytest.mark.parametrize("name", sorted(shipped_plans()))
def test_every_shipped_plan_is_estimated(name: str) -> None:
    about = estimate(read_plan(name), [], {}, SPEED)
    assert about.rows > 1000 and about.seconds > 60 and not about.measured


@pytest.mark.parametrize("name", KNOWN_NAMES)
def test_every_known_dataset_has_a_size(name: str) -> None:
    about = estimate(plan_of(f'[stages.a]\ndataset = "{name}"\n'), [], {}, SPEED)
    assert about.rows > 1000 and about.seconds > 60


def test_the_demo_takes_minutes_and_wikipedia_does_not() -> None:
    assert 60 < estimate(read_plan("demo"), [], {}, SPEED).seconds < 600
    assert estimate(read_plan("default"), [], {}, SPEED).seconds > 30 * 86_400


def test_time_grows_with_the_model_and_shrinks_with_the_device() -> None:
    plan = plan_of('[stages.a]\ndataset = "tinystories"\n')
    small, large = (estimate(plan, [], {"exp": exp}, SPEED).seconds for exp in ("test_runner", "gpt2ish_large"))
    assert 20 < large / small < 1000
    assert estimate(plan, [], {"exp": "test_runner"}, 10 * SPEED).seconds == pytest.approx(small / 10)
    assert math.isnan(estimate(plan, [], {}, math.nan).seconds)
    assert math.isnan(estimate(plan, [], {"exp": "own.py:Model"}, SPEED).seconds)


def test_rows_of_mixtures_end_as_the_plan_says() -> None:
    text = '[stages.a]\ndatasets = ["wikitext:2", "orcamath"]\n'
    first = plan_of(text).stages[0]
    every = plan_of(text + 'stopping = "all_exhausted"\n').stages[0]
    shares = plan_of(text + "weights = [0.5, 0.5]\nepochs = 2\n").stages[0]
    assert about_rows(first) == pytest.approx(0.9 * 2 * 36_700)
    assert about_rows(every) == pytest.approx(0.9 * 2 * 200_000)
    assert about_rows(shares) == pytest.approx(0.9 * 4 * 36_700)
    unknown = plan_of('[stages.a]\ndatasets = ["wikitext:2", "some/thing"]\n').stages[0]
    assert math.isnan(about_rows(unknown))


def test_an_earlier_run_of_the_plan_knows_better() -> None:
    plan = plan_of('[stages.a]\ndataset = "wikitext"\n')
    earlier = entry(
        stages=[("a", 500, 1000)],
        step=50,
        tokens=10_000,
        samples=500,
        elapsed_s=50.0,
        tokens_per_s=1.0,
        device="cuda:0",
    )
    about = estimate(plan, [earlier], {}, SPEED)
    assert (about.rows, about.seconds, about.measured) == (1000, 100.0, True), "not by the speed of its last moment"
    assert "500 rows in 50 s of training" in about.rests_on
    assert about.rests_on in " ".join(joined(plan_detail(plan, about, 100)).split())
    other = entry(stages=[("b", 1, 1000)], step=1, tokens=1, samples=1, elapsed_s=1.0)
    assert not estimate(plan, [other], {}, SPEED).measured
    assert estimate(plan, [earlier], {"device": "cuda", "exp": "gpt2ish"}, SPEED).measured
    for unlike in ({"device": "cpu"}, {"exp": "gpt2ish_med"}, {"exp": "test_runner"}, {"num_blocks": 2}):
        assert not estimate(plan, [earlier], unlike, SPEED).measured, unlike


def test_a_busy_machine_does_not_change_what_the_processor_can_do() -> None:
    """A product that has to wait for its turn takes longer by the clock, not by its own processor time."""
    before = device_flops("cpu", half=False)
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3 * (os.cpu_count() or 1))]
    try:
        time.sleep(0.2)
        assert device_flops("cpu", half=False) > 0.4 * before
    finally:
        for other in others:
            other.kill()
            other.wait()


def test_devices_are_asked_without_torch() -> None:
    assert device_flops("cpu", half=False) > 1e8
    assert math.isnan(device_flops("mps", half=False))
    assert math.isnan(device_flops("cuda:7", half=True))  # no GPU here, or none with such a number


@pytest.mark.parametrize("width", [40, 74, 114, 194])
def test_columns_stand_below_their_titles(width: int) -> None:
    plan = read_plan("full")
    about = estimate(plan, [], {}, SPEED)
    cells = plan_name_cells(["full", "a_plan_of_mine.toml"], width)
    head, row = plan_head(width, cells), plan_row("full", plan, about, width, cells)
    assert row_width(head) == row_width(row) == width
    head, rows = run_table([entry(step=3)], width)
    assert row_width(head) == row_width(rows[0]) == width
    for row in (*plan_detail(plan, about, width), *run_detail(entry(stages=[("a", 0, None)]), width)):
        assert row_width(row) <= max(width, 50)


@pytest.mark.parametrize("width", [30, 44, 54, 74, 114])
def test_no_age_is_cut_and_names_come_first(width: int) -> None:
    """Of a run: its name as far as there is room, its age whole, then what else there is room for."""
    names = ("gpt2ish_demo", "gpt2ish_wikipedia_then_finetune")
    entries = [
        RunEntry(
            RunFolder(Path(f"{name}.lmp")),
            "finished",
            SavedStatus({"step": 123_456, "val_loss": 3.1}, alive=False),
            age_s,
        )
        for name, age_s in zip(names, (3.2 * 3600, 59 * 60), strict=True)
    ]
    _, rows = run_table(entries, width)
    shown = joined(rows)
    assert "3 h ago" in shown and "59 min ago" in shown
    assert all(row_width(row) == width for row in rows)
    assert (names[1] in shown) is (width >= 54)
    assert names[1] in shown or "step" not in joined([run_table(entries, width)[0]])


def test_names_of_plans_have_room_before_their_purposes() -> None:
    plan, width, name = read_plan("full"), 74, "a_plan_with_quite_a_long_name.toml"
    cells = plan_name_cells(["full", name], width)
    assert name in joined([plan_row(name, plan, estimate(plan, [], {}, SPEED), width, cells)])


def test_a_run_in_detail() -> None:
    stages = [("a", 50, 200), ("b", 0, None)]
    shown = joined(
        run_detail(
            entry(
                state="failed", message="the disk\x1b is full", stages=stages, train_loss=3.25, step=120,
                tokens=12_345_678, checkpoint={"step": 120, "path": "/x/m.lmp"},
            ),
            60,
        )
    )  # fmt: skip
    for said in ("the disk␛ is full", "25 %", "50/200", "3.250", "12.35M", "step 120, /x/m.lmp"):
        assert said in shown
    assert "nothing is known" in joined(run_detail(entry(), 60))


@pytest.mark.long
async def test_the_detail_is_that_of_the_list_with_the_focus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = RunFolder(Path("mine.lmp"))
    run.create()
    run.write_status({"state": "stopped", "step": 40, "val_loss": 3.2, "heartbeat": 0, "tokens": 777})
    assert [found.folder.name for found in find_runs(None)] == ["mine"]
    app = LmplayApp(Launch(), launcher=True, timers=False)
    async with app.run_test(size=(120, 40)) as pilot:
        await whole_launcher(pilot)
        detail = app.screen.query_one("#detail")
        assert "Python" in joined(detail.rows)  # type: ignore[attr-defined]
        await pilot.press("tab")
        await pilot.pause()
        assert "777" in joined(detail.rows)  # type: ignore[attr-defined]
        await pilot.press("shift+tab", "down", "down")
        await pilot.pause()
        assert "Spanish" in joined(detail.rows)  # type: ignore[attr-defined]


async def test_times_come_with_the_device_s_speed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seams: Seams
) -> None:
    monkeypatch.chdir(tmp_path)
    asked: list[str] = []

    def speed(device: str, *, half: bool) -> float:
        asked.append(device)
        return SPEED

    seams.put("devices", lambda: ["auto", "cpu"])
    seams.put("device speed", speed)
    app = LmplayApp(Launch(), launcher=True, timers=False)
    async with app.run_test(size=(120, 40)) as pilot:
        await whole_launcher(pilot)
        assert "~3 min" in joined(app.screen.query_one("#plans").rows)  # type: ignore[attr-defined]
        await pilot.press("d", "d", "d")
    assert asked == ["cpu"]  # once: `auto` is the processor here


@pytest.mark.long_after(1)
@pytest.mark.parametrize("way", ["enter", "button", "key bar"])
async def test_what_is_chosen_is_what_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    monkeypatch.chdir(tmp_path)
    run = RunFolder(Path("mine.lmp"))
    run.create()
    run.write_status({"state": "stopped", "step": 40})
    app = LmplayApp(Launch(), launcher=True, timers=False)
    async with app.run_test(size=(120, 40)) as pilot:
        await whole_launcher(pilot)
        await pilot.press("tab")
        match way:
            case "enter":
                await pilot.press("enter")
            case "button":
                await pilot.click("#start")
            case "key bar":
                await pilot.click(KeyBar, offset=(3, 0))
        await pilot.pause()
        assert isinstance(app.screen, ChoiceDialog)
        assert app.source is None


@pytest.mark.long
async def test_an_empty_list_of_runs_takes_no_focus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    app = LmplayApp(Launch(), launcher=True, timers=False)
    async with app.run_test(size=(120, 40)) as pilot:
        await whole_launcher(pilot)
        await pilot.press("tab")
        assert app.focused is not None and app.focused.id == "start"
        await pilot.press("tab")
        assert app.focused.id == "plans"


@pytest.mark.long
async def test_a_start_that_is_asked_for_twice_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seams: Seams
) -> None:
    monkeypatch.chdir(tmp_path)
    made: list[FakeSource] = []

    class Live(FakeSource):
        started = True

        def __init__(self, _launch: object) -> None:
            super().__init__()
            made.append(self)

    seams.put("live source", Live)
    app = LmplayApp(Launch(), launcher=True, timers=False)
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.pause()
        app.post_message(StartAsked({"training_plan": "demo"}))
        app.post_message(StartAsked({"training_plan": "demo"}))
        await pilot.pause()
        assert len(made) == 1
        assert len(app.screen_stack) == 3


@pytest.mark.long
async def test_the_command_line_s_options_count_and_a_late_answer_is_its_device_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seams: Seams
) -> None:
    monkeypatch.chdir(tmp_path)
    asked: list[str] = []
    may_answer = threading.Event()

    def speed(device: str, *, half: bool) -> float:
        asked.append(device)
        assert may_answer.wait(60)
        return {"cpu": SPEED, "cuda": 1000 * SPEED}[device]

    seams.put("devices", lambda: ["cpu", "cuda"])
    seams.put("device speed", speed)
    shown = {}
    for given in ({}, {"num_blocks": 24, "embed_dim": 1024, "tokenizer": "gpt2"}):
        may_answer.clear()
        app = LmplayApp(Launch({"device": "cpu", **given}), launcher=True, timers=False)
        async with app.run_test(size=(120, 40)) as pilot:
            await whole_launcher(pilot, measured=False)
            await pilot.press("d", "d")
            may_answer.set()
            await whole_launcher(pilot)
            assert app.screen._lists._flops == {"cpu": SPEED, "cuda": 1000 * SPEED}  # type: ignore[attr-defined]
            shown[len(given)] = joined(app.screen.query_one("#plans").rows)  # type: ignore[attr-defined]
    assert shown[0] != shown[3], "a model of another size takes another time"


@pytest.mark.long
async def test_a_disk_that_hangs_freezes_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seams: Seams) -> None:
    monkeypatch.chdir(tmp_path)
    may_read = threading.Event()

    def slow(out_dir: str | None) -> list[RunEntry]:
        assert may_read.wait(120)
        return find_runs(out_dir)

    seams.put("runs of the launcher", slow)
    app = LmplayApp(Launch(), launcher=True, timers=False)
    started: list[dict[str, object]] = []
    monkeypatch.setattr(app, "show_run", lambda source: started.append(source._launch.line))
    async with app.run_test(size=(120, 40)) as pilot:
        picker = app.screen.query_one("#plans", Picker)
        await until(pilot, lambda: picker.rows)
        await pilot.press("down", "m", "question_mark", "escape")
        assert picker.index == 1
        assert not app.screen.query_one("#detail", Lines).rows
        await pilot.press("up", "enter")
        await until(pilot, lambda: started)
        assert started[0]["training_plan"] == "demo"
        may_read.set()
        await whole_launcher(pilot)
    app = LmplayApp(Launch(), launcher=True, timers=False)
    may_read.clear()
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.screen.query_one("#plans", Picker).rows)
        await pilot.press("q")
        await until(pilot, lambda: app.return_code is not None)
    may_read.set()


async def test_only_training_plans_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = {
        "mine.toml": '[stages.a]\ndataset = "demo"\n', "json_form.toml": '[a]\ndataset = "wikitext"\n',
        "broken.toml": "[stages.a\n", "half.toml": 'a = \n[b]\ndataset = "x"\n', "no_data.toml": "[stages.a]\n",
        "pyproject.toml": '[project]\nname = "x"\n', "rust.toml": "[dependencies]\nserde = 1\n", "empty.toml": "",
        "noise.toml": "\x00\x01[", "settings.toml": "[tool.x]\nstages = 3\n", "mixed.toml": '[a]\ndatasets = ["x"]\n',
    }  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "folder.toml").mkdir()
    app = LmplayApp(Launch(), launcher=True, timers=False)
    async with app.run_test(size=(120, 60)) as pilot:
        await whole_launcher(pilot)
        listed = joined(app.screen.query_one("#plans", Picker).rows)
    plans = {"mine.toml", "json_form.toml", "broken.toml", "half.toml", "no_data.toml", "mixed.toml"}
    assert {name for name in files if f" {name} " in listed} == plans
    assert "folder.toml" not in listed


async def test_a_file_that_would_take_all_memory_is_given_to_no_parser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key with thousands of dots takes tomllib gigabytes: files of others in the folder are only looked at."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hostile.toml").write_text("a" + ".a" * 30_000 + " = 1\n", encoding="utf-8")
    lines: list[int] = []
    real = tomllib.loads

    def loads(text: str, **how: Any) -> dict[str, Any]:
        lines.append(max(map(len, text.split("\n"))))
        return real(text, **how) if lines[-1] <= MAX_LINE else {}

    monkeypatch.setattr(tomllib, "loads", loads)
    app = LmplayApp(Launch(), launcher=True, timers=False)
    async with app.run_test(size=(120, 40)) as pilot:
        await whole_launcher(pilot)
    assert max(lines) <= MAX_LINE
