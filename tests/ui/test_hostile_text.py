"""Text from datasets, models, plans and file names cannot reach the terminal as anything but text."""

import re
from pathlib import Path
from typing import Any

import pytest
from textual.app import App

from lmplay_tui.run import events as happened
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.ui.ending import ending_lines
from lmplay_tui.ui.run_list import find_runs, run_table
from tests.ui.conftest import Open, text_of, tick
from tests.ui.fake import FakeSource, fed, prediction

PAYLOADS = {
    "ansi": "a\x1b[31;5mred\x1b[2J\x1b[H",
    "osc52": "a\x1b]52;c;ZXZpbA==\x07",
    "osc8": "a\x1b]8;;http://evil\x1b\\link",
    "c1": "a\x9b31m\x90q\x9c\x85",
    "bidi": "a\u202egnp.exe\u2066\u2069",
    "markup": "[bold red]a[/] [@click=app.quit]b[/] [link=http://evil]c[/link] [/nothing",
    "controls": "a\r\nb\x00\x07\x08\x7f\tc",
    "wide": "漢字かな交じり文 👩‍👩‍👧 e\u0301\u200b",
}
CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u200e\u200f]")


def hostile(payload: str) -> FakeSource:
    source = fed(60)
    stages = (happened.StageInfo(payload, (payload,), 1.0, 1200, 600),)
    source.waiting = [
        happened.RunStarted(payload, payload, 5, 60, 600, 5, stages, None, payload, 1),
        happened.StageStarted(payload, 0, 1, 1200, 600, 60, 600, 5.0),
        happened.ActivityChanged(payload, payload, 0.3),
        happened.Predicted(61, payload, prediction(payload, payload, payload, "pinned")),
        happened.MetricsLogged({"step": 61, "samples": 610, "tokens": 5, "elapsed_s": 1, f"x/{payload}": 1.0}),
        happened.Warned(payload, 61),
        happened.Bookmarked(61, payload),
        happened.CheckpointSaved(payload, 61, 610, 5, 1.0, 1.0, payload),
        happened.Evaluated(61, payload, 610, 5, {payload: happened.EvaluationResult(3.0, None, 1.0)}, True, 1.0),
        happened.LogLine(payload),
    ]
    return source


def segments_of(app: App[Any]) -> list[str]:
    return [segment.text for line in app.screen._compositor.render_strips() for segment in line]


@pytest.mark.long_after(1)
@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
async def test_no_pane_lets_it_through(dashboard: Open, payload: str) -> None:
    source = hostile(payload)
    async with dashboard(source, (200, 50)) as pilot:
        for key in ("3", "enter", "right", "1", "enter", "escape", "2", "left_square_bracket", "r", "escape", "6", "4"):
            await pilot.press(key)
            await tick(pilot)
            assert not [text for text in segments_of(pilot.app) if CONTROLS.search(text)]
        await pilot.press("x")
        await pilot.pause()
        assert not [text for text in segments_of(pilot.app) if CONTROLS.search(text)]


async def test_markup_is_shown_as_it_is(dashboard: Open) -> None:
    async with dashboard(hostile("[bold red]a[/]"), (200, 60)) as pilot:
        await tick(pilot)
        for name in ("#curriculum", "#predictions", "#log", "#system"):
            rows = pilot.app.screen.query_one(name).rows  # type: ignore[attr-defined]
            assert any("[bold red]a[/]" in "".join(text for text, _ in row) for row in rows), name
        assert "[bold red]a[/]" in text_of(pilot.app)


async def test_plans_with_it_can_be_edited(dashboard: Open, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run.lmp")
    folder.folder.mkdir()
    text = "".join(f"# {payload}\n" for payload in PAYLOADS.values())
    folder.plan.write_text(text + "[stages.a]\ndataset = 'pydocs'\n", encoding="utf-8")
    source = fed(20, folder=folder)
    async with dashboard(source) as pilot:
        await pilot.press("4")
        await tick(pilot)
        assert not [text for text in segments_of(pilot.app) if CONTROLS.search(text)]
        assert "pydocs" in text_of(pilot.app)


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
def test_the_last_lines_and_lists_of_runs_are_clean(payload: str, tmp_path: Path) -> None:
    source = hostile(payload)
    source.waiting.append(happened.RunStopped(61, payload, payload, payload))
    source.poll()
    for line in ending_lines(source.view):
        assert not CONTROLS.search(line)
    name = payload.replace("/", "_").replace("\x00", "")
    (tmp_path / f"{name}.run").mkdir()
    for row in run_table(find_runs(None), 100)[1]:
        assert not CONTROLS.search("".join(text for text, _ in row))
