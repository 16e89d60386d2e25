"""Who is updated, who decays, and by which learning rate."""

import math
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lmplay_tui.errors import UserError
from lmplay_tui.models.registry import build_model, load_experiment
from lmplay_tui.run.learning_rate import schedule, warmup
from lmplay_tui.train.optim import (
    build_optimizer,
    freeze,
    parameter_groups,
    without_gradient,
)
from tests.train.runs import differences

NAMES = ("adamw", "adam", "adagrad", "sgd", "rmsprop")


def names_of(model: nn.Module, parameters: list[nn.Parameter]) -> set[str]:
    return {name for name, p in model.named_parameters() if any(p is q for q in parameters)}


def split(model: nn.Module) -> tuple[set[str], set[str]]:
    decayed, kept = parameter_groups(model, 0.5)
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.5, 0.0)
    return names_of(model, decayed["params"]), names_of(model, kept["params"])


def test_gpt2ish_decays_its_matrices_and_nothing_else() -> None:
    model, _ = build_model(load_experiment("test_runner"), vocab_size=20, context_len=8, num_blocks=2)
    decayed, kept = split(model)
    of_block = {"attn.qkv", "attn.proj", "mlp.expand", "mlp.proj"}
    assert decayed == {f"blocks.{i}.{name}.weight" for i in (0, 1) for name in of_block} | {"head.weight"}
    assert decayed | kept == {name for name, _ in model.named_parameters()}


class Named(nn.Module):
    """A model with one parameter under any name."""

    def __init__(self, path: str) -> None:
        super().__init__()
        *modules, last = path.split(".")
        here: nn.Module = self
        for part in modules:
            here.add_module(part, inner := nn.Module())
            here = inner
        here.register_parameter(last, nn.Parameter(torch.zeros(2, 2)))


@pytest.mark.parametrize(
    "name",
    [
        "bias", "blocks.0.bias", "attn.in_proj_bias", "bias_k", "head.bias", "relative_bias.weight",
        "ln.weight", "ln_f.weight", "blocks.0.ln_1.weight", "blocks.0.ln1.weight", "attn_ln.weight", "final_ln",
        "token_embed.weight", "embed", "pos_embed", "embedding.weight", "blocks.0.embed_scale",
    ],
)  # fmt: skip
def test_names_that_do_not_decay(name: str) -> None:
    assert split(Named(name)) == (set(), {name})


@pytest.mark.parametrize(
    "name",
    [
        "weight", "head.weight", "blocks.0.attn.linear.weight", "linear.weight", "lin.weight", "blocks.0.attn.weight",
        "unbiased.weight", "vuln.weight", "kiln.gate", "blocks.0.lora.weight", "debias.weight", "l.n", "scale",
    ],
)  # fmt: skip
def test_names_that_decay(name: str) -> None:
    assert split(Named(name)) == ({name}, set())


def test_norms_and_embeddings_do_not_decay_whatever_their_name() -> None:
    class Own(nn.LayerNorm):
        pass

    model = nn.ModuleDict(
        {"a": nn.LayerNorm(4), "b": nn.Embedding(4, 4), "c": Own(4), "d": nn.RMSNorm(4), "e": nn.Linear(4, 4)}
    )
    decayed, kept = split(model)
    assert decayed == {"e.weight"}
    assert kept == {"a.weight", "a.bias", "b.weight", "c.weight", "c.bias", "d.weight", "e.bias"}


@pytest.mark.parametrize("shape", [(), (1,), (8,)])
@pytest.mark.parametrize("name", ["gamma", "blocks.0.rms.g", "norm.weight", "scale", "head.temperature"])
def test_vectors_and_numbers_do_not_decay_whatever_their_name(name: str, shape: tuple[int, ...]) -> None:
    """The weight of a norm written by hand, a learned scale: nothing but their shape says what they are."""
    model = Named(name)
    inner, _, last = name.rpartition(".")
    model.get_submodule(inner).register_parameter(last, nn.Parameter(torch.ones(shape)))
    assert split(model) == (set(), {name})


class MyModel(nn.Module):
    """The user's document's example."""

    def __init__(self):
        super().__init__()
        # Regular weight - will have weight decay applied
        self.fc = nn.Linear(10, 10)

        # Sacrificial parameter - exclude from decay
        self.sacrificial = nn.Parameter(torch.randn(10, 10))
        self.sacrificial.skip_weight_decay = True
        self.register_parameter("sacrificial_param", self.sacrificial)

        # Another example - custom scaling factor
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.scale.skip_weight_decay = True


