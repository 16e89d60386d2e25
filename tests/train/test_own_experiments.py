"""Experiments of a user's own: trained as they are written, frozen as they are marked."""

import re
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lmplay_tui.cli import main
from lmplay_tui.data.samples import Sample
from lmplay_tui.data.tokenizer import load_tokenizer
from lmplay_tui.models.generation import Reading
from lmplay_tui.models.gpt2ish import Block, GPT2ish
from lmplay_tui.models.registry import build_model, load_experiment
from lmplay_tui.run.events import LogLine, RunDone, RunFailed, RunStopped, Warned
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.train.check import describe_run
from lmplay_tui.train.checkpoint import load_checkpoint
from lmplay_tui.train.device import Precision
from lmplay_tui.train.evaluation import Scorer
from lmplay_tui.train.model_body import Ways, choose_ways
from lmplay_tui.ui.source import FolderSource
from tests.train.runs import PLAN, given, last, losses, stop_after, train, write_plan

OWN_PLAN = PLAN.replace('exp = "test_runner"\n', "")

SHAPE: dict[str, Any] = {
    "vocab_size": 40, "context_len": 16, "num_blocks": 2, "embed_dim": 16, "num_heads": 2,
    "dropout": 0.1,
}  # fmt: skip
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
        """What a subclass replaces."""


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


def ways_of(kind: type[nn.Module], **shape: int) -> Ways:
    """What is chosen for a model; that choosing leaves no trace in it is looked at each time."""
    torch.manual_seed(0)
    model = kind(**(shape := SHAPE | shape)).train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    frozen = [p.requires_grad for p in model.parameters()]
    random = torch.get_rng_state()
    ways = choose_ways(model, Precision(CPU), vocab_size=40, context_len=shape["context_len"])
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert frozen == [p.requires_grad for p in model.parameters()]
    assert all(p.grad is None for p in model.parameters())
    assert all(module.training for module in model.modules())
    return ways


@pytest.mark.parametrize("context_len", [2, 8, 40])
@pytest.mark.parametrize(
    ("kind", "has_body", "has_trunk"),
    [
        (GPT2ish, True, True), (OwnHidden, True, False), (OwnForward, False, False), (InheritedBlocks, True, False),
        (OtherBlocks, True, False), (OwnTrunk, True, True),
    ],
)  # fmt: skip
def test_inherited_ways_are_used_only_where_they_are_still_the_models(kind, has_body, has_trunk, context_len):
    ways = ways_of(kind, context_len=context_len)
    assert (ways.hidden is not None, ways.trunk is not None) == (has_body, has_trunk)


class Author(GPT2ish):
    """A class of a user who defines all parts anew: no rule of inheritance says which of them belong together."""

    def __init__(self, **shape) -> None:
        super().__init__(**shape)
        self.put_in()

    def put_in(self) -> None:
        """What an experiment adds."""

    def body(self, ids_BT, cache=None):
        return super().hidden(ids_BT, cache)

    def packed_body(self, x_PC, offsets):
        return super().trunk(x_PC, offsets)


def experiment(forward=None, put_in=None) -> type[Author]:
    """A class of its own in which `hidden`, `trunk` and `forward` stand side by side."""
    parts = {"hidden": Author.body, "trunk": Author.packed_body}
    parts |= {"forward": forward} if forward is not None else {}
    parts |= {"put_in": put_in} if put_in is not None else {}
    return type("Experiment", (Author,), parts)


def logits_of(model, ids, cache=None):
    return model.head(model.hidden(ids, cache))


def with_scale(cap):
    def put_in(self):
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, ids, cache=None):
        return cap * (self.scale * logits_of(self, ids, cache) / cap).tanh()

    return experiment(forward, put_in)


def with_cap(cap, zero_head=False):
    def put_in(self):
        if zero_head:
            nn.init.zeros_(self.head.weight)

    return experiment(lambda self, ids, cache=None: cap * (logits_of(self, ids, cache) / cap).tanh(), put_in)


def with_bias():
    def put_in(self):
        self.logit_bias = nn.Parameter(torch.zeros(40))

    return experiment(lambda self, ids, cache=None: logits_of(self, ids, cache) + self.logit_bias, put_in)


