"""Scoring held-out samples: what it says of them, and how much memory that takes."""

import math
from itertools import pairwise

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lmplay_tui.data.samples import Sample
from lmplay_tui.data.tokenizer import load_tokenizer
from lmplay_tui.models.body import body_of
from lmplay_tui.models.gpt2ish import GPT2ish
from lmplay_tui.train.accuracy import accuracy_of, mean_accuracy
from lmplay_tui.train.device import Precision
from lmplay_tui.train.evaluation import SHOWN_TOKENS, Scorer
from lmplay_tui.train.loss import SCORED_ROWS
from tests.train.test_gradients import sample

VOCAB = 6000
TOKENIZER = load_tokenizer("bytes")


class Largest(TorchDispatchMode):
    """The most elements of any tensor that an operation has made."""

    def __init__(self) -> None:
        super().__init__()
        self.found = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for value in made if isinstance(made, tuple | list) else (made,):
            if isinstance(value, torch.Tensor):
                self.found = max(self.found, value.numel())
        return made


@pytest.fixture
def model() -> GPT2ish:
    torch.manual_seed(0)
    return GPT2ish(vocab_size=VOCAB, context_len=768, num_blocks=1, embed_dim=16, num_heads=2, dropout=0.0)


def scorer(model: GPT2ish, *, apart: bool = True) -> Scorer:
    return Scorer(model, body_of(model) if apart else None, TOKENIZER, Precision(torch.device("cpu")))


def log_p(model: GPT2ish, sample: Sample) -> torch.Tensor:
    """Log-probabilities at the truth's positions (N, V), all at once."""
    ids = torch.tensor([*sample.prompt_ids, *sample.truth_ids])
    with torch.no_grad():
        rows: torch.Tensor = model.eval()(ids[None, :-1])[0, len(sample.prompt_ids) - 1 :].log_softmax(dim=-1)
    return rows


def of_truth(log_p_NV: torch.Tensor, sample: Sample) -> torch.Tensor:
    return log_p_NV.gather(1, torch.tensor(sample.truth_ids)[:, None].long())[:, 0]


@pytest.mark.parametrize("apart", [True, False])
def test_a_score_is_that_of_all_rows_at_once(model, apart):
    samples = [sample(3, length, seed=length) for length in (700, 5, 300, 200, 40)]
    rows = [log_p(model, s) for s in samples]
    loss_sum = -sum(float(of_truth(p, s).sum()) for p, s in zip(rows, samples, strict=True))
    likeliest = [TOKENIZER.decode(p.argmax(dim=-1).tolist()) for p in rows]
    said = mean_accuracy(accuracy_of(text, s.truth) for text, s in zip(likeliest, samples, strict=True))
    for batch_size in (1, 2, 5):
        score = scorer(model, apart=apart).score(samples, batch_size)
        assert score.loss == pytest.approx(loss_sum / 1245, rel=1e-6)
        assert score.accuracy.words == pytest.approx(said.words, rel=1e-6)
        assert score.accuracy.characters is said.characters is None
        assert (score.num_samples, score.num_loss_tokens) == (5, 1245)


def test_a_prediction_longer_than_one_look_is_whole(model):
    long = sample(3, 700)
    assert SHOWN_TOKENS < SCORED_ROWS < 700, "cut once, and only the beginning is shown"
    p_NV = log_p(model, long)
    found = scorer(model).predict(long)
    truth = of_truth(p_NV, long)
    assert found.loss == pytest.approx(-float(truth.mean()), rel=1e-6)
    assert found.prediction == TOKENIZER.decode(p_NV.argmax(dim=-1).tolist())
    assert found.truth_p == pytest.approx(truth[:SHOWN_TOKENS].exp().tolist(), abs=1e-4)
    assert len(found.top5) == SHOWN_TOKENS
    for tokens in found.top5:
        assert all(one[1] >= other[1] for one, other in pairwise(tokens))
    assert math.isclose(found.top5[0][0][1], float(p_NV[0].max().exp()), abs_tol=1e-4)


@pytest.mark.parametrize("what", ["score", "predict"])
def test_no_more_logits_than_of_a_few_hundred_positions_exist_at_once(model, what):
    samples = [sample(3, 700, seed=i) for i in range(4)]
    with Largest() as largest:
        scorer(model).score(samples, 4) if what == "score" else scorer(model).predict(samples[0])
    assert largest.found <= SCORED_ROWS * VOCAB