def test_the_documents_model() -> None:
    model = MyModel()
    groups = parameter_groups(model, 0.01)
    assert [len(group["params"]) for group in groups] == [1, 3]
    assert groups[0]["params"][0] is model.fc.weight
    assert {id(p) for p in groups[1]["params"]} == {id(model.fc.bias), id(model.sacrificial), id(model.scale)}
    build_optimizer("adamw", model, lr=0.1, weight_decay=None, device_type="cpu")


def test_skip_weight_decay_false_is_no_exception() -> None:
    model: Any = nn.Linear(2, 2, bias=False)
    model.weight.skip_weight_decay = False
    assert split(model) == ({"weight"}, set())


@pytest.mark.parametrize("embedding_first", [True, False])
def test_a_tied_embedding_counts_once_and_does_not_decay(embedding_first: bool) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            parts: dict[str, Any] = {"lookup": nn.Embedding(5, 4), "out": nn.Linear(4, 5, bias=False)}
            parts["out"].weight = parts["lookup"].weight
            for name in parts if embedding_first else reversed(parts):
                self.add_module(name, parts[name])

    decayed, kept = parameter_groups(Tied(), 0.1)
    assert (len(decayed["params"]), len(kept["params"])) == (0, 1)


def test_any_of_its_names_keeps_a_parameter_from_decay() -> None:
    model = nn.Module()
    model.matrix = nn.Parameter(torch.zeros(2, 2))
    model.register_parameter("low_rank_bias", model.matrix)
    decayed, kept = parameter_groups(model, 0.1)
    assert (len(decayed["params"]), len(kept["params"])) == (0, 1)


def test_a_shared_module_counts_once() -> None:
    block = nn.Linear(3, 3)
    decayed, kept = parameter_groups(nn.Sequential(block, block), 0.1)
    assert (len(decayed["params"]), len(kept["params"])) == (1, 1)


