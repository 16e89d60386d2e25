"""Which models there are, and how a user's own class becomes one of them."""

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lmplay_tui.errors import UserError
from lmplay_tui.models.gpt2ish import GPT2ish
from lmplay_tui.models.registry import build_model, check_experiment, experiments, load_experiment

OWN = """
    import torch
    from torch import nn
    from lmplay_tui.models.gpt2ish import GPT2ish
    from neighbour import WIDTH

    class Bigram(nn.Module):
        '''Each token from the one before.

        More words that no list shows.
        '''
        def __init__(self, vocab_size, embed_dim=WIDTH):
            super().__init__()
            self.embed = nn.Embedding(vocab_size, embed_dim)
            self.head = nn.Linear(embed_dim, vocab_size)
        def forward(self, ids_BT):
            return self.head(self.embed(ids_BT))

    class Needy(nn.Module):
        def __init__(self, vocab_size, flavour):
            super().__init__()

    class Clumsy(nn.Module):
        def __init__(self):
            super().__init__()
            1 / 0

    class Whole(nn.Module):
        def __init__(self, *, vocab_size, context_len, num_blocks, embed_dim=48, num_heads=None, dropout, **more):
            super().__init__()
            assert not more
            self.got = dict(vocab_size=vocab_size, context_len=context_len, num_blocks=num_blocks,
                            embed_dim=embed_dim, num_heads=num_heads, dropout=dropout)
            self.weight = nn.Parameter(torch.randn(3))

    def function():
        pass
"""


@pytest.fixture
def own(tmp_path: Path) -> str:
    (tmp_path / "neighbour.py").write_text("WIDTH = 12\n", encoding="utf-8")
    file = tmp_path / "own.py"
    file.write_text(textwrap.dedent(OWN), encoding="utf-8")
    return str(file)


SHAPES = {
    "gpt2ish": (6, 768, 12),
    "gpt2ish_med": (24, 1024, 16),
    "gpt2ish_large": (36, 1280, 20),
    "s_gpt2ish": (18, 288, 6),
    "test_runner": (6, 64, 2),
}


def test_shipped_experiments_and_their_shapes() -> None:
    known = experiments()
    assert {name: (e.num_blocks, e.embed_dim, e.num_heads) for name, e in known.items()} == SHAPES
    assert all(e.summary and name == e.name for name, e in known.items())


def test_an_experiment_is_built_in_its_own_shape() -> None:
    model, arguments = build_model(load_experiment("test_runner"), vocab_size=300, context_len=16, dropout=0.25)
    assert isinstance(model, GPT2ish)
    assert arguments == {
        "exp": "test_runner", "vocab_size": 300, "context_len": 16, "num_blocks": 6, "embed_dim": 64, "num_heads": 2,
        "dropout": 0.25,
    }  # fmt: skip
    assert model.token_embed.weight.shape == (300, 64)
    assert len(model.blocks) == 6
    assert model.num_heads == 2
    assert model.dropout.p == 0.25


def test_the_shape_that_is_asked_for_wins() -> None:
    model, arguments = build_model(
        load_experiment("test_runner"), vocab_size=9, context_len=8, num_blocks=1, embed_dim=12, num_heads=3
    )
    assert (arguments["num_blocks"], arguments["embed_dim"], arguments["num_heads"]) == (1, 12, 3)
    assert isinstance(model, GPT2ish)
    assert (len(model.blocks), model.head.weight.shape[1], model.num_heads) == (1, 12, 3)


