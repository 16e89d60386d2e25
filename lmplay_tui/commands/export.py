"""`lmplay-tui export`: a run's weights or metrics in the forms that other programs read."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from lmplay_tui.command_line import new_parser, parse_line
from lmplay_tui.errors import EXIT_LEFT_AT_ONCE, EXIT_OK, UserError
from lmplay_tui.files import is_file
from lmplay_tui.formats import counted, format_megabytes
from lmplay_tui.options import home_path
from lmplay_tui.run.export import (
    CsvFile,
    CsvTable,
    MetricsSink,
    TensorBoardFolder,
    check_metrics,
    export_metrics,
    write_safetensors,
)
from lmplay_tui.run.folder import RunFolder, find_run
from lmplay_tui.text import one_line, printable

DESCRIPTION = """\
Export a run for other programs; a run that is being trained is only read.

  safetensors   the weights of its newest checkpoint, or of the .lmp file given as RUN
  csv           its metrics, a column each, `step` first
  tensorboard   the same as TensorBoard's event files; needs lmplay-tui[tensorboard]
"""
EPILOG = """\
examples:
  {prog} my_model --to safetensors
  {prog} out_gpt/my_model.best.lmp --to safetensors
  {prog} my_model --to csv --output - | column -s, -t | less -S
  {prog} my_model --to tensorboard --follow
"""
_TARGETS = {"safetensors": ".safetensors", "csv": ".csv", "tensorboard": ".tensorboard"}


def main(arguments: list[str], prog: str) -> int:
    """Export the run that `arguments` name and return the exit status. Raises `UserError`."""
    line = parse_line(parser(prog), arguments)
    if line.follow and line.to == "safetensors":
        raise UserError("--follow: goes with csv and tensorboard; the weights are exported as they are now")
    if line.output == "-" and (line.to != "csv" or line.follow):
        raise UserError("--output -: only csv without --follow goes to standard output")
    run = find_run(line.run, line.out_dir)
    checkpoint = _checkpoint(run, line.run)
    stem = checkpoint if line.to == "safetensors" else run.model
    target = Path(line.output) if line.output else stem.with_name(stem.stem + _TARGETS[line.to])
    if target.suffix == ".lmp":
        raise UserError(f"--output: {one_line(target)} would be taken for a checkpoint; give it another ending")
    for refused in run.refused():
        print(refused, file=sys.stderr)
    try:
        if line.to == "safetensors":
            return _export_weights(checkpoint, target)
        return _export_metrics(run, target, line)
    except BrokenPipeError:  # nothing is wrong: the reader of our output has seen enough
        raise
    except OSError as error:
        raise UserError(f"{one_line(target)}: cannot be written: {error.strerror or one_line(error)}") from error


def parser(prog: str) -> argparse.ArgumentParser:
    """The command line of `export`."""
    made = new_parser(prog, DESCRIPTION, EPILOG.format(prog=prog))
    made.add_argument("run", type=home_path, nargs="?", default=None, metavar="RUN",
                        help="name, .lmp file or run folder [the newest run]")  # fmt: skip
    made.add_argument("--to", required=True, choices=tuple(_TARGETS), metavar="FORM",
                        help=", ".join(_TARGETS))  # fmt: skip
    made.add_argument("--output", type=home_path, default=None, metavar="PATH",
                        help="file, or folder for tensorboard; - for standard output [beside the model]")  # fmt: skip
    made.add_argument("--follow", action="store_true", default=False,
                        help="go on until the run ends (csv, tensorboard)")  # fmt: skip
    made.add_argument("--out-dir", type=home_path, default=None, metavar="DIR",
                        help="where runs are looked for [out_gpt]")  # fmt: skip
    return made


def _checkpoint(run: RunFolder, text: str | None) -> Path:
    """The very file that was named, or the run's newest checkpoint."""
    given = Path(text) if text is not None else run.model
    return given if is_file(given) and given.suffix == ".lmp" else run.model


def _export_weights(checkpoint_path: Path, target: Path) -> int:
    from lmplay_tui.train.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(checkpoint_path)
    model: dict[str, Any] = checkpoint["model"]
    metadata = {"format": "pt", "model": json.dumps(model["state_args"]), "source": checkpoint_path.name}
    size = write_safetensors(target, model["state"], metadata)
    print(f"{one_line(target)}: {len(model['state'])} tensors, {format_megabytes(size, 1)}")
    return EXIT_OK


def _export_metrics(run: RunFolder, target: Path, line: argparse.Namespace) -> int:
    check_metrics(run, follow=line.follow)  # before an earlier export makes way
    table = _CsvToStandardOutput() if line.output == "-" else None
    sink: MetricsSink
    if table is not None:
        sink = table
    else:
        sink = CsvFile(target) if line.to == "csv" else TensorBoardFolder(target)
    if line.follow:
        print(f"following {one_line(run.name)} into {one_line(target)}; ctrl+c ends it", flush=True)
    try:
        num_rows = export_metrics(run, sink, follow=line.follow)
    except KeyboardInterrupt:
        sink.close()
        return EXIT_LEFT_AT_ONCE
    if table is not None:
        table.show()
    else:
        print(f"{one_line(target)}: {counted(num_rows, 'row')}")
    return EXIT_OK


class _CsvToStandardOutput(CsvTable):
    """Written when all is read, so that what another process rewound is not in it."""

    def close(self) -> None:
        pass

    def show(self) -> None:
        """Print it; what a terminal would act on is made harmless where there is one."""
        on_terminal = sys.stdout.isatty()
        for part in self.parts():
            text = part.decode("utf-8")
            sys.stdout.write(printable(text) if on_terminal else text)
        sys.stdout.flush()
        super().close()