def with_gate():
    """Twice zero: the gate and what it lets through."""

    def put_in(self):
        self.gate, self.extra = nn.Parameter(torch.zeros(())), nn.Linear(16, 40)
        nn.init.zeros_(self.extra.weight)
        nn.init.zeros_(self.extra.bias)

    def forward(self, ids, cache=None):
        x = self.hidden(ids, cache)
        return self.head(x) + self.gate * self.extra(x)

    return experiment(forward, put_in)


def with_dropout():
    return experiment(lambda self, ids, cache=None: self.head(F.dropout(self.hidden(ids, cache), 0.2, self.training)))


def with_stopped_gradient():
    return experiment(lambda self, ids, cache=None: self.head(self.hidden(ids, cache).detach()))


def with_stopped_head():
    return experiment(
        lambda self, ids, cache=None: F.linear(self.hidden(ids, cache), self.head.weight.detach(), self.head.bias)
    )


def tied_and_scaled():
    def put_in(self):
        self.head.weight = self.token_embed.weight

    return experiment(lambda self, ids, cache=None: self.head(self.hidden(ids, cache) / 4), put_in)


def hooked(hook) -> type[Author]:
    return experiment(put_in=hook)


NOT_ITS_BODY = {
    "learned scale": with_scale(30.0),
    "learned scale under a cap of no effect": with_scale(1e6),
    "softcap": with_cap(30.0),
    "softcap of 300": with_cap(300.0),
    "softcap over a head of zeros": with_cap(30.0, zero_head=True),
    "logit bias": with_bias(),
    "gate of zero": with_gate(),
    "dropout before the head": with_dropout(),
    "stopped gradient": with_stopped_gradient(),
    "stopped head": with_stopped_head(),
    "tied and scaled": tied_and_scaled(),
    "forward hook on the head": hooked(lambda self: self.head.register_forward_hook(lambda m, i, o: 2 * o)),
    "pre-hook on the head": hooked(lambda self: self.head.register_forward_pre_hook(lambda m, i: (2 * i[0],))),
    "hook that only looks": hooked(lambda self: self.head.register_forward_hook(lambda m, i, o: None)),
    "hook on the model": hooked(lambda self: self.register_forward_hook(lambda m, i, o: o.tanh())),
    "backward hook": hooked(lambda self: self.head.register_full_backward_hook(lambda m, i, o: None)),
    "hook on the head's gradient": hooked(lambda self: self.head.weight.register_hook(lambda g: g / 2)),
    "hook after the head's gradient": hooked(
        lambda self: self.head.bias.register_post_accumulate_grad_hook(lambda p: None)
    ),
    "weight_norm of old": hooked(lambda self: nn.utils.weight_norm(self.head)),
    "spectral_norm of old": hooked(lambda self: nn.utils.spectral_norm(self.head)),
    "the head's own forward": hooked(lambda self: setattr(self.head, "forward", lambda x: 3 * x @ self.head.weight.T)),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning", "ignore:Full backward hook:UserWarning")
@pytest.mark.parametrize("what", NOT_ITS_BODY)
def test_where_hidden_and_head_are_not_forward_forward_is_trained(what):
    ways = ways_of(NOT_ITS_BODY[what], context_len=40)
    assert (ways.hidden, ways.trunk) == (None, None)
    assert ways.notes[0].startswith("trained by forward alone, without the faster hidden and head: ")


NOT_ITS_TRUNK = {
    "hook on a block": lambda self: self.blocks[1].register_forward_hook(lambda m, i, o: None),
    "hook inside a block": lambda self: self.blocks[0].attn.register_forward_hook(lambda m, i, o: 2 * o),
    "hook on an embedding's gradient": lambda self: self.token_embed.weight.register_hook(lambda g: g / 2),
    # Of this one `embed_backward` knows nothing.
    "embedding scaled": lambda self: self.token_embed.register_forward_hook(lambda m, i, o: 2 * o),
}


@pytest.mark.parametrize("what", NOT_ITS_TRUNK)
def test_where_packed_samples_are_not_forward_they_are_padded(what):
    ways = ways_of(hooked(NOT_ITS_TRUNK[what]), context_len=40)
    assert ways.hidden is not None
    assert ways.trunk is None
    assert ways.notes[0].startswith("samples are padded, not packed by trunk: ")


STILL_ITS_PARTS = {
    "as it is": experiment(),
    "forward in other words": experiment(logits_of),
    "weight_norm in a block": hooked(lambda self: nn.utils.weight_norm(self.blocks[0].mlp.expand)),
    "spectral_norm in a block": hooked(lambda self: nn.utils.spectral_norm(self.blocks[0].mlp.expand)),
    "tied": hooked(lambda self: setattr(self.head, "weight", self.token_embed.weight)),
    "frozen head": hooked(lambda self: self.head.requires_grad_(False)),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("what", STILL_ITS_PARTS)
def test_parts_that_are_forward_are_used(what):
    ways = ways_of(STILL_ITS_PARTS[what], context_len=40)
    assert ways.hidden is not None
    assert ways.trunk is not None
    assert ways.reading is Reading.BODY
    assert ways.notes == ()


@pytest.mark.parametrize("context_len", [4, 40])
def test_a_cache_is_used_only_where_it_gives_what_forward_gives(context_len):
    class Forgets(GPT2ish):
        def new_cache(self, batch_size):
            cache = super().new_cache(batch_size)
            cache.advance(1)  # positions are one off, and a key of zeros lies before them
            return cache

    ways = ways_of(Forgets, context_len=context_len)
    assert ways.reading is Reading.FORWARD
    assert ways.notes[-1].startswith("generation is slower, by forward without a cache: ")
    assert ways_of(with_cap(30.0), context_len=context_len).reading is Reading.CACHE
    without = experiment(lambda self, ids: 2 * logits_of(self, ids))
    assert ways_of(without, context_len=context_len).reading is Reading.FORWARD


@pytest.mark.long_after(1)
@pytest.mark.parametrize("kind", [OwnHidden, OwnForward, InheritedBlocks, OtherBlocks])
def test_what_a_subclass_computes_is_what_is_trained(place, kind):
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
    plan = write_plan(place, OWN_PLAN.replace("dropout = 0.1", "dropout = 0"))
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
    plan = write_plan(place, OWN_PLAN)
    options = {"exp": "mine.py:HeadOnly", "default_freeze": True}
    stop_after(1, training_plan=plan, model="m.lmp", **options)
    before = load_checkpoint(place / "m.lmp")["model"]["state"]
    events = stop_after(5, model="m.lmp", exp="mine.py:HeadOnly")
    assert not [e for e in events if isinstance(e, LogLine) and e.level == "traceback"]
    after = load_checkpoint(place / "m.lmp")["model"]["state"]
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == {"head.weight", "head.bias"}, "kept on a resume"


def test_describe_says_what_each_stage_trains_and_decays(place):
    (place / "mine.py").write_text(
        "import torch\nfrom torch import nn\n\n\n"
        "class Mine(nn.Module):\n"
        "    def __init__(self, vocab_size, embed_dim):\n"
        "        super().__init__()\n"
        "        self.table = nn.Embedding(vocab_size, embed_dim)\n"
        "        self.gain = nn.Parameter(torch.ones(embed_dim))\n"
        "        self.out = nn.Linear(embed_dim, vocab_size)\n"
        "        self.out.freeze = False\n\n"
        "    def forward(self, ids):\n"
        "        return self.out(self.table(ids) * self.gain)\n",
        encoding="utf-8",
    )
    stages = '[stages.all]\ndataset = "pairs.jsonl"\n[stages.head]\ndataset = "pairs.jsonl"\ndefault_freeze = true\n'
    plan = write_plan(place, '[train]\nembed_dim = 8\ntokenizer = "bytes"\n' + stages + "weight_decay = 0.5\n")
    text = describe_run(given(training_plan=plan, model="m.lmp", exp="mine.py:Mine"))
    rows = {line.split()[0]: line.split("%")[1].split() for line in text.splitlines() if " % " in line}
    assert rows == {
        "table.weight": ["yes", "no"], "gain": ["yes", "no"], "out.weight": ["yes", "0.01"], "out.bias": ["yes", "no"],
    }  # fmt: skip
    assert "  all: 4,377 values trained by adamw, 2,056 of them decay by 0.01" in text
    assert "  head: 2,313 values trained by adamw, 2,056 of them decay by 0.5" in text
    text = describe_run(given(training_plan=plan, model="m.lmp", exp="mine.py:Mine", default_freeze=True))
    rows = {line.split()[0]: line.split("%")[1].split() for line in text.splitlines() if " % " in line}
    assert rows["gain"] == rows["table.weight"] == ["frozen"]
    assert rows["out.bias"] == ["yes", "no"]


CAPPED = """\
import torch
from torch import nn
from lmplay_tui.models.gpt2ish import GPT2ish


class Capped(GPT2ish):
    def __init__(self, *, vocab_size, context_len, num_blocks, embed_dim, num_heads, dropout):
        super().__init__(vocab_size=vocab_size, context_len=context_len, num_blocks=num_blocks,
                         embed_dim=embed_dim, num_heads=num_heads, dropout=dropout)
        self.scale = nn.Parameter(torch.ones(()))

    def hidden(self, ids, cache=None):
        return super().hidden(ids, cache)

    def trunk(self, x, offsets):
        return super().trunk(x, offsets)

    def forward(self, ids, cache=None):
        return 2.0 * torch.tanh(self.scale * self.head(self.hidden(ids, cache)) / 2.0)
"""


@pytest.mark.long_after(1)
@pytest.mark.parametrize("options", [{}, {"compile_model": True, "compile_backend": "eager"}])
def test_a_softcap_and_a_learned_scale_are_trained_and_evaluated(place, options):
    (place / "mine.py").write_text(CAPPED, encoding="utf-8")
    plan = write_plan(place, OWN_PLAN + "[stages.rest]\ndataset = 'pairs.jsonl'\n")
    exp = "mine.py:Capped"
    events = stop_after(4, training_plan=plan, model="m.lmp", exp=exp, **options)
    said = [e.message for e in events if isinstance(e, Warned) and e.message.startswith("experiment mine.py:Capped: ")]
    assert said[0].startswith("experiment mine.py:Capped: trained by forward alone, without the faster hidden and head")
    state = load_checkpoint(place / "m.lmp")["model"]["state"]
    assert state["scale"] != 1.0, "the scale is trained"
    shape = SHAPE | {"vocab_size": 257, "context_len": 64}
    model, _ = build_model(load_experiment(exp), **shape)
    model.load_state_dict(state)
    ways = choose_ways(model, Precision(CPU), vocab_size=257, context_len=64)
    tokenizer = load_tokenizer("bytes")
    ids = torch.tensor([tokenizer.encode("What is 3 and 3? It is 6.")])
    sample = Sample("What is 3 and 3?", " It is 6.", *(part.numpy().astype("int32") for part in ids[0].split(16)), 0)
    model.eval()
    with torch.no_grad():
        loss = F.cross_entropy(model(ids)[0, 15:-1], ids[0, 16:])
    found = Scorer(model, ways.hidden, tokenizer, Precision(CPU)).predict(sample).loss
    assert found == pytest.approx(float(loss), rel=1e-5)


MINE = "from lmplay_tui.models.gpt2ish import GPT2ish\n\n\nclass Mine(GPT2ish):\n    pass\n"


def test_each_line_that_says_how_to_go_on_names_the_users_own_experiment(place, capsys):
    """No checkpoint can: stopped, renamed, died, finished."""
    (place / "mine.py").write_text(MINE, encoding="utf-8")
    own = {"exp": "mine.py:Mine", "num_blocks": 1}
    stopped = last(stop_after(3, training_plan=write_plan(place, OWN_PLAN), model="m.lmp", **own))
    assert isinstance(stopped, RunStopped), stopped
    assert main(["runs", "rename", "m", "later"]) == 0
    said = [stopped.command.replace("m.lmp", "later.lmp"), capsys.readouterr().out]
    run = RunFolder(place / "later.lmp")
    run.write_status(run.status() | {"state": "running"})  # by a process that died before it could say more
    lines = run.events.read_text(encoding="utf-8").splitlines(keepends=True)
    run.events.write_text("".join(line for line in lines if "RunStopped" not in line), encoding="utf-8")
    source = FolderSource(run)
    while source.poll() or source.view.state != "dead":
        assert source.view.state != "stopped"
    said += [line.text for line in source.view.log if "without a word" in line.text]
    finished = train(model="later.lmp", **own)
    assert isinstance(last(finished), RunDone), last(finished)
    said += [e.message for e in train(model="later.lmp") if isinstance(e, LogLine) and "--extend" in e.message]
    assert len(said) == 4, said
    assert all(re.search(r"--model \S*later.lmp .*--exp mine.py:Mine", line) for line in said), said
