"""What a run's curves can be drawn by, and where a point of theirs stands."""

from typing import Literal, NamedTuple

Axis = Literal["step", "rows", "tokens", "time"]
AXES: tuple[Axis, ...] = ("step", "rows", "tokens", "time")


class At(NamedTuple):
    """Where a point stands: the step, rows and tokens over the run, seconds of training."""

    step: float
    rows: float
    tokens: float
    time: float
