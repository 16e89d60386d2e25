"""What a person who is not looking would want to know: stalls, and losses that jump, with the rows they came from."""

import statistics
from collections import deque

from lmplay_tui.run.events import StepDone, Warned
from lmplay_tui.run.telling import shown_seconds

STALL_FACTOR = 10  # of the time of the last steps
LEAST_STALL_S = 5.0  # below it nobody minds
REMEMBERED = 100  # steps
ENOUGH = 30  # steps, before a loss can be called unusual
SPIKE_Z = 8.0  # robust z-score of a loss that is called a spike
_MAD_OF_NORMAL = 0.6745  # the median absolute deviation of a normal distribution, in standard deviations


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

    def __init__(self) -> None:
        self._losses: deque[float] = deque(maxlen=REMEMBERED)
        self._seconds: deque[float] = deque(maxlen=REMEMBERED)
        self._spiking = False
        self._wait_said = False

    def step_done(self, step: StepDone, first_row: int) -> list[Warned]:
        """What is unusual about the step. `first_row`: of the stage, where its batch began."""
        said = []
        seconds = step.step_s - step.data_s
        limit = self._stall_s()
        if limit is not None and seconds > limit:
            usual = shown_seconds(statistics.median(self._seconds))
            took = f"step {step.step} took {shown_seconds(seconds)}, the steps before it {usual}"
            said.append(Warned(took, step.step))
        z = robust_z(step.loss, list(self._losses)) if len(self._losses) >= ENOUGH else 0.0
        if z > SPIKE_Z and not self._spiking:
            rows = f"rows {first_row} to {step.stage_rows - 1} of stage {step.stage}"
            usual = f"{statistics.median(self._losses):.3f}"
            said.append(Warned(f"loss spike at step {step.step}: {step.loss:.3f} after {usual} ({rows})", step.step))
        self._spiking = z > SPIKE_Z
        self._losses.append(step.loss)
        self._seconds.append(seconds)
        self._wait_said = False
        return said

    def data_waited(self, seconds: float, step: int) -> Warned | None:
        """Say once a wait that no batch has come for so long."""
        limit = self._stall_s()
        if self._wait_said or seconds < (limit if limit is not None else 60.0):
            return None
        self._wait_said = True
        return Warned(f"no batch for {shown_seconds(seconds)}: the data (disk, network, cutting) are late", step)

    def _stall_s(self) -> float | None:
        if not self._seconds:
            return None
        return max(LEAST_STALL_S, STALL_FACTOR * statistics.median(self._seconds))
