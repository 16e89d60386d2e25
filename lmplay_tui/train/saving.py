"""Saving while training goes on: a snapshot in memory, a thread that writes it, and which files are kept."""

import contextlib
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lmplay_tui.run.events import CheckpointSaved
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.run.statistics import RunStatistics
from lmplay_tui.text import one_line
from lmplay_tui.train.checkpoint import SaveError, cpu_copy, devices_of, link_whole, write_checkpoint
from lmplay_tui.train.memory import fits
from lmplay_tui.train.progress import Progress

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


class Saver:
    """Writes a run's checkpoints, one at a time, beside the training.

    The state is copied beside the next step's passes, which only read it: training waits for the copy, at most, before
    it moves the weights (`wait_for_copy`). On a GPU it waits at once. `finished` hands out each outcome once.
    """

    def __init__(self, run: RunFolder, statistics_folder: Path, device: torch.device = _CPU) -> None:
        self._run = run
        self._device = device  # where the weights lie
        self._statistics_folder = statistics_folder
        self._buffers: dict[str, torch.Tensor] = {}
        self._thread: threading.Thread | None = None
        self._copied = threading.Event()
        self._copied.set()
        self._blocked_s = 0.0
        self._outcome: Outcome | None = None

    def sweep(self) -> None:
        """Remove the temporary files that a killed process left."""
        for stray in strays(self._run):
            with contextlib.suppress(OSError):
                stray.unlink(missing_ok=True)

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
            self._fail(request, str(error))
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

    def finished(self) -> Outcome | None:
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
            self._fail(request, f"{type(error).__name__}: {error}")
            return
        finally:
            self._copied.set()
        if copies is None:
            self._buffers.clear()
            self._fail(request, "no memory for a copy of the weights")
            return
        self._write(checkpoint | copies, request, begun)

    def _copies(self, checkpoint: dict[str, Any]) -> dict[str, Any]:
        """The live tensors, weights and the optimizer's, in memory of their own."""
        return {name: cpu_copy(checkpoint[name], self._buffers, name) for name in ("model", "optimizers")}

    def _fail(self, request: SaveRequest, why: str) -> None:
        self._outcome = Outcome(request, None, (f"{one_line(self._run.model)}: not saved: {one_line(why)}",))

    def _write(self, checkpoint: dict[str, Any], request: SaveRequest, begun: float) -> None:
        run = self._run
        try:
            size = write_checkpoint(checkpoint, run.model, previous=run.checkpoint("prev"))
        except Exception as error:  # a thread never dies silently
            self._fail(request, str(error) if isinstance(error, SaveError) else f"{type(error).__name__}: {error}")
            return
        # From here on it is saved, whatever becomes of its other names.
        problems = [problem for work in self._company(checkpoint, request) if (problem := _problem_of(work))]
        saved = CheckpointSaved(
            path=str(run.model), step=request.step, rows=request.rows, size_bytes=size,
            seconds=time.perf_counter() - begun, blocked_s=0.0, reason=request.reason,
        )  # fmt: skip
        self._outcome = Outcome(request, saved, tuple(problems))

    def _company(self, checkpoint: dict[str, Any], request: SaveRequest) -> Iterator[Callable[[], object]]:
        """What belongs to a new checkpoint: its other names, fewer old ones, the document's statistics files."""
        run = self._run
        for name in self._names(request):
            yield partial(link_whole, run.model, name)
        if request.keep:
            for old in self._oldest_first(request.numbered)[: -request.keep]:
                yield partial(old.unlink, missing_ok=True)
        yield lambda: self._write_statistics(checkpoint["runner"]["state"])

    def _oldest_first(self, line: Sequence[int]) -> list[Path]:
        """The numbered checkpoints: first those that did not lead to the newest one, then those of `line`.

        After going back to an older checkpoint the steps of what came after it say nothing about its age.
        """
        own = {self._run.numbered_checkpoint(step): None for step in line}
        there = dict.fromkeys(self._run.numbered_checkpoints())
        return [path for path in there if path not in own] + [path for path in own if path in there]

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
        there, here = other.lstat(), path.lstat()
    except OSError:
        return False
    if not stat.S_ISREG(there.st_mode):
        return False
    return os.path.samestat(here, there) or (here.st_size == there.st_size and here.st_mtime_ns <= there.st_mtime_ns)


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
    """Temporary files of the run's checkpoints: nobody but a process that was killed leaves them."""
    own = re.compile(r"\." + re.escape(run.name) + r"(\.[A-Za-z0-9_-]+)?\.lmp\.tmp")
    try:
        return [path for path in run.model.parent.iterdir() if own.fullmatch(path.name)]
    except OSError:
        return []
