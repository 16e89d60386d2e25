"""When and under which names a run saves, and what a failed save means."""

import time
from collections.abc import Iterator
from pathlib import Path

from lmplay_tui.errors import TrainingError
from lmplay_tui.run.events import ActivityChanged, CheckpointSaved, Event, Warned
from lmplay_tui.train.saving import Outcome, Saver, SaveRequest
from lmplay_tui.train.state import TrainState

MAX_FAILED_SAVES = 3


class Saves:
    """The checkpoints of a run. A save that fails is told and tried again at the next; the third ends the run."""

    def __init__(self, state: TrainState, statistics_folder: Path) -> None:
        self._state = state
        self._saver = Saver(state.run, statistics_folder)
        self._saver.sweep()
        self._failed = 0
        self._last = time.monotonic()

    @property
    def minutes_since(self) -> float:
        return (time.monotonic() - self._last) / 60

    def begin(self, reason: str, keep: int) -> Iterator[Event]:
        """Copy the state and write it beside the training; `outcomes` tells how it went."""
        yield from self._told(self._saver.wait())
        progress = self._state.progress
        is_best = progress.eval_loss is not None and (
            progress.best_eval_loss is None or progress.eval_loss < progress.best_eval_loss
        )
        if is_best:
            progress.best_eval_loss = progress.eval_loss
        progress.saved_rows = progress.rows
        self._last = time.monotonic()
        yield ActivityChanged("saving")
        request = SaveRequest(progress.step, progress.rows, progress.stage, reason, keep, is_best)
        self._saver.start(self._state.checkpoint(), request)
        yield ActivityChanged("training")

    def outcomes(self) -> Iterator[Event]:
        """What has been written since the last look."""
        yield from self._told(self._saver.finished())

    def finish(self, reason: str, keep: int) -> Iterator[Event]:
        """Save and wait until the bytes are safe. `TrainingError` if they are not."""
        yield from self.begin(reason, keep)
        outcome = self._saver.wait()
        if not isinstance(outcome, CheckpointSaved):
            assert outcome is not None
            raise TrainingError(f"{outcome.message}; the checkpoint before it is intact")
        yield outcome

    def close(self) -> Iterator[Event]:
        """Wait for the write under way."""
        yield from self._told(self._saver.wait())

    def _told(self, outcome: Outcome | None) -> Iterator[Event]:
        if outcome is None:
            return
        if isinstance(outcome, CheckpointSaved):
            self._failed = 0
            yield outcome
            return
        self._failed += 1
        if self._failed >= MAX_FAILED_SAVES:
            raise TrainingError(f"{outcome.message}; {self._failed} saves have failed, so the run ends here")
        yield Warned(f"{outcome.message}; training goes on, the next save tries again", outcome.request.step)
