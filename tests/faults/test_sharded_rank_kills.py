"""Kill -9 of a process that holds a part of the model, where all move parts: all start again, and nothing is lost."""

import re
from pathlib import Path

import pytest

from lmplay_tui.run.control_files import leave_command
from lmplay_tui.run.controls import ChangePlan, Pause, SaveNow
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.train.agent import HangLimits
from lmplay_tui.train.checkpointer import strays
from lmplay_tui.train.sharding import can_sum
from tests.faults.programs import trains
from tests.faults.terminals import until
from tests.faults.test_lost_ranks import ask, save_and_train_on
from tests.faults.together import Together, assert_no_orphan, events_of, line
from tests.train.parted import tensors_of
from tests.train.runs import SMALL, differences, statistics_of, write_plan, write_rows

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not can_sum(), reason="an old torch, which shards nothing"),
]
PLAN = (
    SMALL.replace('exp = "test_runner"\n', "")
    + """\
lr = 0.01
dropout = 0.1
validation_interval = 100000
eval_interval = 100000
eval_samples = 8
log_interval = 1
[stages.first]
dataset = "stories.jsonl"
epochs = 2
[stages.second]
dataset = "pairs.jsonl"
epochs = 2
"""
)
# Rank 1 gets a signal at the n-th call of a function, by whomever, in whichever thread: `FUNCTION N SIGNAL` in a file.
MET = """\
import os
import sys
import threading
from pathlib import Path

from torch import distributed

from lmplay_tui.models.gpt2ish import GPT2ish

MARK = Path(__file__).with_name("met")


class Met(GPT2ish):
    def __init__(self, *, vocab_size, context_len, num_blocks=1, embed_dim=16, num_heads=2, dropout=0.0):
        super().__init__(vocab_size=vocab_size, context_len=context_len, num_blocks=num_blocks, embed_dim=embed_dim,
                         num_heads=num_heads, dropout=dropout)
        if distributed.is_initialized() and distributed.get_rank() == 1 and MARK.exists():
            function, times, signal = MARK.read_text().split()
            left = int(times)

            def look(frame, event, _):
                nonlocal left
                if event == "call" and frame.f_code.co_name == function:
                    left -= 1
                    if left == 0:
                        MARK.unlink()
                        os.kill(os.getpid(), int(signal))

            sys.setprofile(look)
            threading.setprofile(look)
"""


class Runs:
    """Runs of one plan in folders beside each other."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._mark = place / "met"
        write_rows(place)
        write_plan(place, PLAN)
        (place / "met.py").write_text(MET, encoding="utf-8")
        with self.start("whole", "file") as together:
            assert together.wait() == 0, together.said[-3000:]

    def start(self, name: str, save: str, limits: HangLimits | None = None) -> Together:
        folder = self.place / name
        folder.mkdir()
        words = (
            "--out-dir", str(folder), "--exp", f"{self.place / 'met.py'}:Met", "--shard", "full", "--shard-save", save
        )  # fmt: skip
        return Together(line(folder / "m.lmp", *words, plan=str(self.place / "plan.toml")), limits=limits)

    def kill_at(self, function: str, times: int, number: int = 9) -> None:
        self._mark.write_text(f"{function} {times} {number}", encoding="utf-8")

    def assert_as_undisturbed(
        self, together: Together, times: int = 1, why: str = r"rank 1 \(process \d+\) was ended by SIGKILL, behind step"
    ) -> None:
        """It has come to its end, all were started again so often, and nothing shows of it in its weights."""
        assert together.wait() == 0, together.said[-3000:]
        run, whole = together.run, self.place / "whole"
        assert not self._mark.exists(), "no call was met"
        assert_no_orphan(run)
        said = [event["message"] for event in events_of(run, "Warned") if "start again" in event["message"]]
        assert len(said) == times and all(re.search(why, each) for each in said), said
        assert "Traceback" not in together.said and "a bug" not in run.log.read_text()
        for name in ("m.lmp", "m.first.lmp", "m.second.lmp"):
            assert not list(differences(tensors_of(whole / name), tensors_of(run.model.with_name(name)))), name
        assert statistics_of(whole) == statistics_of(run.model.parent)
        assert not strays(run)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("sharded"))


def restarted(run: RunFolder, together: Together, times: int) -> None:
    until(lambda: len(events_of(run, "RunStarted")) > times or not together.lives)


def test_where_a_stage_begins(runs: Runs) -> None:
    runs.kill_at("freeze_gathered", 2)
    with runs.start("stage", "file") as together:
        runs.assert_as_undisturbed(together)


def test_where_a_run_is_resumed(runs: Runs) -> None:
    """In the midst of the optimizer's state, which rank 0 hands out tensor by tensor."""
    runs.kill_at("distribute_tensor", 3)
    with runs.start("resumed", "file") as together:
        run = together.run
        until(trains(run))
        ask(run, Pause(), SaveNow())
        together.kill_rank(1)
        restarted(run, together, 1)
        restarted(run, together, 2)
        (run.control / "resume").touch()
        runs.assert_as_undisturbed(together, times=2)


def test_where_a_plan_is_changed(runs: Runs) -> None:
    runs.kill_at("freeze_gathered", 2)
    with runs.start("plan", "file") as together:
        run = together.run
        until(trains(run))
        ask(run, Pause(), SaveNow())
        leave_command(run, ChangePlan(PLAN.replace("validation_interval = 100000", "validation_interval = 100001")))
        restarted(run, together, 1)
        until(lambda: len(events_of(run, "PlanChanged")) == 2 or not together.lives)
        (run.control / "resume").touch()
        runs.assert_as_undisturbed(together)


@pytest.mark.parametrize(("save", "saved"), [("folder", True), ("folder", False), ("file", True)])
def test_in_a_pause(runs: Runs, save: str, saved: bool) -> None:
    """Rank 0 is told to end, and would save what it has: its own part alone."""
    with runs.start(f"pause-{save}-{saved}", save) as together:
        run = together.run
        until(trains(run))
        if saved:
            save_and_train_on(run, 2)
        ask(run, Pause())
        together.kill_rank(1)
        restarted(run, together, 1)
        assert not events_of(run, "RunFailed")
        (run.control / "resume").touch()
        runs.assert_as_undisturbed(together)


@pytest.mark.parametrize("times", [1, 2], ids=["a stage's", "the last"])
def test_in_a_save_in_parts(runs: Runs, times: int) -> None:
    """No save comes after the last one that would try again."""
    runs.kill_at("write_part", times)
    with runs.start(f"save-{times}", "folder") as together:
        runs.assert_as_undisturbed(together)


def test_stopped_in_the_last_save_in_parts(runs: Runs) -> None:
    """The others wait for its part as long as for any share."""
    runs.kill_at("write_part", 2, 19)
    with runs.start("hangs", "folder", HangLimits(collective_s=6.0)) as together:
        runs.assert_as_undisturbed(together, why="rank 1 has not written its part")
