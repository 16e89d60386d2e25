"""Opening data while somebody may want to stop: loading waits for disks and networks, a user does not."""

import queue
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from lmplay_tui.data.counting import count_rows, is_at_hand
from lmplay_tui.data.leak_guard import LeakReport, look_for_leaks
from lmplay_tui.data.preview import Preview
from lmplay_tui.data.reader import Job
from lmplay_tui.data.stage_data import StageData, open_stage
from lmplay_tui.data.tokenizer import Tokenizer
from lmplay_tui.errors import UserError
from lmplay_tui.options import Part, TrainOptions, names_of
from lmplay_tui.plan.schema import Stage
from lmplay_tui.run.controls import Controls
from lmplay_tui.run.events import ActivityChanged, DatasetOpened, Event, TextLeftOut
from lmplay_tui.run.telling import LEAST_TEXT_SHOWN
from lmplay_tui.train.steps import StopRequested

Report = Callable[[str, str, float | None], None]
T = TypeVar("T")

PREVIEWED_STEPS = 20  # that a warning of text left out is made from
PREVIEW_S = 0.3  # and the time for them, all but the first


def patiently(work: Callable[[Report], T], controls: Controls, result: list[T]) -> Iterator[ActivityChanged]:
    """Do `work` in a thread, pass on what it reports, and put its value into `result`.

    Raises what `work` raises, and `StopRequested` as soon as a stop is asked for: the thread is then left behind
    (a hub that is silent may hold it for ever), which is why it is a daemon; it holds no lock and writes only
    files that are whole or absent.
    """
    said: queue.SimpleQueue[ActivityChanged | None] = queue.SimpleQueue()
    failed: list[BaseException] = []

    def run() -> None:
        try:
            result.append(work(lambda *report: said.put(ActivityChanged(*report))))
        except BaseException as error:  # handed to whoever waits
            failed.append(error)
        finally:
            said.put(None)

    threading.Thread(target=run, name="loading", daemon=True).start()
    while True:
        if controls.wants_stop():
            raise StopRequested
        try:
            report = said.get(timeout=0.05)
        except queue.Empty:
            continue
        if report is None:
            break
        yield report
    if failed:
        raise failed[0]


def openings(data: StageData) -> list[DatasetOpened]:
    """What is to be told of each of a stage's datasets."""
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
        self._told: set[Hashable] = set()

    def open(self, stage: Stage, controls: Controls, *, trains: bool = True) -> Iterator[Event]:
        """Open the stage's data unless they are open already as they are wanted now.

        Tells of each dataset once what is read of it. `trains`: also warn of text that will be left out.
        """
        options = self._options_of(stage)
        stages = self._stages_of_plan()
        datasets = tuple((other.name, other.datasets) for other in stages)  # what they validate on is not trained
        key = (stage, datasets, *(getattr(options, name) for name in names_of(Part.HELD_OUT, Part.ORDER, Part.DATA)))
        if stage.name in self._opened and self._opened[stage.name][0] == key:
            return
        result: list[tuple[StageData, list[TextLeftOut]]] = []

        def opened(report: Report) -> tuple[StageData, list[TextLeftOut]]:
            data = open_stage(
                stage, options, self._tokenizer, datasets_folder=self._datasets_folder, report=report, stages=stages
            )
            return data, left_out(data.preview(PREVIEWED_STEPS, PREVIEW_S), stage) if trains else []

        yield ActivityChanged("loading", f"data of stage {stage.name}")
        yield from patiently(opened, controls, result)
        data, warnings = result[0]
        self._opened[stage.name] = (key, data)
        for event in (*openings(data), *warnings):
            if (fact := _without_rows(event)) not in self._told:
                self._told.add(fact)
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
                except UserError:  # it will be said when the stage's turn comes
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
