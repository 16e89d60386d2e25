"""The data of the stages while a run goes on: opened without making a stop wait, handed out batch by batch.

The batches of a stage are cut ahead of the steps in a thread; where the steps wait for it, a process of its own takes
over. Both cut the very same batches, so nothing that a run computes depends on which of them did. One batch lies ready,
so that it can be named before it is trained: a checkpoint holds that name, and a resume compares.
"""

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lmplay_tui.background import BackgroundCall
from lmplay_tui.data.batches import Batch, Position
from lmplay_tui.data.leak_guard import LeakReport, look_for_leaks
from lmplay_tui.data.prefetch import Prefetch
from lmplay_tui.data.preview import Preview
from lmplay_tui.data.sources import count_rows, is_at_hand
from lmplay_tui.data.splits import ReportProgress
from lmplay_tui.data.stage_data import BATCHES_AHEAD, StageData, open_stage
from lmplay_tui.data.tokenizer import Tokenizer
from lmplay_tui.data.worker import BusError, Job, Opened, Worker, WorkerLostError
from lmplay_tui.errors import UserError
from lmplay_tui.options import Part, TrainOptions, names_of
from lmplay_tui.plan.schema import Stage
from lmplay_tui.run.controls import Controls, StopRequested
from lmplay_tui.run.events import ActivityChanged, DatasetOpened, Event, LogLine, StepDone, TextLeftOut, Warned
from lmplay_tui.run.sentences import LEAST_TEXT_SHOWN
from lmplay_tui.text import one_line

T = TypeVar("T")

PREVIEWED_STEPS = 20  # that a warning of text left out is made from
PREVIEW_S = 0.3  # and the time for them, all but the first
_TURN_S = 1.0


class LoadedData:
    """The stages' data, opened once and kept: evaluation at a stage's end needs those of earlier stages too."""

    def __init__(
        self,
        options_of: Callable[[Stage], TrainOptions],
        stages_of_plan: Callable[[], tuple[Stage, ...]],
        tokenizer: Tokenizer,
        datasets_folder: Path,
    ) -> None:
        self._options_of = options_of
        self._stages_of_plan = stages_of_plan
        self._tokenizer = tokenizer
        self._datasets_folder = datasets_folder
        self._opened: dict[str, tuple[tuple[Any, ...], StageData]] = {}
        self._reported: set[Hashable] = set()

    def open(self, stage: Stage, controls: Controls, *, trains: bool = True) -> Iterator[Event]:
        """Open the stage's data unless they are open already as they are wanted now.

        Yields once for each dataset what is read of it. `trains`: also warn of text that will be left out.
        """
        options = self._options_of(stage)
        stages = self._stages_of_plan()
        datasets = tuple((other.name, other.datasets) for other in stages)  # what they validate on is not trained
        key = (stage, datasets, *(getattr(options, name) for name in names_of(Part.HELD_OUT, Part.ORDER, Part.DATA)))
        if stage.name in self._opened and self._opened[stage.name][0] == key:
            return

        def opened(report: ReportProgress) -> tuple[StageData, list[TextLeftOut]]:
            data = open_stage(
                stage, options, self._tokenizer, datasets_folder=self._datasets_folder, report=report, stages=stages
            )
            return data, left_out(data.preview(PREVIEWED_STEPS, PREVIEW_S), stage) if trains else []

        yield ActivityChanged("loading", f"data of stage {stage.name}")
        data, warnings = yield from in_thread(opened, controls)
        self._opened[stage.name] = (key, data)
        for event in (*openings(data), *warnings):
            if (fact := _without_rows(event)) not in self._reported:
                self._reported.add(fact)
                yield event
        yield ActivityChanged("training")

    def of(self, stage: Stage) -> StageData:
        """The data of a stage that has been opened."""
        return self._opened[stage.name][1]

    def count(self, stage: Stage) -> int | None:
        """The rows of a stage that is not open, where they are known without downloading anything."""
        stages = self._stages_of_plan()
        return count_rows(stage, self._options_of(stage), datasets_folder=self._datasets_folder, stages=stages)

    def look_for_leaks(self, stages: Sequence[Stage], rest: Callable[[], None]) -> LeakReport:
        """Compare what is trained with what is evaluated, of the stages that are open or at hand; in any thread."""
        found, left = [], []
        for stage in stages:
            opened = self._opened.get(stage.name)
            if opened is not None and opened[0][0] == stage:
                found.append((stage.name, opened[1]))
            elif is_at_hand(stage, self._datasets_folder):
                try:
                    found.append((stage.name, self.job(stage).open()))
                except UserError:  # the error is raised again when the stage's turn comes
                    left.append(stage.name)
            else:
                left.append(stage.name)
        return look_for_leaks(found, left, rest)

    def job(self, stage: Stage) -> Job:
        """What another process needs to open the same data."""
        stages = self._stages_of_plan()
        return Job(stage, self._options_of(stage), self._tokenizer.name, self._datasets_folder, stages)

    def is_open(self, stage: Stage) -> bool:
        return stage.name in self._opened


