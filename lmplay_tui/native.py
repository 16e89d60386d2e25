"""What native libraries are told through the environment; decided before torch and pyarrow are imported."""

import os

# Rounds of a loop, some microseconds. GNU OpenMP's own 300,000 are a millisecond in which a thread keeps its core from
# whoever it waits for: two trainings at once on two cores did a tenth of the work of one. Alone nothing is lost.
_SPINS = "1000"


def prepare() -> None:
    """Set what is to hold for this process and those it starts. What the environment already says holds."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
    # pyarrow's own allocator kills the process where it was first used by a thread that is no more (apache/arrow
    # 50471: pyarrow 25): datasets are opened in such threads, and a viewer reads in them. The C library's is as fast.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
