"""What the machine tells beside the training, for `metrics.jsonl`: memory, and how busy processor and GPU are."""

import contextlib
import time
from collections.abc import Callable

import psutil
import torch

READ_EVERY_S = 1.0  # more often nobody looks, and a driver may take a millisecond to answer


class MachineMetrics:
    """Called once a log interval; what does not tell is left out."""

    def __init__(self, device: torch.device, clock: Callable[[], float] = time.monotonic) -> None:
        self._device = device
        self._clock = clock
        self._read_at = -READ_EVERY_S
        self._process = psutil.Process()
        psutil.cpu_percent()  # what it gives is since the last time that this thread asked

    def __call__(self) -> dict[str, float]:
        """`memory/...` and `sys/...`; nothing where the last reading is younger than a second."""
        now = self._clock()
        if now - self._read_at < READ_EVERY_S:
            return {}
        self._read_at = now
        asked: dict[str, Callable[[], float]] = {
            "memory/process_bytes": lambda: self._process.memory_info().rss,
            "memory/used": lambda: psutil.virtual_memory().percent / 100,
            "sys/cpu": lambda: psutil.cpu_percent() / 100,
        }
        asked |= self._of_the_device()
        values = {}
        for name, ask in asked.items():
            with contextlib.suppress(Exception):  # no such counter here, no driver, no rights: not told
                values[name] = float(ask())
        return values

    def _of_the_device(self) -> dict[str, Callable[[], float]]:
        device = self._device
        if device.type == "mps":
            return {"memory/device_bytes": torch.mps.current_allocated_memory}
        if device.type != "cuda":
            return {}
        return {
            "memory/device_bytes": lambda: _peak_bytes(device),
            "memory/device_used": lambda: _share_used(device),
            "sys/gpu": lambda: torch.cuda.utilization(device) / 100,
            "sys/gpu_watts": lambda: torch.cuda.power_draw(device) / 1000,
            "sys/gpu_celsius": lambda: torch.cuda.temperature(device),
        }


def _peak_bytes(device: torch.device) -> int:
    """The most that tensors took at once since the last call."""
    peak = torch.cuda.max_memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    return peak


def _share_used(device: torch.device) -> float:
    free, total = torch.cuda.mem_get_info(device)
    return 1 - free / total
