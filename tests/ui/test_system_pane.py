"""Meters: of the run's process, without holding up the screen, and without one that a GPU does not have."""

import os
import subprocess
import sys
import threading
import time
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from lmplay_tui.run.folder import RunFolder, RunLock
from lmplay_tui.ui.source import FolderSource
from lmplay_tui.ui.widgets.system import Machine, MachineReading


def told(machine: Machine, device: str, pid: int | None) -> list[MachineReading]:
    """What the meters say, once they have been asked and have answered."""
    machine.read(device, pid)
    answered(machine)
    machine.read(device, pid)  # where another was asked before
    answered(machine)
    return machine.read(device, pid)


def answered(machine: Machine) -> None:
    for running in machine._running.values():
        assert running.wait(60)


def meters(readings: list[MachineReading]) -> dict[str, str]:
    return {reading.label: reading.text for reading in readings}


def test_memory_is_that_of_the_run() -> None:
    machine = Machine()
    assert ", ours " in meters(told(machine, "cpu", os.getpid()))["memory"]
    assert ", the run " in meters(told(machine, "cpu", os.getppid()))["memory"]
    for pid in (None, 2**22 + 1, -5, 10**30):
        assert "," not in meters(told(machine, "cpu", pid))["memory"]


def test_a_full_machine_is_full_whichever_thread_looks() -> None:
    """psutil's own share is 0 in a thread that has not looked before, and each reading has a thread of its own."""
    ends = time.monotonic() + 60
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        time.sleep(0.3)
        machine = Machine()
        shares: list[float | None] = []
        while len(shares) < 4 and time.monotonic() < ends:
            readings = machine.read("cpu", None)
            answered(machine)
            shares += [reading.fraction for reading in readings if reading.label == "cpu"]
            time.sleep(0.1)
    finally:
        for other in others:
            other.kill()
            other.wait()
    assert len(shares) == 4 and min(share or 0.0 for share in shares) > 0.5, shares


class _Error(Exception):
    pass


def driver(**lacking: bool) -> Any:
    """A GPU that does not tell what is `lacking`."""

    def answer(name: str, value: Any) -> Any:
        def asked(*_: object) -> Any:
            if lacking.get(name):
                raise _Error
            return value

        return asked

    return SimpleNamespace(
        NVMLError=_Error, NVML_TEMPERATURE_GPU=0, nvmlInit=lambda: None, nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda i: i,
        nvmlDeviceGetUtilizationRates=answer("busy", SimpleNamespace(gpu=97)),
        nvmlDeviceGetPowerUsage=answer("watts", 311_000), nvmlDeviceGetTemperature=answer("degrees", 71),
        nvmlDeviceGetMemoryInfo=answer("memory", SimpleNamespace(used=70 * 2**30, total=80 * 2**30)),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("lacking", "gpu"),
    [
        ((), "97 % 311 W 71 °C"), (("memory",), "97 % 311 W 71 °C"),
        (("watts",), "97 % 71 °C"), (("busy", "degrees"), "311 W"),
    ],
)  # fmt: skip
def test_what_a_gpu_does_not_tell_is_left_out_alone(
    monkeypatch: pytest.MonkeyPatch, lacking: tuple[str, ...], gpu: str
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", driver(**dict.fromkeys(lacking, True)))
    said = meters(told(Machine(), "cuda:0", None))
    assert said["gpu 0"] == gpu
    assert ("vram 0" in said) == ("memory" not in lacking)
    assert "cpu" in said and "memory" in said


@pytest.mark.parametrize("hangs", ["nvmlInit", "nvmlDeviceGetUtilizationRates"])
def test_the_screen_does_not_wait_for_a_driver(monkeypatch: pytest.MonkeyPatch, hangs: str) -> None:
    asked, answers = threading.Event(), threading.Event()
    slow = driver()
    answer = getattr(slow, hangs)

    def hanging(*of: object) -> Any:
        asked.set()
        assert answers.wait(120)
        return answer(*of)

    setattr(slow, hangs, hanging)
    monkeypatch.setitem(sys.modules, "pynvml", slow)
    machine = Machine()
    machine.read("cuda:0", None)
    assert asked.wait(60)
    for _ in range(3):  # the processor's go on meanwhile
        assert machine._running["own"].wait(60)
        said = meters(machine.read("cuda:0", None))
        assert "cpu" in said and "gpu 0" not in said
    answers.set()
    answered(machine)
    assert "gpu 0" in meters(machine.read("cuda:0", None))


def test_the_screen_does_not_wait_for_the_processor_s_meters(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answers = threading.Event(), threading.Event()
    memory = psutil.virtual_memory

    def hanging() -> Any:
        asked.set()
        assert answers.wait(120)
        return memory()

    monkeypatch.setattr(psutil, "virtual_memory", hanging)
    machine = Machine()
    assert machine.read("cpu", None) == machine.read("cpu", None) == []
    assert asked.wait(60)
    answers.set()
    answered(machine)
    assert set(meters(machine.read("cpu", None))) == {"cpu", "memory"}


def test_an_attached_run_s_process_is_known_where_it_is_on_this_machine(tmp_path: Any) -> None:
    run = RunFolder(tmp_path / "m.lmp")
    run.create()
    lock = RunLock(run)
    lock.take()
    try:
        for host, known in ((os.uname().nodename, 4711), ("elsewhere", None)):
            run.write_status({"state": "running", "pid": 4711, "host": host})
            source = FolderSource(run)
            assert source.pid is None
            source.poll()
            assert source.pid == known
    finally:
        lock.release()
