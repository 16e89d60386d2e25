"""What the commands tell native libraries before they are there."""

import os
import subprocess
import sys

import pytest

COMMAND = "import os, lmplay_tui.cli as c; c.main(['--version'])"
# Read as a dashboard reads: pyarrow comes in a thread, which ends, and another one allocates.
IN_THREADS = f"""{COMMAND}
from threading import Thread

def first():
    import pyarrow

def second():
    import pyarrow
    pyarrow.array(["x"] * 5000)
    print(pyarrow.default_memory_pool().backend_name)

for work in (first, second):
    thread = Thread(target=work)
    thread.start()
    thread.join()
"""


def last_line(program: str, given: dict[str, str]) -> str:
    told = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "ARROW_DEFAULT_MEMORY_POOL")
    clean = {key: value for key, value in os.environ.items() if key not in told}
    done = subprocess.run(
        [sys.executable, "-c", program], env=clean | given, capture_output=True, text=True, check=True
    )  # fmt: skip
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_a_waiting_thread_leaves_its_core_unless_the_environment_says_otherwise(
    given: dict[str, str], expected: str
) -> None:
    assert last_line(f"{COMMAND}; print(os.environ.get('GOMP_SPINCOUNT'))", given) == expected


def test_arrow_uses_the_allocator_that_survives_threads_that_end() -> None:
    assert last_line(IN_THREADS, {}) == "system"
    show = f"{COMMAND}; print(os.environ['ARROW_DEFAULT_MEMORY_POOL'])"
    assert last_line(show, {"ARROW_DEFAULT_MEMORY_POOL": "mimalloc"}) == "mimalloc"
