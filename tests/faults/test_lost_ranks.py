"""One of several processes is lost: what was asked of the run holds, and it is said once, with what is known of it."""

import re
import signal
import socket
from pathlib import Path

import psutil
import pytest

from lmplay_tui.run.control_files import leave_command
from lmplay_tui.run.controls import Ask, ChangePlan, Command, Pause, Pin, SaveNow, SetLearningRate, Stop
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.train.agent import HangLimits
from lmplay_tui.train.checkpoint import load_checkpoint
from lmplay_tui.train.sharding import can_sum
from tests.faults.programs import saved_step, trains
from tests.faults.terminals import until
from tests.faults.together import Together, assert_no_orphan, events_of, line
from tests.train.runs import SMALL, write_plan

PLAN = (
    SMALL
    + """\
validation_interval = 100000
eval_interval = 100000
eval_samples = 8
log_interval = 1
[stages.first]
dataset = "stories.jsonl"
epochs = 2
[stages.second]
dataset = "stories.jsonl"
epochs = 100000
"""
)


@pytest.fixture
def model(place: Path) -> Path:
    """Of a run whose first stage has some fifty steps, and whose second would take hours."""
    write_plan(place, PLAN)
    return place / "m.lmp"


def ask(run: RunFolder, *commands: Command) -> None:
    """Ask one thing after the other, each when the one before is answered."""
    for command in commands:
        asked = leave_command(run, command)
        until(lambda asked=asked: any(event["id"] == asked for event in events_of(run, "Answered")))  # type: ignore[misc]


def save_and_train_on(run: RunFolder, steps: int) -> None:
    """As soon as it trains, it saves; then so many steps are trained that no checkpoint knows."""
    until(trains(run))
    ask(run, SaveNow())
    until(trains(run, saved_step(run) + steps))


def train_on_and_stop(together: Together) -> None:
    """The last start trains some steps, and is stopped."""
    until(trains(together.run, events_of(together.run, "RunStarted")[-1]["step"] + 3))
    together.kill_rank(0, signal.SIGTERM)
    assert together.wait() == 0, together.said[-3000:]


@pytest.mark.long
@pytest.mark.parametrize("victim", [0, 1])
def test_what_was_asked_holds(model: Path, victim: int) -> None:
    """A pause, a stop to come, changes in a checkpoint and behind it; rank 0 takes what only it knows with it."""
    changed = PLAN.replace("epochs = 100000", "epochs = 100001")
    with Together(line(model)) as together:
        run = together.run
        until(trains(run))
        ask(run, Pause(), Stop(when="stage_end"), SetLearningRate(factor=0.5), SaveNow())
        saved = saved_step(run)
        ask(run, SetLearningRate(factor=0.5), Pin("The"), ChangePlan(changed), Ask("The mill", max_tokens=2))
        together.kill_rank(victim)
        until(lambda: len(events_of(run, "Paused")) == 2 or not together.lives)
        until(lambda: len(events_of(run, "PlanChanged")) > (victim == 0) or not together.lives)
        assert events_of(run, "RunStarted")[-1]["step"] == saved
        (run.control / "resume").touch()
        assert together.wait() == 0, together.said[-3000:]
        assert_no_orphan(run)
        (stopped,) = events_of(run, "RunStopped")
        assert stopped["reason"] == "the stage's end"
        state = load_checkpoint(model)["runner"]["state"]
        assert state["progress"]["lr_factor"] == 0.25 and state["progress"]["pinned"] == ["The"]
        assert [name for name, stage in state["progress"]["stages"].items() if stage["done"]] == ["first"]
        assert "epochs = 100001" in run.plan.read_text()
        assert len(events_of(run, "Answered")) == 9 + (2 if victim else 5)


