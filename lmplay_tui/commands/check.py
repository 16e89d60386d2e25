"""`lmplay-tui check PLAN`: find what is wrong before hours go into it."""

import argparse
import contextlib
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Self

from lmplay_tui.command_line import add_options, checked_options, new_parser, read_line
from lmplay_tui.commands.output import to_stderr
from lmplay_tui.commands.terminal_tables import cut
from lmplay_tui.errors import EXIT_OK, EXIT_USAGE, UserError
from lmplay_tui.formats import counted, format_bytes, format_duration, format_parameters, format_percent
from lmplay_tui.options import Launch, home_path, screen_options
from lmplay_tui.text import one_line, printable

DESCRIPTION = """\
Validate a plan, open every dataset, show real samples after cutting, and try two mini-batches of the longest samples,
one validation and one save and load. Figures from a sample of rows are called estimates. Nothing is trained."""
LINE_BREAK = "⏎"
CLEAR = "\r\x1b[K"  # the line of a terminal
END_OF_TEXT = "<|endoftext|>"
SEEN_CHARACTERS = 320  # of a prompt, of a truth
EPILOG = "Exit status: 0 all is well, 2 there are problems."


def main(arguments: Sequence[str], prog: str) -> int:
    """Check a plan and print what was found.

    Raises `UserError` with all that is wrong with the line, what it names, and the plan.
    """
    namespace, problems = read_line(parser(prog), arguments)
    as_json = namespace.json
    given, of_options = checked_options(namespace)
    launch = Launch(given | {"training_plan": namespace.plan}, prog)
    from lmplay_tui.train.preflight import problems_of

    problems += of_options
    # Where nothing else is wrong the data have their place in the report, with the stages that are well.
    problems += problems_of(launch, to_stderr, run=False, data=bool(problems))
    try:
        if problems:
            raise UserError("\n".join(problems))
        from lmplay_tui.train.check import check_plan

        with ProgressLine() as progress:
            report = check_plan(launch, progress.report)
    except UserError as error:
        if as_json:
            print(json.dumps({"ok": False, "problems": str(error).splitlines()}))
            return error.exit_code
        raise
    if as_json:
        print(json.dumps(report, allow_nan=False))
    else:
        print(printable(as_text(report)))
    return EXIT_OK if report["ok"] else EXIT_USAGE


def parser(prog: str) -> argparse.ArgumentParser:
    """The command line of `check`."""
    made = new_parser(prog, DESCRIPTION, EPILOG, usage=f"{prog} PLAN [options]")
    made.add_argument("plan", type=home_path, metavar="PLAN", help="a shipped plan or a .toml/.json file")
    made.add_argument("--json", action="store_true", default=False, help="one JSON object")
    add_options(made, leave_out=("training_plan", "extend", "describe", "save_datasets", *screen_options()))
    return made


