"""`lmp_plotstats` and `lmplay-tui plot`: pictures of the statistics files, or the same in the terminal."""

import argparse
import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lmplay_tui.command_line import new_parser, number_argument, parse_line, whole_argument
from lmplay_tui.errors import EXIT_OK, UserError
from lmplay_tui.files import is_file, is_folder
from lmplay_tui.options import home_path
from lmplay_tui.run.charts import (
    AVERAGE_COUNT,
    METRICS,
    MIN_SHOW,
    Chart,
    Curve,
    Metric,
    PlotOptions,
    difference_chart,
    level_chart,
    load_curves,
    statistics_in,
)
from lmplay_tui.run.folder import find_run, statistics_folder
from lmplay_tui.run.plots import PICTURE_TYPES, draw_combined, draw_own_pictures
from lmplay_tui.run.statistics import SUFFIX
from lmplay_tui.run.terminal_plots import terminal_chart
from lmplay_tui.text import one_line

DESCRIPTION = """\
Draw what runs have recorded: loss and accuracy over the tokens trained on.

Writes a picture beside each statistics file, and four that compare the runs:
  log_loss, log_accuracy     the curves, smoothed
  diff_loss, diff_accuracy   their distance from the longest run (or --target)
and log_character_accuracy, diff_character_accuracy of texts without spaces.
"""
EPILOG = """\
examples:
  {prog}                          every run in $LMP_DATASETS or out_gpt
  {prog} my_model other_model     two runs by name
  {prog} out_a out_b --plot-train --target my_model
  {prog} --terminal               without pictures, in this terminal
"""
_TERMINAL_ROWS = 20


def main(arguments: list[str], prog: str) -> int:
    """Plot the runs that `arguments` name and return the exit status. Raises `UserError`."""
    line = parse_line(parser(prog), arguments)
    paths = [path for location in line.locations or [None] for path in _statistics(location, line.out_dir)]
    curves, problems = load_curves(dict.fromkeys(paths))
    for problem in problems:
        print(problem, file=sys.stderr)
    if not curves:
        raise UserError("nothing to plot: no statistics file holds a point yet; they are written at each save")
    curves = _newest(curves, line.max_files)
    compared = _compared(curves, line)
    if line.terminal:
        return _show(compared, line)
    return _draw(curves, compared, line)


def parser(prog: str) -> argparse.ArgumentParser:
    """The command line of `plot`."""
    made = new_parser(prog, DESCRIPTION, EPILOG.format(prog=prog))
    made.add_argument("locations", type=home_path, nargs="*", default=[], metavar="LOCATION",
                        help="run (name, .lmp or run folder), folder of statistics, or a *_stats.json file "
                             "[everything in $LMP_DATASETS or out_gpt]")  # fmt: skip
    made.add_argument("--out-dir", type=home_path, default=None, metavar="DIR",
                        help="where the pictures that compare runs go, and where runs are looked for "
                             "[the folder of the statistics]")  # fmt: skip
    made.add_argument("--plot-train", action="store_true", default=False,
                        help="compare training batches instead of validation")  # fmt: skip
    made.add_argument(
        "--target",
        type=home_path,
        default=None,
        metavar="RUN",
        help="run that the others are compared with: its name or how it begins [the longest]",
    )
    made.add_argument(
        "--average-count",
        type=whole_argument(1),
        default=AVERAGE_COUNT,
        metavar="N",
        help=f"points that a smoothed value is made of, at most; 1: no smoothing [{AVERAGE_COUNT}]",
    )
    made.add_argument("--min-show", type=number_argument(above=0, at_most=1), default=MIN_SHOW, metavar="SHARE",
                        help="share of the shortest run that is shown, counted from its end: the first points would "
                             f"squash the rest [{MIN_SHOW}]")  # fmt: skip
    made.add_argument("--plot-raw", action="store_true", default=False,
                        help="show the recorded points behind the smoothed curves too")  # fmt: skip
    made.add_argument("--max-files", type=whole_argument(1), default=20, metavar="N",
                        help="runs to plot, at most; the newest of a folder [20]")  # fmt: skip
    made.add_argument("--out-type", choices=PICTURE_TYPES, default="png", metavar="TYPE",
                        help=f"kind of picture: {', '.join(PICTURE_TYPES)} [png]")  # fmt: skip
    made.add_argument("--terminal", action="store_true", default=False,
                        help="draw in the terminal instead of writing pictures")  # fmt: skip
    return made


def _statistics(location: str | None, out_dir: str | None) -> list[Path]:
    """The statistics files that a word of the command line means. Raises `UserError` if there are none."""
    if location is None:
        return _required(statistics_folder(out_dir))
    path = Path(location)
    if is_file(path) and path.name.endswith(".json"):
        return [path]
    if is_folder(path) and path.suffix != ".run":
        return _required(path)
    return _of_run(location, out_dir)