@pytest.mark.long
@pytest.mark.parametrize("victim", [0, 1])
def test_a_loss_is_said_once_with_what_is_known_of_it(model: Path, victim: int) -> None:
    with Together(line(model)) as together:
        run = together.run
        save_and_train_on(run, 3)
        pid = together.kill_rank(victim)
        until(lambda: len(events_of(run, "RunStarted")) == 2 or not together.lives)
        train_on_and_stop(together)
        goes_on_at = events_of(run, "RunStarted")[-1]["step"]
        said = [event["message"] for event in events_of(run, "Warned") if "start again" in event["message"]]
        found = re.fullmatch(
            rf"rank {victim} \(process {pid}\) was ended by SIGKILL, behind step (\d+); all 2 processes start again "
            rf"from step {goes_on_at}(?:, at least (\d+) steps? trained again)?: restart 1 of at most 3 in an hour",
            said[0],
        )
        assert found and len(said) == 1, said
        assert int(found[1]) == goes_on_at + int(found[2] or 0)
        assert (found[2] is not None) == (victim == 0)
        assert not events_of(run, "HandedOver") and "handed over" not in together.said
        assert together.said.count("start again") == run.log.read_text().count("start again") == 1


LACKS = """\
from torch import distributed, nn


class Lacks(nn.Module):
    def __init__(self, *, vocab_size, context_len, num_blocks=1, embed_dim=16, num_heads=2, dropout=0.0):
        super().__init__()
        self.embed = nn.Embedding(vocab_size, embed_dim)
        self.blocks = nn.Sequential(nn.Linear(embed_dim, embed_dim), nn.Linear(embed_dim, embed_dim))
        self.head = nn.Linear(embed_dim, vocab_size)
        self.passes = 0

    def forward(self, ids):
        self.passes += self.training
        if self.passes > 30 and distributed.is_initialized() and distributed.get_rank() == 1:
            raise MemoryError
        return self.head(self.blocks(self.embed(ids)))
"""


@pytest.mark.long
@pytest.mark.skipif(not can_sum(), reason="an old torch, which shards nothing")
def test_a_rank_that_lacks_memory_is_no_loss(model: Path) -> None:
    """A sharded model is not rescued from it: all would start again into the same lack. It ends, with what to do."""
    (model.parent / "lacks.py").write_text(LACKS)
    write_plan(model.parent, PLAN.replace('exp = "test_runner"\n', ""))
    with Together(line(model, "--exp", "lacks.py:Lacks", "--shard", "full")) as together:
        assert together.wait() == 3, together.said[-3000:]
        run = together.run
        assert len(events_of(run, "RunStarted")) == 1 and "start again" not in together.said
        (failed,) = events_of(run, "RunFailed")
        assert re.match("rank 1: out of memory, .* try a smaller --mini-batch-size", failed["message"])
        assert_no_orphan(run)


# As torch says it of a GPU (2.13); where in a step it is raised is up to the GPU.
FAILS = """\
from pathlib import Path

from torch import distributed

from lmplay_tui.models.gpt2ish import GPT2ish

SAID = \"\"\"CUDA error: HOW
CUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be incorrect.
For debugging consider passing CUDA_LAUNCH_BLOCKING=1
\"\"\"


class Fails(GPT2ish):
    def __init__(self, *, vocab_size, context_len, num_blocks=1, embed_dim=16, num_heads=2, dropout=0.0):
        super().__init__(vocab_size=vocab_size, context_len=context_len, num_blocks=num_blocks, embed_dim=embed_dim,
                         num_heads=num_heads, dropout=dropout)

    def trunk(self, *arguments):
        if distributed.is_initialized() and distributed.get_rank() == RANK and Path("fails").exists():
            Path("fails").unlink()
            raise RuntimeError(SAID)
        return super().trunk(*arguments)
"""


def fails(model: Path, rank: int, how: str, *words: str) -> Together:
    """A run of a model whose passes fail on a rank, once, when there is a file `fails`."""
    (model.parent / "fails.py").write_text(FAILS.replace("RANK", str(rank)).replace("HOW", how))
    write_plan(model.parent, PLAN.replace('exp = "test_runner"\n', ""))
    return Together(line(model, "--exp", "fails.py:Fails", *words))


