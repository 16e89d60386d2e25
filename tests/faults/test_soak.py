"""The soak of `soak.py`, for some minutes: an hour of it is `python -m tests.faults.soak`."""

import subprocess
import sys
from pathlib import Path

import pytest

MINUTES = 4


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_soak(count):
    command = [sys.executable, "-m", "tests.faults.soak", "--minutes", str(MINUTES)]
    ran = subprocess.run(command, check=False, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-5000:] + ran.stderr[-3000:]
    [done] = [line for line in ran.stdout.splitlines() if line.startswith("done: ")]
    count(f"a soak of {MINUTES} minutes, to the weights of the undisturbed run; {done}")
