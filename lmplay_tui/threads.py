"""How torch's threads wait for each other; decided before torch is imported."""

import os

# Rounds of a loop, some microseconds. GNU OpenMP's own 300,000 are a millisecond in which a thread keeps its core from
# whoever it waits for: two trainings at once on two cores did a tenth of the work of one. Alone nothing is lost.
_SPINS = "1000"


def wait_briefly() -> None:
    """Have a thread that waits for others give up its core soon. What the environment already says holds."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