def openings(data: StageData) -> list[DatasetOpened]:
    """What was opened, for each of a stage's datasets."""
    return [
        DatasetOpened(
            dataset=part.source.spec.name,
            columns=part.source.columns,
            notes=part.source.notes,
            rows_train=part.training_rows,
            rows_held_out=part.validation_rows,
            rows_looked_at=look.rows,
            rows_without_sample=look.rows_without_sample,
        )
        for part, look in zip(data.parts, data.looks, strict=True)
    ]


def left_out(found: Preview, stage: Stage) -> list[TextLeftOut]:
    """The datasets of which less than nine tenths of the text would reach a sample."""
    return [
        TextLeftOut(stage.name, spec.name, part.text_shown, part.rows)
        for spec, part in zip(stage.datasets, found.parts, strict=True)
        if part.text_shown < LEAST_TEXT_SHOWN
    ]


def _without_rows(event: Event) -> Hashable:
    """What an event says, whatever the number of rows: a split has another in each stage."""
    if isinstance(event, DatasetOpened):
        return event.dataset, event.columns, event.notes
    return event


def in_thread(work: Callable[[ReportProgress], T], controls: Controls) -> Generator[ActivityChanged, None, T]:
    """Do `work` in a thread, pass on what it reports, and give its value.

    Raises what `work` raises, and `StopRequested` as soon as a stop is asked for: the thread is then left behind
    (a hub that is silent may hold it for ever), which is why it is a daemon; it holds no lock and writes only
    files that are whole or absent.
    """
    reports: queue.SimpleQueue[ActivityChanged | None] = queue.SimpleQueue()
    running = BackgroundCall(
        lambda: work(lambda *report: reports.put(ActivityChanged(*report))), "loading",
        then=lambda _: reports.put(None),
    )  # fmt: skip
    while True:
        if controls.wants_stop():
            raise StopRequested
        try:
            report = reports.get(timeout=0.05)
        except queue.Empty:
            continue
        if report is None:
            return running.result()
        yield report


@dataclass(frozen=True)
class Patience:
    """How long batches are waited for."""

    late_s: float = 2.0  # a save waits no longer for a name of the next batch
    most_waiting: float = 0.01  # of the steps' time, before a process is started
    window_s: float = 30.0  # that this share is taken of: a process that takes seconds to start is for runs that last
    window_steps: int = 20


