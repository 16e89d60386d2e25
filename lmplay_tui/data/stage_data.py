"""A stage's data: its training batches, its validation samples, its evaluation set."""

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from lmplay_tui.data.batches import Batch, Position, batches
from lmplay_tui.data.order import StagePart, TrainingOrder, ValidationOrder
from lmplay_tui.data.prefetch import Prefetch
from lmplay_tui.data.preview import LOOKED_AT, MOST_ROWS, Look, Preview, look_at, preview
from lmplay_tui.data.samples import Cutter, Item, Sample
from lmplay_tui.data.sources import claims_of_plan, open_source
from lmplay_tui.data.splits import ReportProgress
from lmplay_tui.data.tokenizer import Tokenizer
from lmplay_tui.errors import UserError
from lmplay_tui.formats import counted
from lmplay_tui.options import TrainOptions
from lmplay_tui.plan.schema import Stage
from lmplay_tui.text import one_line

BATCHES_AHEAD = 8


def open_stage(
    stage: Stage, options: TrainOptions, tokenizer: Tokenizer, *, datasets_folder: Path, report: ReportProgress,
    stages: Sequence[Stage] = (),
) -> "StageData":  # fmt: skip
    """Open the datasets of a stage; nothing of them is read but a few rows.

    `stages`: those of the plan, whose rows to validate on are not trained.
    `report(activity, detail, fraction)` is told what takes time; what it raises ends the opening.
    Raises `UserError` for what is wrong with the plan or a dataset (naming it) and `DataError` for what may pass.
    """
    sources = []
    for spec in stage.datasets:
        report("loading", spec.name, None)
        sources.append(open_source(spec, datasets_folder=datasets_folder, report=report))
    claims = claims_of_plan(stage, sources, stages, options, datasets_folder=datasets_folder, report=report)
    parts, looks = [], []
    for source in sources:
        spec = source.spec
        part = StagePart(source, share=options.validation_split, seed=options.seed, claims=claims)
        if part.training_rows == 0:
            raise UserError(_nothing_to_train(stage, part))
        look = look_at(part)
        if look.rows_without_sample == look.rows == part.training_rows:  # those with words are held out
            raise UserError(
                f"dataset {spec.name}: none of its {counted(look.rows, 'row')} to train on gives a sample: there are "
                f"no words in what is read of them ({source.columns})"
            )
        parts.append(part)
        looks.append(look)
    return StageData(stage, options, tokenizer, parts, looks)


def _nothing_to_train(stage: Stage, part: StagePart) -> str:
    spec = part.source.spec
    shown = f"dataset {spec.name} has no rows to train on in its split {one_line(spec.split, 60)}"
    if not part.taken_by:
        return shown + (": all are held out for validation" if part.validation_rows else "")
    takers = ", ".join(one_line(name, 60) for name in part.taken_by)
    whose = f"stage {takers} validates" if len(part.taken_by) == 1 else f"stages {takers} validate"
    return (
        f"{shown}: {whose} on the {counted(part.source.train.num_rows, 'row')} that stage {one_line(stage.name, 60)} "
        "would train; name another split to train on, or another validation there"
    )


