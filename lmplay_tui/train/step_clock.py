"""How long the parts of a step take, on processors and on GPUs that work behind the program's back."""

import time

import torch


class StepClock:
    """Adds up the seconds of a step's parts.

    With CUDA the parts' ends are marks in the GPU's queue: they are read where the step waits for the device anyway,
    and what has not been reached by then (the optimizer) is counted at the next reading.
    With MPS, reading such marks would be another wait. There the processor's clock tells when work was put into the
    queue, and when the device had done it: what it does of both passes ends with that wait and belongs to `backward`
    (`waited`); what it does of the optimizer falls into the next step's `backward`.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds: dict[str, float] = {}
        self._last = time.perf_counter()
        self._marks: list[tuple[str, torch.cuda.Event]] = []

    def mark(self, part: str = "") -> None:
        """The time since the last mark belongs to `part`; to none without a name."""
        if self._device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(self._device))
            self._marks.append((part, event))
            return
        now = time.perf_counter()
        self._add(part, now - self._last)
        self._last = now

    def waited(self) -> None:
        """The device has just been waited for, after a backward pass."""
        if self._device.type == "mps":
            self.mark("backward")

    def read(self) -> dict[str, float]:
        """Seconds by part since the last reading, of what the device has finished."""
        while len(self._marks) > 1 and self._marks[1][1].query():  # type: ignore[no-untyped-call]
            (_, begun), (part, ended) = self._marks[0], self._marks[1]
            self._add(part, begun.elapsed_time(ended) / 1000)
            del self._marks[0]
        seconds, self._seconds = self._seconds, {}
        return seconds

    def _add(self, part: str, seconds: float) -> None:
        if part:
            self._seconds[part] = self._seconds.get(part, 0.0) + seconds
