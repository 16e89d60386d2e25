"""In which order a stage reads the rows of its datasets, to train on and to validate on: computed, never stored."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath

from lmplay_tui.data.held_out import Claim, HeldOutRows, pieces_of, take_out
from lmplay_tui.data.rows import Rows
from lmplay_tui.data.samples import Item
from lmplay_tui.data.shuffle import BlockShuffle, Mixture, Permutation, keyed
from lmplay_tui.data.splits import Segment
from lmplay_tui.options import TrainOptions
from lmplay_tui.plan.schema import DatasetSpec, Stage, Stopping
from lmplay_tui.text import one_line


@dataclass(frozen=True)
class Source:
    """An opened dataset. `validation` None: it has no split of its own for that.

    `segments`: where the rows of `train` lie in their files or splits; `validation_segments`: those of `validation`.
    `columns`: which of its columns are read and which are left out. `notes`: what else is to be told of it, a line
    each.
    """

    spec: DatasetSpec
    train: Rows
    validation: Rows | None
    segments: tuple[Segment, ...]
    columns: str = ""
    notes: tuple[str, ...] = ()
    validation_segments: tuple[Segment, ...] = ()


_CHOICE = "held out by place"  # how held-out rows are chosen: another word for another choice
_NONE_HELD_OUT = "no row is held out of {}: {:,} row{}; give it a validation split, or a larger --validation-split"


def identity_of(spec: DatasetSpec) -> str:
    """What a dataset is called in the order of its validation rows: the same after a move, and for a saved copy."""
    name = PurePath(spec.path).name if PurePath(spec.path).is_absolute() else spec.path
    return f"{name} {spec.config} {spec.split}"


class StagePart:
    """One dataset of a stage: its rows to train on and those to validate on, its own or held out of the others.

    `claims`: what the plan validates on; rows that any of them takes are not trained. `taken_by`: the stages of those
    that take all the rows of a split, by whichever of its names.
    """

    def __init__(self, source: Source, *, share: float, seed: int, claims: Sequence[Claim] = ()) -> None:
        self.identity = identity_of(source.spec)
        own = source.validation
        taken = take_out(source.train, source.segments, claims, share=share, holds_out=own is None)
        self.taken_by = taken.by
        self._taken = None if taken.is_nothing else taken.fingerprint()
        chosen = HeldOutRows(taken.pieces, seed)
        is_sliced = "[" in source.spec.split
        if own is None and self._taken is None and not chosen.training_rows and not is_sliced:  # its only rows
            chosen = HeldOutRows(pieces_of(source.segments, 0.0), seed)  # what else would be trained?
        # What is trained of a dataset with a split of its own is all of it, as a rule.
        self._chosen = None if own is not None and self._taken is None else chosen
        self.training_rows = source.train.num_rows if self._chosen is None else chosen.training_rows
        self.validation_rows = chosen.held_rows if own is None else own.num_rows
        notes = []
        if taken.rows:
            notes.append(_taken_rows(taken.rows, taken.by))
        if own is not None and chosen.held_rows:
            notes.append(_taken_rows(chosen.held_rows, taken.held_by))
        if share > 0 and not self.validation_rows and not taken.rows:
            rows = source.train.num_rows
            notes.append(_NONE_HELD_OUT.format(one_line(source.spec.name, 60), rows, "s" * (rows != 1)))
        self.source = replace(source, notes=(*source.notes, *notes)) if notes else source

    def training(self, number: int) -> list[Item]:
        """The texts of the `number`-th row to train on, in the dataset's order."""
        return self.source.train.items(number if self._chosen is None else self._chosen.training(number))

    def validation(self, number: int) -> list[Item]:
        """The texts of the `number`-th row to validate on, in the dataset's order."""
        if self.source.validation is not None:
            return self.source.validation.items(number)
        assert self._chosen is not None
        return self.source.train.items(self._chosen.held(number))

    @property
    def holds_out(self) -> bool:
        """Whether its validation rows are held out of those to train on."""
        return self.source.validation is None and self.validation_rows > 0

    def fingerprint(self) -> str:
        """What the rows and their choice are told by; the latter only where rows are held out."""
        rows = f"{self.identity} {self.source.train.fingerprint()}"
        chosen = f"{rows} {_CHOICE}" if self.holds_out else rows
        return chosen if self._taken is None else f"{chosen} without {self._taken}"


