"""When and under which names a run saves, and what a failed save means."""

import time
from collections.abc import Generator, Iterator
from pathlib import Path

from lmplay_tui.errors import TrainingError
from lmplay_tui.run.events import ActivityChanged, Answered, Event, Warned
from lmplay_tui.train.saving import Outcome, Saver, SaveRequest
from lmplay_tui.train.state import TrainState

MAX_FAILED_SAVES = 3


class Saves:
    """The checkpoints of a run. A save that fails is told and tried again at the next; the third ends the run."""

    def __init__(self, state: TrainState, statistics_folder: Path) -> None:
        self._state = state
        self._saver = Saver(state.run, statistics_folder, state.device)
        self._saver.sweep()
        self.has_saved = False  # in this process
        self._failed = 0
        self._failed_at: int | None = None  # the step that the newest save was of, where it failed
        self._last = time.monotonic()
        self._best_before: tuple[float | None, int | None] = (None, None)
        self._asked: list[str] = []  # identities of commands that wait for the outcome of the next save to begin
        self._answering: list[str] = []  # ... of the save under way

    @property
    def minutes_since(self) -> float:
        return (time.monotonic() - self._last) / 60

    def promise(self, identities: list[str]) -> None:
        """Answer these commands with the outcome of the save that begins next."""
        self._asked += identities

    def refuse(self, why: str) -> Iterator[Event]:
        """Answer the commands that wait for a save, now that there will be none."""
        identities, self._asked, self._answering = self._answering + self._asked, [], []
        for identity in identities:
            yield Answered("SaveNow", identity, False, why)

    def wait_for_copy(self) -> None:
        """Return when weights and optimizer may be changed again: a save may be copying them."""
        self._saver.wait_for_copy()

    def begin(self, reason: str, keep: int) -> Iterator[Event]:
        """Copy and write the state beside the training; `outcomes` tells how it went. See `wait_for_copy`.

        Raises `TrainingError` if the save before was the third in a row that failed.
        """
        yield from self.close()
        yield from self._start(reason, keep)
        yield ActivityChanged("training")

    def outcomes(self) -> Iterator[Event]:
        """What has been written since the last look. Raises `TrainingError` at the third failure in a row."""
        yield from self._told(self._saver.finished())
        self._give_up()

    def close(self) -> Iterator[Event]:
        """Wait for the write under way. Raises `TrainingError` at the third failure in a row."""
        yield from self._told(self._saver.wait())
        self._give_up()

    def last_outcome(self) -> Iterator[Event]:
        """How the write under way has gone, at the end of a run."""
        yield from self._told(self._saver.wait(), goes_on=False)

    def has_failed_at(self, step: int) -> bool:
        """Whether the newest save was of `step` and has failed: another at once would fail too."""
        return self._failed_at == step

    def attempt(self, reason: str, keep: int, *, goes_on: bool) -> Generator[Event, None, str | None]:
        """Save and wait until the bytes are safe; gives what hindered it, None if they are.

        `goes_on`: training does, where they are not.
        """
        yield from self._told(self._saver.wait(), goes_on=goes_on)
        yield from self._start(reason, keep)
        outcome = self._saver.wait()
        assert outcome is not None
        yield from self._told(outcome, goes_on=goes_on)
        return None if outcome.saved is not None else outcome.problems[0]

    def finish(self, reason: str, keep: int) -> Iterator[Event]:
        """Save and wait until the bytes are safe. `TrainingError` if they are not."""
        problem = yield from self.attempt(reason, keep, goes_on=False)
        if problem is not None:
            raise TrainingError(f"{problem}; the checkpoint before it is intact")

    def _start(self, reason: str, keep: int) -> Iterator[Event]:
        progress = self._state.progress
        self._best_before = progress.best_eval_loss, progress.best_step
        is_best = progress.eval_loss is not None and (
            progress.best_eval_loss is None or progress.eval_loss < progress.best_eval_loss
        )
        if is_best:
            progress.best_eval_loss, progress.best_step = progress.eval_loss, progress.step
        progress.saved_rows = progress.rows
        if keep:
            progress.numbered = [*(step for step in progress.numbered if step != progress.step), progress.step][-keep:]
        self._last = time.monotonic()
        self._answering, self._asked = self._asked, []
        yield ActivityChanged("saving")
        request = SaveRequest(
            progress.step, progress.rows, progress.stage, reason, keep, is_best, numbered=tuple(progress.numbered)
        )
        self._saver.start(self._state.checkpoint, request)

    def _told(self, outcome: Outcome | None, *, goes_on: bool = True) -> Iterator[Event]:
        if outcome is None:
            return
        step = outcome.request.step
        ok = outcome.saved is not None
        for identity in self._answering:
            yield Answered("SaveNow", identity, ok, str(self._state.run.model) if ok else outcome.problems[0])
        self._answering = []
        if outcome.saved is not None:
            self._failed, self._failed_at, self.has_saved = 0, None, True
            yield outcome.saved
            for problem in outcome.problems:
                yield Warned(f"{problem}; the checkpoint itself is saved", step)
            return
        self._failed, self._failed_at = self._failed + 1, step
        if outcome.request.is_best:  # the best so far is not on the disk: the next save shall try again
            self._state.progress.best_eval_loss, self._state.progress.best_step = self._best_before
        goes_on = goes_on and self._failed < MAX_FAILED_SAVES
        going_on = "; training goes on, the next save tries again" if goes_on else ""
        yield Warned(f"{outcome.problems[0]}{going_on}", step)

    def _give_up(self) -> None:
        if self._failed >= MAX_FAILED_SAVES:
            raise TrainingError(
                f"{self._failed} saves in a row have failed, so the run ends here; the last checkpoint is intact"
            )
