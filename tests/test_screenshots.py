"""`make screenshots` leaves nothing running behind."""

import subprocess
import sys
import time

import psutil
import pytest

WAIT_S = 120.0


@pytest.mark.long
def test_its_trainer_ends_with_it() -> None:
    pictures = subprocess.Popen([sys.executable, "-m", "tests.screenshots", "--step", "1000000000"])
    trainers: list[psutil.Process] = []
    try:
        until = time.monotonic() + WAIT_S
        while not trainers:
            assert time.monotonic() < until
            time.sleep(0.05)
            trainers = psutil.Process(pictures.pid).children()
        pictures.terminate()
        assert pictures.wait(WAIT_S) == 143
        assert not [trainer for trainer in trainers if trainer.is_running()]
    finally:
        pictures.kill()
        pictures.wait()
        for trainer in trainers:
            if trainer.is_running():
                trainer.kill()