class Probe(nn.Module):
    """A matrix that decays and a bias that does not."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([[1.0, 2.0]]))
        self.bias = nn.Parameter(torch.tensor([1.0, 2.0]))


def after_one_step(name: str, weight_decay: float | None, gradient: float = 0.0) -> tuple[Tensor, Tensor]:
    model: Any = Probe()
    optimizer = build_optimizer(name, model, lr=0.1, weight_decay=weight_decay, device_type="cpu")
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, gradient)
    optimizer.step()
    return model.w.detach()[0], model.bias.detach()


def test_adamw_decays_by_a_hundredth_unless_told_otherwise() -> None:
    w, bias = after_one_step("adamw", None)
    torch.testing.assert_close(w, torch.tensor([1.0, 2.0]) * (1 - 0.1 * 0.01), rtol=0, atol=1e-7)
    assert torch.equal(bias, torch.tensor([1.0, 2.0]))
    w, _ = after_one_step("adamw", 0.5)
    torch.testing.assert_close(w, torch.tensor([1.0, 2.0]) * (1 - 0.1 * 0.5))
    w, _ = after_one_step("adamw", 0.0)
    assert torch.equal(w, torch.tensor([1.0, 2.0]))


@pytest.mark.parametrize("name", NAMES[1:])
def test_the_others_decay_only_when_told(name: str) -> None:
    w, bias = after_one_step(name, None)
    assert torch.equal(w, torch.tensor([1.0, 2.0]))
    w, bias = after_one_step(name, 0.5)
    assert not torch.equal(w, torch.tensor([1.0, 2.0]))
    assert torch.equal(bias, torch.tensor([1.0, 2.0]))


def test_each_name_is_its_own_rule_and_sgd_has_momentum() -> None:
    kinds = {"adamw": "AdamW", "adam": "Adam", "adagrad": "Adagrad", "sgd": "SGD", "rmsprop": "RMSprop"}
    for name, kind in kinds.items():
        optimizer = build_optimizer(name, Probe(), lr=0.25, weight_decay=None, device_type="cpu")
        assert type(optimizer).__name__ == kind
        assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]
    model: Any = Probe()
    optimizer = build_optimizer("sgd", model, lr=1.0, weight_decay=None, device_type="cpu")
    places = []
    for _ in range(2):
        model.w.grad = torch.ones(1, 2)
        optimizer.step()
        places.append(model.w.detach()[0].clone())
    torch.testing.assert_close(places[1] - places[0], torch.full((2,), -1.9))


def test_fused_where_torch_has_it() -> None:
    fused = {name: build_optimizer(name, Probe(), lr=0.1, weight_decay=None, device_type="cpu").defaults.get("fused")
             for name in NAMES}  # fmt: skip
    assert fused == {"adamw": True, "adam": True, "adagrad": True, "sgd": True, "rmsprop": None}


@pytest.mark.parametrize("name", NAMES)
def test_gives_the_bits_of_torchs_own_optimizer_with_its_compiler_wrappers(name: str) -> None:
    settings: dict[str, Any] = {"momentum": 0.9} if name == "sgd" else {}
    kind: Any = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "adagrad": torch.optim.Adagrad,
            "sgd": torch.optim.SGD, "rmsprop": torch.optim.RMSprop}[name]  # fmt: skip
    models = [nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8)) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    ours = build_optimizer(name, models[0], lr=0.05, weight_decay=0.1, device_type="cpu")
    groups = parameter_groups(models[1], 0.1)
    plain = kind(groups, lr=0.05, **settings, **({} if name == "rmsprop" else {"fused": True}))
    for _ in range(3):
        for model, optimizer in zip(models, (ours, plain), strict=True):
            optimizer.zero_grad()
            model(torch.linspace(-1, 1, 16).view(2, 8)).square().sum().backward()
            optimizer.step()
        ours.load_state_dict(ours.state_dict())
    assert list(differences(ours.state_dict(), plain.state_dict())) == []
    assert list(differences(models[0].state_dict(), models[1].state_dict())) == []
    assert all(not weight.grad_fn and weight.requires_grad for weight in models[0].parameters())


@pytest.mark.parametrize("name", NAMES)
def test_fused_computes_what_the_plain_rule_computes(name: str) -> None:
    def three_steps(*, fused: bool) -> Tensor:
        torch.manual_seed(0)
        model = nn.Linear(8, 8).double()
        optimizer = build_optimizer(name, model, lr=0.05, weight_decay=0.1, device_type="cpu", fused=fused)
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.ones(2, 8, dtype=torch.float64)).square().sum().backward()
            optimizer.step()
        return model.weight.detach()

    torch.testing.assert_close(three_steps(fused=True), three_steps(fused=False), rtol=0, atol=1e-12)


def test_frozen_parameters_stay_and_keep_their_place() -> None:
    model: Any = Probe()
    optimizer = build_optimizer("adamw", model, lr=0.1, weight_decay=0.5, device_type="cpu")
    model.w.grad = torch.ones(1, 2)
    model.w.freeze = True
    freeze(model, default_freeze=False)
    model.bias.grad = torch.ones(2)
    optimizer.step()
    assert torch.equal(model.w.detach()[0], torch.tensor([1.0, 2.0]))
    assert not torch.equal(model.bias.detach(), torch.tensor([1.0, 2.0]))
    assert [len(group["params"]) for group in optimizer.param_groups] == [1, 1]


def two_layers() -> Any:
    return nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))


def trained(model: nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


def test_default_freeze_leaves_what_says_freeze_false() -> None:
    model = two_layers()
    model[1].weight.freeze = False
    freeze(model, default_freeze=True)
    assert trained(model) == {"1.weight"}
    freeze(model, default_freeze=False)
    assert trained(model) == {"0.weight", "0.bias", "1.weight", "1.bias"}


def test_marks_on_modules_hold_for_all_inside_and_the_innermost_wins() -> None:
    model = two_layers()
    model.freeze = True
    model[1].freeze = False
    model[1].bias.freeze = True
    for default_freeze in (False, True):
        freeze(model, default_freeze)
        assert trained(model) == {"1.weight"}


def test_what_the_model_froze_itself_stays_frozen() -> None:
    model = two_layers()
    model[0].weight.requires_grad_(False)
    model[1].freeze = False
    for default_freeze in (False, True, False):
        freeze(model, default_freeze)
        assert "0.weight" not in trained(model)
        assert ("0.bias" in trained(model)) != default_freeze


def test_a_method_called_freeze_is_no_mark() -> None:
    class Model(nn.Linear):
        def freeze(self) -> None:
            raise AssertionError

    model = Model(2, 2)
    freeze(model, default_freeze=False)
    assert trained(model) == {"weight", "bias"}


def test_nothing_left_to_train_is_a_message() -> None:
    with pytest.raises(UserError, match=r"^--default-freeze: .*every parameter is frozen"):
        freeze(two_layers(), default_freeze=True)


def test_who_got_no_gradient() -> None:
    model = two_layers()
    model[0].bias.requires_grad_(False)
    model[0](torch.ones(1, 2)).sum().backward()
    assert without_gradient(model) == ["0.bias (frozen)", "1.weight", "1.bias"]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("constant", {0.0: 1.0, 0.5: 1.0, 1.0: 1.0}),
        ("cosine", {0.0: 1.0, 0.5: 0.55, 1 / 3: 0.1 + 0.9 * 0.75, 1.0: 0.1}),
        ("linear", {0.0: 1.0, 0.25: 0.75, 1.0: 0.0}),
        ("wsd", {0.0: 1.0, 0.8: 1.0, 0.85: 0.5, 0.9: 1 - math.sqrt(0.5), 1.0: 0.0}),
    ],
)
def test_schedules_at_their_marks(kind: str, expected: dict[float, float]) -> None:
    assert {p: schedule(kind, p) for p in expected} == pytest.approx(expected, abs=1e-7)


@given(
    kind=st.sampled_from(["constant", "cosine", "linear", "wsd"]),
    a=st.floats(-1, 2, allow_nan=False),
    b=st.floats(-1, 2, allow_nan=False),
)
def test_schedules_fall_and_stay_between_0_and_1(kind: str, a: float, b: float) -> None:
    first, second = sorted((a, b))
    assert 1 >= schedule(kind, first) >= schedule(kind, second) >= 0


def test_an_unknown_schedule_is_our_mistake() -> None:
    with pytest.raises(ValueError, match="unknown schedule zigzag"):
        schedule("zigzag", 0.5)


def test_warm_up_is_a_straight_line_to_1() -> None:
    assert [warmup(s, fraction=0.2, steps=4) for s in range(7)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1, 1])
    assert warmup(0, fraction=1.0, steps=1) == 1.0


@given(step=st.integers(0, 10**9), fraction=st.floats(0, 1), steps=st.integers(1, 10**9))
def test_warm_up_never_leaves_its_bounds(step: int, fraction: float, steps: int) -> None:
    factor = warmup(step, fraction=fraction, steps=steps)
    assert fraction <= factor <= 1.0 + 1e-12
    assert factor == 1.0 or step < steps


def test_build_optimizer_takes_every_declared_name() -> None:
    from lmplay_tui.options import OPTIONS

    assert set(OPTIONS["optimizer"].choices) == set(NAMES)
    for kind in OPTIONS["lr_schedule"].choices:
        assert 0 <= schedule(kind, 0.5) <= 1


UPDATES = """
import hashlib, sys
import numpy as np, torch
from lmplay_tui.train.optim import build_optimizer
from torch import nn