def _taken_rows(rows: int, stages: Sequence[str]) -> str:
    named = ", ".join(one_line(name, 60) for name in stages)
    are, who = ("is", "row") if rows == 1 else ("are", "rows")
    if len(stages) == 1:
        return f"{rows:,} {who} that stage {named} validates on {are} not trained"
    return f"{rows:,} {who} that stages {named} validate on {are} not trained"


class TrainingOrder:
    """The training rows of a stage, over all its epochs. For one thread: it remembers the block and row last used.

    A row that goes on in the next batch is not read anew for each: its length would count with its square.
    """

    def __init__(self, stage: Stage, options: TrainOptions, parts: list[StagePart]) -> None:
        self._parts = parts
        sizes = [part.training_rows for part in parts]
        self._mixture = _training_mixture(stage, options, sizes)
        self._shuffle_key = keyed(options.seed, "shuffle", stage.name) if options.shuffle else None
        self._shuffles: dict[int, tuple[tuple[int, int], BlockShuffle]] = {}
        self._last: tuple[int, list[Item]] | None = None
        self.rows_per_epoch = self._mixture.rows if self._mixture else sizes[0]
        self.rows_total = stage.rows_total(self.rows_per_epoch)

    def items(self, row: int) -> list[Item]:
        """The texts of row `row` of the stage."""
        if self._last is None or self._last[0] != row:
            self._last = row, self._read(row)
        return self._last[1]

    def part_of(self, row: int) -> int:
        """Which of the stage's datasets row `row` of the stage is of."""
        return self._mixture[row % self.rows_per_epoch][0] if self._mixture else 0

    def _read(self, row: int) -> list[Item]:
        epoch, place = divmod(row, self.rows_per_epoch)
        number, earlier = self._mixture[place] if self._mixture else (0, place)
        again, index = divmod(earlier, self._parts[number].training_rows)
        return self._parts[number].training(self._shuffled(number, (epoch, again), index))

    def _shuffled(self, number: int, turn: tuple[int, int], index: int) -> int:
        """Another order for each turn through a dataset: epoch of the stage, and pass within it."""
        if self._shuffle_key is None:
            return index
        known = self._shuffles.get(number)
        if known is None or known[0] != turn:
            key = keyed(self._shuffle_key, number, *turn)
            known = self._shuffles[number] = turn, BlockShuffle(self._parts[number].training_rows, key)
        return known[1][index]


class ValidationOrder:
    """The validation rows of a stage, scattered, mixed as its training rows are; each comes once at least.

    The first of them are the evaluation set: a fair sample of the whole.
    """

    def __init__(self, stage: Stage, options: TrainOptions, parts: list[StagePart]) -> None:
        kept = [number for number, part in enumerate(parts) if part.validation_rows]
        self._parts = [parts[number] for number in kept]
        sizes = [part.validation_rows for part in self._parts]
        weights = tuple(stage.weights[number] for number in kept) if stage.weights else None
        self._mixture = _mixture(stage, options, sizes, "all_exhausted", weights)
        self._scattered = [
            Permutation(size, keyed(options.seed, "validation", part.identity))
            for size, part in zip(sizes, self._parts, strict=True)
        ]
        self.rows = self._mixture.rows if self._mixture else sum(sizes)

    def _found(self, row: int) -> tuple[int, int]:
        return self._mixture[row] if self._mixture else (0, row)

    def repeated(self, row: int) -> bool:
        """Whether the row has come before: a small dataset begins again while a larger one goes on."""
        number, earlier = self._found(row)
        return earlier >= self._scattered[number].size

    def items(self, row: int) -> list[Item]:
        """The texts of row `row` of a round."""
        number, earlier = self._found(row)
        scattered = self._scattered[number]
        return self._parts[number].validation(scattered[earlier % scattered.size])


def rows_per_epoch(stage: Stage, options: TrainOptions, sizes: list[int]) -> int:
    """Rows that one pass of a stage reads of datasets with so many rows to train on."""
    mixture = _training_mixture(stage, options, sizes)
    return mixture.rows if mixture else sizes[0]


def _training_mixture(stage: Stage, options: TrainOptions, sizes: list[int]) -> Mixture | None:
    return _mixture(stage, options, sizes, stage.stopping, stage.weights)


def _mixture(
    stage: Stage, options: TrainOptions, sizes: list[int], stopping: Stopping, weights: tuple[float, ...] | None
) -> Mixture | None:
    """The schedule of several datasets; None where there is one or none."""
    if len(sizes) < 2:
        return None
    seed = options.seed if stage.seed is None else stage.seed
    return Mixture(sizes, weights, stopping, keyed(seed, "mixture", stage.name))
