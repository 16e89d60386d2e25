"""The checkpoints of a run: when and under which names, written beside the training, and what a failed save means.

The way of one: `Checkpointer.save` takes the state, `CheckpointWriter` copies it beside the next step's passes, which
only read it; the loop waits for the copy before it moves the weights (`wait_for_copy`); the writer's thread writes,
verifies and renames (`checkpoint.py`); the loop tells of it at its next look (`poll`).
"""

import contextlib
import math
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lmplay_tui.errors import TrainingError
from lmplay_tui.run.events import ActivityChanged, Answered, CheckpointSaved, Event, Warned
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.run.statistics import RunStatistics
from lmplay_tui.text import one_line
from lmplay_tui.train.checkpoint import (
    SaveError,
    cpu_copy,
    devices_of,
    link_whole,
    parts_of,
    sweep_parts,
    write_checkpoint,
)
from lmplay_tui.train.device import fits
from lmplay_tui.train.process_group import RankLostError
from lmplay_tui.train.progress import Progress
from lmplay_tui.train.state import TrainState

MAX_FAILED_SAVES = 3  # in a row
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class SaveRequest:
    """What to save as, beside `NAME.lmp`."""

    step: int
    rows: int
    stage: str
    reason: str
    keep: int  # numbered checkpoints to keep
    is_best: bool  # its eval/loss is the lowest so far
    numbered: tuple[int, ...] = ()  # steps of the numbered ones that led to this one, oldest first, its own included


@dataclass(frozen=True)
class Outcome:
    """How a save went. `saved` None: it did not happen, and the file before it is untouched.

    `problems`: one line each; beside a save that happened, what of its company (links, statistics) did not.
    """

    request: SaveRequest
    saved: CheckpointSaved | None
    problems: tuple[str, ...] = ()


def is_better(loss: float | None, best: float | None) -> bool:
    """Whether an evaluation's loss is the lowest so far. One that is not finite never is: nothing is lower than NaN."""
    return loss is not None and math.isfinite(loss) and (best is None or loss < best)


