"""What is scored between steps: the next few validation samples, the fixed sets, the prompts to answer.

Nothing here touches the training run: no gradient, no global random number.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lmplay_tui.data.samples import Sample
from lmplay_tui.data.stage_data import StageData
from lmplay_tui.data.tokenizer import Tokenizer
from lmplay_tui.errors import OutOfMemoryError, UserError
from lmplay_tui.models.generation import generate
from lmplay_tui.options import TrainOptions
from lmplay_tui.plan.schema import Stage
from lmplay_tui.run.controls import Ask, StopRequested
from lmplay_tui.run.events import Evaluated, EvaluationResult, Event, Predicted, Prediction, Validated, Warned
from lmplay_tui.text import one_line
from lmplay_tui.train.accuracy import Accuracy, accuracy_of, mean_accuracy
from lmplay_tui.train.collate import collate, mini_batches, truth_rows_of
from lmplay_tui.train.dataloader import LoadedData
from lmplay_tui.train.device import Precision, fits, give_memory_back, halved
from lmplay_tui.train.loss import logits_by_rows, loss_and_argmax
from lmplay_tui.train.state import TrainState

if TYPE_CHECKING:
    from lmplay_tui.train.leader import Leader

SHOWN_TOKENS = 256  # of a truth, with probabilities: more fits no screen and fills the journal
PINNED_TOKENS = 48  # of the answer to a pinned prompt


@dataclass(frozen=True)
class Scores:
    """Means over samples. `loss` nats a truth token."""

    loss: float
    accuracy: Accuracy
    bits_per_byte: float
    num_samples: int
    num_tokens: int
    num_loss_tokens: int

    def result(self) -> EvaluationResult:
        return EvaluationResult(self.loss, self.accuracy.words, self.bits_per_byte, self.accuracy.characters)


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


def losses_and_argmax(
    model: nn.Module, hidden: Callable[[Tensor], Tensor] | None, precision: Precision,
    parts: Iterable[Sequence[Sample]], should_stop: Callable[[], bool],
) -> list[tuple[float, list[int]]]:  # fmt: skip
    """Of each mini-batch the summed loss in nats, and the likeliest token at each of its truths' positions.

    Raises `StopRequested` between mini-batches.
    """
    scored = []
    with evaluating(model):
        for part in parts:
            if should_stop():
                raise StopRequested
            mini = collate(part, include_prompts=False, device=precision.device)
            with precision.autocast():
                loss, argmax_N = loss_and_argmax(model, hidden, mini.ids, mini.index_N, mini.targets_N)
            assert argmax_N is not None
            scored.append((float(loss), argmax_N.tolist()))
    return scored


def _never() -> bool:
    return False


class Scorer:
    """Scores samples with the model as it is now, `batch_size` at a time."""

    def __init__(
        self,
        model: nn.Module,
        hidden: Callable[[Tensor], Tensor] | None,
        tokenizer: Tokenizer,
        precision: Precision,
        leader: "Leader | None" = None,
    ) -> None:
        """`leader`: of the processes that score with this one."""
        self._leader = leader
        self._model = model
        self._hidden = hidden
        self._tokenizer = tokenizer
        self._precision = precision
        self._most: int | None = None  # samples at a time, where memory has shown its limit
        self._warnings: list[str] = []

    def score(
        self, samples: Sequence[Sample], batch_size: int, should_stop: Callable[[], bool] = lambda: False
    ) -> Scores:
        """Loss and accuracy of the truths given what precedes them. Raises `StopRequested` between mini-batches.

        Where memory lacks, once more with smaller mini-batches: see `take_warnings`. Raises `OutOfMemoryError`.
        """
        while True:
            size = min(batch_size, self._most or batch_size, max(len(samples), 1))
            fitted, score = fits(lambda: self._score(samples, size, should_stop))  # noqa: B023  (called at once)
            if fitted:
                assert score is not None
                return score
            give_memory_back(self._precision.device)
            self._most = halved(size, "validation", "--validation-batch-size")
            self._warnings.append(
                f"validation: out of memory with {size} samples at a time; going on with {self._most}"
            )

    def _score(self, samples: Sequence[Sample], batch_size: int, should_stop: Callable[[], bool]) -> Scores:
        loss_sum = 0.0
        accuracies = []
        num_tokens = num_loss_tokens = num_bytes = 0
        parts = list(mini_batches(samples, batch_size, by_length=True))
        if self._leader is not None and self._leader.is_sharded:
            should_stop = _never
        compute = partial(losses_and_argmax, self._model, self._hidden, self._precision, should_stop=should_stop)
        scored = compute(parts) if self._leader is None else self._leader.score(parts, compute)
        for part, (loss, predicted) in zip(parts, scored, strict=True):
            loss_sum += loss
            num_loss_tokens += len(predicted)
            for sample, rows in zip(part, truth_rows_of(part, include_prompts=False), strict=True):
                num_tokens += len(sample.prompt_ids) + len(sample.truth_ids) - 1
                num_bytes += len(sample.truth.encode("utf-8", "replace"))
                accuracies.append(accuracy_of(self._tokenizer.decode(predicted[rows]), sample.truth))
        return Scores(
            loss=loss_sum / max(num_loss_tokens, 1),
            accuracy=mean_accuracy(accuracies),
            bits_per_byte=loss_sum / math.log(2) / max(num_bytes, 1),
            num_samples=len(samples),
            num_tokens=num_tokens,
            num_loss_tokens=num_loss_tokens,
        )

    def take_warnings(self) -> list[str]:
        """What the scores since the last call have to say."""
        warnings, self._warnings = self._warnings, []
        return warnings

    def predict(self, sample: Sample, kind: str = "validation") -> Prediction:
        """One sample with the likeliest token at each truth position, given the truth before it."""
        with nullcontext() if self._leader is None else self._leader.alone(), evaluating(self._model):
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
        accuracy = accuracy_of(prediction, sample.truth)
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
            accuracy=accuracy.words,
            character_accuracy=accuracy.characters,
            loss=-math.fsum(truth_log_p) / len(truth_log_p),
            truth_tokens=tuple(self._tokenizer.texts_of_whole_characters(sample.truth_ids.tolist())[:SHOWN_TOKENS]),
            truth_p=tuple(round(math.exp(log_p), 4) for log_p in truth_log_p[:SHOWN_TOKENS]),
            top5=top5,
        )


class Evaluator:
    """Scores the state's model; changes nothing but the numbers it keeps of it.

    A score is recorded only once it is complete: a stop in between (`StopRequested`) leaves it due.
    """

    def __init__(self, state: TrainState, data: LoadedData, scorer: Scorer, should_stop: Callable[[], bool]) -> None:
        self._state = state
        self._data = data
        self._scorer = scorer
        self._should_stop = should_stop

    def validate(self, stage: Stage, data: StageData, options: TrainOptions) -> Iterator[Event]:
        """Score the next `--validation-batch-size` validation samples, and show one of them."""
        state, progress = self._state, self._state.progress
        of_stage = progress.of(stage.name)
        begun = time.perf_counter()
        samples, position = data.validation(of_stage.validation_position, options.validation_batch_size)
        if not samples:
            of_stage.validated_rows = progress.rows
            return
        score = self._scorer.score(samples, options.validation_batch_size, self._should_stop)
        fitted, prediction = fits(lambda: self._scorer.predict(samples[0]))
        of_stage.validation_position, of_stage.validated_rows = position, progress.rows
        state.statistics.validated(
            stage.name, rows=score.num_samples, tokens=score.num_tokens, loss_tokens=score.num_loss_tokens,
            loss=score.loss, accuracy=score.accuracy.words, character_accuracy=score.accuracy.characters,
        )  # fmt: skip
        yield Validated(
            step=progress.step, stage=stage.name, rows=progress.rows, tokens=progress.tokens, loss=score.loss,
            accuracy=score.accuracy.words, samples=score.num_samples, seconds=time.perf_counter() - begun,
            elapsed_s=progress.elapsed_s, character_accuracy=score.accuracy.characters,
        )  # fmt: skip
        if prediction is not None:
            yield Predicted(progress.step, stage.name, prediction)
        if not fitted:
            give_memory_back(state.device)
            yield Warned("validation: out of memory for the prediction that is shown; the scores stand", progress.step)
        yield from self._warned()

    def _warned(self) -> Iterator[Event]:
        for warning in self._scorer.take_warnings():
            yield Warned(warning, self._state.progress.step)

    def evaluate(self, stage: Stage, options: TrainOptions, *, at_stage_end: bool) -> Iterator[Event]:
        """Score the stage's fixed set; at its end those of the stages before it too. Answers pinned prompts."""
        progress = self._state.progress
        begun = time.perf_counter()
        sets: dict[str, EvaluationResult] = {}
        for other in self._scored_stages(stage, at_stage_end):
            samples = self._data.of(other).evaluation()
            if samples:
                sets[other.name] = self._scorer.score(
                    samples, options.validation_batch_size, self._should_stop
                ).result()
        progress.of(stage.name).evaluated_rows = progress.rows
        if stage.name in sets:
            progress.eval_loss = sets[stage.name].loss
        if sets:
            yield Evaluated(
                step=progress.step, stage=stage.name, rows=progress.rows, tokens=progress.tokens, sets=sets,
                at_stage_end=at_stage_end, seconds=time.perf_counter() - begun, elapsed_s=progress.elapsed_s,
            )  # fmt: skip
        yield from self._warned()
        for prompt in progress.pinned:
            try:
                answer = self._fitting(Ask(prompt, max_tokens=PINNED_TOKENS), "pinned", self._should_stop)
            except UserError as error:  # it costs the answer, not the run
                yield Warned(f"no answer to the pinned prompt {one_line(prompt, 60)!r}: {error}", progress.step)
            else:
                yield Predicted(progress.step, stage.name, answer)

    def _scored_stages(self, stage: Stage, at_stage_end: bool) -> list[Stage]:
        if not at_stage_end:
            return [stage]
        stages = []
        for other in self._state.settings.plan.stages:
            if other.name == stage.name:
                break
            if self._data.is_open(other):
                stages.append(other)
        return [*stages, stage]

    def answer(self, ask: Ask) -> Prediction:
        """What the model says by itself after a prompt. Raises `StopRequested`, and `UserError` where it cannot."""

        def stop() -> bool:
            if self._should_stop():
                raise StopRequested
            return False

        return self._fitting(ask, "asked", stop)

    def _fitting(self, ask: Ask, kind: str, should_stop: Callable[[], bool]) -> Prediction:
        """The answer. Raises `UserError` where the model cannot go on, or memory lacks for it."""
        fitted, prediction = fits(lambda: self._generated(ask, kind, should_stop))
        if not fitted:
            give_memory_back(self._state.device)
            raise OutOfMemoryError("not enough memory for it beside the training")
        assert prediction is not None
        return prediction

    def _generated(self, ask: Ask, kind: str, should_stop: Callable[[], bool]) -> Prediction:
        """Drawn from a generator of its own."""
        tokenizer = self._state.tokenizer
        ids = tokenizer.encode(ask.prompt) or [tokenizer.eot]
        # Seeded by the step: asking twice at one step gives one answer, and the run's own numbers stay untouched.
        generator = torch.Generator(device=self._state.device).manual_seed(self._state.progress.step)
        tokens = generate(
            self._state.model, ids, max_tokens=ask.max_tokens, context_len=self._state.model_args["context_len"],
            eot=tokenizer.eot, temperature=ask.temperature, top_k=ask.top_k, generator=generator,
            stop=should_stop, reading=self._state.reading,
        )  # fmt: skip
        with nullcontext() if self._state.leader is None else self._state.leader.alone():
            text = tokenizer.decode(list(tokens))
        return Prediction(kind=kind, prompt=ask.prompt, truth="", prediction=text, accuracy=None, loss=None)


def scores_of(evaluation: Evaluated) -> dict[str, float]:
    """An evaluation under the names of `metrics.jsonl`; earlier stages' sets carry their stage's name."""
    values: dict[str, float] = {}
    for name, result in evaluation.sets.items():
        prefix = "eval" if name == evaluation.stage else f"eval/{name}"
        values |= {f"{prefix}/loss": result.loss, f"{prefix}/bits_per_byte": result.bits_per_byte}
        if result.accuracy is not None:
            values[f"{prefix}/accuracy"] = result.accuracy
        if result.character_accuracy is not None:
            values[f"{prefix}/character_accuracy"] = result.character_accuracy
    return values
