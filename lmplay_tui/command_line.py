"""Command lines made from the declared options, and back: a parser, and what a line gives, checked."""

import argparse
import re
import shutil
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, NoReturn

import lmplay_tui
from lmplay_tui.errors import UserError
from lmplay_tui.options import MAX_INT, OPTIONS, Option, Where, check, home_path, nearest, shown_value
from lmplay_tui.process import typed
from lmplay_tui.text import one_line


class _Parser(argparse.ArgumentParser):
    """An argparse that says a mistake in one line and leaves the exit to its caller."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {one_line(message)}; see {typed(self.prog)} --help")


COMMANDS = {
    "attach": "the dashboard on a run of another process",
    "ctl": "save, stop, pause, resume, validate or change the learning rate of a run",
    "status": "how a run is, once or until it ends",
    "runs": "the runs here; rename, tag, note down, remove one",
    "new": "write a plan from data files, and check it",
    "check": "validate a plan and open all that it needs, before hours go into it",
    "plot": "draw the statistics of runs as PNG files, or in the terminal",
    "generate": "let a model write",
    "export": "a run as safetensors, CSV or TensorBoard files",
    "completion": "the script that completes these words in bash, zsh or fish",
}
MOST_CELLS, PIPED_CELLS = 120, 100  # of a line of help, in a terminal however wide, and where there is none
_TWO_COLUMNS = re.compile(r"(\s+\S+(?: \S+)*\s{2,})\S")


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Help as wide as the terminal: paragraphs are filled, indented lines stay lines."""

    def __init__(self, prog: str) -> None:
        width = min(shutil.get_terminal_size((PIPED_CELLS, 24)).columns, MOST_CELLS)
        super().__init__(prog, max_help_position=min(34, width * 2 // 5), width=width)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        filled: list[str] = []
        for is_indented, lines in groupby(text.splitlines(), key=lambda line: not line.strip() or line[0] == " "):
            if not is_indented:
                filled += textwrap.wrap(" ".join(lines), width)
                continue
            # Of two columns the second one goes on below itself; an example stays one line, to be typed.
            for line in lines:
                column = _TWO_COLUMNS.match(line)
                indented = [] if column is None else textwrap.wrap(line, width, subsequent_indent=" " * len(column[1]))
                filled += indented or [line]
        return "\n".join(filled)


def command_list(cells: int = 10) -> str:
    """The commands, a line each, as a help shows them."""
    return "\n".join(f"  {name:<{cells}}  {summary}" for name, summary in COMMANDS.items())


def new_parser(
    prog: str, description: str, epilog: str | None = None, usage: str | None = None
) -> argparse.ArgumentParser:
    """An argument parser whose mistakes are `UserError`s of one line."""
    parser = _Parser(
        prog=prog,
        usage=usage,
        description=description,
        epilog=epilog,
        allow_abbrev=False,
        formatter_class=_HelpFormatter,
        argument_default=argparse.SUPPRESS,
        exit_on_error=False,
    )
    version = f"{prog} {lmplay_tui.__version__}"
    parser.add_argument("-V", "--version", action="version", version=version, help="show the version and exit")
    return parser


def add_options(parser: argparse.ArgumentParser, leave_out: Iterable[str] = ()) -> None:
    """Add every declared option to `parser`, in groups; what the line does not give stays out of the namespace."""
    groups: dict[str, argparse._ArgumentGroup] = {}
    left_out = set(leave_out)
    for name, option in OPTIONS.items():
        if name in left_out:
            continue
        group = groups.get(option.group) or groups.setdefault(option.group, parser.add_argument_group(option.group))
        flags = [option.flag] if name != "context_len" else ["--context_len", "--context-len"]
        help_text = f"{option.help} {_default_note(option)}".rstrip().replace("%", "%%")
        if option.kind is not bool:
            group.add_argument(*flags, dest=name, help=help_text, metavar=_metavar(option))
        elif option.where is Where.LINE:
            group.add_argument(*flags, dest=name, action="store_true", help=help_text)
        else:  # a plan may say true: the line must be able to say no
            group.add_argument(*flags, dest=name, action=argparse.BooleanOptionalAction, help=help_text)


def _default_note(option: Option) -> str:
    shown = option.shown
    if shown is None and option.default is not None and option.default is not False:
        shown = str(option.default)
    return f"[{shown}]" if shown else ""


def _metavar(option: Option) -> str:
    if option.metavar is not None:
        return option.metavar
    return "|".join(option.choices) or {int: "N", float: "X"}.get(option.kind or str, option.name.upper())


def parse_line(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Parse a command line; an unknown option is refused with the nearest known one.

    Raises `UserError` with all its mistakes, a line each.
    """
    namespace, problems = read_line(parser, arguments)
    if problems:
        raise UserError("\n".join(problems))
    return namespace


def read_line(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """A command line as far as it can be read, and a sentence for each word that cannot.

    Raises `UserError` where a word that must be there is missing.
    """
    words, problems = list(arguments), []
    while True:
        try:
            namespace, unknown = parser.parse_known_args(words)
        except argparse.ArgumentError as error:
            problems.append(f"{parser.prog}: {one_line(error)}; see {typed(parser.prog)} --help")
            mistaken = _mistaken(words, (error.argument_name or "").split("/"))
            if mistaken is None:
                raise UserError("\n".join(problems)) from None
            del words[mistaken]
        else:
            return namespace, [*problems, *_unknown_words(parser, unknown)]


def _mistaken(words: Sequence[str], flags: Sequence[str]) -> int | None:
    """Where the option stands that lacks its value, or has one that it does not take; None: not found."""
    for index, word in enumerate(words):
        flag, has_value, _ = word.partition("=")
        if flag in flags and (has_value or words[index + 1 : index + 2] == [] or words[index + 1].startswith("-")):
            return index
    return None


def _unknown_words(parser: argparse.ArgumentParser, unknown: Sequence[str]) -> Iterator[str]:
    known = [s for action in parser._actions for s in action.option_strings]
    before = ""
    for word in unknown:
        # What follows an unknown option is most likely its value.
        if word.startswith("-") or not before.startswith("-") or "=" in before:
            shown = word.split("=")[0]
            kind = "option" if word.startswith("-") else "argument"
            yield f"{parser.prog}: unknown {kind} {shown_value(shown)}{nearest(shown, known)}"
        before = word


def given_options(namespace: argparse.Namespace) -> dict[str, Any]:
    """The options that a command line gave, typed and checked. Raises `UserError` with all problems, a line each."""
    given, problems = checked_options(namespace)
    if problems:
        raise UserError("\n".join(problems))
    return given


def checked_options(namespace: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """The options that a command line gave, typed, as far as nothing is wrong with them; and what is, a line each."""
    given: dict[str, Any] = {}
    problems = []
    for name, option in OPTIONS.items():
        if not hasattr(namespace, name):
            continue
        value, problem = check(name, getattr(namespace, name), strict=False)
        if problem is None and option.path:
            value, problem = _at_home(value)
        if problem is None:
            given[name] = value
        else:
            problems.append(f"{option.flag}: {problem}")
    return given, problems


def _at_home(value: str) -> tuple[str, str | None]:
    try:
        return home_path(value), None
    except UserError as error:
        return value, str(error)


# ---- types for argparse: what an option of one command may be, that is none of a run's


def whole_argument(at_least: int, at_most: int = MAX_INT) -> Callable[[str], int]:
    """A whole number within bounds."""

    def parse(text: str) -> int:
        try:
            if at_least <= (value := int(text)) <= at_most:
                return value
        except ValueError:
            pass
        raise argparse.ArgumentTypeError(f"must be a whole number from {at_least} on, got {one_line(text, 40)}")

    return parse


def number_argument(*, above: float, at_most: float) -> Callable[[str], float]:
    """A number within bounds."""

    def parse(text: str) -> float:
        try:
            if above < (value := float(text)) <= at_most:
                return value
        except ValueError:
            pass
        raise argparse.ArgumentTypeError(f"must be above {above:g} and at most {at_most:g}, got {one_line(text, 40)}")

    return parse


def device_argument(text: str) -> str:
    """A device, as the option of that name takes it."""
    value, problem = check("device", text, strict=False)
    if problem is not None:
        raise argparse.ArgumentTypeError(f"must be auto, cpu, cuda, cuda:1 or mps, got {one_line(text, 40)}")
    return str(value)
