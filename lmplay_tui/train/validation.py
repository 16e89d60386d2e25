"""Scoring held-out samples. Nothing here touches the training run: no gradient, no global random number."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lmplay_tui.data.samples import Sample
from lmplay_tui.data.tokenizer import Tokenizer
from lmplay_tui.run.events import EvaluationResult, Prediction
from lmplay_tui.train.accuracy import word_accuracy
from lmplay_tui.train.device import Precision
from lmplay_tui.train.loss import logits_by_rows, loss_and_argmax
from lmplay_tui.train.memory import fits, give_memory_back, halved
from lmplay_tui.train.mini_batches import collate, mini_batches
from lmplay_tui.train.steps import StopRequested

SHOWN_TOKENS = 256  # of a truth, with probabilities: more fits no screen and fills the journal


@dataclass(frozen=True)
class Score:
    """Means over samples. `loss` nats a truth token; `accuracy` None where no truth holds words."""

    loss: float
    accuracy: float | None
    bits_per_byte: float
    num_samples: int
    num_tokens: int
    num_loss_tokens: int

    def result(self) -> EvaluationResult:
        return EvaluationResult(self.loss, self.accuracy, self.bits_per_byte)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients, and the mode of before afterwards."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


class Scorer:
    """Scores samples with the model as it is now, `batch_size` at a time."""

    def __init__(
        self,
        model: nn.Module,
        hidden: Callable[[Tensor], Tensor] | None,
        tokenizer: Tokenizer,
        precision: Precision,
    ) -> None:
        self._model = model
        self._hidden = hidden
        self._tokenizer = tokenizer
        self._precision = precision
        self._most: int | None = None  # samples at a time, where memory has shown its limit
        self.said: list[str] = []  # what the user has to know of it

    def score(
        self, samples: Sequence[Sample], batch_size: int, should_stop: Callable[[], bool] = lambda: False
    ) -> Score:
        """Loss and accuracy of the truths given what precedes them. Raises `StopRequested` between mini-batches.

        Where memory lacks, once more with smaller mini-batches: `said` tells. Raises `OutOfMemoryError`.
        """
        while True:
            size = min(batch_size, self._most or batch_size, max(len(samples), 1))
            fitted, score = fits(lambda: self._score(samples, size, should_stop))  # noqa: B023  (called at once)
            if fitted:
                assert score is not None
                return score
            give_memory_back(self._precision.device)
            self._most = halved(size, "validation", "--validation-batch-size")
            self.said.append(f"validation: out of memory with {size} samples at a time; going on with {self._most}")

    def _score(self, samples: Sequence[Sample], batch_size: int, should_stop: Callable[[], bool]) -> Score:
        loss_sum = 0.0
        accuracies = []
        num_tokens = num_loss_tokens = num_bytes = 0
        with evaluating(self._model):
            for part in mini_batches(samples, batch_size, by_length=True):
                if should_stop():
                    raise StopRequested
                mini = collate(part, include_prompts=False, device=self._precision.device)
                with self._precision.autocast():
                    loss, argmax_N = loss_and_argmax(
                        self._model, self._hidden, mini.ids, mini.index_N, mini.targets_N
                    )
                loss_sum += float(loss)
                num_tokens += mini.num_tokens
                num_loss_tokens += mini.num_loss_tokens
                assert argmax_N is not None
                predicted = argmax_N.tolist()
                for sample, rows in zip(mini.samples, mini.truth_rows, strict=True):
                    num_bytes += len(sample.truth.encode("utf-8", "replace"))
                    accuracy = word_accuracy(self._tokenizer.decode(predicted[rows]), sample.truth)
                    if accuracy is not None:
                        accuracies.append(accuracy)
        return Score(
            loss=loss_sum / max(num_loss_tokens, 1),
            accuracy=sum(accuracies) / len(accuracies) if accuracies else None,
            bits_per_byte=loss_sum / math.log(2) / max(num_bytes, 1),
            num_samples=len(samples),
            num_tokens=num_tokens,
            num_loss_tokens=num_loss_tokens,
        )

    def predict(self, sample: Sample, kind: str = "validation") -> Prediction:
        """One sample with the likeliest token at each truth position, given the truth before it."""
        with evaluating(self._model):
            mini = collate([sample], include_prompts=False, device=self._precision.device)
            argmax: list[int] = []
            truth_log_p: list[float] = []
            top_ids: list[list[int]] = []
            top_log_p: list[list[float]] = []
            with self._precision.autocast():
                for part, logits_nV in logits_by_rows(self._model, self._hidden, mini.ids, mini.index_N):
                    log_p_nV = logits_nV.log_softmax(dim=-1)
                    truth_log_p += log_p_nV.gather(1, mini.targets_N[part, None])[:, 0].tolist()
                    argmax += log_p_nV.argmax(dim=-1).tolist()
                    shown = max(SHOWN_TOKENS - part.start, 0)
                    top = log_p_nV[:shown].topk(min(5, log_p_nV.shape[1]), dim=-1)
                    top_ids += top.indices.tolist()
                    top_log_p += top.values.tolist()
        prediction = self._tokenizer.decode(argmax)
        top5 = tuple(
            tuple(
                (text, round(math.exp(value), 4))
                for text, value in zip(self._tokenizer.token_texts(ids), values, strict=True)
            )
            for ids, values in zip(top_ids, top_log_p, strict=True)
        )
        return Prediction(
            kind=kind,
            prompt=sample.prompt,
            truth=sample.truth,
            prediction=prediction,
            accuracy=word_accuracy(prediction, sample.truth),
            loss=-math.fsum(truth_log_p) / len(truth_log_p),
            truth_tokens=tuple(self._tokenizer.texts_of_whole_characters(sample.truth_ids.tolist())[:SHOWN_TOKENS]),
            truth_p=tuple(round(math.exp(log_p), 4) for log_p in truth_log_p[:SHOWN_TOKENS]),
            top5=top5,
        )
