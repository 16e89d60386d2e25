"""This process and others: what native libraries need of one before they are used, how one of our own is started (the
same interpreter, the same code, nothing of the user's folder), whether one is alive, how busy the cores are, and when
a user wants one to end at once.

Imported first of all, so it imports nothing that costs time.
"""

import contextlib
import math
import os
import sys
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NoReturn

TWICE_WITHIN_S = 5.0  # of a Ctrl+C: another one leaves at once
RANK_VARIABLES = {"RANK", "SLURM_PROCID"}  # environment: of one of several, by torchrun, our own agent or srun
_LAID_OVER = "LMPLAY_TUI_LAID_OVER"  # environment: variables that `lay_over` has set, as they were before; JSON
_HOME = Path(__file__).resolve().parent.parent  # where the package lies

# Rounds of a loop, some microseconds. GNU OpenMP's own 300,000 are a millisecond in which a thread keeps its core from
# the one that it waits for: two trainings at once on two cores did a tenth of the work of one. Alone nothing is lost.
_SPINS = "1000"
# Numbers for one thread: torch shares out 2,048 and more; from a hundred on MKL also counts the processors, once.
_FEW = 128
# What torch computes with MKL's vector functions, each thread its own share of the numbers.
_VECTOR_FUNCTIONS = (
    "acos", "asin", "atan", "cos", "erf", "erfc", "erfinv", "exp", "expm1", "log", "log10", "log1p", "log2", "sin",
    "sqrt", "tan", "tanh", "trunc",
)  # fmt: skip


def prepare() -> None:
    """Set what is to hold for this process and those it starts. What the environment already says holds.

    Call before torch and pyarrow are imported.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
    # pyarrow's own allocator kills the process where it was first used by a thread that is no more (apache/arrow
    # 50471: pyarrow 25): datasets are opened in such threads, and a viewer reads in them. The C library's is as fast.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")


@cache
def settle_vector_functions() -> None:
    """Call each of torch's vector functions once, by one thread. Call before several threads compute.

    MKL chooses the code for the processor in the first call, without a lock: of two threads that make it at once, one
    may compute its share with coarse code (relative errors of 1e-4; pytorch/pytorch 188792, with MKL 2024.2). A run is
    then not what its repetition is: measured in up to one fresh process of a hundred, two at once on two processors.
    """
    import torch

    for dtype in (torch.float32, torch.float64):
        halves = torch.full((_FEW,), 0.5, dtype=dtype)
        for name in _VECTOR_FUNCTIONS:
            getattr(torch, name)(halves)


def own_command(module: str, *words: str) -> list[str]:
    """The command line of one of our modules; start it with `own_environment`.

    -P: the working folder is the user's, and a `torch.py` or `random.py` in it is not what our code imports.
    """
    return [sys.executable, "-P", "-m", module, *words]


# What the installed programs do, by the module that stands behind all of them.
_BY_MODULE = {"lmplay-tui": "", "lmp_trainer": " --headless", "lmp_plotstats": " plot", "lmp_generator": " generate"}


def typed(command: str) -> str:
    """One of our commands as it is typed in the shell that started this process: `lmplay-tui attach`, say.

    By its bare name where the shell finds this very program, else by its path, from the working folder if it lies
    below that; where the programs are not installed at all, by the interpreter.
    """
    name, _, rest = command.partition(" ")
    return " ".join(filter(None, (_typed_program(name), rest)))


@cache
def _typed_program(name: str) -> str:
    import shlex
    import shutil

    begun = Path(sys.argv[0])
    folders = [begun.parent] if begun.name in _BY_MODULE else []
    scripts = [folder / name for folder in (*folders, Path(sys.executable).parent) if (folder / name).is_file()]
    found = shutil.which(name)
    if found is not None and (not scripts or scripts[0].resolve() == Path(found).resolve()):
        return name
    if scripts:
        return shlex.quote(_from_here(scripts[0]))
    return f"{shlex.quote(_from_here(Path(sys.executable)))} -m lmplay_tui.cli{_BY_MODULE[name]}"


def _from_here(program: Path) -> str:
    """A program's path, from the working folder where it lies below it; never a bare name, for which a shell looks."""
    path = program.absolute()
    try:
        here = path.relative_to(Path.cwd())
    except (ValueError, OSError):  # elsewhere; the working folder is gone
        return str(path)
    return str(here) if len(here.parts) > 1 else f"./{here}"


