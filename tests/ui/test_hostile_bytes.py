"""Foreign text with sequences that a terminal acts upon, at a real terminal: none of them reaches it, nothing breaks.

What our own screen sends (colours, cursor) is taken away first; what remains of the payloads must be text.
"""

import json
import re
from functools import partial
from pathlib import Path

import pytest

from lmplay_tui.cli import main
from lmplay_tui.run import events as happened
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.run.journal import Journal
from tests.faults.terminals import until
from tests.ui.conftest import in_terminal
from tests.ui.fake import PLAN, FakeSource, fed, prediction
from tests.ui.terminal_screen import ScreenTerminal

# Each carries the word EVIL in what a terminal would act upon.
EVIL = {
    "colour": "\x1b[38;5;66;1mEVIL\x1b[2J\x1b[H",
    "title": "\x1b]0;EVIL\x07",
    "link": "\x1b]8;;http://EVIL\x1b\\x\x1b]8;;\x1b\\",
    "clipboard": "\x1b]52;c;RVZJTA==\x07EVIL",
    "dcs": "\x1bP$qEVIL\x1b\\",
    "eight bits": "\x9b66mEVIL\x9d0;EVIL\x9c\x90EVIL\x9c",
    "bell": "EVIL\x07\x08\x7f\x0e\x0f\x00",
    "bidi": "EVIL\u202egnp\u2066x\u2069\u200f",
    "zero width": "E\u200bV\u2060I\ufeffL",
    "surrogate": "EVIL\udc9b\ud800",
    "combining": "EVIL" + "\u0301" * 300,
    "markup": "[/nope] [@click=app.quit]EVIL[/] \\[ [bold",
    "long": "EVIL" * 2000,
}
ALL = " ".join(EVIL.values())
CONTROLS = re.compile("[\x00-\x06\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069]")
# A string sequence (title, clipboard, link, DCS, APC) of which we send the title and the mouse pointer.
STRINGS = re.compile("\x1b[\\]PX^_]([^\x07\x1b]*)(?:\x07|\x1b\\\\)")


def assert_harmless(output: bytes) -> None:
    """Nothing of a payload is in what a terminal acts upon."""
    text = output.decode("utf-8")  # also: no byte above 127 that is not of a letter
    for content in STRINGS.findall(text):
        assert content.startswith(("2;", "22;")), f"neither the title nor the mouse pointer: {content!r}"
        assert not CONTROLS.search(content)
    text = STRINGS.sub("", text)
    assert "\x1b[38;5;66;1m" not in text
    found = CONTROLS.search(text)
    assert found is None, repr(text[max(found.start() - 60, 0) : found.start() + 20])
    assert text.count("\x07") == 0


def hostile(text: str = ALL) -> FakeSource:
    """A run whose every text is hostile; with a plan, and an earlier run whose name is."""
    folder = RunFolder(Path("run.lmp"))
    folder.create()
    comments = "".join(f"# {payload[:1000]}\n" for payload in EVIL.values())
    folder.plan.write_bytes((comments + PLAN).encode("utf-8", "replace"))
    earlier = RunFolder(Path("E\x1b[31mVIL\x9b\u202e[bold].lmp"))
    earlier.create()
    Journal(earlier.metrics).write({"step": 1, "samples": 1, "tokens": 1, "elapsed_s": 1, f"train/{text}": 3.0})
    source = fed(60, folder=folder)
    stages = (happened.StageInfo(text, (text,), 1.0, 1200, 600),)
    source.waiting = [
        happened.RunStarted(text, text, 5, 60, 600, 5, stages, None, text, 1),
        happened.StageStarted(text, 0, 1, 1200, 600, 60, 600, 5.0),
        happened.ActivityChanged(text, text, 0.3),
        *(happened.Predicted(60, text, prediction(each, each, each, "pinned")) for each in EVIL.values()),
        happened.MetricsLogged({"step": 61, "samples": 610, "tokens": 5, "elapsed_s": 1, f"x/{text}": 1.0}),
        happened.Warned(text, 61),
        happened.Bookmarked(61, text),
        happened.CheckpointSaved(text, 61, 610, 5, 1.0, 1.0, text),
        happened.Evaluated(61, text, 610, 5, {text: happened.EvaluationResult(3.0, None, 1.0)}, True, 1.0),
        happened.PlanChanged(61, (text,), text, stages),
        happened.LogLine(text),
    ]  # fmt: skip
    return source


F2 = "\x1bOQ"


