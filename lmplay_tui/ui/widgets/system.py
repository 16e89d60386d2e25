"""The machine and the speed: meters of processor, memory and GPUs, tokens a second, and where a step's time goes."""

import contextlib
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lmplay_tui.background import BackgroundCall
from lmplay_tui.formats import format_duration, format_memory_use, format_parameters, format_percent, format_rate
from lmplay_tui.process import ProcessorLoad
from lmplay_tui.run.metric_names import RECENT_STEPS
from lmplay_tui.run.pace import PARTS
from lmplay_tui.run.view import RunView
from lmplay_tui.ui.legend import STEP_PARTS
from lmplay_tui.ui.tty.patches import set_titles
from lmplay_tui.ui.widgets.lines import Lines, Piece, Row, bar, fitted, row_width, wrapped
from lmplay_tui.ui.widgets.rank_rows import rank_rows

FIRST_S = 0.1  # that the processor is watched at the first reading; later ones cover the time since the last


@dataclass(frozen=True)
class MachineReading:
    """One meter: `fraction` 0 to 1 where it has a whole, `text` what to write beside it."""

    label: str
    fraction: float | None
    text: str


class Machine:
    """Reads meters in the background: the libraries take long to import, and a driver may hang.

    The processor's and the GPUs' do not wait for each other, and the screen for neither: it shows the last readings.
    """

    def __init__(self) -> None:
        self._psutil: Any = None
        self._process: Any = None
        self._load: ProcessorLoad | None = None
        self._nvml: Any = None
        self._gpus: list[Any] = []
        self._running: dict[str, BackgroundCall[None]] = {}
        self._newest: dict[
            str, tuple[object, list[MachineReading]]
        ] = {}  # of which device or process, and its readings

    def read(self, device: str, pid: int | None) -> list[MachineReading]:
        """The meters that matter for a run on `device` by the process `pid` of this machine; None: it is elsewhere.

        As they were at the time of the call before: this one has them read anew. What has no reading is left out.
        """
        gpus = self._last_readings("gpus", None, self._all_gpus) if device.startswith("cuda") else []
        return gpus + self._last_readings("own", pid, lambda: self._own_readings(pid))

    def _last_readings(self, part: str, of: object, ask: Callable[[], list[MachineReading]]) -> list[MachineReading]:
        read_of, readings = self._newest.get(part, (None, []))
        running = self._running.get(part)
        if running is None or running.wait(0):

            def keep() -> None:
                self._newest[part] = of, ask()

            self._running[part] = BackgroundCall(keep, "meters")
        return readings if read_of == of else []

    # ---- in the background

    def _all_gpus(self) -> list[MachineReading]:
        if self._nvml is None:
            import pynvml

            with contextlib.suppress(pynvml.NVMLError):
                pynvml.nvmlInit()
                self._gpus = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
            self._nvml = pynvml
        return [reading for i in range(len(self._gpus)) for reading in self._gpu_readings(i)]

    def _own_readings(self, pid: int | None) -> list[MachineReading]:
        if self._psutil is None:
            import psutil

            self._psutil = psutil
        memory = self._psutil.virtual_memory()
        used = memory.total - memory.available
        said = format_memory_use(used, memory.total)
        own = self._memory_of(pid)
        if own is not None:
            said += f", {'ours' if pid == os.getpid() else 'the run'} {own / 2**30:.1f}"
        readings = [MachineReading("memory", used / memory.total, said)]
        busy = self._busy_share()
        if math.isfinite(busy):
            readings.insert(0, MachineReading("cpu", busy, f"{format_percent(busy)} of {os.cpu_count() or 1}"))
        return readings

    def _busy_share(self) -> float:
        if self._load is None:
            self._load = ProcessorLoad()
            time.sleep(FIRST_S)
        return self._load()

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

    def _gpu_readings(self, index: int) -> list[MachineReading]:
        nvml, gpu = self._nvml, self._gpus[index]
        busy = self._ask(lambda: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100)
        watts = self._ask(lambda: nvml.nvmlDeviceGetPowerUsage(gpu) / 1000)
        degrees = self._ask(lambda: nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU))
        memory = self._ask(lambda: nvml.nvmlDeviceGetMemoryInfo(gpu))
        words = [
            "" if busy is None else format_percent(busy),
            "" if watts is None else f"{watts:.0f} W",
            "" if degrees is None else f"{degrees} °C",
        ]
        readings = [MachineReading(f"gpu {index}", busy, " ".join(filter(None, words)))] if any(words) else []
        if memory is not None:
            said = format_memory_use(memory.used, memory.total)
            readings.append(MachineReading(f"vram {index}", memory.used / memory.total, said))
        return readings

    def _ask(self, ask: Callable[[], Any]) -> Any:
        """The driver's answer; None where this GPU, or a part of one, has none."""
        try:
            return ask()
        except self._nvml.NVMLError:
            return None


