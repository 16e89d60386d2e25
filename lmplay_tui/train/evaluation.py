"""What is scored between steps: the next few validation samples, the fixed sets, the prompts that people ask."""

import time
from collections.abc import Callable, Iterator

import torch

from lmplay_tui.data.stage_data import StageData
from lmplay_tui.errors import OutOfMemoryError, UserError
from lmplay_tui.models.generation import generate
from lmplay_tui.options import TrainOptions
from lmplay_tui.plan.schema import Stage
from lmplay_tui.run.controls import Ask
from lmplay_tui.run.events import Evaluated, EvaluationResult, Event, Predicted, Prediction, Validated, Warned
from lmplay_tui.text import one_line
from lmplay_tui.train.loading import LoadedData
from lmplay_tui.train.memory import fits, give_memory_back
from lmplay_tui.train.state import TrainState
from lmplay_tui.train.steps import StopRequested
from lmplay_tui.train.validation import Scorer

PINNED_TOKENS = 48


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
            loss=score.loss, accuracy=score.accuracy,
        )  # fmt: skip
        yield Validated(
            step=progress.step, stage=stage.name, rows=progress.rows, tokens=progress.tokens, loss=score.loss,
            accuracy=score.accuracy, samples=score.num_samples, seconds=time.perf_counter() - begun,
            elapsed_s=progress.elapsed_s,
        )  # fmt: skip
        if prediction is not None:
            yield Predicted(progress.step, stage.name, prediction)
        if not fitted:
            give_memory_back(state.device)
            yield Warned("validation: out of memory for the prediction that is shown; the scores stand", progress.step)
        yield from self._complaints()

    def _complaints(self) -> Iterator[Event]:
        while self._scorer.said:
            yield Warned(self._scorer.said.pop(0), self._state.progress.step)

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
        yield from self._complaints()
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
        return Prediction(
            kind=kind, prompt=ask.prompt, truth="", prediction=tokenizer.decode(list(tokens)), accuracy=None, loss=None
        )


def scores_of(evaluation: Evaluated) -> dict[str, float]:
    """An evaluation under the names of `metrics.jsonl`; earlier stages' sets carry their stage's name."""
    values: dict[str, float] = {}
    for name, result in evaluation.sets.items():
        prefix = "eval" if name == evaluation.stage else f"eval/{name}"
        values |= {f"{prefix}/loss": result.loss, f"{prefix}/bits_per_byte": result.bits_per_byte}
        if result.accuracy is not None:
            values[f"{prefix}/accuracy"] = result.accuracy
    return values