PASTED = f"\x1b[200~{EVIL['eight bits']}{EVIL['bidi']}{EVIL['zero width']}asked for\x1b[201~"
# keys, and what then stands on the screen, or with `!` no longer does: a key right after escape would be alt and a key
TOUR = (
    ("1", "change stage"), ("\r", "esc back"), ("\x1b", "!esc back"), ("3", "same prompt"),
    ("2", "metric"), ("[", "step"), ("\x1b", "!no cursor"),
    ("r", "esc back"), ("\x1b", "!esc back"), ("x", "esc back"), ("\x1b", "!esc back"),
    ("?", "finds any action"), ("\x1b", "!finds any action"), ("6", "log"), ("5", "memory"),
    ("3", "same prompt"), ("\r", "true"), *[("\x1b[C", "true")] * 12, ("\r", "!true"),
    ("g", "Ask the model"), (PASTED, "asked for"), ("\x1b", "!Ask the model"),
    ("4", "f8 next"), (F2, "Save the plan"), (PASTED, "asked for"), ("\x1b", "!Save the plan"),
)  # fmt: skip


@pytest.mark.long
@pytest.mark.timeout(240)
@pytest.mark.parametrize("size", [(80, 24), (200, 60)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_no_byte_of_it_reaches_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    monkeypatch.chdir(tmp_path)
    with ScreenTerminal(in_terminal(hostile()), size) as terminal:
        terminal.shows("EVIL", "log")
        terminal.tour(TOUR)
        terminal.type("\x03")  # a source that is never done: ctrl+c twice leaves
        terminal.type("\x03")
        assert terminal.wait() == 130
        assert terminal.restored
    assert b"Traceback" not in terminal.output
    assert_harmless(terminal.output)


def hostile_run(folder: Path) -> RunFolder:
    """A run on disk whose every file is hostile."""
    run = RunFolder(folder / "run.lmp")
    run.create()
    run.write_status(
        {
            "name": ALL, "state": "failed", "activity": ALL, "host": ALL, "message": ALL, "stage": ALL, "pid": 1,
            "step": 5, "checkpoint": {"path": ALL, "step": 5}, "stages": [{"name": ALL, "rows_total": 5}],
        }
    )  # fmt: skip
    events = Journal(run.events)
    for event in hostile_events():
        events.write({"time": "2026-09-21T14:13:20Z", **event.record()})
    (run.folder / "predictions.jsonl").write_text(
        json.dumps({"step": 1, "stage": ALL, "kind": ALL, "prompt": ALL, "truth": ALL, "prediction": ALL}) + "\n"
    )
    return run


def hostile_events() -> list[happened.Event]:
    stages = (happened.StageInfo(ALL, (ALL,), 1.0, 1200, 600),)
    return [
        happened.RunStarted(ALL, ALL, 5, 0, 0, 0, stages, None, ALL, 1),
        happened.StageStarted(ALL, 0, 1, 1200, 600, 60, 600, 5.0),
        happened.Warned(ALL, 1),
        happened.RunFailed(ALL, 3, 5, ALL),
    ]


LINES: dict[str, list[str]] = {
    "status": ["status", "run"],
    "status --line": ["status", "run", "--line"],
    "status --json": ["status", "run", "--json"],
    "runs": ["runs"],
    "runs --json": ["runs", "--json"],
    "ctl, no such run": ["ctl", ALL.replace("\x00", ""), "save"],
    "ctl, no such command": ["ctl", "run", ALL.replace("\x00", "")],
    "attach, no such run": ["attach", ALL.replace("\x00", "")[:200]],
    "check": ["check", "evil.toml"],
    "check --json": ["check", "evil.toml", "--json"],
    "generate": ["generate", "--model", ALL.replace("\x00", "")[:100]],
    "headless, no such plan": ["--headless", "--training-plan", ALL.replace("\x00", "")[:100]],
    "headless, a plan": ["--headless", "--training-plan", "evil.toml"],
    "unknown option": ["--EVIL\x1b[31m\x9b"],
}


@pytest.mark.timeout(240)
def test_the_lines_of_commands_are_clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    hostile_run(tmp_path)
    plan = "".join(f"[stages.{json.dumps(each[:200])}]\ndataset = {json.dumps(each[:200])}\n" for each in EVIL.values())
    Path("evil.toml").write_bytes(plan.encode("utf-8", "replace"))
    for name, words in LINES.items():
        with ScreenTerminal(partial(_status, words)) as terminal:
            assert terminal.wait(60) in (0, 2, 3), (name, terminal.output[-1500:])
        assert terminal.output, name
        assert b"Traceback" not in terminal.output, (name, terminal.output[-1500:])
        try:
            assert_harmless(terminal.output)
        except (AssertionError, UnicodeDecodeError) as error:
            raise AssertionError(f"{name}: {error}") from None


def _status(words: list[str]) -> int:
    try:
        return main(words)
    except SystemExit as end:  # argparse's
        return int(end.code or 0)


@pytest.mark.timeout(240)
def test_journals_on_disk_are_clean_when_attached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    hostile_run(tmp_path)
    with ScreenTerminal(lambda: main(["attach", "run"]), (120, 40)) as terminal:
        terminal.shows("EVIL", "failed")
        terminal.type("q")
        assert terminal.wait() in (0, 3)
    assert_harmless(terminal.output)
    until(lambda: terminal.restored)
