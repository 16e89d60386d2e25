"""Opening data while somebody may want to stop: loading waits for disks and networks, a user does not."""

import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from lmplay_tui.data.counting import count_rows
from lmplay_tui.data.reader import Job
from lmplay_tui.data.stage_data import StageData, open_stage
from lmplay_tui.data.tokenizer import Tokenizer
from lmplay_tui.options import Part, TrainOptions, names_of
from lmplay_tui.plan.schema import Stage
from lmplay_tui.run.controls import Controls
from lmplay_tui.run.events import ActivityChanged
from lmplay_tui.train.steps import StopRequested

Report = Callable[[str, str, float | None], None]
T = TypeVar("T")


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


class LoadedData:
    """The stages' data, opened once and kept: evaluation at a stage's end needs those of earlier stages too."""

    def __init__(
        self, options_of: Callable[[Stage], TrainOptions], tokenizer: Tokenizer, datasets_folder: Path
    ) -> None:
        self._options_of = options_of
        self._tokenizer = tokenizer
        self._datasets_folder = datasets_folder
        self._opened: dict[str, tuple[tuple[Any, ...], StageData]] = {}

    def open(self, stage: Stage, controls: Controls) -> Iterator[ActivityChanged]:
        """Open the stage's data unless they are open already as they are wanted now."""
        options = self._options_of(stage)
        key = (stage, *(getattr(options, name) for name in names_of(Part.HELD_OUT, Part.ORDER, Part.DATA)))
        if stage.name in self._opened and self._opened[stage.name][0] == key:
            return
        result: list[StageData] = []
        yield ActivityChanged("loading", f"data of stage {stage.name}")
        yield from patiently(
            lambda report: open_stage(
                stage, options, self._tokenizer, datasets_folder=self._datasets_folder, report=report
            ),
            controls,
            result,
        )
        self._opened[stage.name] = (key, result[0])
        yield ActivityChanged("training")

    def of(self, stage: Stage) -> StageData:
        """The data of a stage that has been opened."""
        return self._opened[stage.name][1]

    def count(self, stage: Stage) -> int | None:
        """The rows of a stage that is not open, where they are known without downloading anything."""
        return count_rows(stage, self._options_of(stage), datasets_folder=self._datasets_folder)

    def job(self, stage: Stage) -> Job:
        """What another process needs to open the same data."""
        return Job(stage, self._options_of(stage), self._tokenizer.name, self._datasets_folder)

    def is_open(self, stage: Stage) -> bool:
        return stage.name in self._opened