@pytest.mark.long
@pytest.mark.parametrize("shard", ["none", pytest.param("full", marks=pytest.mark.skipif(not can_sum(), reason="old"))])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_device_that_fails_in_a_step_is_a_loss(model: Path, rank: int, shard: str) -> None:
    """All start again; what cannot be used any more is left out then (`tests/train/test_agent.py`)."""
    with fails(model, rank, "unspecified launch failure", "--shard", shard) as together:
        run = together.run
        save_and_train_on(run, 2)
        (model.parent / "fails").touch()
        until(lambda: len(events_of(run, "RunStarted")) == 2 or not together.lives)
        (said,) = (event["message"] for event in events_of(run, "Warned") if "start again" in event["message"])
        who = rf"rank 0 \(process \d+ on {socket.gethostname()}\)" if rank == 0 else r"rank 1 \(.+, cpu\)"
        assert re.match(rf"{who}: its device has failed \(CUDA error: unspecified launch failure\), behind", said), said
        train_on_and_stop(together)
        assert "Traceback" not in together.said
        assert_no_orphan(run)


@pytest.mark.long
def test_an_assertion_in_a_kernel_is_no_failure_of_the_device(model: Path) -> None:
    """It is the model's own code, which would come to the same with each device."""
    with fails(model, 1, "device-side assert triggered") as together:
        until(trains(together.run))
        (model.parent / "fails").touch()
        assert together.wait() == 3, together.said[-3000:]
        assert len(events_of(together.run, "RunStarted")) == 1
        (failed,) = events_of(together.run, "RunFailed")
        assert re.match("rank 1: RuntimeError: CUDA error: device-side assert triggered", failed["message"])


HANGS = """\
import time
from pathlib import Path

from torch import distributed

from lmplay_tui.models.gpt2ish import GPT2ish


class Hangs(GPT2ish):
    def __init__(self, *, vocab_size, context_len, num_blocks=1, embed_dim=16, num_heads=2, dropout=0.0):
        super().__init__(vocab_size=vocab_size, context_len=context_len, num_blocks=num_blocks, embed_dim=embed_dim,
                         num_heads=num_heads, dropout=dropout)

    def trunk(self, *arguments):
        if distributed.is_initialized() and distributed.get_rank() == RANK and Path("hang").exists():
            Path("hang").unlink()
            time.sleep(1000)
        return super().trunk(*arguments)
"""


@pytest.mark.long
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("how", ["is stopped", "works for ever"])
def test_a_process_that_hangs_is_named_and_all_start_again(model: Path, rank: int, how: str) -> None:
    """With its host, its device and what it was at; a second rank 0 is not waited for either."""
    limits = HangLimits(collective_s=6.0, silent_s=6.0, reacts_s=2.0)
    (model.parent / "hangs.py").write_text(HANGS.replace("RANK", str(rank)))
    write_plan(model.parent, PLAN.replace('exp = "test_runner"\n', ""))
    with Together(line(model, "--exp", "hangs.py:Hangs", "--num-blocks", "2"), limits=limits) as together:
        run = together.run
        save_and_train_on(run, 2)
        pid = together.ranks()[rank]
        if how == "is stopped":
            together.kill_rank(rank, signal.SIGSTOP)
        else:
            (model.parent / "hang").touch()
        until(lambda: len(events_of(run, "RunStarted")) == 2 or not together.lives)
        assert not psutil.pid_exists(pid)
        (said,) = (e["message"] for e in events_of(run, "Warned") if "start again" in e["message"])
        here = f"{socket.gethostname()}, cpu"
        if rank == 1:
            assert re.match(rf"rank 1 \({here}\) is still (computing|to begin), and does not answer", said), said
        elif how == "is stopped":
            assert said.startswith(f"rank 0 (process {pid}, {here}) has given no sign of life for 6 s, last at: "), said
        else:
            hangs = "hangs: the others have waited for it in vain, last at: computing"
            assert said.startswith(f"rank 0 (process {pid}, {here}) {hangs}"), said
        goes_on_at = events_of(run, "RunStarted")[-1]["step"]
        until(trains(run, goes_on_at + 3))
        together.kill_rank(0, signal.SIGTERM)
        assert together.wait() == 0
        assert_no_orphan(run)
