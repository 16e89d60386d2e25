"""Readings of this machine: processor, memory, and GPU where there is one that tells."""

import contextlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

FIRST_S = 0.1  # that the processor is watched at the first reading; later ones tell of the time since the last


@dataclass(frozen=True)
class Reading:
    """One meter: `fraction` 0 to 1 where it has a whole, `text` what to write beside it."""

    label: str
    fraction: float | None
    text: str


class Machine:
    """Reads meters on demand, in threads: the libraries take long to import, and a driver may hang.

    The processor's and the GPUs' do not wait for each other. Nobody waits for either: what they said last is shown.
    """

    def __init__(self) -> None:
        self._psutil: Any = None
        self._process: Any = None
        self._nvml: Any = None
        self._gpus: list[Any] = []
        self._threads: dict[str, threading.Thread] = {}
        self._said: dict[str, tuple[object, list[Reading]]] = {}  # and of what it was asked

    def read(self, device: str, pid: int | None) -> list[Reading]:
        """The meters that matter for a run on `device` by the process `pid` of this machine; None: it is elsewhere.

        As they were at the time of the call before: this one has them read anew. What does not tell is left out.
        """
        gpus = self._newest("gpus", None, self._all_gpus) if device.startswith("cuda") else []
        return gpus + self._newest("own", pid, lambda: self._own_readings(pid))

    def _newest(self, part: str, of: object, ask: Callable[[], list[Reading]]) -> list[Reading]:
        asked, said = self._said.get(part, (None, []))
        thread = self._threads.get(part)
        if thread is None or not thread.is_alive():

            def keep() -> None:
                self._said[part] = of, ask()

            self._threads[part] = threading.Thread(target=keep, name="meters", daemon=True)
            self._threads[part].start()
        return said if asked == of else []

    # ---- in a thread

    def _all_gpus(self) -> list[Reading]:
        if self._nvml is None:
            import pynvml

            with contextlib.suppress(pynvml.NVMLError):
                pynvml.nvmlInit()
                self._gpus = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
            self._nvml = pynvml
        return [reading for i in range(len(self._gpus)) for reading in self._gpu_readings(i)]

    def _own_readings(self, pid: int | None) -> list[Reading]:
        first = self._psutil is None
        if first:
            import psutil

            self._psutil = psutil
        memory = self._psutil.virtual_memory()
        used = memory.total - memory.available
        said = f"{used / 2**30:.1f} of {memory.total / 2**30:.0f} GiB"
        own = self._memory_of(pid)
        if own is not None:
            said += f", {'ours' if pid == os.getpid() else 'the run'} {own / 2**30:.1f}"
        busy = self._psutil.cpu_percent(FIRST_S if first else None) / 100
        return [
            Reading("cpu", busy, f"{busy:.0%} of {os.cpu_count() or 1}".replace("%", " %")),
            Reading("memory", used / memory.total, said),
        ]

    def _memory_of(self, pid: int | None) -> int | None:
        """Resident bytes; None where there is no such process, or no more."""
        if pid is None:
            return None
        try:
            if self._process is None or self._process.pid != pid:
                self._process = self._psutil.Process(pid)
            return int(self._process.memory_info().rss)
        except (self._psutil.Error, ValueError, OverflowError):  # a number that no process can have
            return None

    def _gpu_readings(self, index: int) -> list[Reading]:
        nvml, gpu = self._nvml, self._gpus[index]
        busy = self._told(lambda: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100)
        watts = self._told(lambda: nvml.nvmlDeviceGetPowerUsage(gpu) / 1000)
        degrees = self._told(lambda: nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU))
        memory = self._told(lambda: nvml.nvmlDeviceGetMemoryInfo(gpu))
        words = [
            "" if busy is None else f"{busy:.0%}".replace("%", " %"),
            "" if watts is None else f"{watts:.0f} W",
            "" if degrees is None else f"{degrees} °C",
        ]
        readings = [Reading(f"gpu {index}", busy, " ".join(filter(None, words)))] if any(words) else []
        if memory is not None:
            said = f"{memory.used / 2**30:.1f} of {memory.total / 2**30:.0f} GiB"
            readings.append(Reading(f"vram {index}", memory.used / memory.total, said))
        return readings

    def _told(self, ask: Callable[[], Any]) -> Any:
        """What the driver answers; None where this GPU, or a part of one, does not tell that."""
        try:
            return ask()
        except self._nvml.NVMLError:
            return None