class Feed:
    """Hands out a stage's batches from `start` on. What has been read ahead never counts as trained."""

    def __init__(
        self, data: StageData, start: Position, batch_size: int, job: Job | None = None, *,
        patience: Patience = Patience(), worker: Callable[[Job], Worker] = Worker,
    ) -> None:  # fmt: skip
        """`job`: what a process needs to read the same data; None: they stay in a thread. `worker` starts it."""
        self._patience = patience
        self._worker = worker
        self._data = data
        self._job = job
        self._batches: Prefetch[Batch] = data.batches(start)
        self._after = start  # where the batch begins that `_batches` gives next
        self._waiting: deque[Batch] = deque()  # out of `_batches`, and not trained yet
        self._steps, self._steps_s, self._waited_s = -1, 0.0, 0.0  # the first step waits for the thread to begin
        self._process: Worker | None = None
        self._messages: Prefetch[Any] | None = None  # the process's; its batches once it has opened the data
        self._news: list[Event] = []
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
        if isinstance(self._batches.failure, WorkerLostError):
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

        Empty at the stage's end, and where the batch is late or cannot be read: taking it raises the error.
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
        return self.ready(self._patience.late_s) and (bool(self._waiting) or self._batches.failure is None)

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
        if self._steps >= self._patience.window_steps and self._steps_s >= self._patience.window_s:
            share = self._waited_s / self._steps_s
            self._steps, self._steps_s, self._waited_s = 0, 0.0, 0.0
            if share > self._patience.most_waiting and self._job is not None:
                # Once a stage: what does not work now will not work later.
                job, self._job = self._job, None
                yield LogLine(f"waiting for data takes {100 * share:.1f} % of the time: a process is started for them")
                self._start_process(job)
        news, self._news = self._news, []
        yield from news

    def _start_process(self, job: Job) -> None:
        try:
            self._process = self._worker(job)
        except WorkerLostError as error:
            self._stay(error)
            return
        self._messages = Prefetch(self._process.messages(), BATCHES_AHEAD)

    def _go_on_in_process(self, messages: Prefetch[Any]) -> None:
        """The process has opened its data, or failed to: let it go on after what the thread has ready."""
        assert self._process is not None
        try:
            opened: Opened = next(messages)
        except BusError as error:  # this process maps the same files: its thread would be ended so, and the run with it
            self._end_process()
            self._leave_thread(Prefetch(_failing(error), 1))
            return
        except Exception as error:  # whatever else it met there has not been met here
            self._stay(error)
            return
        if opened.fingerprint != self._data.fingerprint:
            self._stay(WorkerLostError("it finds other data than were opened here"))
            return
        self._leave_thread(messages)
        self._process.begin(self._after)
        self._news.append(LogLine(f"data reader: process {self._process.pid}"))

    def _leave_thread(self, then: Prefetch[Batch]) -> None:
        """Read no more here. What lies ready is trained first, `then` gives what follows."""
        for batch in self._batches.leave():
            self._waiting.append(batch)
            self._after = batch.position_after
        self._batches = then

    def _stay(self, error: Exception) -> None:
        self._end_process()
        self._news.append(Warned(f"data reader: stays a thread ({one_line(error, 160)})"))

    def _go_back_to_thread(self, error: WorkerLostError) -> None:
        """The process is gone: the same batches from a thread, from where they are missing."""
        self._end_process()
        self._batches = self._data.batches(self._after)
        self._news.append(Warned(f"data reader: a thread again, its process is lost ({one_line(error, 160)})"))

    def _end_process(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        if self._messages is not None:
            self._messages.close()  # its thread has read the process's last word
            self._messages = None
        self._process.close()
        self._process = None


def _failing(error: Exception) -> Iterator[Any]:
    """No batch, but an error in place of the first."""
    yield from ()
    raise error


class RowCounts:
    """The rows of stages to come, counted beside the training: the plan's end is known only with them.

    `count(stage)` gives them for a stage that has not been opened yet.
    """

    def __init__(self, count: Callable[[Stage], int | None]) -> None:
        self._count = count
        self._found: dict[str, tuple[Stage, int | None]] = {}  # by name; of the stage as the plan then had it
        self._thread: threading.Thread | None = None
        self._has_news = False

    def begin(self, stages: Iterable[Stage]) -> None:
        """Count what has not been counted, in a thread that nothing waits for: the hub may be silent."""
        wanted = [stage for stage in stages if stage.name not in self._found or self._found[stage.name][0] != stage]
        if wanted and (self._thread is None or not self._thread.is_alive()):
            self._thread = threading.Thread(target=self._run, args=(wanted,), name="counting", daemon=True)
            self._thread.start()

    def _run(self, stages: list[Stage]) -> None:
        for stage in stages:
            self._found[stage.name] = stage, self._count(stage)
        self._has_news = True

    def take_news(self) -> bool:
        """Whether something has been counted since the last time."""
        news, self._has_news = self._has_news, False
        return news

    def of(self, stage: Stage) -> int | None:
        """The rows of a stage over all its epochs, if they have been counted."""
        known = self._found.get(stage.name)
        return known[1] if known is not None and known[0] == stage else None
