"""The first step of a fresh process computes what every later one does, while other processes want the processor."""

import os
import subprocess
import sys
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path

import pytest

SHARED_OUT = 2048  # torch gives so many numbers, and more, to several threads
FIRST_CALLS = """
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from lmplay_tui.models.registry import build_model, load_experiment

first = {}

class Recording(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if args and isinstance(args[0], torch.Tensor):
            first.setdefault(f"{function.__name__} {args[0].dtype}", args[0].numel())
        return function(*args, **(kwargs or {}))

with Recording():
    build_model(load_experiment("gpt2ish"), vocab_size=99, context_len=64, num_blocks=1, embed_dim=64, num_heads=2)
print(*(f"{call}: {numel}" for call, numel in first.items()), sep="\\n")
"""
# Forked before anything computes, so each child is a fresh process to MKL and OpenMP; two at a time, of two threads.
STARTS = """
import os, sys
import torch
from lmplay_tui.models.registry import build_model, load_experiment

tiny = load_experiment("test_runner")
numbers = torch.empty(40_000).uniform_(-5, 0)  # by one thread: OpenMP does not outlive a fork

def start():
    build_model(tiny, vocab_size=16, context_len=8, num_blocks=1, embed_dim=4, num_heads=1)
    os._exit(0 if torch.equal(numbers.exp(), numbers.exp()) else 1)

statuses = []
for number in range(int(sys.argv[1])):
    if os.fork() == 0:
        start()
    if number > 0:
        statuses.append(os.wait()[1])
statuses.append(os.wait()[1])
print(len(statuses), *filter(None, statuses))
"""


def printed_by(program: str, *words: str) -> str:
    two_threads = os.environ | {"OMP_NUM_THREADS": "2", "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(
        [sys.executable, "-c", program, *words], env=two_threads, stdout=subprocess.PIPE, text=True, check=True
    ).stdout  # fmt: skip


@pytest.mark.long
def test_one_thread_calls_the_vector_functions_before_there_is_a_model() -> None:
    first = (line.split(": ") for line in printed_by(FIRST_CALLS).splitlines())
    settled = {call for call, _ in takewhile(lambda call: int(call[1]) < SHARED_OUT, first)}
    names, dtypes = ("exp", "log", "sqrt", "tanh"), ("float32", "float64")
    assert {f"{name}.default torch.{dtype}" for name in names for dtype in dtypes} <= settled


@pytest.mark.long
@pytest.mark.parametrize("starts", [100, pytest.param(3_000, marks=pytest.mark.slow)], ids=["fast", "long"])
def test_first_exponentials_are_as_exact_as_later_ones(starts: int, count: Callable[[str], None]) -> None:
    """Whether the first of the losses and gradients are those of a repetition hangs on it."""
    ended, *other = map(int, printed_by(STARTS, str(starts)).split())
    count(f"fresh processes that compute with two threads at once: {ended}, {len(other)} computed otherwise at first")
    assert ended == starts
    assert not other, "how they ended: 256, numbers that differ; less, a signal"
