"""`lmplay-tui ctl`: tell a run what to do, from any shell, and wait for its answer."""

import argparse
import sys
import time
from collections.abc import Sequence

from lmplay_tui.command_line import new_parser, parse_line
from lmplay_tui.errors import EXIT_OK, EXIT_TRAINING, EXIT_USAGE, UserError
from lmplay_tui.options import home_path, shown_value
from lmplay_tui.process import typed
from lmplay_tui.run.control_files import PLAIN, leave_command
from lmplay_tui.run.controls import Command, SaveNow, Stop
from lmplay_tui.run.events import Answered, from_record
from lmplay_tui.run.folder import RunFolder, find_run, saved_status
from lmplay_tui.run.journal import Tail
from lmplay_tui.run.learning_rate import parse_lr
from lmplay_tui.text import one_line

DESCRIPTION = """\
Tell a run what to do and wait until it has.

  save        a checkpoint now
  stop        save and end
  pause       stay between two steps
  resume      go on
  validate    score validation samples
  lr=X lr=*X  learning rate X, or times X

RUN: a name, a .lmp file, or a run folder; the newest run where left out.

Exit status: 0 done, 2 no such command or run, or the run is not alive, 3 it could not save."""
EPILOG = "Without this command: an empty file NAME.run/control/save (stop, pause, resume, validate) does the same."
PATIENCE_S = 2.0  # then say what is waited for
MOST_S = 600.0  # a step, a validation or a save may take minutes


def main(arguments: Sequence[str], prog: str) -> int:
    """Send one command. Raises `UserError`."""
    line = parse_line(parser(prog), arguments)
    if not 1 <= len(line.words) <= 2:
        raise UserError(f"{prog}: give one command: {', '.join(PLAIN)}, lr=X or lr=*X")
    command = read_command(line.words[-1])
    run = find_run(line.words[0] if len(line.words) == 2 else None, line.out_dir)
    if refused := run.refused():
        raise UserError(refused[0])
    if not run.alive():
        raise UserError(f"{one_line(run.name)}: no process is training this run; see: {typed('lmplay-tui status')}")
    answer = ask(run, command)
    if answer is None:
        raise UserError(f"{one_line(run.name)}: the run has ended without an answer; see: {typed('lmplay-tui status')}")
    said = one_line(answer.message, 400)
    if answer.ok:
        print(f"saved {said}" if isinstance(command, SaveNow) else said)
        return EXIT_OK
    print(said, file=sys.stderr)
    return EXIT_TRAINING if isinstance(command, SaveNow | Stop) else EXIT_USAGE


def parser(prog: str) -> argparse.ArgumentParser:
    """The command line of `ctl`."""
    made = new_parser(prog, DESCRIPTION, EPILOG, usage=f"{prog} [RUN] {'|'.join(PLAIN)}|lr=X|lr=*X")
    made.add_argument("words", type=home_path, nargs="*", default=[], metavar="RUN COMMAND",
                        help="which run, and what")  # fmt: skip
    made.add_argument("--out-dir", type=home_path, default=None, metavar="DIR", help="folder to look in, too")
    return made


def read_command(word: str) -> Command:
    """`save`, `lr=3e-4`, `lr=*0.5`. Raises `UserError`."""
    if word in PLAIN:
        return PLAIN[word]
    if word.startswith("lr="):
        command = parse_lr(word.removeprefix("lr="))
        if command is None:
            raise UserError(f"{shown_value(word)}: needs a number above 0, like lr=3e-4 or lr=*0.5")
        return command
    raise UserError(f"{shown_value(word)} is no command; those are {', '.join(PLAIN)}, lr=X, lr=*X")


def ask(run: RunFolder, command: Command) -> Answered | None:
    """Leave the command, wait for its answer; None if the run ended without one. Raises `UserError`."""
    journal = Tail(run.events)
    while journal.read() or journal.behind:  # what was said before
        pass
    try:
        identity = leave_command(run, command)
    except OSError as error:
        raise UserError(f"{one_line(run.control)}: cannot be written ({error.strerror})") from None
    begun = time.monotonic()
    told = False
    while True:
        alive = run.alive()  # before the look: what was said last is then seen for certain
        for record in journal.read():
            event = from_record(record)
            if isinstance(event, Answered) and event.id == identity:
                return event
        if not alive:
            return None
        if time.monotonic() - begun > MOST_S:
            raise UserError(
                f"{one_line(run.name)}: no answer in {MOST_S / 60:.0f} minutes; see: {typed('lmplay-tui status')}"
            )
        if not told and time.monotonic() - begun > PATIENCE_S:
            told = True
            print(f"waiting: the run is {saved_status(run, alive=True).activity or 'starting'} ...", file=sys.stderr)
        time.sleep(0.1)
