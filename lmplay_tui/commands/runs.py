"""`lmplay-tui runs`: the runs that there are, and what is done to one: tags, a note, another name, the trash."""

import argparse
import json
import math
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from lmplay_tui.command_line import new_parser, parse_line
from lmplay_tui.commands.terminal_tables import line_width, table
from lmplay_tui.errors import EXIT_OK, UserError
from lmplay_tui.formats import (
    format_age,
    format_bytes,
    format_count,
    format_loss,
    format_percent,
    format_rough_duration,
)
from lmplay_tui.options import home_path
from lmplay_tui.process import typed
from lmplay_tui.run.folder import (
    RunFolder,
    find_run,
    list_runs,
    output_folder,
    saved_status,
    statistics_folder,
    status_of,
)
from lmplay_tui.run.journal import number
from lmplay_tui.run.upkeep import TRASH, About, about, files_of, remove, rename, set_about
from lmplay_tui.text import one_line

DESCRIPTION = "List the runs of this folder and of the output folder, the newest first."
RUN_HELP = "a name, a .lmp file, or a run folder"


def main(arguments: Sequence[str], prog: str) -> int:
    """Print the runs, one a line, or do what the first word says. Raises `UserError`."""
    if arguments and (action := ACTIONS.get(arguments[0])) is not None:
        return action.work(parse_line(action.parser(f"{prog} {arguments[0]}"), arguments[1:]))
    line = parse_line(parser(prog), arguments)
    found = list_runs(Path(), output_folder(line.out_dir))
    for run in found:
        for refused in run.refused():
            print(refused, file=sys.stderr)
    if line.json:
        for run in found:
            print(json.dumps(status_of(run) | {"model": str(run.model)} | asdict(about(run))))
    elif found:
        rows = [_row(run, line.out_dir) for run in found]
        print("\n".join(table([HEADER, *rows], line_width(), gives_way=(0, 8, 9), right=(2, 3, 4, 5, 6))))
    else:
        where = f"in this folder or in {one_line(output_folder(line.out_dir))}"
        print(f"no run {where}; start one with: {typed('lmplay-tui')}")
    return EXIT_OK


def parser(prog: str) -> argparse.ArgumentParser:
    """The command line of `runs` without an action."""
    actions = "\n".join(f"  {name:<8}{action.summary}" for name, action in ACTIONS.items())
    made = new_parser(prog, DESCRIPTION, f"actions, each with --help:\n{actions}", usage=f"{prog} [ACTION] [options]")
    made.add_argument("--json", action="store_true", default=False, help="one JSON object a run and line")
    _add_folder(made)
    return made


def _add_folder(made: argparse.ArgumentParser) -> None:
    made.add_argument("--out-dir", type=home_path, default=None, metavar="DIR", help="the output folder [out_gpt]")


HEADER = ("run", "state", "done", "step", "train loss", "val loss", "left", "last word", "tags", "note")


def _row(run: RunFolder, out_dir: str | None) -> tuple[str, ...]:
    status, said = saved_status(run), about(run)
    losses = (number(loss) for loss in (status.train_loss, status.val_loss))
    return (
        _called(run, out_dir),
        status.state,
        format_percent(status.fraction_done) if status.stages else "",
        format_count(status.at.step) if status.is_placed else "",
        *(format_loss(loss) if math.isfinite(loss) else "" for loss in losses),
        format_rough_duration(status.eta_s) if status.state == "running" and math.isfinite(status.eta_s) else "",
        _last_word(run),
        said.words,
        said.note,
    )


def _called(run: RunFolder, out_dir: str | None) -> str:
    """What to type for the run: its name, or its path where that name means another."""
    try:
        named = find_run(run.name, out_dir).model == run.model
    except UserError:
        named = False
    return one_line(run.name if named else run.model)


def _last_word(run: RunFolder) -> str:
    """`5 min ago`: when the run last said anything."""
    try:
        return format_age(max(0.0, time.time() - run.files.status(run.run_json.name).st_mtime))
    except OSError:
        return "–"


# ---- what is done to one


def _of_run(prog: str, description: str) -> argparse.ArgumentParser:
    made = new_parser(prog, description)
    made.add_argument("run", type=home_path, metavar="RUN", help=RUN_HELP)
    _add_folder(made)
    return made


def _rename_parser(prog: str) -> argparse.ArgumentParser:
    made = _of_run(prog, "Give a run, with all its checkpoints, journals and statistics, another name.")
    made.add_argument("name", metavar="NEW", help="letters A-Z, digits, _ and -")
    return made


