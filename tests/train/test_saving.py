"""A save is what its moment was, however much training goes on beside it."""

import time
from pathlib import Path

import pytest
import torch

from lmplay_tui.models.gpt2ish import GPT2ish
from lmplay_tui.run.events import CheckpointSaved, RunDone
from lmplay_tui.train import saving
from lmplay_tui.train.checkpoint import cpu_copy, load_checkpoint
from tests.train.runs import PLAN, differences, last, state_of, stop_after, train, write_plan

SAVES_OFTEN = PLAN.replace("validation_interval = 5\n", "save_interval = 1\n").replace("eval_interval = 12", "keep = 4")


class CountsPasses(GPT2ish):
    """A buffer that a forward pass changes, as running means do."""

    def __init__(self, **shape) -> None:
        super().__init__(**shape)
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))

    def hidden(self, ids_BT, cache=None):
        if self.training:
            self.passes += 1
        return super().hidden(ids_BT, cache)


@pytest.fixture
def late(monkeypatch):
    """Copies that begin long after a step could have been trained."""

    def copied(tree, buffers, path=""):
        if path == "model":
            time.sleep(0.03)
        return cpu_copy(tree, buffers, path)

    monkeypatch.setattr(saving, "cpu_copy", copied)


def assert_each_is_of_its_own_step(place: Path, **options) -> None:
    """Each numbered checkpoint is what a run leaves that is stopped there."""
    events = train(model="whole/m.lmp", out_dir="whole", **options)
    assert isinstance(last(events), RunDone), last(events)
    kept = sorted((place / "whole").glob("m.step-*.lmp"))
    assert len(kept) == 4
    for path in kept[:-1]:  # the last is of the plan's end
        step = load_checkpoint(path)["runner"]["state"]["progress"]["step"]
        stop_after(step, model=f"{step}/m.lmp", out_dir=str(step), **options)
        assert not list(differences(state_of(path), state_of(place / f"{step}/m.lmp")))


def test_a_late_copy(place: Path, late):
    assert_each_is_of_its_own_step(place, training_plan=write_plan(place, SAVES_OFTEN))


def test_a_late_copy_of_buffers(place: Path, late):
    (place / "mine.py").write_text(
        "from tests.train.test_saving import CountsPasses\n\n\n"
        "class Mine(CountsPasses):\n"
        "    def __init__(self, *, vocab_size, context_len, num_blocks, embed_dim, num_heads, dropout):\n"
        "        super().__init__(vocab_size=vocab_size, context_len=context_len, num_blocks=num_blocks,\n"
        "                         embed_dim=embed_dim, num_heads=num_heads, dropout=dropout)\n",
        encoding="utf-8",
    )
    plan = write_plan(place, SAVES_OFTEN.replace('exp = "test_runner"\n', ""))
    assert_each_is_of_its_own_step(place, training_plan=plan, exp="mine.py:Mine")


def test_waiting_for_the_copy_is_counted(place: Path, late):
    saves = [e for e in train(training_plan=write_plan(place, SAVES_OFTEN)) if isinstance(e, CheckpointSaved)]
    assert max(e.blocked_s for e in saves) > 0.02
