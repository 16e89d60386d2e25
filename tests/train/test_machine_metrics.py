"""What the machine tells in `metrics.jsonl`."""

import time

import psutil
import torch

from lmplay_tui.run.metric_names import METRICS
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
