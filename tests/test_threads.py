"""A waiting thread leaves its core to others: told to GNU OpenMP before torch is there."""

import os
import subprocess
import sys

import pytest

SHOW = "import os, lmplay_tui.cli as c; c.main(['--version']); print(os.environ.get('GOMP_SPINCOUNT'))"


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_the_commands_say_it_and_the_environment_has_the_last_word(given: dict[str, str], expected: str) -> None:
    clean = {key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run(
        [sys.executable, "-c", SHOW], env=clean | given, capture_output=True, text=True, check=True
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == expected