def test_the_seed_decides_the_weights_and_no_other_random_number() -> None:
    def weights(seed: int) -> torch.Tensor:
        model, _ = build_model(load_experiment("test_runner"), vocab_size=50, context_len=8, num_blocks=1, seed=seed)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    before = torch.get_rng_state()
    first = weights(1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    assert torch.equal(weights(1), first)
    assert not torch.equal(weights(2), first)


def test_heads_that_do_not_divide_the_width_are_refused_in_one_line() -> None:
    with pytest.raises(UserError, match=r"^experiment gpt2ish: embed_dim 100 is not a multiple of num_heads 12$"):
        build_model(load_experiment("gpt2ish"), vocab_size=10, context_len=8, embed_dim=100)


def test_own_class_from_a_file(own: str) -> None:
    experiment = load_experiment(f"{own}:Bigram")
    assert experiment.summary == "Each token from the one before."
    assert (experiment.num_blocks, experiment.embed_dim, experiment.num_heads) == (None, 12, None)
    model: Any
    model, arguments = build_model(experiment, vocab_size=30, context_len=8, embed_dim=20)
    assert model(torch.zeros(2, 5, dtype=torch.int64)).shape == (2, 5, 30)
    assert model.head.weight.shape == (30, 20)
    assert arguments["exp"] == f"{own}:Bigram"
    assert arguments["embed_dim"] == 20
    assert arguments["num_blocks"] is None


def test_own_class_gets_what_it_names(own: str) -> None:
    model, _ = build_model(load_experiment(f"{own}:Whole"), vocab_size=30, context_len=8, dropout=0.5)
    expected = {
        "vocab_size": 30, "context_len": 8, "num_blocks": 6, "embed_dim": 48, "num_heads": 12, "dropout": 0.5,
    }  # fmt: skip
    assert model.got == expected


def test_the_documents_model_can_be_built(tmp_path: Path) -> None:
    (tmp_path / "doc.py").write_text(
        "import torch\nfrom torch import nn\nclass MyModel(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.fc = nn.Linear(10, 10)\n",
        encoding="utf-8",
    )
    model, _ = build_model(load_experiment(f"{tmp_path / 'doc.py'}:MyModel"), vocab_size=30, context_len=8)
    assert isinstance(model.fc, nn.Linear)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gpt2is", "unknown experiment gpt2is; did you mean gpt2ish?; see --exp list"),
        ("zebra", "unknown experiment zebra; see --exp list"),
        ("model.py", "--exp model.py: say which class of the file, as file.py:Name"),
        ("nowhere.py:Model", "--exp nowhere.py:Model: no such file: nowhere.py"),
        (f"{'x' * 300}.py:Model", f"--exp {'x' * 199}…: {'x' * 199}… cannot be read: File name too long"),
    ],
)
def test_what_there_is_not(name: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        load_experiment(name)
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Bigrm", "the file has no Bigrm; did you mean Bigram?"),
        ("GPT2is", "the file has no GPT2is; it has Bigram, Needy, Clumsy, Whole"),
        ("Zebra", "the file has no Zebra; it has Bigram, Needy, Clumsy, Whole"),
        ("", "the file has no class without a name; it has Bigram, Needy, Clumsy, Whole"),
        ("function", "function is not a torch.nn.Module class"),
        ("WIDTH", "WIDTH is not a torch.nn.Module class"),
    ],
)
def test_what_a_file_has_not(own: str, name: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        load_experiment(f"{own}:{name}")
    assert str(caught.value).endswith(f":{name}: {said}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\ny = x / 0\n", "ZeroDivisionError: division by zero (line 2)"),
        ("import no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module' (line 1)"),
        ("def f(:\n", "SyntaxError: invalid syntax (broken.py, line 1)"),
    ],
)
def test_a_file_that_does_not_run(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "broken.py"
    file.write_text(text, encoding="utf-8")
    modules, path = set(sys.modules), list(sys.path)
    with pytest.raises(UserError) as caught:
        load_experiment(f"{file}:Model")
    assert str(caught.value).endswith(f"the file does not run: {said}")
    assert (set(sys.modules), sys.path) == (modules, path)


@pytest.mark.parametrize("text", ["-" * 200_000 + "1", "x" + ".a" * 100_000, "x" + "[0]" * 60_000, "\0"])
@pytest.mark.parametrize("look", [check_experiment, load_experiment])
def test_a_file_that_cannot_be_taken_apart(look: Callable[[str], object], text: str, tmp_path: Path) -> None:
    """Python's parser says so in several ways, by what is too deep for it."""
    file = tmp_path / "deep.py"
    file.write_text(f"class Model:\n    y = {text}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"^[^\n]*: the file does not run: [^\n]+$"):
        look(f"{file}:Model")


def test_a_file_that_is_no_python(tmp_path: Path) -> None:
    (tmp_path / "model.txt").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match=r"is not a Python file \(.py\)$"):
        load_experiment(f"{tmp_path / 'model.txt'}:Model")


def test_constructors_that_cannot_be_served(own: str) -> None:
    with pytest.raises(UserError, match=r":Needy: TypeError: .*missing 1 required positional argument: 'flavour'"):
        build_model(load_experiment(f"{own}:Needy"), vocab_size=30, context_len=8)
    with pytest.raises(UserError, match=r":Clumsy: ZeroDivisionError: division by zero \(line 26\)$"):
        build_model(load_experiment(f"{own}:Clumsy"), vocab_size=30, context_len=8)
    with pytest.raises(UserError, match=r"^--num-heads: .*:Bigram has no such argument$"):
        build_model(load_experiment(f"{own}:Bigram"), vocab_size=30, context_len=8, num_heads=2)