def lay_over(variables: Mapping[str, str]) -> None:
    """Set variables of the environment for this process, as one of several; `users_environment` is without them."""
    import json

    changed = {name: value for name, value in variables.items() if os.environ.get(name) != value}
    before = {name: os.environ.get(name) for name in changed} | json.loads(os.environ.get(_LAID_OVER, "{}"))
    os.environ.update(changed)
    os.environ[_LAID_OVER] = json.dumps(before)


def users_environment() -> dict[str, str]:
    """This process's environment as it was before it became one of several: what the user's own commands are given."""
    environment = dict(os.environ)
    if (laid_over := environment.pop(_LAID_OVER, None)) is not None:
        import json

        before: Mapping[str, str | None] = json.loads(laid_over)
        for name in before:
            environment.pop(name, None)
        environment |= {name: value for name, value in before.items() if value is not None}
    return environment


def own_environment() -> dict[str, str]:
    """`users_environment`, in which such a process finds the same package, also one that is not installed."""
    environment = users_environment()
    # The first place may be a working folder, which the other process does not look into.
    if not any(folder and Path(folder).resolve() == _HOME for folder in sys.path[1:]):
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_HOME), environment.get("PYTHONPATH")]))
    return environment


def is_alive(pid: object) -> bool:
    """Whether `pid` is the number of a process that is there, of whichever user."""
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def is_child_alive(pid: int) -> bool:
    """Whether our child runs. One that has ended would else stay, as far as `is_alive` can see: it is taken off."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == 0
    except ChildProcessError:
        return False


class ProcessorLoad:
    """The share of all cores that was busy, by whomever, between one look and the next.

    psutil's own remembers the last look of each thread: one from a thread that is new says 0 on a full machine.
    """

    LEAST_S = 0.05  # of all cores' time together; in less the system's clock has hardly ticked

    def __init__(self) -> None:
        self._busy_s, self._all_s = self._times()
        self._share = math.nan

    def __call__(self) -> float:
        """0 to 1, from any thread; as it was last where too little time has passed, NaN where nothing is known yet."""
        busy_s, all_s = self._times()
        if all_s - self._all_s >= self.LEAST_S:
            self._share = min(max((busy_s - self._busy_s) / (all_s - self._all_s), 0.0), 1.0)
            self._busy_s, self._all_s = busy_s, all_s
        return self._share

    @staticmethod
    def _times() -> tuple[float, float]:
        """Seconds that the cores were busy, and all of their seconds, since the machine began."""
        import psutil

        times = psutil.cpu_times()._asdict()
        whole = sum(times.values()) - times.get("guest", 0.0) - times.get("guest_nice", 0.0)  # counted as user's too
        return whole - times["idle"] - times.get("iowait", 0.0), whole


class Interrupts:
    """Tells a second Ctrl+C soon after another from a first one. It takes no lock: signal handlers ask it."""

    def __init__(self) -> None:
        self._last_at = -math.inf

    def is_second(self) -> bool:
        """Called at each Ctrl+C: whether another came less than `TWICE_WITHIN_S` before it."""
        now = time.monotonic()
        before, self._last_at = self._last_at, now
        return now - before < TWICE_WITHIN_S


def leave(status: int) -> NoReturn:
    """End this process at once, with what it has printed.

    Native libraries' own threads may wait for processes that are gone (torch's), or meet an interpreter that has been
    taken down under them (pyarrow's: one viewer of 35 ended by SIGSEGV behind its last line).
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)