_LABEL = 11


class System(Lines):
    """Meters on top, the step's time below."""

    def __init__(self) -> None:
        super().__init__(id="system", classes="pane")
        set_titles(self, "5 system")
        self._view: RunView | None = None
        self._readings: Sequence[MachineReading] = ()

    def show(self, view: RunView, readings: Sequence[MachineReading] | None = None) -> None:
        self._view = view
        if readings is not None:
            self._readings = readings
        width = self.room.width
        if width < 12:
            return
        rows: list[Row] = [((" " + fitted("device", _LABEL - 1), "label"), (view.device or "–", ""))]
        if view.num_parameters:
            rows[0] += ((f", {format_parameters(view.num_parameters)}", "dim"),)
        rows.append(self._speed(view, width))
        meters = [self._meter(reading, width) for reading in self._readings]
        if view.ranks is not None:
            rows += [*rank_rows(view.ranks, width, view.now(), _LABEL), *self._step_time(view, width), *meters]
        else:
            rows += [*meters, *self._step_time(view, width)]
        if view.note:
            rows += [((f" {line}", "dim"),) for line in wrapped(view.note, width - 2)]
        if len(rows) > self.size.height:  # what stays as it is is missed least
            rows = [*rows[1:], rows[0]]
        self.show_rows(rows)

    def on_resize(self) -> None:
        if self._view is not None:
            self.show(self._view)

    @staticmethod
    def _meter(reading: MachineReading, width: int) -> Row:
        cells = max(min(width - _LABEL - len(reading.text) - 3, 24), 0)
        label = (" " + fitted(reading.label, _LABEL - 1), "label")
        if reading.fraction is None or cells < 4:
            return (label, (reading.text, ""))
        filled, left = bar(reading.fraction, cells)
        style = "bad" if reading.fraction > 0.95 else "warn" if reading.fraction > 0.85 else "good"
        return (label, (filled, style), (left, "todo"), (f" {reading.text}", ""))

    @staticmethod
    def _speed(view: RunView, width: int) -> Row:
        pieces: list[Piece] = [(" " + fitted("speed", _LABEL - 1), "label")]
        pieces += [(format_rate(view.pace.tokens_per_s), "strong"), (" tok/s", "dim")]
        mfu = view.history.get("perf/mfu")
        if mfu is not None and math.isfinite(mfu.last()):
            pieces += [("  MFU ", "dim"), (format_percent(mfu.last(), 1), "")]
        step = view.history.get("time/step_s")
        if step is not None and len(step):
            pieces += [("  step ", "dim"), (format_duration(step.recent_mean(RECENT_STEPS)), "")]
        if view.text_shown < 0.9995:
            pieces += [("  text shown ", "dim"), (format_percent(view.text_shown, 1), "")]
        while row_width(pieces) > width and len(pieces) > 3:
            pieces = pieces[:-2]
        return tuple(pieces)

    @staticmethod
    def _step_time(view: RunView, width: int) -> list[Row]:
        shares = view.step_time.shares()
        if not shares:
            return []
        cells = max(width - _LABEL - 2, 1)
        pieces: list[Piece] = [(" " + fitted("step time", _LABEL - 1), "label")]
        end = done = 0.0
        for name in PARTS:
            end += shares[name] * cells
            count = round(end) - round(done)
            done = end
            if count:
                pieces.append((STEP_PARTS[name].sign * count, name))
        legend: list[Piece] = [(" ", "")]
        used = 1
        rows: list[Row] = [tuple(pieces)]
        for name in PARTS:
            if shares[name] < 0.02:
                continue
            text = f" {name} {100 * shares[name]:.0f}  "
            if used + len(text) > width:
                rows.append(tuple(legend))
                legend, used = [(" ", "")], 1
            legend += [(STEP_PARTS[name].sign, name), (text, "dim")]
            used += len(text) + 1
        rows.append(tuple(legend))
        return rows + [((f" {line}", ""),) for line in wrapped(view.step_time.sentence(), width - 2)]
