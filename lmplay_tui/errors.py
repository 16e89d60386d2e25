"""What went wrong, said to a user in one line: what, where, what to do.

The tree of errors, with the exit status of a process that one of them ends:

    UserError                 2    a mistake in a command, a plan, a configuration
    |-- PlanError             2    every problem of a plan, a line each (in plan/problems.py)
    |-- DamagedFileError      2    a checkpoint that is cut short, altered, or not one of ours
    |-- RunHeldError          2    another process holds the run (in run/folder.py)
    `-- TrainingError         3    training could not go on; the last checkpoint is intact
        |-- NonFiniteError    3    the loss or the gradient norm is not finite
        |-- DriftedError      3    processes that train together had other weights than each other
        |-- RankLostError     3    another of them has ended, or does not answer (in train/process_group.py)
        |-- OutOfMemoryError  3    the model does not fit, or not even one sample at a time
        `-- DataError         3    rows could not be read though the plan was right; a full disk
            `-- BusError      3    a page of a mapped file could not be had (in data/worker.py)

    any other exception       1    a bug: its traceback is in the run's log.txt, or on standard error
    (none)                    0    done, or stopped with its checkpoint saved
    (none)                    130  left at once: a training by a second Ctrl+C, any other command by the first

What is caught and acted on inside, and never ends a process, stands where it is raised: `StopRequested`
(run/controls.py), `SaveError` (train/checkpoint.py), `WorkerLostError` (data/worker.py); of a dataset's files `Stopped`
and `BadFile` (data/arrow_cache.py), `Unreadable` (data/decoding.py), `NotJson` (data/json_documents.py) and
`NestedCellError` (data/cells.py). For an `OrderError` (train/orders.py) a process that follows rank 0 leaves with 3.
"""

import errno
from os import PathLike

EXIT_OK = 0
EXIT_BUG = 1
EXIT_USAGE = 2
EXIT_TRAINING = 3
EXIT_LEFT_AT_ONCE = 130


class UserError(Exception):
    """A mistake in a command, a plan or a configuration: one line (or one line a problem), no traceback.

    `exit_code` is what the process ends with where it is not caught.
    """

    exit_code = EXIT_USAGE


class TrainingError(UserError):
    """Training could not go on (numbers, memory, data, disk). The last checkpoint is intact."""

    exit_code = EXIT_TRAINING


class NonFiniteError(TrainingError):
    """The loss or the gradient norm is not finite, in float16 at any scale; no update was made."""


class DriftedError(TrainingError):
    """Processes that train together, and whose weights should be the same bits, have other ones; it says since when."""


class OutOfMemoryError(TrainingError):
    """The memory does not hold the model and what goes with it, or not even one sample at a time beside it."""


class DataError(TrainingError):
    """Rows could not be read though the plan was right (hub gone, disk gone, file damaged)."""


class DamagedFileError(UserError):
    """A checkpoint is truncated, altered, or not one of ours."""


_MISTAKEN_PATH = (
    errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP,
    errno.EROFS, errno.EINVAL, errno.ENXIO,
)  # fmt: skip


def os_error(error: OSError, what: str = "") -> UserError:
    """An operating system's refusal as one line with its status: a path that cannot be used is the user's mistake.

    All else (a full disk, a disk or a network that fails) is a `DataError`. `what`: was being done.
    """
    where = f"{error.filename}: " if isinstance(error.filename, str | PathLike) else ""
    said = f"{where}{error.strerror or error}"
    kind = UserError if error.errno in _MISTAKEN_PATH else DataError
    advice = "; free some space, or choose another place with --out-dir" if error.errno in _FULL else ""
    return kind(f"{what}: {said}{advice}" if what else f"{said}{advice}")


_FULL = (errno.ENOSPC, errno.EDQUOT)


def unchain(error: BaseException) -> BaseException:
    """The error that began a chain of causes: the one that helps a user."""
    while (cause := error.__cause__ or (None if error.__suppress_context__ else error.__context__)) is not None:
        error = cause
    return error
