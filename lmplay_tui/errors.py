"""What went wrong, said to a user in one line: what, where, what to do."""

EXIT_OK = 0
EXIT_BUG = 1
EXIT_USAGE = 2
EXIT_TRAINING = 3
EXIT_LEFT_AT_ONCE = 130


class UserError(Exception):
    """A mistake in a command, a plan or a configuration: one line (or one line a problem), no traceback.

    `exit_code` is what the process ends with when nobody mends it.
    """

    exit_code = EXIT_USAGE


class TrainingError(UserError):
    """Training could not go on (numbers, memory, data, disk). The last checkpoint is intact."""

    exit_code = EXIT_TRAINING


class NonFiniteError(TrainingError):
    """The loss or the gradient norm is not finite, in float16 at any scale; no update was made."""


class OutOfMemoryError(TrainingError):
    """The device's memory does not hold even one sample at a time."""


class DataError(TrainingError):
    """Rows could not be read though the plan was right (hub gone, disk gone, file damaged)."""


class DamagedFileError(UserError):
    """A checkpoint is truncated, altered, or not one of ours."""


def unchain(error: BaseException) -> BaseException:
    """The error that began a chain of causes: the one worth telling a user."""
    while (cause := error.__cause__ or (None if error.__suppress_context__ else error.__context__)) is not None:
        error = cause
    return error
