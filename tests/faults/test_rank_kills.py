"""Kill -9 of one of several processes that train together, or of their agent: nothing is lost, no process is left."""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lmplay_tui.run.folder import RunFolder
from lmplay_tui.train.checkpoint import load_checkpoint
from lmplay_tui.train.checkpointer import strays
from tests.faults.programs import steps_in_journal
from tests.faults.terminals import until
from tests.faults.together import TRAINS_AGAIN_WITHIN_S, Together, assert_no_orphan, crowded, events_of, line
from tests.train.runs import SMALL, differences, state_of, statistics_of, write_plan, write_rows

# While there is a file `hold-RANK`, that rank stays in its update, before its weights move, and says so by a file with
# its process's number. Both cannot be held: one may have passed, and waits for the other in the next step.
HELD = """\
import os
import time
from pathlib import Path

from torch import distributed
from torch.optim.optimizer import register_optimizer_step_pre_hook

from lmplay_tui.models.gpt2ish import GPT2ish


class Held(GPT2ish):
    def __init__(self, *, vocab_size, context_len, num_blocks=1, embed_dim=16, num_heads=2, dropout=0.0):
        super().__init__(vocab_size=vocab_size, context_len=context_len, num_blocks=num_blocks, embed_dim=embed_dim,
                         num_heads=num_heads, dropout=dropout)


def stay(*_):
    rank = distributed.get_rank() if distributed.is_initialized() else 0
    while Path(__file__).with_name(f"hold-{rank}").exists():
        Path(__file__).with_name(f"held-{os.getpid()}").touch()
        time.sleep(0.001)


register_optimizer_step_pre_hook(stay)
"""

