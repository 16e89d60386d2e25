"""What the machine tells in `metrics.jsonl`."""

import dataclasses
import math
import time

import psutil
import pytest
import torch

from lmplay_tui.run.metric_names import METRICS
from lmplay_tui.train.device import DeviceMeter, device_name, numbered_device
from lmplay_tui.train.metrics import MachineMetrics


def test_memory_and_load_are_read_at_most_once_a_second():
    now = [100.0]
    machine = MachineMetrics(torch.device("cpu"), clock=lambda: now[0])
    time.sleep(0.1)  # how busy the cores are is a share of the time since then
    first = machine()
    assert first.keys() == {"memory/process_bytes", "memory/used", "sys/cpu"}
    assert first["memory/process_bytes"] > 10_000_000, "torch alone takes more"
    assert 0 < first["memory/used"] <= 1
    assert 0 <= first["sys/cpu"] <= 1
    now[0] += 0.9
    assert machine() == {}
    now[0] += 0.2
    assert machine().keys() == first.keys()


def test_what_does_not_tell_is_left_out(monkeypatch):
    def refuse():
        raise PermissionError

    monkeypatch.setattr(psutil, "virtual_memory", refuse)
    assert machine_of("cpu").keys() == {"memory/process_bytes", "sys/cpu"}
    assert "memory/process_bytes" in machine_of("cuda"), "a GPU that is not there tells nothing"


def machine_of(device: str) -> dict[str, float]:
    machine = MachineMetrics(torch.device(device))
    time.sleep(0.1)
    values = machine()
    assert values.keys() <= METRICS.keys()
    return values


def test_a_processor_s_memory_is_what_this_process_holds_of_all_there_is():
    now = [100.0]
    meter = DeviceMeter(torch.device("cpu"), clock=lambda: now[0])
    first = meter()
    assert 10_000_000 < first.memory_bytes < first.memory_total == psutil.virtual_memory().total
    assert math.isnan(first.utilisation) and math.isnan(first.celsius)
    now[0] += 0.9
    assert meter() is first
    now[0] += 0.2
    assert meter() is not first


@pytest.mark.parametrize(("count", "said"), [(1, "cpu, 1 thread"), (2, "cpu, 2 threads")])
def test_a_processor_says_its_threads(count, said):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        assert device_name(torch.device("cpu")) == said
    finally:
        torch.set_num_threads(before)


def test_a_gpu_that_tells_nothing_is_not_known(monkeypatch):
    def refuse(*_):
        raise RuntimeError("no driver")

    for name in ("mem_get_info", "utilization", "temperature"):
        monkeypatch.setattr(torch.cuda, name, refuse)
    assert all(map(math.isnan, dataclasses.astuple(DeviceMeter(torch.device("cuda"))())))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10, 80))
    monkeypatch.setattr(torch.cuda, "temperature", lambda device: 61)
    use = DeviceMeter(torch.device("cuda"))()
    assert (use.memory_bytes, use.memory_total, use.celsius) == (70, 80, 61) and math.isnan(use.utilisation)


@pytest.mark.parametrize(
    ("device", "visible", "name"),
    [
        ("cpu", "3", "cpu"), ("cuda", "", "cuda:0"), ("cuda:1", "", "cuda:1"), ("cuda", "5", "cuda:5"),
        ("cuda:1", "4,6", "cuda:6"), ("cuda:2", "4,6", "cuda:2"), ("cuda", "GPU-8f3a", "cuda:0"), ("mps", "", "mps"),
    ],
)  # fmt: skip
def test_a_device_is_called_as_its_machine_numbers_it(device, visible, name):
    """A rank sees its own GPU alone, as number 0."""
    assert numbered_device(torch.device(device), visible) == name
