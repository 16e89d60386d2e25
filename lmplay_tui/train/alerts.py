"""What a person who is not looking would want to know: stalls, and losses that jump, with the rows they came from."""

import contextlib
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lmplay_tui.run.events import ActivityChanged, Event, LogLine, LossSpiked, Stalled, StepDone

STALL_FACTOR = 10  # of the time of the last steps
LOOK_EVERY_S = 1.0  # at a step that has not ended
REMEMBERED = 100  # steps
_MAD_OF_NORMAL = 0.6745  # the median absolute deviation of a normal distribution, in standard deviations


@dataclass(frozen=True)
class Unusual:
    """From where on something is worth a line."""

    stall_s: float = 5.0  # of a step or a wait, at least
    steps: int = 30  # before a loss can be called unusual
    spike_z: float = 8.0  # robust z-score of a loss that is called a spike


def robust_z(value: float, values: list[float]) -> float:
    """How many standard deviations `value` lies above the median, by the median absolute deviation.

    Iglewicz and Hoaglin 1993: one earlier spike does not hide the next, as it would in a mean. The deviation counts
    as at least 1 % of the median: a loss that hardly moves makes no spike of a ripple.
    """
    middle = statistics.median(values)
    spread = statistics.median(abs(v - middle) for v in values)
    return _MAD_OF_NORMAL * (value - middle) / max(spread, 0.01 * abs(middle), 1e-12)


class Watch:
    """Looks at each step and at each wait for data. Knows nothing that a resume would need."""

    def __init__(
        self, unusual: Unusual = Unusual(), look_every_s: float = LOOK_EVERY_S, behind: Callable[[], str] = lambda: ""
    ) -> None:  # fmt: skip
        """`behind`: whom a step waits for, where several processes train; called from a thread."""
        self._unusual = unusual
        self._hangs = HangDetector(look_every_s, behind)
        self._losses: deque[float] = deque(maxlen=REMEMBERED)
        self._seconds: deque[float] = deque(maxlen=REMEMBERED)
        self._usual_s: float | None = None  # their median
        self._spiking = False
        self._stage = ""  # whose losses they are: another stage's data have losses of their own
        self._has_reported_wait = False

    def reporting_hangs(self, tell: Callable[[Event], None]) -> contextlib.AbstractContextManager[None]:
        """Within it, a step that hangs is reported while it does: `tell` is called from a thread."""
        return self._hangs.reporting(tell)

    def step_under_way(self, step: int) -> contextlib.AbstractContextManager[None]:
        """Within it, step number `step` is done."""
        if self._usual_s is None:
            return contextlib.nullcontext()
        return self._hangs.step(step, self._stall_s(self._usual_s), self._usual_s)

    def step_done(self, step: StepDone, first_row: int) -> list[Event]:
        """What is unusual about the step. `first_row`: of the stage, where its batch began."""
        events: list[Event] = []
        if self._hangs.has_reported:  # the state line speaks of it
            self._hangs.has_reported = False
            events.append(ActivityChanged("training"))
        seconds = step.step_s - step.data_s
        if self._usual_s is not None and seconds > self._stall_s(self._usual_s):
            events.append(Stalled("step", seconds, self._usual_s, step.step))
        if step.stage != self._stage:
            self._stage, self._spiking = step.stage, False
            self._losses.clear()
        z = robust_z(step.loss, list(self._losses)) if len(self._losses) >= self._unusual.steps else 0.0
        if z > self._unusual.spike_z and not self._spiking:
            usual = statistics.median(self._losses)
            events.append(LossSpiked(step.step, step.stage, step.loss, usual, z, first_row, step.stage_rows - 1))
        self._spiking = z > self._unusual.spike_z
        self._losses.append(step.loss)
        self._seconds.append(seconds)
        self._usual_s = statistics.median(self._seconds)
        self._has_reported_wait = False
        return events

    def data_waited(self, seconds: float, step: int) -> list[Event]:
        """Say once a wait that no batch has come for so long."""
        if self._has_reported_wait or seconds < (60.0 if self._usual_s is None else self._stall_s(self._usual_s)):
            return []
        self._has_reported_wait = self._hangs.has_reported = True
        return [ActivityChanged("training", "waits for data"), Stalled("data", seconds, self._usual_s, step)]

    def _stall_s(self, usual_s: float) -> float:
        return max(self._unusual.stall_s, STALL_FACTOR * usual_s)


@dataclass(frozen=True)
class _Step:
    number: int
    begun: float  # monotonic
    limit_s: float
    usual_s: float


class HangDetector:
    """Reports a step that hangs, from a thread: the trainer's own can yield nothing until the step is over.

    Its events go where the trainer's go. The two never come at once: the thread reports within a step alone, and the
    step does not end meanwhile.
    """

    def __init__(self, look_every_s: float = LOOK_EVERY_S, behind: Callable[[], str] = lambda: "") -> None:
        self._look_every_s = look_every_s
        self._behind = behind
        self._step: _Step | None = None
        self._lock = threading.Lock()
        self.has_reported = False  # since it was last set to False

    @contextlib.contextmanager
    def reporting(self, tell: Callable[[Event], None]) -> Iterator[None]:
        """A thread looks every so often."""
        over = threading.Event()
        thread = threading.Thread(target=self._look, args=(tell, over), name="hanging steps", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    @contextlib.contextmanager
    def step(self, number: int, limit_s: float, usual_s: float) -> Iterator[None]:
        self._step = _Step(number, time.monotonic(), limit_s, usual_s)
        try:
            yield
        finally:
            with self._lock:
                self._step = None

    def _look(self, tell: Callable[[Event], None], over: threading.Event) -> None:
        reported: _Step | None = None
        while not over.wait(self._look_every_s):
            with self._lock:
                step = self._step
                if step is None or step is reported or (seconds := time.monotonic() - step.begun) <= step.limit_s:
                    continue
                reported, self.has_reported = step, True
                behind = self._behind()
                said = f"step {step.number} has not ended" + (f": {behind}" if behind else "")
                tell(ActivityChanged("training", said))
                if behind:
                    tell(LogLine(said, level="warning"))
                tell(Stalled("step", seconds, step.usual_s, step.number, lasts=True))