# Saves, validations and evaluations lie close together: a kill at any time meets each of them.
PLAN = (
    SMALL.replace('exp = "test_runner"\n', "")
    + """\
lr = 0.01
dropout = 0.1
validation_interval = 10
validation_batch_size = 4
eval_interval = 20
eval_samples = 12
log_interval = 2
save_interval = 15
[stages.stories]
dataset = "stories.jsonl"
epochs = 4
[stages.both]
datasets = ["stories.jsonl", "pairs.jsonl"]
weights = [0.4, 0.6]
epochs = 4
optimizer = "adam"
lr_schedule = "cosine"
shuffle = true
"""
)
MOMENTS = ("start", "step", "update", "save", "evaluation", "pause")
VICTIMS = ("rank 0", "rank 1", "agent")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing has disturbed. Beside it lie the plan and its rows: others are trained there."""
    place = tmp_path_factory.mktemp("together")
    write_rows(place)
    write_plan(place, PLAN)
    (place / "held.py").write_text(HELD, encoding="utf-8")
    with Together(words(place / "whole")) as together:
        assert together.wait() == 0, together.said[-3000:]
    return place / "whole"


def words(folder: Path) -> list[str]:
    folder.mkdir(exist_ok=True)
    place = folder.parent
    own = ("--out-dir", str(folder), "--exp", f"{place / 'held.py'}:Held")
    return line(folder / "m.lmp", *own, plan=str(place / "plan.toml"))


def assert_as_undisturbed(whole: Path, folder: Path) -> None:
    for name in ("m.lmp", "m.stories.lmp", "m.both.lmp"):
        assert not list(differences(state_of(whole / name), state_of(folder / name))), name
    assert_best_as_undisturbed(state_of(whole / "m.best.lmp"), state_of(folder / "m.best.lmp"))
    assert statistics_of(whole) == statistics_of(folder)
    assert not strays(RunFolder(folder / "m.lmp"))
    for path in folder.glob("*.lmp"):
        load_checkpoint(path)  # none is damaged


def assert_best_as_undisturbed(best: dict[str, Any], other: dict[str, Any]) -> None:
    """It is a save, the first one behind the lowest evaluation; where a rank is lost there are more saves."""
    (loss, step), (others_loss, others_step) = (
        (progress["eval_loss"], progress["step"])
        for progress in (state["runner"]["state"]["progress"] for state in (best, other))
    )
    assert others_loss <= loss
    if others_loss == loss:
        assert others_step <= step
    if others_step == step:
        assert not list(differences(best, other))


def reach(together: Together, moment: str, victim: str, dice: random.Random) -> None:
    """Wait until the run is about there, or has ended; what it does then is by chance, but in an update."""
    run = together.run
    if moment == "start":
        time.sleep(dice.uniform(0.0, 4.0))
        return
    begun = steps_in_journal(run)
    until(lambda: steps_in_journal(run) > begun or not together.lives)
    if moment == "update":
        rank = 0 if victim == "agent" else victim_of(victim)
        run.model.parent.with_name(f"hold-{rank}").touch()
        until(lambda: is_held(together, rank) or not together.lives)
        return
    if moment == "pause" and together.lives:
        before = len(events_of(run, "Paused"))
        (run.control / "pause").touch()
        until(lambda: len(events_of(run, "Paused")) > before or not together.lives)
    if moment in ("save", "evaluation"):
        kind = "CheckpointSaved" if moment == "save" else "Evaluated"
        before = len(events_of(run, kind))
        until(lambda: len(events_of(run, kind)) > before or not together.lives)
    time.sleep(dice.uniform(0.0, 0.3))


def is_held(together: Together, rank: int) -> bool:
    """Whether a rank is in an update now, and stays there."""
    return together.run.model.parent.with_name(f"held-{together.ranks().get(rank)}").exists()


def let_go(run: RunFolder) -> None:
    for each in ("hold-*", "held-*"):
        for said in run.model.parent.parent.glob(each):
            said.unlink(missing_ok=True)


class Kills:
    """Kills by chance, until there were so many."""

    def __init__(
        self, count: int, seed: int, moments: Sequence[str] = MOMENTS, victims: Sequence[str] = VICTIMS
    ) -> None:
        self.left = self.count = count
        self.dice = random.Random(seed)
        self.moments, self.victims = moments, victims
        self.slowest_s = 0.0  # until all train again, as on a machine with nothing else to do
        self.fell: Counter[str] = Counter()

    def train(self, folder: Path) -> None:
        """Train a run to its end, with these kills in it; where its agent falls, start it anew."""
        run = RunFolder(folder / "m.lmp")
        while True:
            with Together(words(folder), most=1000) as together:
                while self.left and self._kill_one(together, run):
                    pass
                if not together.is_killed:
                    assert together.wait() == 0, together.said[-3000:]
                    assert_no_orphan(run)
                    return

    def _kill_one(self, together: Together, run: RunFolder) -> bool:
        """Whether the agent lives on."""
        moment = self.dice.choice(self.moments)
        victim = self.dice.choice(self.victims)
        reach(together, moment, victim, self.dice)
        begun, started, lives = time.monotonic(), len(events_of(run, "RunStarted")), together.lives
        pid = together.pid if victim == "agent" else together.ranks().get(victim_of(victim))
        if lives and pid is not None:
            os.kill(pid, signal.SIGKILL)
        let_go(run)
        if not lives:
            return False
        if pid is None:
            (run.control / "resume").touch()
            return True
        self.left -= 1
        self.fell[f"{victim} at {moment}"] += 1
        if victim == "agent":
            together.kill()
            assert_no_orphan(run)
            return False
        until(lambda: len(events_of(run, "RunStarted")) > started or not together.lives)
        self.slowest_s = max(self.slowest_s, (time.monotonic() - begun) / crowded())
        (run.control / "resume").touch()  # what was paused is paused still
        return together.lives


def victim_of(words: str) -> int:
    return int(words.removeprefix("rank "))


@pytest.mark.long
def test_a_few_kills(whole, count):
    check_kills(whole, count, Kills(5, seed=1), "few")


@pytest.mark.long
@pytest.mark.parametrize("victim", VICTIMS)
def test_a_kill_in_an_update(whole, count, victim):
    check_kills(whole, count, Kills(1, seed=3, moments=("update",), victims=(victim,)), victim)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_100_kills(whole, count):
    check_kills(whole, count, Kills(100, seed=2), "many")


def check_kills(whole: Path, count, kills: Kills, name: str) -> None:
    number = 0
    while kills.left:
        folder = whole.with_name(f"{name.replace(' ', '-')}-{number}")
        number += 1
        kills.train(folder)
        assert_as_undisturbed(whole, folder)
    said = ", ".join(f"{what} {often}" for what, often in sorted(kills.fell.items()))
    count(f"kill -9 of ranks and agents: {kills.count} in {number} runs; in {kills.slowest_s:.1f} s they train again")
    count(f"kill -9 of ranks and agents: {said}")
    assert kills.slowest_s < TRAINS_AGAIN_WITHIN_S
