"""Experiments of a user's own: trained as they are written, frozen as they are marked."""

import pytest
import torch
from torch import nn

from lmplay_tui.models.gpt2ish import Block, GPT2ish
from lmplay_tui.run.events import LogLine, RunFailed
from lmplay_tui.train.checkpoint import load_checkpoint
from lmplay_tui.train.model_body import body_of, trunk_of
from tests.train.runs import PLAN, last, losses, stop_after, write_plan

SHAPE = {"vocab_size": 40, "context_len": 16, "num_blocks": 2, "embed_dim": 16, "num_heads": 2, "dropout": 0.1}
CPU = torch.device("cpu")


class OwnHidden(GPT2ish):
    def hidden(self, ids_BT, cache=None):
        return 2 * super().hidden(ids_BT, cache)


class OwnForward(GPT2ish):
    def forward(self, ids_BT, cache=None):
        return 2 * super().forward(ids_BT, cache)


class OwnBlock(Block):
    def forward(self, x_BTC, cache=None, block=0):
        return x_BTC + super().forward(x_BTC, cache, block)


class Shaped(GPT2ish):
    """A constructor is given the arguments that it names."""

    def __init__(self, *, vocab_size, context_len, num_blocks, embed_dim, num_heads, dropout) -> None:
        super().__init__(
            vocab_size=vocab_size, context_len=context_len, num_blocks=num_blocks, embed_dim=embed_dim,
            num_heads=num_heads, dropout=dropout,
        )  # fmt: skip
        self.put_in()

    def put_in(self) -> None:
        """What an heir replaces."""


class InheritedBlocks(Shaped):
    def put_in(self) -> None:
        self.blocks[1] = OwnBlock(embed_dim=16, num_heads=2, dropout=0.0)


class OtherBlocks(Shaped):
    """With parts that know nothing of packing."""

    def put_in(self) -> None:
        class Mixer(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = nn.Linear(16, 16)

            def forward(self, x_BTC, cache=None, block=0):
                return x_BTC + self.inner(x_BTC)

        self.blocks = nn.ModuleList(Mixer() for _ in range(2))


class OwnTrunk(GPT2ish):
    """Both ways changed alike: the author knows of them."""

    def hidden(self, ids_BT, cache=None):
        return 2 * super().hidden(ids_BT, cache)

    def trunk(self, x_PC, offsets):
        return 2 * super().trunk(x_PC, offsets)


@pytest.mark.parametrize(
    ("kind", "has_body", "has_trunk"),
    [
        (GPT2ish, True, True), (OwnHidden, True, False), (OwnForward, False, False), (InheritedBlocks, True, False),
        (OtherBlocks, True, False), (OwnTrunk, True, True),
    ],
)  # fmt: skip
def test_inherited_ways_are_used_only_where_they_are_still_the_models(kind, has_body, has_trunk):
    model = kind(**SHAPE).train()
    assert (body_of(model) is not None, trunk_of(model, CPU) is not None) == (has_body, has_trunk)
    assert model.training


@pytest.mark.parametrize("kind", [OwnHidden, OwnForward, InheritedBlocks, OtherBlocks])
def test_what_an_heir_computes_is_what_is_trained(place, kind):
    """Its first loss is the one that its own `forward` gives: as a model that offers nothing but `forward` has it."""
    (place / "mine.py").write_text(
        f"from tests.train.test_own_experiments import {kind.__name__} as Mine\nfrom torch import nn\n"
        "class Plain(nn.Module):\n"
        "    def __init__(self, vocab_size, context_len, num_blocks, embed_dim, num_heads, dropout):\n"
        "        super().__init__()\n"
        "        self.inner = Mine(vocab_size=vocab_size, context_len=context_len, num_blocks=num_blocks,\n"
        "                          embed_dim=embed_dim, num_heads=num_heads, dropout=dropout)\n"
        "    def forward(self, ids):\n"
        "        return self.inner(ids)\n",
        encoding="utf-8",
    )
    plan = write_plan(place, PLAN.replace('exp = "test_runner"\n', "").replace("dropout = 0.1", "dropout = 0"))
    own = losses(stop_after(2, training_plan=plan, model="a.lmp", exp="mine.py:Mine"))
    plain = losses(stop_after(2, training_plan=plan, model="b.lmp", exp="mine.py:Plain"))
    assert [loss for _, _, loss, _ in own] == pytest.approx([loss for _, _, loss, _ in plain], rel=1e-5)


def test_default_freeze_without_a_mark_says_what_to_do(place):
    end = last(stop_after(1, training_plan=write_plan(place), model="m.lmp", default_freeze=True))
    assert isinstance(end, RunFailed)
    assert end.exit_code == 2
    assert end.message == (
        "--default-freeze: the model marks nothing with `freeze = False`, so every parameter is frozen; leave it out, "
        "or mark what shall be trained in an experiment of your own (self.head.freeze = False; --exp file.py:Name)"
    )


def test_default_freeze_trains_what_an_own_experiment_marks(place):
    (place / "mine.py").write_text(
        "from lmplay_tui.models.gpt2ish import GPT2ish\n\n\n"
        "class HeadOnly(GPT2ish):\n"
        "    def __init__(self, *, vocab_size, context_len, num_blocks, embed_dim, num_heads, dropout):\n"
        "        super().__init__(vocab_size=vocab_size, context_len=context_len, num_blocks=num_blocks,\n"
        "                         embed_dim=embed_dim, num_heads=num_heads, dropout=dropout)\n"
        "        self.head.freeze = False\n",
        encoding="utf-8",
    )
    plan = write_plan(place, PLAN.replace('exp = "test_runner"\n', ""))
    options = {"exp": "mine.py:HeadOnly", "default_freeze": True}
    stop_after(1, training_plan=plan, model="m.lmp", **options)
    before = load_checkpoint(place / "m.lmp")["model"]["state"]
    events = stop_after(5, model="m.lmp", exp="mine.py:HeadOnly")
    assert not [e for e in events if isinstance(e, LogLine) and e.level == "traceback"]
    after = load_checkpoint(place / "m.lmp")["model"]["state"]
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == {"head.weight", "head.bias"}, "kept on a resume"
