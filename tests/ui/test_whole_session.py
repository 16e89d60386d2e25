"""One whole session in a real terminal: launch, start, look, edit the plan, save, stop, resume where it stopped."""

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from lmplay_tui.cli import main
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.train.checkpoint import load_checkpoint
from tests.faults.terminals import until
from tests.journals import read_journal
from tests.train.conftest import _one_thread, place  # noqa: F401  (fixtures)
from tests.train.runs import write_plan
from tests.ui.terminal_screen import ScreenTerminal

PLAN = """\
title = "A tiny run"
[train]
exp = "test_runner"
num_blocks = 2
embed_dim = 16
num_heads = 2
context_len = 64
tokenizer = "bytes"
batch_size = 6
validation_interval = 40
eval_samples = 8
log_interval = 1
[stages.stories]
dataset = "stories.jsonl"
epochs = 1000
"""


@pytest.fixture
def warm(place: Path, _one_thread: None) -> Path:  # noqa: F811
    """A folder to work in, and all modules imported: the children are forked from here."""
    of_the_screen = ("ui.run_app", "ui.launch_lists", "ui.screens.dashboard", "ui.session")
    for name in (*of_the_screen, "train.launch", "train.build"):
        import_module(f"lmplay_tui.{name}")
    write_plan(place, PLAN, "tiny.toml")
    return place


def started(*words: str):
    return lambda: main([*words, "--refresh-hz", "10"])


def events(run: RunFolder, name: str) -> list[dict]:
    return [event for event in read_journal(run.events) if event["event"] == name]


def steps(run: RunFolder) -> list[int]:
    return [row["step"] for row in read_journal(run.metrics) if "step" in row]


@pytest.mark.long
@pytest.mark.timeout(300)  # some fifteen seconds on a machine that does nothing else
def test_a_whole_session(warm: Path) -> None:
    run = RunFolder(warm / "out_gpt" / "test_runner_tiny.lmp")
    with ScreenTerminal(started("--device", "cpu"), (100, 30)) as terminal:
        terminal.shows("plans", "▸ demo", "tiny.toml")
        terminal.type("\x1b[6~")  # page down: to the last plan
        terminal.shows("▸ tiny.toml")
        terminal.type("\r")
        terminal.shows("training", "stories", "2 curves", "train")
        until(lambda: len(steps(run)) > 3)

        terminal.type("4")
        terminal.shows("epochs = 1000", "as it runs")
        terminal.type("\x1b[B" * 14 + "\x1b[F")  # down to the last line, and to its end
        until(lambda: "epochs" in terminal.cursor_line)
        terminal.type("0")
        terminal.shows("edited", "epochs = 10000", "epochs 1000 -> 10000")
        terminal.type("\x13")  # ctrl+s: in the editor it applies
        until(lambda: events(run, "PlanChanged"))
        assert not [e for e in events(run, "CheckpointSaved") if e["reason"] == "asked"]
        terminal.shows("as it runs")

        terminal.type("2")  # in the editor a two is a two
        terminal.shows("epochs = 100002")
        terminal.type("\x7f")
        terminal.shows("as it runs")
        terminal.type("\x1b")
        terminal.shows("metric")
        terminal.type("s")
        until(lambda: [e for e in events(run, "CheckpointSaved") if e["reason"] == "asked"])
        terminal.type("x")
        terminal.shows("Stop training?")
        terminal.type("\r")
        assert terminal.wait() == 0, terminal.output[-2000:]
        assert terminal.restored
        said = terminal.output.rpartition(b"\x1b[?1049l")[2].decode()
        assert not re.search("\x1b\\[[0-9;]*m", said), "no colours on the shell's own lines"
    (command,) = re.findall("go on with: (lmplay-tui .*)\r\n", said)
    (stopped,) = events(run, "RunStopped")
    assert steps(run)[-1] == stopped["step"]
    assert "epochs = 10000\n" in load_checkpoint(run.model)["curriculum"]["state_args"]["plan"]
    assert b"Traceback" not in terminal.output

    with ScreenTerminal(started(*shlex.split(command)[1:], "--device", "cpu"), (100, 30)) as terminal:
        terminal.shows("training", "stories")
        until(lambda: steps(run)[-1] > stopped["step"] + 2)
        terminal.type("q")
        terminal.shows("Leave the dashboard?")
        terminal.type("\r")
        assert terminal.wait() == 0, terminal.output[-2000:]
        assert terminal.restored
    after = [step for step in steps(run) if step > stopped["step"]]
    assert after == list(range(stopped["step"] + 1, after[-1] + 1)), "no step is lost or trained twice"
    assert events(run, "RunStarted")[-1]["resumed_from"] == stopped["step"]