class Checkpointer:
    """Saves a run. A save that fails is a warning, and the next one tries again; the third in a row ends the run.

    Each of them raises `DriftedError` instead where not all processes that train the run have the same weights.
    """

    def __init__(
        self, state: TrainState, statistics_folder: Path, may_not_save: Callable[[], str | None] = lambda: None
    ) -> None:
        """`may_not_save`: why the run's checkpoints must not be written any more; None: they may."""
        self._state = state
        self._writer = CheckpointWriter(state.run, statistics_folder, state.device, may_not_save)
        self._writer.sweep()
        self.has_saved = False  # in this process
        self._failed = 0
        self._failed_at: int | None = None  # the step that the newest save was of, where it failed
        self._last_at = time.monotonic()
        self._best_before: tuple[float | None, int | None] = (None, None)
        self._asked: list[str] = []  # identities of commands that wait for the outcome of the next save to begin
        self._answering: list[str] = []  # ... of the save under way

    @property
    def minutes_since_save(self) -> float:
        return (time.monotonic() - self._last_at) / 60

    def answer_with_next(self, identities: list[str]) -> None:
        """Answer these commands with the outcome of the save that begins next."""
        self._asked += identities

    def take_asked(self) -> list[str]:
        """The commands that wait for a save, now that this process makes none any more; they are the caller's."""
        identities, self._asked, self._answering = self._answering + self._asked, [], []
        return identities

    def refuse(self, why: str) -> Iterator[Event]:
        """Answer the commands that wait for a save, now that there will be none."""
        for identity in self.take_asked():
            yield Answered("SaveNow", identity, False, why)

    def wait_for_copy(self) -> None:
        """Return when weights and optimizer may be changed again: a save may be copying them."""
        self._writer.wait_for_copy()

    def save(self, reason: str, keep: int) -> Iterator[Event]:
        """Copy and write the state beside the training; `poll` tells how it went. See `wait_for_copy`.

        `keep`: numbered checkpoints. Raises `TrainingError` if the save before was the third in a row that failed.
        """
        yield from self.wait()
        yield from self._start(reason, keep)
        yield ActivityChanged("training")

    def poll(self) -> Iterator[Event]:
        """What has been written since the last look. Raises `TrainingError` at the third failure in a row."""
        yield from self._report(self._writer.poll())
        self._raise_if_hopeless()

    def wait(self) -> Iterator[Event]:
        """Wait for the write under way. Raises `TrainingError` at the third failure in a row."""
        yield from self._report(self._writer.wait())
        self._raise_if_hopeless()

    def wait_at_end(self) -> Iterator[Event]:
        """Wait for the write under way, at the end of a run: its failure is a warning, no second error."""
        yield from self._report(self._writer.wait(), goes_on=False)

    def has_failed_at(self, step: int) -> bool:
        """Whether the newest save was of `step` and has failed: another at once would fail too."""
        return self._failed_at == step

    def save_and_wait(self, reason: str, keep: int, *, goes_on: bool) -> Generator[Event, None, str | None]:
        """Save and wait until the bytes are safe; gives what hindered it, None if they are.

        `goes_on`: training does, where they are not.
        """
        yield from self._report(self._writer.wait(), goes_on=goes_on)
        yield from self._start(reason, keep)
        outcome = self._writer.wait()
        assert outcome is not None
        yield from self._report(outcome, goes_on=goes_on)
        return None if outcome.saved is not None else outcome.problems[0]

    def save_or_raise(self, reason: str, keep: int) -> Iterator[Event]:
        """Save and wait until the bytes are safe. `TrainingError` if they are not."""
        problem = yield from self.save_and_wait(reason, keep, goes_on=False)
        if problem is not None:
            raise self._end(f"{problem}; the checkpoint before it is intact")

    def _start(self, reason: str, keep: int) -> Iterator[Event]:
        progress, leader = self._state.progress, self._state.leader
        if leader is not None:  # a resume gives this process's weights to all: wrong ones would leave no trace
            leader.compare_weights(self._state.model, progress.step)
        self._best_before = progress.best_eval_loss, progress.best_step
        is_best = is_better(progress.eval_loss, progress.best_eval_loss)
        if is_best:
            progress.best_eval_loss, progress.best_step = progress.eval_loss, progress.step
        progress.saved_rows = progress.rows
        if keep:
            progress.numbered = [*(step for step in progress.numbered if step != progress.step), progress.step][-keep:]
        self._last_at = time.monotonic()
        self._answering, self._asked = self._asked, []
        yield ActivityChanged("saving")
        request = SaveRequest(
            progress.step, progress.rows, progress.stage, reason, keep, is_best, numbered=tuple(progress.numbered)
        )
        self._writer.start(self._state.checkpoint, request)

    def _report(self, outcome: Outcome | None, *, goes_on: bool = True) -> Iterator[Event]:
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
        if outcome.request.is_best:  # the best so far is not on the disk: the next save has to try again
            self._state.progress.best_eval_loss, self._state.progress.best_step = self._best_before
        goes_on = goes_on and self._failed < MAX_FAILED_SAVES
        going_on = "; training goes on, the next save tries again" if goes_on else ""
        yield Warned(f"{outcome.problems[0]}{going_on}", step)

    def _raise_if_hopeless(self) -> None:
        if self._failed >= MAX_FAILED_SAVES:
            raise self._end(
                f"{self._failed} saves in a row have failed, so the run ends here; the last checkpoint is intact"
            )

    def _end(self, why: str) -> TrainingError:
        """What the run cannot go on by. Where a part is lacking its rank is lost, which is no end: all start again."""
        leader = self._state.leader
        return RankLostError(why) if leader is not None and leader.lacks_part else TrainingError(why)


