"""What a person who is not looking would want to know: stalls, and losses that jump, with the rows they came from."""

import statistics
from collections import deque

from lmplay_tui.run.events import LossSpiked, Stalled, StepDone

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

    def step_done(self, step: StepDone, first_row: int) -> list[LossSpiked | Stalled]:
        """What is unusual about the step. `first_row`: of the stage, where its batch began."""
        said: list[LossSpiked | Stalled] = []
        seconds = step.step_s - step.data_s
        limit = self._stall_s()
        if limit is not None and seconds > limit:
            said.append(Stalled("step", seconds, statistics.median(self._seconds), step.step))
        z = robust_z(step.loss, list(self._losses)) if len(self._losses) >= ENOUGH else 0.0
        if z > SPIKE_Z and not self._spiking:
            usual = statistics.median(self._losses)
            said.append(LossSpiked(step.step, step.stage, step.loss, usual, z, first_row, step.stage_rows - 1))
        self._spiking = z > SPIKE_Z
        self._losses.append(step.loss)
        self._seconds.append(seconds)
        self._wait_said = False
        return said

    def data_waited(self, seconds: float, step: int) -> Stalled | None:
        """Say once a wait that no batch has come for so long."""
        limit = self._stall_s()
        if self._wait_said or seconds < (limit if limit is not None else 60.0):
            return None
        self._wait_said = True
        usual_s = statistics.median(self._seconds) if self._seconds else None
        return Stalled("data", seconds, usual_s, step)

    def _stall_s(self) -> float | None:
        if not self._seconds:
            return None
        return max(LEAST_STALL_S, STALL_FACTOR * statistics.median(self._seconds))