class StageData:
    """What a stage trains and validates on. Everything it gives is a pure function of its arguments."""

    def __init__(
        self,
        stage: Stage,
        options: TrainOptions,
        tokenizer: Tokenizer,
        parts: list[StagePart],
        looks: Sequence[Look] = (),
    ) -> None:
        """`looks`: what the first rows of each part gave when it was opened; empty where that was not looked at."""
        self._stage = stage
        self._options = options
        self._parts = parts
        self.looks = looks
        self._cutter = Cutter(tokenizer, options.context_len)
        self.eot = tokenizer.eot
        self._validation = ValidationOrder(stage, options, parts)
        self._evaluation: list[Sample] | None = None
        order = self._order()
        self.rows_per_epoch: int = order.rows_per_epoch
        self.rows_total: int = order.rows_total
        self.fingerprint: str = self._fingerprint(tokenizer)

    @property
    def eval_samples(self) -> int:
        """Samples of the evaluation set, at most."""
        return self._options.eval_samples

    @property
    def holds_out(self) -> bool:
        """Whether it validates on rows that are held out of those it trains."""
        return any(part.holds_out for part in self._parts)

    def orders(self) -> tuple[TrainingOrder, ValidationOrder]:
        """The orders of its rows, for one thread more: what is asked of them is kept in them alone."""
        return self._order(), ValidationOrder(self._stage, self._options, self._parts)

    def _order(self) -> TrainingOrder:
        return TrainingOrder(self._stage, self._options, self._parts)

    def _fingerprint(self, tokenizer: Tokenizer) -> str:
        """SHA-256 (hex) over all that a position's meaning depends on: rows, their order, and how they are cut."""
        options, stage = self._options, self._stage
        said = (
            *(part.fingerprint() for part in self._parts),
            stage.weights,
            stage.stopping,
            stage.seed,
            options.seed,
            options.shuffle,
            options.continue_rows,
            options.validation_split,
            options.context_len,
            tokenizer.fingerprint,
        )
        return hashlib.sha256("\n".join(str(part) for part in said).encode()).hexdigest()

    def reading(self, start: Position) -> Iterator[Batch]:
        """The batches from `start` to the stage's end, each cut when it is asked for."""
        options = self._options
        return batches(
            self._order(), self._cutter, start, batch_size=options.batch_size, continue_rows=options.continue_rows
        )

    def batches(self, start: Position, ahead: int = BATCHES_AHEAD) -> Prefetch[Batch]:
        """The batches from `start` to the stage's end, `ahead` of them cut in a thread that ends with the generator."""
        return Prefetch(self.reading(start), ahead)

    @property
    def parts(self) -> Sequence[StagePart]:
        """The stage's datasets, in the plan's order."""
        return self._parts

    def preview(self, most_steps: int, most_seconds: float = math.inf, most_rows: int = MOST_ROWS) -> Preview:
        """What the first batches give, as training will cut them; `most_seconds` is looked at after each batch."""
        options = self._options
        return preview(
            self._order(), self._cutter, len(self._parts), batch_size=options.batch_size,
            continue_rows=options.continue_rows, most_steps=most_steps, most_seconds=most_seconds,
            most_rows=most_rows,
        )  # fmt: skip

    def first_samples(self, number: int, count: int) -> list[Sample]:
        """The first samples of the `number`-th dataset in its own order; `row`: of those to train on."""
        part = self._parts[number]
        samples: list[Sample] = []
        for row in range(min(part.training_rows, LOOKED_AT)):
            samples += list(islice(self._samples(part.training(row), row), count - len(samples)))
            if len(samples) == count:
                break
        return samples

    def validation(self, position: int, count: int) -> tuple[list[Sample], int]:
        """The next `count` samples to validate on, and the position after them; round and round.

        Like a batch, they begin with a fresh row and leave out the rest of the last one. Fewer than `count` where
        all rows together hold fewer.
        """
        order = self._validation
        samples: list[Sample] = []
        for _ in range(order.rows):
            if len(samples) >= count:
                break
            row = position % order.rows
            samples += list(self._samples(order.items(row), row))[: count - len(samples)]
            position = row + 1
        return samples, position % max(1, order.rows)

    def evaluation(self) -> list[Sample]:
        """The fixed evaluation set: the first `eval_samples` samples of the validation rows, each row once."""
        if self._evaluation is None:
            order, wanted = self._validation, self._options.eval_samples
            samples: list[Sample] = []
            for row in range(order.rows):
                if len(samples) >= wanted:
                    break
                if not order.repeated(row):
                    samples += list(self._samples(order.items(row), row))[: wanted - len(samples)]
            self._evaluation = samples
        return list(self._evaluation)

    def _samples(self, items: list[Item], row: int) -> Iterator[Sample]:
        for item in items:
            for sample, _ in self._cutter.samples(item, row):
                yield sample

    def unigram_entropy(self) -> float | None:
        """Nats a truth token of the evaluation set, by the frequencies of its own tokens; None without one."""
        counts: Counter[int] = Counter()
        for sample in self.evaluation():
            counts.update(sample.truth_ids.tolist())
        total = counts.total()
        return math.fsum(-n / total * math.log(n / total) for n in counts.values()) if total else None