class ProgressLine:
    """What takes time, on standard error: in a terminal a line that gives way to the next; else what is downloaded."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._told: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_terminal:
            self._write(CLEAR)

    def report(self, activity: str, detail: str, fraction: float | None) -> None:
        """Say what is done now; how much is to be downloaded stays to be read."""
        said = one_line(f"{activity} {detail}", 300)
        is_download = activity == "downloading" and "," in said
        if is_download and (name := said.partition(",")[0]) not in self._told:
            self._told.add(name)
            self._write(f"{CLEAR if self._is_terminal else ''}{said}\n")
        if self._is_terminal:
            share = "" if fraction is None else f" {format_percent(fraction)}"
            self._write(f"{CLEAR}{cut(f'{said}{share} ...', shutil.get_terminal_size().columns - 1)}")

    @staticmethod
    def _write(text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # it has been closed
            sys.stderr.write(text)
            sys.stderr.flush()


def as_text(report: Mapping[str, Any]) -> str:
    """The report as a person reads it."""
    model, count = report["model"], len(report["stages"])
    lines = [
        f"plan {one_line(report['plan'])}: {counted(count, 'stage')}; "
        f"{one_line(model['exp'])}, {format_parameters(model['parameters'])}, context {model['context_len']}, "
        f"tokenizer {one_line(model['tokenizer'])}; {one_line(report['device'])}"
        + ("" if report["processes"] == 1 else f"; {report['processes']} processes, times estimated for one"),
        "",
    ]
    header = ("stage", "data", "rows", "steps (est.)", "tokens (est.)", "time (est.)", "text shown")
    table = [header, *(_row(stage) for stage in report["stages"])]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    told: list[tuple[Any, ...]] = []
    for stage in report["stages"]:
        for dataset in stage.get("data", ()):
            key = dataset["name"], dataset["columns"], dataset["notes"], dataset["samples"]
            if key not in told:  # another stage may read the same
                told.append(key)
                lines += ["", *_dataset_lines(dataset)]
        if stage.get("rows_without_sample_estimate"):
            without = f"about {stage['rows_without_sample_estimate']:,} of {counted(stage['rows'], 'row')}"
            lines += ["", f"stage {one_line(stage['name'])}: {without} give no sample (est.)"]
    lines += ["", one_line(report["leak_guard"]["sentence"], 400), ""]
    lines += [f"{'ok ' if step['ok'] else 'NO '} {one_line(step['what'], 400)}" for step in report["tried"]]
    lines += [f"WARN {one_line(warning, 400)}" for warning in report["warnings"]]
    lines += [f"NO  {one_line(problem, 1000)}" for problem in report["problems"]]
    disk = report["disk"]
    lines.append(f"disk: {format_bytes(disk['needed_bytes'])} for checkpoints, {format_bytes(disk['free_bytes'])} free")
    return "\n".join(lines)


def _dataset_lines(dataset: Mapping[str, Any]) -> list[str]:
    """What is read of a dataset, and its own first samples, character by character."""
    name = one_line(dataset["name"])
    lines = [f"dataset {name}: columns: {one_line(dataset['columns'], 4000)}"]
    lines += [f"dataset {name}: {one_line(note, 1000)}" for note in dataset["notes"]]
    lines.append(
        f"dataset {name}: {counted(dataset['rows'], 'row')} to train on, {dataset['rows_held_out']:,} to validate on"
    )
    for sample in dataset["samples"]:
        lines += sample_lines(sample)
    return lines


def sample_lines(sample: Mapping[str, Any]) -> list[str]:
    """A sample as the model sees it, between quotation marks: line breaks as a sign, the end-of-text mark by name."""
    return [
        f"  row {sample['row']}, {counted(sample['tokens'], 'token')}",
        f"    prompt: {_seen(sample['prompt']) if sample['prompt'] else END_OF_TEXT}",
        f"    truth:  {_seen(sample['truth'])}{END_OF_TEXT if sample['ends'] else ''}",
    ]


def _seen(text: str) -> str:
    """A text as the model sees it, line breaks as a sign; of a long one the beginning and the end."""
    if len(text) > SEEN_CHARACTERS:
        half = SEEN_CHARACTERS // 2
        return f"{_seen(text[:half])} ... {len(text) - 2 * half:,} characters ... {_seen(text[-half:])}"
    return f'"{printable(text).replace(chr(10), LINE_BREAK)}"'


def _row(stage: Mapping[str, Any]) -> tuple[str, ...]:
    if stage.get("problem"):
        return one_line(stage["name"], 40), ", ".join(stage["datasets"]), "-", "-", "-", "-", "-"
    return (
        one_line(stage["name"], 40),
        one_line(", ".join(stage["datasets"]), 40),
        f"{stage['rows']:,}",
        f"{stage['steps_estimate']:,}",
        f"{stage['tokens_estimate']:,}",
        format_duration(stage["seconds_estimate"]) if stage["seconds_estimate"] is not None else "?",
        f"{100 * stage['text_shown']:.1f} %",
    )