class CheckpointWriter:
    """Writes checkpoints, one at a time, in a thread beside the training.

    On a GPU `start` waits for the copy: copies and passes would share the device's queue. `poll` and `wait` hand out
    each outcome once.
    """

    def __init__(
        self,
        run: RunFolder,
        statistics_folder: Path,
        device: torch.device = _CPU,
        may_not_save: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._run = run
        self._may_not_save = may_not_save
        self._device = device  # where the weights lie
        self._statistics_folder = statistics_folder
        self._buffers: dict[str, torch.Tensor] = {}
        self._thread: threading.Thread | None = None
        self._copied = threading.Event()
        self._copied.set()
        self._blocked_s = 0.0
        self._outcome: Outcome | None = None

    def sweep(self) -> None:
        """Remove the temporary files that a killed process left, and parts that belong to no checkpoint."""
        for stray in strays(self._run):
            with contextlib.suppress(OSError):
                stray.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            sweep_parts(self._run)

    def complete(self, checkpoint: dict[str, Any]) -> Iterator[str]:
        """Give the run's newest checkpoint, just loaded, its other names and its statistics; a line for what fails.

        A process that was killed just after the rename has not got to them, and no later save would: the next
        evaluation may be worse, the stage or the plan may be done.
        """
        state = checkpoint["runner"]["state"]
        progress = Progress.from_state(state["progress"])
        is_best = progress.best_step == progress.step
        request = SaveRequest(progress.step, progress.rows, progress.stage, "resume", keep=0, is_best=is_best)
        run = self._run
        lacking = [name for name in self._names(request) if not _same_bytes(run.model, name)]
        links = [partial(link_whole, run.model, name) for name in lacking]
        for work in (*links, partial(self._write_statistics, state)):
            if (problem := _problem_of(work)) is not None:
                yield problem

    def start(self, checkpoint: Callable[[], dict[str, Any]], request: SaveRequest) -> None:
        """Begin to copy the state and to write it. The write before must have been waited for.

        `checkpoint` makes it: tensors of the model and the optimizer are those that training moves, all else belongs
        to this save.
        """
        assert not self.busy
        begun = time.perf_counter()
        state = checkpoint()
        thread = threading.Thread(
            target=self._copy_and_write, args=(state, request, begun), name="checkpoint", daemon=False
        )
        self._copied.clear()
        try:
            thread.start()
        except RuntimeError as error:  # the system gives no more threads: that costs a save, not the run
            self._copied.set()
            self._give_up(state, request, str(error))
            return
        self._thread = thread
        self._blocked_s = time.perf_counter() - begun
        if self._device.type != "cpu":  # copies and passes would share the device's queue
            self.wait_for_copy()

    def wait_for_copy(self) -> None:
        """Return when weights and optimizer may be changed again."""
        if self._copied.is_set():
            return
        begun = time.perf_counter()
        self._copied.wait()
        self._blocked_s += time.perf_counter() - begun

    @property
    def busy(self) -> bool:
        """A write is under way, or its outcome has not been handed out."""
        return self._thread is not None or self._outcome is not None

    def poll(self) -> Outcome | None:
        """The outcome of the write, if it is done."""
        if self._thread is not None and self._thread.is_alive():
            return None
        return self.wait()

    def wait(self) -> Outcome | None:
        """Wait for the write under way and hand out its outcome; None if there is none."""
        if self._thread is not None:
            begun = time.perf_counter()
            self._thread.join()
            self._blocked_s += time.perf_counter() - begun
            self._thread = None
        outcome, self._outcome = self._outcome, None
        if outcome is not None and outcome.saved is not None:
            outcome = replace(outcome, saved=replace(outcome.saved, blocked_s=self._blocked_s))
        return outcome

    def _copy_and_write(self, checkpoint: dict[str, Any], request: SaveRequest, begun: float) -> None:
        try:
            _, copies = fits(lambda: self._copies(checkpoint))
            # A GPU's copies are asynchronous. The tensors name it: this thread's current GPU is another's, perhaps.
            for device in devices_of(checkpoint):
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
        except Exception as error:  # a thread never dies silently
            self._give_up(checkpoint, request, f"{type(error).__name__}: {error}")
            return
        finally:
            self._copied.set()
        if copies is None:
            self._buffers.clear()
            self._give_up(checkpoint, request, "no memory for a copy of the weights")
            return
        self._write(checkpoint | copies, request, begun)

    def _copies(self, checkpoint: dict[str, Any]) -> dict[str, Any]:
        """The live tensors, weights and the optimizer's, in memory of their own."""
        return {name: cpu_copy(checkpoint[name], self._buffers, name) for name in ("model", "optimizers")}

    def _give_up(self, checkpoint: dict[str, Any], request: SaveRequest, why: str) -> None:
        """It cannot even be begun; what others may have begun of it goes too."""
        if (parts := parts_of(checkpoint)) is not None:
            parts.abandon()
        self._fail(request, why)

    def _fail(self, request: SaveRequest, why: str) -> None:
        self._outcome = Outcome(request, None, (f"{one_line(self._run.model)}: not saved: {one_line(why)}",))

    def _write(self, checkpoint: dict[str, Any], request: SaveRequest, begun: float) -> None:
        run = self._run
        if (why := self._may_not_save()) is not None:
            self._put_apart(checkpoint, request, why)
            return
        try:
            size = write_checkpoint(checkpoint, run.model, previous=run.checkpoint("prev"))
        except Exception as error:  # a thread never dies silently
            self._fail(request, str(error) if isinstance(error, SaveError) else f"{type(error).__name__}: {error}")
            return
        # From here on it is saved, whatever becomes of its other names.
        problems = [problem for work in self._follow_ups(checkpoint, request) if (problem := _problem_of(work))]
        saved = CheckpointSaved(
            path=str(run.model), step=request.step, rows=request.rows, size_bytes=size,
            seconds=time.perf_counter() - begun, blocked_s=0.0, reason=request.reason,
        )  # fmt: skip
        self._outcome = Outcome(request, saved, tuple(problems))

    def _put_apart(self, checkpoint: dict[str, Any], request: SaveRequest, why: str) -> None:
        """Another process writes the run's checkpoints: keep what this one has trained beside them."""
        apart = self._run.checkpoint("apart")
        try:
            write_checkpoint(checkpoint, apart, like=self._run.newest)
        except Exception as error:
            self._fail(request, f"{why}; nor to {apart.name}: {error}")
            return
        self._fail(request, f"{why}; what this process has trained is in {apart.name}")

    def _follow_ups(self, checkpoint: dict[str, Any], request: SaveRequest) -> Iterator[Callable[[], object]]:
        """What a new checkpoint brings: its other names, fewer old ones, the document's statistics files."""
        run = self._run
        for name in self._names(request):
            yield partial(link_whole, run.model, name)
        if request.keep:
            for old in self._oldest_first(request.numbered)[: -request.keep]:
                yield partial(old.unlink, missing_ok=True)
        yield partial(sweep_parts, run)
        yield lambda: self._write_statistics(checkpoint["runner"]["state"])

    def _oldest_first(self, line: Sequence[int]) -> list[Path]:
        """The numbered checkpoints: first those that did not lead to the newest one, then those of `line`.

        After going back to an older checkpoint the steps of what came after it say nothing about its age.
        """
        own = {self._run.numbered_checkpoint(step): None for step in line}
        found = dict.fromkeys(self._run.numbered_checkpoints())
        return [path for path in found if path not in own] + [path for path in own if path in found]

    def _names(self, request: SaveRequest) -> list[Path]:
        """What a new checkpoint is called too."""
        run = self._run
        names = [run.checkpoint(request.stage)]
        names += [run.checkpoint("best")] if request.is_best else []
        return names + ([run.numbered_checkpoint(request.step)] if request.keep else [])

    def _write_statistics(self, state: dict[str, Any]) -> None:
        """The document's files, from the same numbers as the checkpoint."""
        statistics = RunStatistics(self._run.name)
        statistics.load({"stats": state["stats"], "step_stats": state["step_stats"]})
        statistics.write(self._statistics_folder)


def _same_bytes(path: Path, other: Path) -> bool:
    """Whether `other` is `path` under another name, or the copy of it that was made where there are no links."""
    try:
        its, own = other.lstat(), path.lstat()
    except OSError:
        return False
    if not stat.S_ISREG(its.st_mode):
        return False
    return os.path.samestat(own, its) or (own.st_size == its.st_size and own.st_mtime_ns <= its.st_mtime_ns)


def _problem_of(work: Callable[[], object]) -> str | None:
    """Do `work`; what hindered it, in one line."""
    try:
        work()
    except OSError as error:
        return one_line(f"{error.filename2 or error.filename or 'the disk'}: {error.strerror or error}")
    except Exception as error:  # a thread never dies silently
        return one_line(f"{type(error).__name__}: {error}")
    return None


def strays(run: RunFolder) -> list[Path]:
    """Temporary files of the run's checkpoints: only a process that was killed leaves them."""
    own = re.compile(r"\." + re.escape(run.name) + r"(\.[A-Za-z0-9_-]+)?\.lmp\.tmp")
    try:
        return [path for path in run.model.parent.iterdir() if own.fullmatch(path.name)]
    except OSError:
        return []
