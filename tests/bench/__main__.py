"""Measurements: `python -m tests.bench PART`, or `all`. Needs nothing but the plain install.

Times on a busy machine are noise: contenders are run in turn, compared with each other in the same run, and by medians.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bench import journals, ranks, runs, scaling, sharding, starts, texts, training, ui

Measurement = Callable[[argparse.Namespace], dict[str, str]]


def _found(data: str) -> str:
    """A local dataset by its full path: each contender works in a folder of its own."""
    return str(Path(data).resolve()) if Path(data).exists() else data


OPTIONS: dict[str, dict[str, Any]] = {
    "--setting": {"choices": ["S", "M"], "default": "S"},
    "--amp": {"action": "store_true", "default": False},
    "--compile-model": {"action": "store_true", "default": False},
    "--against": {"choices": ["ceiling"], "default": None, "help": "the tightest plain loop, interleaved"},
    "--seconds": {"type": float, "default": 20.0, "help": "measured time of a contender and round"},
    "--data": {"type": _found, "default": "pydocs", "metavar": "FOLDER", "help": "a known name or a folder"},
    "--rounds": {"type": int, "default": 3, "help": "of contenders in turn"},
}  # fmt: skip
TAKEN = {  # what each part takes of them; a part that is not here: none
    "train": list(OPTIONS),
    "all": ["--seconds", "--data", "--rounds"],
    "ui": ["--seconds"],
    "scaling": ["--setting", "--amp", "--compile-model", "--seconds"],
    "ranks": ["--seconds", "--data", "--rounds"],
}


def _train_both(arguments: argparse.Namespace) -> dict[str, str]:
    """Both settings as `all` shows them: plain, alone."""
    rows: dict[str, str] = {}
    for setting in ("S", "M"):
        rows |= training.run(argparse.Namespace(**(vars(arguments) | {"setting": setting})))
    return rows


ALL: dict[str, Measurement] = {
    "train": _train_both, "resume": runs.run_resume, "save": runs.run_save, "tokenize": texts.run_tokenize,
    "cut": texts.run_cut, "journal": journals.run, "starts": starts.run, "ui": ui.run,
    "scaling": scaling.run, "ranks": ranks.run, "shard": sharding.run,
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("all", *ALL):
        part = commands.add_parser(name)
        for option, declared in OPTIONS.items():
            if option in TAKEN.get(name, []):
                part.add_argument(option, **declared)
            else:
                part.set_defaults(**{option[2:].replace("-", "_"): declared["default"]})
    arguments = parser.parse_args()
    if arguments.command == "train":
        print_table(training.run(arguments))
    else:
        names = list(ALL) if arguments.command == "all" else [arguments.command]
        print_table({key: value for name in names for key, value in ALL[name](arguments).items()})
    return 0


def print_table(rows: dict[str, str]) -> None:
    width = max(map(len, rows))
    print("\n".join(f"{name:<{width}}  {value}" for name, value in rows.items()), flush=True)


if __name__ == "__main__":
    sys.exit(main())