def _rename(line: argparse.Namespace) -> int:
    run = find_run(line.run, line.out_dir)
    new = rename(run, line.name, statistics_folder(line.out_dir))
    go_on = saved_status(new).go_on_with("lmp_trainer", new.model)
    print(f"{one_line(run.name)} is called {new.name} now; go on with: {go_on}")
    return EXIT_OK


def _tag_parser(prog: str) -> argparse.ArgumentParser:
    made = _of_run(prog, "Add words to find a run by: they stand in `runs` and in the launcher.")
    made.add_argument("tags", nargs="+", metavar="TAG", help="a word each")
    return made


def _tag(line: argparse.Namespace) -> int:
    run = find_run(line.run, line.out_dir)
    said = about(run)
    return _say(run, replace(said, tags=tuple(dict.fromkeys((*said.tags, *line.tags)))))


def _untag_parser(prog: str) -> argparse.ArgumentParser:
    made = _of_run(prog, "Take tags off a run.")
    made.add_argument("tags", nargs="+", metavar="TAG", help="those to take off")
    return made


def _untag(line: argparse.Namespace) -> int:
    run = find_run(line.run, line.out_dir)
    said = about(run)
    for tag in line.tags:
        if tag not in said.tags:
            raise UserError(f"{one_line(run.name)}: it has no tag {one_line(tag, 60)}, only {said.words or 'none'}")
    return _say(run, replace(said, tags=tuple(tag for tag in said.tags if tag not in line.tags)))


def _note_parser(prog: str) -> argparse.ArgumentParser:
    made = _of_run(prog, "Note a sentence beside a run, in place of the one before.")
    made.add_argument("words", nargs="+", metavar="TEXT", help='the sentence; "" takes it away')
    return made


def _note(line: argparse.Namespace) -> int:
    run = find_run(line.run, line.out_dir)
    return _say(run, replace(about(run), note=" ".join(" ".join(line.words).split())))


def _say(run: RunFolder, said: About) -> int:
    set_about(run, said)
    print(f"{one_line(run.name)}: {'  '.join(part for part in (said.words, said.note) if part) or 'no tag, no note'}")
    return EXIT_OK


def _remove_parser(prog: str) -> argparse.ArgumentParser:
    made = _of_run(
        prog, f"Move a run, with all its checkpoints, journals and statistics, to the folder {TRASH} beside it."
    )
    made.add_argument("--yes", action="store_true", default=False, help="do not ask")
    return made


def _remove(line: argparse.Namespace) -> int:
    run = find_run(line.run, line.out_dir)
    statistics = statistics_folder(line.out_dir)
    name, files = one_line(run.name), files_of(run, statistics)
    if run.alive():
        holder = saved_status(run, alive=True).pid or "?"
        end = f"{typed('lmplay-tui ctl')} {name} stop"
        raise UserError(f"{name}: process {holder} is training this run; end it first with: {end}")
    if not line.yes:
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise UserError(f"{name}: nothing was removed: there is no terminal to ask at; --yes removes it")
        size = sum(each.lstat().st_size for path in files for each in (path, *path.glob("*")))
        held = f"{len(files)} file{'s' if len(files) != 1 else ''} of {format_bytes(size)}"
        question = f"remove {name} ({status_of(run)['state']}, {held})? [y/N] "
        if input(question).strip().lower() not in ("y", "yes"):
            print("nothing was removed")
            return EXIT_OK
    target = remove(run, statistics)
    where, back = (shlex.quote(one_line(path, 1000)) for path in (target, run.model.parent))
    print(f"{name} lies in {where} now; to have it back: mv {where}/* {back}")
    return EXIT_OK


class Action(NamedTuple):
    """A word behind `runs`."""

    summary: str
    parser: Callable[[str], argparse.ArgumentParser]
    work: Callable[[Any], int]


ACTIONS = {
    "rename": Action("RUN NEW: another name for a run and all its files", _rename_parser, _rename),
    "tag": Action("RUN TAG...: words to find it by", _tag_parser, _tag),
    "untag": Action("RUN TAG...: take them off", _untag_parser, _untag),
    "note": Action("RUN TEXT...: a sentence beside it", _note_parser, _note),
    "remove": Action(f"RUN: to the folder {TRASH} beside it", _remove_parser, _remove),
}
