"""Meters: of the run's process, without holding up the screen, and without one that a GPU does not have."""

import os
import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from lmplay_tui.run.folder import RunFolder, RunLock
from lmplay_tui.ui.machine import Machine, Reading
from lmplay_tui.ui.source import FolderSource


def prepared(device: str = "cpu", pid: int | None = None) -> Machine:
    machine = Machine()
    machine.read(device, pid)
    for thread in machine._preparing.values():
        thread.join(60)
    return machine


def meters(readings: list[Reading]) -> dict[str, str]:
    return {reading.label: reading.text for reading in readings}


def test_memory_is_that_of_the_run() -> None:
    machine = prepared()
    assert ", ours " in meters(machine.read("cpu", os.getpid()))["memory"]
    assert ", the run " in meters(machine.read("cpu", os.getppid()))["memory"]
    for pid in (None, 2**22 + 1, -5, 10**30):
        assert "," not in meters(machine.read("cpu", pid))["memory"]


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
    said = meters(prepared("cuda:0").read("cuda:0", None))
    assert said["gpu 0"] == gpu
    assert ("vram 0" in said) == ("memory" not in lacking)
    assert "cpu" in said and "memory" in said


def test_the_screen_does_not_wait_for_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answers = threading.Event(), threading.Event()
    slow = driver()

    def init() -> None:
        asked.set()
        assert answers.wait(60)

    slow.nvmlInit = init
    monkeypatch.setitem(sys.modules, "pynvml", slow)
    machine = Machine()
    assert "gpu 0" not in meters(machine.read("cuda:0", None))
    assert asked.wait(60)
    assert "gpu 0" not in meters(machine.read("cuda:0", None))
    answers.set()
    machine._preparing[machine._prepare_gpus].join(60)
    assert "gpu 0" in meters(machine.read("cuda:0", None))


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
