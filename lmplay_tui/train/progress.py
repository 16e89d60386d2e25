"""Where a run stands: all that must survive besides weights, optimizer and statistics, as plain values."""

from dataclasses import asdict, dataclass, field
from typing import Any

from lmplay_tui.data.batches import Position
from lmplay_tui.plan.schema import Plan


@dataclass
class StageProgress:
    """Where one stage stands."""

    position: Position = field(default_factory=Position)
    rows_total: int | None = None  # known once its data have been opened
    rows_per_epoch: int | None = None
    tokens: int = 0
    chars_read: int = 0
    chars_shown: int = 0
    rows_without_sample: int = 0  # they hold no words
    elapsed_s: float = 0.0
    validation_position: int = 0
    validated_rows: int = 0  # of the run: when this stage was last validated, evaluated
    evaluated_rows: int = 0
    fingerprint: str | None = None
    begun: bool = False  # its options have been set up once
    mini_batch_size: int | None = None  # what memory allowed, where it was less than asked for
    done: bool = False  # its last batch is trained and what belongs to its end has happened
    loss_at_end: float | None = None  # eval/loss of its own set when it ended: what forgetting is measured against
    held_out_by: str = "place"  # how its held-out rows were chosen; "block": by versions before

    @property
    def text_shown(self) -> float:
        """Share of the characters read that reached a sample."""
        return self.chars_shown / self.chars_read if self.chars_read else 1.0


@dataclass
class WarmUp:
    """A warm-up of the learning rate: where it began and how it runs."""

    from_step: int
    fraction: float
    steps: int


@dataclass
class Progress:
    """Where the run stands."""

    step: int = 0
    rows: int = 0
    tokens: int = 0
    elapsed_s: float = 0.0
    stage: str = ""  # the stage that was last worked on
    stages: dict[str, StageProgress] = field(default_factory=dict)
    saved_rows: int = 0
    numbered: list[int] = field(default_factory=list)  # steps of the newest numbered checkpoints, this one included
    lr_factor: float = 1.0
    warm_up: WarmUp | None = None
    pinned: list[str] = field(default_factory=list)
    changes: int = 0  # of learning rate, pins and plan that were asked for while it ran
    eval_loss: float | None = None  # of the stage under way, newest
    best_eval_loss: float | None = None  # lowest at a save, over the run
    best_step: int | None = None  # ... and the step of that save
    probed_mini_batch_size: int | None = None  # what `--mini-batch-size auto` found
    next_batch: str = ""  # digest of the batch that comes next: a resume proves with it that its data are the same

    def of(self, stage: str) -> StageProgress:
        """The progress of a stage, begun now if it is new."""
        return self.stages.setdefault(stage, StageProgress())

    def reopen(self, plan: Plan) -> None:
        """Fit to a changed plan: a stage that was done, but has been extended, is not done any more."""
        for stage in plan.stages:
            progress = self.stages.get(stage.name)
            if progress is not None and progress.rows_per_epoch is not None:
                progress.rows_total = stage.rows_total(progress.rows_per_epoch)
                progress.done = progress.done and progress.position.row >= progress.rows_total

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Progress":
        """The inverse of `state`."""
        values = dict(state)
        values["stages"] = {
            name: StageProgress(**{"held_out_by": "block", **stage, "position": Position(**stage["position"])})
            for name, stage in values["stages"].items()
        }
        lowered = values.pop("mini_batch_size", None)  # of the whole run, as versions before had it
        if lowered is not None and values["stage"] in values["stages"]:
            values["stages"][values["stage"]].mini_batch_size = lowered
        values["warm_up"] = WarmUp(**values["warm_up"]) if values["warm_up"] else None
        return cls(**values)


def is_due(interval: int, rows: int, rows_then: int) -> bool:
    """Whether a multiple of `interval` rows lies after `rows_then`, up to `rows`."""
    return rows // interval > rows_then // interval
