"""The commands. Each imports what it needs when it runs: `--help` and the first frame wait for no torch."""

import contextlib
import errno
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module

import lmplay_tui
from lmplay_tui import process
from lmplay_tui.errors import EXIT_BUG, EXIT_LEFT_AT_ONCE, EXIT_OK, EXIT_TRAINING, EXIT_USAGE, UserError
from lmplay_tui.text import printable

TUI, TRAINER, PLOTSTATS, GENERATOR = "lmplay-tui", "lmp_trainer", "lmp_plotstats", "lmp_generator"


def main(arguments: Sequence[str] | None = None) -> int:
    """`lmplay-tui`: a command, or options for the dashboard."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and not words[0].startswith("-"):
        from lmplay_tui.command_line import COMMANDS  # here: the launcher waits for no parser

        prog = f"{TUI} {words[0]}" if words[0] in COMMANDS else TUI
        return guarded(prog, words[1:], lambda: _run_command(_known(words[0]), words[1:], prog))
    return guarded(TUI, words, lambda: import_module("lmplay_tui.commands.dashboard").main(words, TUI))


def trainer_main(arguments: Sequence[str] | None = None) -> int:
    """`lmp_trainer`: the trainer without a dashboard."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    return guarded(TRAINER, words, lambda: import_module("lmplay_tui.commands.train").main(words, TRAINER))


def plotstats_main(arguments: Sequence[str] | None = None) -> int:
    """`lmp_plotstats`: the document's name of `lmplay-tui plot`."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    return guarded(PLOTSTATS, words, lambda: _run_command("plot", words, PLOTSTATS))


def generator_main(arguments: Sequence[str] | None = None) -> int:
    """`lmp_generator`: the document's name of `lmplay-tui generate`."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    return guarded(GENERATOR, words, lambda: _run_command("generate", words, GENERATOR))


def _known(name: str) -> str:
    """The command's name. `UserError` with the nearest where there is none."""
    from lmplay_tui.command_line import COMMANDS

    if name in COMMANDS:
        return name
    from lmplay_tui.options import nearest, shown_value

    raise UserError(
        f"{TUI}: unknown command {shown_value(name)}{nearest(name, COMMANDS)}; commands: {', '.join(COMMANDS)}"
    )


def _run_command(name: str, words: list[str], prog: str) -> int:
    status: int = import_module(f"lmplay_tui.commands.{name}").main(words, prog)
    return status


def _open_standard_streams() -> None:
    """Where the caller has closed them: the next file to be opened, a checkpoint say, would take their numbers."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode, encoding="utf-8")  # noqa: SIM115, PTH123  (for the life of the process)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def guarded(prog: str, words: Sequence[str], work: Callable[[], int]) -> int:
    """Do the work of `prog` with `words`; turn what went wrong into one line and an exit status."""
    _open_standard_streams()
    process.prepare()
    try:
        if words and words[0] in ("-V", "--version"):
            print(f"{prog} {lmplay_tui.__version__}")
            return _written(EXIT_OK)
        return _written(work())
    except SystemExit as end:  # argparse has shown its help
        raise SystemExit(_written(int(end.code or EXIT_OK))) from None
    except UserError as error:
        print(printable(error), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_LEFT_AT_ONCE
    except BrokenPipeError:  # the reader of our output has left: `| head`
        _write_no_more()
        return EXIT_OK
    except BaseException as error:  # native libraries raise what is no Exception
        if isinstance(error, FileNotFoundError) and _is_folder_gone():
            print("the folder in which this was started is no longer there: cd to another one", file=sys.stderr)
            return EXIT_USAGE
        if isinstance(error, FileNotFoundError) and "temporary directory" in str(error):  # `tempfile`, for a library
            said = "no folder takes a temporary file: make room on the disk, or set TMPDIR to a folder that has some"
            print(said, file=sys.stderr)
            return EXIT_TRAINING
        if isinstance(error, OSError) and (status := _written(EXIT_OK)) != EXIT_OK:  # it was the output's
            return status
        print(printable(traceback.format_exc()), end="", file=sys.stderr)
        return EXIT_BUG


def _written(status: int) -> int:
    """The exit status, once what was printed is written."""
    try:
        sys.stdout.flush()
    except OSError as error:
        _write_no_more()
        if error.errno in (errno.EPIPE, errno.EIO):  # its reader has left, or the terminal
            return status
        with contextlib.suppress(OSError):
            print(f"what was printed could not be written: {error.strerror}", file=sys.stderr)
        return status or EXIT_TRAINING
    return status


def _is_folder_gone() -> bool:
    try:
        os.getcwd()  # noqa: PTH109  (the call whose failure is meant)
    except FileNotFoundError:
        return True
    return False


def _write_no_more() -> None:
    """Python would try again when it ends, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":  # how a run's own process is started
    sys.exit(main())
