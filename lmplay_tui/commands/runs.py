"""`lmplay-tui runs`: the runs that there are."""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from lmplay_tui.command_line import new_parser, parse_line
from lmplay_tui.commands.status import short_line
from lmplay_tui.errors import EXIT_OK
from lmplay_tui.formats import format_duration
from lmplay_tui.options import home_path
from lmplay_tui.run.folder import RunFolder, fraction_done, list_runs, output_folder, status_of
from lmplay_tui.text import one_line

DESCRIPTION = "List the runs of this folder and of the output folder, the newest first."


def main(arguments: Sequence[str], prog: str) -> int:
    """Print the runs, one a line."""
    parser = new_parser(prog, DESCRIPTION)
    parser.add_argument("--json", action="store_true", default=False, help="one JSON object a run and line")
    parser.add_argument("--out-dir", type=home_path, default=None, metavar="DIR", help="the output folder [out_gpt]")
    line = parse_line(parser, arguments)
    found = list_runs(Path(), output_folder(line.out_dir))
    for run in found:
        for refused in run.refused():
            print(refused, file=sys.stderr)
        status = status_of(run)
        if line.json:
            print(json.dumps(status | {"model": str(run.model)}))
        else:
            said = short_line(status | {"name": str(run.model)}, fraction_done(run))
            print(f"{one_line(said)}, {age(run)}")
    if not found and not line.json:
        print(f"no run in this folder or in {one_line(output_folder(line.out_dir))}; start one with: lmplay-tui")
    return EXIT_OK


def age(run: RunFolder) -> str:
    """`3 min 05 s ago`: when the run last said anything."""
    try:
        return f"{format_duration(max(0.0, time.time() - run.files.status('run.json').st_mtime))} ago"
    except OSError:
        return "has said nothing yet"
