"""Generation says what the model says: the cache, the window and the sampling change nothing else."""

from collections.abc import Sequence
from itertools import islice
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lmplay_tui.errors import UserError
from lmplay_tui.models.generation import Reading, draw, generate, penalize, window_start
from lmplay_tui.models.gpt2ish import GPT2ish, KeyValueCache

VOCAB, CONTEXT = 40, 16


@pytest.fixture(scope="module")
def model() -> GPT2ish:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        made = GPT2ish(vocab_size=VOCAB, context_len=CONTEXT, num_blocks=2, embed_dim=32, num_heads=4, dropout=0.3)
        for parameter in made.parameters():  # far from the even distribution that a model starts with
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.4)
    return made


class ForwardOnly(nn.Module):
    """What a user's own model may be: nothing but `forward(ids_BT)`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.inner = model

    def forward(self, ids_BT: Tensor) -> Tensor:
        assert ids_BT.shape[1] < CONTEXT, "the last position has never been trained"
        logits: Tensor = self.inner(ids_BT)
        return logits


class Says(nn.Module):
    """Always the same logits."""

    def __init__(self, logits: Sequence[float]) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, ids_BT: Tensor) -> Tensor:
        return self.logits.expand(*ids_BT.shape, -1)


def run(model: nn.Module, prompt: Sequence[int] = (1, 2, 3), **changes: Any) -> list[int]:
    return list(generate(model, prompt, **({"max_tokens": 30, "context_len": CONTEXT, "eot": None} | changes)))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def naive(model: nn.Module, prompt: Sequence[int], num_tokens: int) -> list[int]:
    ids = list(prompt)
    model.eval()
    with torch.no_grad():
        for _ in range(num_tokens):
            window = ids[window_start(len(ids), CONTEXT - 1) :]
            ids.append(int(model(torch.tensor([window]))[0, -1].argmax()))
    model.train()
    return ids[len(prompt) :]


@pytest.mark.parametrize("prompt_len", [1, 5, CONTEXT - 2, CONTEXT - 1, CONTEXT, CONTEXT + 1, 3 * CONTEXT])
def test_greedy_is_the_argmax_of_the_plain_model_also_beyond_the_context(model: GPT2ish, prompt_len: int) -> None:
    prompt = [(7 * i) % VOCAB for i in range(prompt_len)]
    expected = naive(model, prompt, 40)
    assert len(set(expected)) > 3
    assert run(model, prompt, max_tokens=40) == expected
    assert run(ForwardOnly(model), prompt, max_tokens=40) == expected


def test_the_cache_reads_each_token_once(model: GPT2ish) -> None:
    read: list[int] = []
    hidden = model.hidden

    def counted(ids_BT: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        read.append(ids_BT.shape[1])
        assert not torch.is_grad_enabled()
        return hidden(ids_BT, cache)

    model.hidden = counted  # type: ignore[method-assign]
    run(model, range(5), max_tokens=8, reading=Reading.BODY)
    assert read == [5, 1, 1, 1, 1, 1, 1, 1]


@given(length=st.integers(1, 5000), context=st.integers(1, 600))
def test_the_window_fits_the_context_and_moves_seldom(length: int, context: int) -> None:
    start = window_start(length, context)
    assert 1 <= length - start <= context
    assert start == 0 if length <= context else length - start > context - max(context // 2, 1)
    assert window_start(length + 1, context) >= start
    seldom = range(context + 1, context + 1 + 3 * max(context // 2, 1))
    assert len({window_start(later, context) for later in seldom}) == 3


def test_draws_depend_on_the_generator_alone(model: GPT2ish) -> None:
    first = run(model, temperature=1.0, generator=seeded(1))
    before = torch.get_rng_state()
    assert run(model, temperature=1.0, generator=seeded(1)) == first
    assert torch.equal(torch.get_rng_state(), before)
    assert run(model, temperature=1.0, generator=seeded(2)) != first
    run(model, temperature=1.0)
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_generator_each_text_is_new(model: GPT2ish) -> None:
    assert run(model, temperature=1.5) != run(model, temperature=1.5)


def test_the_models_mode_is_given_back_part_by_part(model: GPT2ish) -> None:
    model.train()
    model.blocks[0].eval()
    before = [module.training for module in model.modules()]
    text = generate(model, [1], max_tokens=9, context_len=CONTEXT, eot=None)
    next(text)
    assert not any(module.training for module in model.modules())
    assert torch.is_grad_enabled()
    text.close()
    assert [module.training for module in model.modules()] == before
    run(model)
    assert [module.training for module in model.modules()] == before
    model.train()


def test_the_end_of_text_ends_it_and_is_not_part_of_it(model: GPT2ish) -> None:
    whole = run(model)
    end = next(token for token in whole if token != whole[0])
    assert run(model, eot=end) == whole[: whole.index(end)]


def test_stop_is_asked_before_each_token(model: GPT2ish) -> None:
    answers = iter([False, False, True])
    assert run(model, stop=lambda: next(answers)) == run(model)[:2]
    assert run(model, max_tokens=0) == []


def test_narrow_sampling_is_greedy(model: GPT2ish) -> None:
    greedy = run(model)
    cuts: list[dict[str, Any]] = [{"top_k": 1}, {"top_p": 1e-9}, {"temperature": 1e-30}]
    for cut in cuts:
        assert run(model, **{"temperature": 2.0, "generator": seeded(3), **cut}) == greedy, cut


def drawn(logits: Sequence[float], **changes: Any) -> set[int]:
    generator = seeded(0)
    settings = {"temperature": 1.0, "top_k": None, "top_p": None} | changes
    return {draw(torch.tensor(logits), generator=generator, **settings) for _ in range(300)}


def test_what_top_k_and_top_p_leave() -> None:
    logits = torch.tensor([0.1, 0.4, 0.2, 0.3]).log().tolist()
    assert drawn(logits) == {0, 1, 2, 3}
    assert drawn(logits, top_k=2) == {1, 3}
    assert drawn(logits, top_k=99) == {0, 1, 2, 3}
    assert drawn(logits, top_p=0.35) == {1}
    assert drawn(logits, top_p=0.65) == {1, 3}  # 0.4 is not enough, 0.4 + 0.3 is
    assert drawn(logits, top_p=0.75) == {1, 2, 3}
    assert drawn(logits, top_p=1.0) == {0, 1, 2, 3}
    assert drawn(logits, top_k=3, top_p=0.4) == {1}


def test_draws_follow_the_probabilities_and_the_temperature() -> None:
    logits = torch.tensor([0.8, 0.2]).log()
    for temperature, expected in ((1.0, 0.8), (0.5, 0.64 / 0.68), (2.0, 0.8**0.5 / (0.8**0.5 + 0.2**0.5))):
        generator = seeded(4)
        tokens = [
            draw(logits, temperature=temperature, top_k=None, top_p=None, generator=generator) for _ in range(3000)
        ]
        assert tokens.count(0) / len(tokens) == pytest.approx(expected, abs=0.03)


@given(
    logits=st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=30),
    temperature=st.floats(1e-30, 1e30),
    top_k=st.none() | st.integers(1, 40),
    top_p=st.none() | st.floats(0, 1, exclude_min=True),
)
def test_any_finite_numbers_give_a_token(
    logits: list[float], temperature: float, top_k: int | None, top_p: float | None
) -> None:
    token = draw(torch.tensor(logits), temperature=temperature, top_k=top_k, top_p=top_p, generator=seeded(0))
    assert 0 <= token < len(logits)


def test_repetition_penalty_lowers_what_was_said_before() -> None:
    logits = torch.tensor([2.0, -2.0, 1.0, -1.0])
    torch.testing.assert_close(penalize(logits, [0, 1, 1], 2.0), torch.tensor([1.0, -4.0, 1.0, -1.0]))
    assert penalize(logits, [0, 1], 1.0) is logits
    says = Says([1.0, 0.9, 0.8])
    assert run(says, [0], max_tokens=3) == [0, 0, 0]
    assert run(says, [0], max_tokens=3, repetition_penalty=1.5) == [1, 2, 0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_a_message(bad: float) -> None:
    model = Says([0.0, bad, 0.0])
    with pytest.raises(UserError, match="not finite"):
        run(model, temperature=1.0)
    assert model.training


def test_one_token_at_a_time(model: GPT2ish) -> None:
    assert list(islice(generate(model, [1], max_tokens=10**9, context_len=CONTEXT, eot=None), 3)) == run(model, [1])[:3]
    with pytest.raises(ValueError, match="at least one token"):
        run(model, [])
