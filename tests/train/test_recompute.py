"""`--recompute`: the same run, bit by bit, of less memory."""

import pytest

from lmplay_tui.run.events import RunDone, Warned
from tests.train.runs import TINY, differences, last, losses, state_of, train, write_plan

STAGE = '[stages.rest]\ndataset = "stories.jsonl"\nepochs = 0.2\n'


def test_the_run_is_bit_by_bit_the_same(place):
    plan = write_plan(place, TINY.replace("num_blocks = 1", "num_blocks = 2") + STAGE)
    plain = train(training_plan=plan, model="plain/m.lmp", out_dir="plain")
    again = train(training_plan=plan, model="again/m.lmp", out_dir="again", recompute=True)
    assert isinstance(last(again), RunDone), last(again)
    assert losses(again) == losses(plain)
    kept, computed = state_of(place / "plain/m.lmp"), state_of(place / "again/m.lmp")
    assert not list(differences(kept["model"]["state"], computed["model"]["state"]))


NO_BLOCKS = """
from torch import nn

class Single(nn.Module):
    def __init__(self, *, vocab_size, embed_dim=8):
        super().__init__()
        self.embed = nn.Embedding(vocab_size, embed_dim)
        self.head = nn.Sequential(nn.LayerNorm(embed_dim), nn.Linear(embed_dim, vocab_size))

    def forward(self, ids):
        return self.head(self.embed(ids))
"""


def test_a_model_without_blocks_is_told_that_it_changes_nothing(place):
    (place / "mine.py").write_text(NO_BLOCKS, encoding="utf-8")
    plan = write_plan(place, '[train]\ncontext_len = 64\ntokenizer = "bytes"\n' + STAGE)
    events = train(training_plan=plan, model="m.lmp", exp="mine.py:Single", recompute=True)
    assert isinstance(last(events), RunDone), last(events)
    said = [event.message for event in events if isinstance(event, Warned)]
    assert "experiment mine.py:Single: --recompute changes nothing: the model has no list of blocks" in said


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_it_goes_together_with_the_compiler(place):
    plan = write_plan(place, TINY.replace("num_blocks = 1", "num_blocks = 2") + STAGE)
    compiled = {"compile_model": True, "compile_backend": "aot_eager"}
    plain = train(training_plan=plan, model="plain/m.lmp", out_dir="plain", **compiled)
    again = train(training_plan=plan, model="again/m.lmp", out_dir="again", recompute=True, **compiled)
    assert not [event for event in again if isinstance(event, Warned) and "compile" in event.message]
    for (_, _, kept, *_), (_, _, computed, *_) in zip(losses(plain), losses(again), strict=True):
        assert computed == pytest.approx(kept, rel=1e-6)
