"""The batches of a stage, one ahead of the step, so that the next one can be named before it is trained.

They are cut ahead in a thread; where the steps wait for it, a process of its own takes over. Both cut the very same
batches, so nothing that a run computes depends on which of them did.
"""

from collections import deque
from collections.abc import Iterator
from typing import Any

from lmplay_tui.data.batches import Batch, Position
from lmplay_tui.data.prefetch import Ahead, ahead
from lmplay_tui.data.reader import Job, Opened, ReaderLostError, ReaderProcess
from lmplay_tui.data.stage_data import BATCHES_AHEAD, StageData
from lmplay_tui.run.events import Event, LogLine, StepDone, Warned
from lmplay_tui.text import one_line

LATE_S = 2.0  # a save waits no longer for a name of the next batch
MOST_WAITING = 0.01  # of the steps' time
WINDOW_S = 30.0  # a process that takes seconds to start is for runs that last
WINDOW_STEPS = 20
_TURN_S = 1.0


class Feed:
    """Hands out a stage's batches from `start` on. What has been read ahead never counts as trained."""

    def __init__(self, data: StageData, start: Position, batch_size: int, job: Job | None = None) -> None:
        """`job`: what a process needs to read the same data; None: they stay in a thread."""
        self._data = data
        self._job = job
        self._batches: Ahead[Batch] = data.batches(start)
        self._after = start  # where the batch begins that `_batches` gives next
        self._waiting: deque[Batch] = deque()  # out of `_batches`, and not trained yet
        self._steps, self._steps_s, self._waited_s = -1, 0.0, 0.0  # the first step waits for the thread to begin
        self._process: ReaderProcess | None = None
        self._messages: Ahead[Any] | None = None  # the process's; its batches once it has opened the data
        self._said: list[Event] = []
        # Batches can only be the same where these are: a digest is compared only then.
        self._kind = f"{data.fingerprint[:16]}/{batch_size}"

    def ready(self, seconds: float) -> bool:
        """Whether `take` would not wait, after at most `seconds`."""
        if self._messages is not None and self._messages is not self._batches and self._messages.ready(0):
            self._go_on_in_process(self._messages)
        if self._waiting:
            return True
        if not self._batches.ready(seconds):
            return False
        if isinstance(self._batches.failure, ReaderLostError):
            self._go_back_to_thread(self._batches.failure)
            return self._batches.ready(seconds)
        return True

    def take(self) -> Batch | None:
        """The next batch; None at the stage's end."""
        while not self.ready(_TURN_S):
            continue
        if self._waiting:
            return self._waiting.popleft()
        batch = next(self._batches, None)
        if batch is not None:
            self._after = batch.position_after
        return batch

    def give_back(self, batch: Batch) -> None:
        """A batch that was taken, but not trained, is next again."""
        self._waiting.appendleft(batch)

    def next_digest(self) -> str:
        """A name of the next batch's content, for the checkpoint.

        Empty at the stage's end, and where the batch is late or cannot be read: whoever takes it hears of that.
        """
        if not self._is_there():
            return ""
        batch = self.take()
        if batch is None:
            return ""
        self.give_back(batch)
        return f"{self._kind}/{batch.digest()}"

    def _is_there(self) -> bool:
        """Whether `take` would give a batch or the stage's end now, or after a moment."""
        return self.ready(LATE_S) and (bool(self._waiting) or self._batches.failure is None)

    def compare(self, recorded: str) -> tuple[bool, str] | None:
        """Whether the next batch is the one that the checkpoint recorded, and a sentence; None: nothing to compare."""
        if not recorded or recorded.rpartition("/")[0] != self._kind or not self._is_there():
            return None
        if self.next_digest() == recorded:
            return True, f"the next batch is the one the checkpoint names ({recorded[-64:][:12]})"
        return False, "the next batch is not the one the checkpoint names: the dataset has changed since"

    def close(self) -> None:
        """End the reading ahead."""
        self._end_process()
        self._batches.close()

    # ------------------------------------------------------------------ a process of its own

    def step_done(self, step: StepDone) -> Iterator[Event]:
        """Look at how long the step has waited for its batch; start a process where that is too long. Tells of it."""
        self._steps += 1
        if self._steps > 0:
            self._steps_s += step.step_s
            self._waited_s += step.data_s
        if self._steps >= WINDOW_STEPS and self._steps_s >= WINDOW_S:
            share = self._waited_s / self._steps_s
            self._steps, self._steps_s, self._waited_s = 0, 0.0, 0.0
            if share > MOST_WAITING and self._job is not None:
                # Once a stage: what does not work now will not work later.
                job, self._job = self._job, None
                yield LogLine(f"waiting for data takes {100 * share:.1f} % of the time: a process is started for them")
                self._start_process(job)
        said, self._said = self._said, []
        yield from said

    def _start_process(self, job: Job) -> None:
        try:
            self._process = ReaderProcess(job)
        except ReaderLostError as error:
            self._stay(error)
            return
        self._messages = ahead(self._process.messages(), BATCHES_AHEAD)

    def _go_on_in_process(self, messages: Ahead[Any]) -> None:
        """The process has opened its data, or failed to: let it go on after what the thread has ready."""
        assert self._process is not None
        try:
            opened: Opened = next(messages)
        except Exception as error:  # whatever it met there has not been met here
            self._stay(error)
            return
        if opened.fingerprint != self._data.fingerprint:
            self._stay(ReaderLostError("it finds other data than were opened here"))
            return
        for batch in self._batches.leave():
            self._waiting.append(batch)
            self._after = batch.position_after
        self._process.begin(self._after)
        self._batches = messages
        self._said.append(LogLine(f"data reader: process {self._process.pid}"))

    def _stay(self, error: Exception) -> None:
        self._end_process()
        self._said.append(Warned(f"data reader: stays a thread ({one_line(error, 160)})"))

    def _go_back_to_thread(self, error: ReaderLostError) -> None:
        """The process is gone: the same batches from a thread, from where they are missing."""
        self._end_process()
        self._batches = self._data.batches(self._after)
        self._said.append(Warned(f"data reader: a thread again, its process is lost ({one_line(error, 160)})"))

    def _end_process(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        if self._messages is not None:
            self._messages.close()  # its thread has read the process's last word
            self._messages = None
        self._process.close()
        self._process = None