numbers, found = np.random.default_rng(0), hashlib.sha256()
draw = lambda shape: torch.from_numpy(numbers.standard_normal(shape))
for name in ("adamw", "adam", "adagrad", "sgd", "rmsprop"):
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        model = nn.Sequential(nn.Linear(37, 53), nn.LayerNorm(53), nn.Linear(53, 1009)).to(dtype)
        optimizer = build_optimizer(name, model, lr=0.01, weight_decay=0.1, device_type="cpu")
        for parameter in model.parameters():
            parameter.data.copy_(draw(parameter.shape))
        for _ in range(20):
            for parameter in model.parameters():
                parameter.grad = draw(parameter.shape).to(dtype)
            norm = nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
            found.update(str(float(norm)).encode())
        for parameter in model.parameters():
            found.update(parameter.detach().view(torch.uint8).numpy().tobytes())
print(torch.backends.cpu.get_cpu_capability(), found.hexdigest())
"""


@pytest.mark.long
@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() != "AVX512", reason="a processor without AVX-512")
def test_avx2_and_avx_512_make_the_same_updates_to_the_bit() -> None:
    """So machines of both kinds may train together: `ProcessGroup.unlike` takes them for like ones."""
    said = [
        subprocess.run(
            [sys.executable, "-c", UPDATES], env={**os.environ, "ATEN_CPU_CAPABILITY": kind.lower()}, text=True,
            stdout=subprocess.PIPE, check=True,
        ).stdout.split()
        for kind in ("AVX2", "AVX512")
    ]  # fmt: skip
    assert [kind for kind, _ in said] == ["AVX2", "AVX512"]
    assert said[0][1] == said[1][1]
