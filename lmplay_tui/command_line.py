"""Command lines made from the declared options, and back: a parser, and what a line gives, checked."""

import argparse
import re
import shutil
import textwrap
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, NoReturn

import lmplay_tui
from lmplay_tui.errors import UserError
from lmplay_tui.options import OPTIONS, Option, Where, check, home_path, nearest, shown_value
from lmplay_tui.text import one_line


class _Parser(argparse.ArgumentParser):
    """An argparse that says a mistake in one line and leaves the exit to its caller."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {one_line(message)}; see {self.prog} --help")


COMMANDS = {
    "attach": "the dashboard on a run of another process",
    "ctl": "save, stop, pause, resume, validate or change the learning rate of a run",
    "status": "how a run is, once or until it ends",
    "runs": "the runs here; rename, tag, note down, remove one",
    "check": "validate a plan and open all that it needs, before hours go into it",
    "plot": "draw the statistics of runs as PNG files, or in the terminal",
    "generate": "let a model write",
    "export": "a run as safetensors, CSV or TensorBoard files",
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
            for (
                line
            ) in lines:  # of two columns the second one goes on below itself; an example stays one line, to be typed
                column = _TWO_COLUMNS.match(line)
                filled += (
                    [line] if column is None else textwrap.wrap(line, width, subsequent_indent=" " * len(column[1]))
                )
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

    Raises `UserError` of one line for each mistake.
    """
    namespace, unknown = parser.parse_known_args(list(arguments))
    if unknown:
        word = unknown[0].split("=")[0]
        known = [s for action in parser._actions for s in action.option_strings]
        kind = "option" if word.startswith("-") else "argument"
        raise UserError(f"{parser.prog}: unknown {kind} {shown_value(word)}{nearest(word, known)}")
    return namespace


def given_options(namespace: argparse.Namespace) -> dict[str, Any]:
    """The options that a command line gave, typed and checked: all their problems at once.

    Raises `UserError`, one line a problem.
    """
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
    if problems:
        raise UserError("\n".join(problems))
    return given


def _at_home(value: str) -> tuple[str, str | None]:
    try:
        return home_path(value), None
    except UserError as error:
        return value, str(error)
