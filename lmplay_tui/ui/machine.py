"""Readings of this machine: processor, memory, and GPU where there is one that tells."""

import os
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Reading:
    """One meter: `fraction` 0 to 1 where it has a whole, `text` what to write beside it."""

    label: str
    fraction: float | None
    text: str


class Machine:
    """Reads meters on demand; libraries are imported at the first reading, not before the first frame."""

    def __init__(self) -> None:
        self._process: Any = None
        self._gpus: list[Any] | None = None

    def read(self, device: str) -> list[Reading]:
        """The meters that matter for a run on `device`. What does not tell is left out."""
        import psutil

        if self._process is None:
            self._process = psutil.Process(os.getpid())
            psutil.cpu_percent()
        memory = psutil.virtual_memory()
        used = memory.total - memory.available
        own = self._process.memory_info().rss
        readings = self._gpu_readings() if device.startswith("cuda") else []
        busy = psutil.cpu_percent() / 100
        return [
            *readings,
            Reading("cpu", busy, f"{busy:.0%} of {os.cpu_count() or 1}".replace("%", " %")),
            Reading(
                "memory",
                used / memory.total,
                f"{used / 2**30:.1f} of {memory.total / 2**30:.0f} GiB, ours {own / 2**30:.1f}",
            ),
        ]

    def _gpu_readings(self) -> list[Reading]:
        import pynvml

        try:
            if self._gpus is None:
                self._gpus = []
                pynvml.nvmlInit()
                self._gpus = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
            readings = []
            for i, gpu in enumerate(self._gpus):
                used = pynvml.nvmlDeviceGetMemoryInfo(gpu)
                busy = pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100
                watts = pynvml.nvmlDeviceGetPowerUsage(gpu) / 1000
                degrees = pynvml.nvmlDeviceGetTemperature(gpu, pynvml.NVML_TEMPERATURE_GPU)
                readings += [
                    Reading(f"gpu {i}", busy, f"{busy:.0%} {watts:.0f} W {degrees} °C".replace("%", " %")),
                    Reading(
                        f"vram {i}", used.used / used.total, f"{used.used / 2**30:.1f} of {used.total / 2**30:.0f} GiB"
                    ),
                ]
        except pynvml.NVMLError:
            return []
        return readings