def _required(folder: Path) -> list[Path]:
    if not is_folder(folder):
        raise UserError(f"{one_line(folder)}: no such folder; name one that holds *{SUFFIX} files, or a run")
    paths = statistics_in(folder)
    if not paths:
        raise UserError(f"{one_line(folder)}: no *{SUFFIX} files; they are written at each save and at a run's end")
    return paths


def _of_run(text: str, out_dir: str | None) -> list[Path]:
    places = [statistics_folder(out_dir)]
    name = text
    try:
        run = find_run(text, out_dir)
    except UserError:
        # The statistics alone may have been copied here.
        if not _named(name, places):
            raise
    else:
        name = run.name
        places += [run.model.parent]
    paths = _named(name, places)
    if not paths:
        raise UserError(f"{one_line(name)}: no statistics yet; they are written at each save and at the run's end")
    return paths


def _named(name: str, folders: Sequence[Path]) -> list[Path]:
    for folder in folders:
        paths = statistics_in(folder) if is_folder(folder) else []
        candidates = [path for path in paths if path.name.startswith(f"{name}_")]
        curves, _ = load_curves(candidates)
        if found := [curve.path for curve in curves if curve.name == name]:
            return found
    return []


def _newest(curves: Sequence[Curve], max_runs: int) -> list[Curve]:
    """The curves of the first `max_runs` runs; says how many others there were."""
    runs = list(dict.fromkeys((curve.path.parent, curve.name) for curve in curves))
    kept = set(runs[:max_runs])
    if len(runs) > max_runs:
        left_out = len(runs) - max_runs
        print(f"{left_out} of {len(runs)} runs left out; --max-files {len(runs)} plots all", file=sys.stderr)
    return [curve for curve in curves if (curve.path.parent, curve.name) in kept]


def _compared(curves: Sequence[Curve], line: argparse.Namespace) -> list[Curve]:
    """The curves that belong into one chart: whole runs of one split, and stages that were named by their files."""
    split, what, other = ("train", "training", "without") if line.plot_train else ("validate", "validation", "with")
    named = {Path(location) for location in line.locations}
    compared = [curve for curve in curves if curve.split == split and (curve.stage is None or curve.path in named)]
    found = {(curve.path.parent, curve.name) for curve in compared}
    for name in sorted({curve.name for curve in curves if (curve.path.parent, curve.name) not in found}):
        print(f"{one_line(name)}: no {what} recorded, so it is not compared; try {other} --plot-train", file=sys.stderr)
    return compared


def _charts(curves: Sequence[Curve], line: argparse.Namespace) -> Iterator[tuple[str, Chart]]:
    """The charts that compare runs, with the names of their pictures."""
    options = PlotOptions(line.average_count, line.min_show, line.plot_raw, line.target)
    kinds: list[tuple[str, Callable[[Sequence[Curve], Metric, PlotOptions], Chart | None]]] = [
        ("log", level_chart), ("diff", difference_chart),
    ]  # fmt: skip
    for kind, build in kinds:
        for metric in METRICS:
            chart = build(curves, metric, options)
            if chart is not None:
                yield f"{kind}_{metric}", chart


def _show(compared: Sequence[Curve], line: argparse.Namespace) -> int:
    terminal = os.environ.get("TERM", "")
    colours = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and terminal != "dumb"
    unicode = (sys.stdout.encoding or "").lower().startswith("utf") and terminal != "linux"
    width = shutil.get_terminal_size().columns
    for _, chart in _charts(compared, line):
        print(terminal_chart(chart, width, _TERMINAL_ROWS, colours=colours, unicode=unicode) + "\n")
    return EXIT_OK


def _say(said: str) -> None:
    """Print it at once. What the output does not take is no trouble of the pictures': it is told of at the end."""
    print(said)
    with contextlib.suppress(OSError):
        sys.stdout.flush()


def _draw(curves: Sequence[Curve], compared: Sequence[Curve], line: argparse.Namespace) -> int:
    folders = {curve.path.parent for curve in curves}
    folder = Path(line.out_dir) if line.out_dir else folders.pop() if len(folders) == 1 else statistics_folder(None)
    charts = list(_charts(compared, line))  # a mistake in --target is said before anything is written
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, chart in charts:
            picture = folder / f"{name}.{line.out_type}"
            draw_combined(chart, picture)
            _say(one_line(picture))
        _say("and one beside each statistics file ...")
        options = PlotOptions(line.average_count, line.min_show)
        pictures = draw_own_pictures(curves, options, line.out_type)
    except OSError as error:
        raise UserError(f"{one_line(folder)}: pictures cannot be written: {error.strerror}") from error
    print(f"{len(pictures)} of these")
    if compared and not any(name.startswith("diff_") for name, _ in charts):
        why = "one run" if len(compared) == 1 else "no two runs that reach the same number of tokens"
        print(f"no diff_ pictures: {why}")
    return EXIT_OK
