"""Journals and a `run.json` in which another hand has left what no trainer writes: said at most, never acted upon."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from lmplay_tui import cli
from lmplay_tui.commands import runs as runs_command
from lmplay_tui.commands import status as status_command
from lmplay_tui.errors import EXIT_BUG, EXIT_TRAINING
from lmplay_tui.options import Launch
from lmplay_tui.run.folder import RunFolder, RunLock, saved_status
from lmplay_tui.run.journal import number, stamp
from lmplay_tui.ui.app import LmplayApp
from lmplay_tui.ui.source import FolderSource
from lmplay_tui.ui.widgets.plan_pane import PlanPane
from tests.run.test_view import journals, write_journals
from tests.ui.conftest import Open, text_of, tick, whole_launcher
from tests.ui.fake import PLAN, STAGES, Clock, prediction, training

HUGE = 10**400


@pytest.mark.parametrize("time", ["0001-01-01", "0001-01-01T00:00:00+00:00", "9999-12-31T23:59:59+00:00", "9999-12-31"])
def test_a_time_that_no_clock_can_have_shown_is_none(time: str) -> None:
    assert stamp(time) is None
    assert stamp("2026-09-21T12:00:00+00:00") == 1_789_992_000


def test_a_number_beyond_all_measure_is_none() -> None:
    assert math.isnan(number(HUGE))


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path / "run.lmp")
    run.create()
    write_journals(run, journals(training(30)))
    return run


@pytest.mark.parametrize("code", ["x", None, [], HUGE, 0, -3, 1.5])
def test_a_failure_whose_status_is_none_of_ours_is_one_of_training(folder: RunFolder, code: object) -> None:
    with folder.events.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"event": "RunFailed", "message": "m", "exit_code": code, "step": 30}) + "\n")
    source = FolderSource(folder, Clock())
    source.poll()
    assert (source.view.state, source.done) == ("failed", EXIT_TRAINING)


def spoilt_predictions() -> list[dict[str, Any]]:
    values = {key: list(value) if isinstance(value, tuple) else value for key, value in vars(prediction()).items()}
    first = values["truth_tokens"][0]
    spoilt = (
        {"truth_tokens": 5}, {"truth_p": "abc"}, {"truth_p": [0.5]}, {"top5": 7}, {"top5": [[1]]}, {"top5": [5]},
        {"top5": [[[first]]]}, {"top5": [[[first, 0.5, 1]]]}, {"top5": {"a": 1}}, {"truth_tokens": [1, 2]},
        {"accuracy": [], "loss": HUGE}, {"prompt": [], "truth": {}, "prediction": 5}, {"kind": ["x"]},
        {"truth_p": [HUGE] * len(values["truth_tokens"])},
    )  # fmt: skip
    return [{"step": 31, "stage": "topics", **values, **each} for each in spoilt]


@pytest.mark.long_after(2)
@pytest.mark.parametrize("record", spoilt_predictions(), ids=lambda record: None)
async def test_a_spoilt_prediction_is_drawn_without_what_is_wrong(
    folder: RunFolder, dashboard: Open, record: dict[str, Any]
) -> None:
    with folder.predictions.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
    async with dashboard(FolderSource(folder, Clock())) as pilot:
        await pilot.press("3")
        await tick(pilot)
        await pilot.press("enter", "right", "right")
        await tick(pilot)
        assert " step 31 " in text_of(pilot.app)


@pytest.mark.long_after(1)
@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/New_York"])
async def test_impossible_times_do_not_reach_the_log(folder: RunFolder, dashboard: Open, zone: str) -> None:
    with folder.events.open("a", encoding="utf-8") as file:
        for time in ("0001-01-01T00:00:00+00:00", "9999-12-31T23:59:59+00:00", "9999-12-31T23:59:59-12:00"):
            file.write(json.dumps({"event": "Warned", "time": time, "message": f"since {time}", "step": 30}) + "\n")
    async with dashboard(FolderSource(folder, Clock()), tz=zone) as pilot:
        await pilot.press("6")
        await tick(pilot)
        assert "since 9999" in text_of(pilot.app)


SPOILT_STATUS = [
    {"stages": 5}, {"stages": "abc"}, {"stages": {"a": 1}}, {"stages": [5, None, "x", []]},
    {"stages": [{"name": ["\x1b[31m"], "rows_done": "x", "rows_total": 5}]},
    {"stages": [{"name": "a", "rows_done": HUGE, "rows_total": HUGE}]},
    {"stages": [{"name": "a", "rows_done": "Infinity", "rows_total": "Infinity"}]},
    {"state": ["failed"], "activity": {"a": 1}, "detail": [], "fraction": "x", "heartbeat": "x", "pid": "x"},
    {"state": "failed", "message": {"\x1b[31m": 1}, "heartbeat": HUGE, "step": HUGE, "tokens": HUGE},
    {"checkpoint": 5}, {"checkpoint": {"path": [], "step": "\x1b[31mx", "time": 5}},
    {"step": "x", "train_loss": [], "val_loss": {}, "tokens": "NaN", "tokens_per_s": "Infinity", "device": 5},
    {"eta_s": HUGE, "lr": "x", "samples": None, "stage": ["\x1b[31m"], "host": ["\x1b[31m"], "command": 5},
]  # fmt: skip


@pytest.mark.long_after(2)
@pytest.mark.parametrize("status", SPOILT_STATUS, ids=",".join)
async def test_a_spoilt_run_json_breaks_neither_launcher_nor_commands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], status: dict[str, Any]
) -> None:
    run = RunFolder(Path("gpt2ish_demo.lmp"))
    run.create()
    run.run_json.write_text(json.dumps(status), encoding="utf-8")
    app = LmplayApp(Launch(), launcher=True, timers=False)
    async with app.run_test(size=(120, 40)) as pilot:
        await whole_launcher(pilot)
        await pilot.press("tab")
        await pilot.pause()
        assert "gpt2ish_demo" in text_of(app)
    for words in ([], ["--line"], ["--json"]):
        assert status_command.main(words, "lmplay-tui status") == 0
        assert runs_command.main(words[:0], "lmplay-tui runs") == 0
        if "--json" not in words:
            assert "\x1b" not in capsys.readouterr().out


def test_what_is_known_of_stages() -> None:
    run = RunFolder(Path("m.lmp"))
    run.create()
    first = {"name": "a", "datasets": ["x"], "epochs": 1.0, "rows_done": 5, "rows_total": 10}
    for total, share in ((10, 0.25), (30, 0.125), (None, 0.25)):  # not known: each stage counts the same
        run.write_status({"stages": [first, first | {"name": "b", "rows_done": 0, "rows_total": total}, 5]})
        assert [stage.name for stage in saved_status(run).stages] == ["a", "b"]
        assert saved_status(run).fraction_done == share
    run.run_json.write_text("[" * 100_000, encoding="utf-8")
    assert run.status() == {}


def test_a_hostile_name_does_nothing(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "a\x1b[31mb.lmp")
    assert FolderSource(run).view.name == "a␛[31mb"


def test_a_bugs_traceback_is_printable(capsys: pytest.CaptureFixture[str]) -> None:
    def fails() -> int:
        raise ValueError("a\x1b[31mb")

    assert cli.guarded("lmplay-tui", [], fails) == EXIT_BUG
    said = capsys.readouterr().err
    assert "Traceback" in said and "ValueError: a␛[31mb\n" in said and "\x1b" not in said


# ---- what a run's first event says: paths that no system can be asked for, numbers that nothing can be divided by


def first_event_with(folder: RunFolder, **values: Any) -> None:
    """Put these values into the journal's `RunStarted`; a stage's own into each of its stages."""
    lines = [json.loads(line) for line in folder.events.read_text(encoding="utf-8").splitlines()]
    of_stages = {name: values[name] for name in values.keys() & vars(STAGES[0]).keys() - {"name"}}
    for line in lines:
        if line["event"] == "RunStarted":
            line.update({"plan_text": PLAN} | values, stages=[stage | of_stages for stage in line["stages"]])
        if line["event"] == "StageStarted":
            line.update({name: value for name, value in of_stages.items() if name in line})
    folder.events.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


OF_TEXT = ("plan_folder", "plan_file", "name", "device", "note", "own_experiment")
TEXTS = [
    dict.fromkeys(OF_TEXT, text) | {"pinned": [text], "on_line": {"lr": text, "lr_schedule": text}}
    for text in ("\0", "\ud800", "x" * 5000, "a/" * 3000, "~nobody/x", "", " ", "\x1b[31m", "--lr nan", "--lr 1e999")
]
NUMBERS = [
    {name: number, **also}
    for name in ("epochs", "rows_total", "rows_done", "rows_per_epoch")
    for number in ("NaN", "Infinity", 0, -1, 5e-324, 2**62, None)
    for also in ({"rows_per_epoch": None}, {})[name == "rows_per_epoch" :]
]
HOSTILE = [*TEXTS[:2], *NUMBERS[:1], *TEXTS[2:], *NUMBERS[1:]]


@pytest.mark.long_after(3)
@pytest.mark.parametrize("values", HOSTILE, ids=lambda values: repr(values)[:40])
async def test_a_first_event_of_any_values_is_drawn_and_its_plan_edited(
    folder: RunFolder, dashboard: Open, values: dict[str, Any]
) -> None:
    first_event_with(folder, **values)
    lock = RunLock(folder)
    lock.take()
    try:
        async with dashboard(FolderSource(folder)) as pilot:
            await pilot.press("4")
            pane = pilot.app.screen.query_one(PlanPane)
            pane.replace_text(PLAN.replace("epochs = 1\n", "epochs = 3\nlr = 1e-4\n"))
            await tick(pilot)
            for keys in (("f2", "escape"), ("1", "enter", "f"), ("1", "enter", "e", "enter"), "2356"):
                for key in keys:
                    await pilot.press(key)
                    await tick(pilot)
    finally:
        lock.release()


async def test_a_file_that_only_a_journal_names_is_not_read(folder: RunFolder, dashboard: Open, tmp_path: Path) -> None:
    """A run that no process trains may come from another hand, and name any file of this user's."""
    (tmp_path / "precious").write_text("SECRET = 1\n", encoding="utf-8")
    first_event_with(folder, plan_file=str(tmp_path / "precious"), plan_text="")
    with folder.events.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"event": "RunFailed", "message": "m", "exit_code": 3, "step": 30}) + "\n")
    async with dashboard(FolderSource(folder)) as pilot:
        await pilot.press("4")
        await tick(pilot)
        assert "SECRET" not in pilot.app.screen.query_one(PlanPane).text
