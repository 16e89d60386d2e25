"""`lmplay-tui new DATA...`: a commented plan from data files, measured on them and proposed for this device."""

import argparse
import contextlib
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lmplay_tui.command_line import device_argument, new_parser, parse_line
from lmplay_tui.commands.check import ProgressLine, as_text
from lmplay_tui.errors import EXIT_OK, EXIT_USAGE, UserError, os_error
from lmplay_tui.files import is_file, is_there
from lmplay_tui.formats import counted, format_bytes, format_count
from lmplay_tui.options import Launch, TrainOptions, home_path, resolve
from lmplay_tui.process import typed
from lmplay_tui.text import one_line, printable

if TYPE_CHECKING:
    from lmplay_tui.data.rows import Columns
    from lmplay_tui.data.splits import ReportProgress
    from lmplay_tui.data.tokenizer import Tokenizer
    from lmplay_tui.plan.schema import DatasetSpec

DESCRIPTION = """\
Write a plan from data files, and check it.

DATA: files and folders of rows. Each is opened and measured; the plan says which columns were found, and proposes a
model, a context and a batch that suit the data and this device. It is text with comments, made to be changed. Texts
become a stage, and what has answers (prompt and truth, conversations) a second one. Nothing is trained, and no file is
written over."""
EPILOG = """\
examples:
  {prog} stories.jsonl
  {prog} books/ questions.csv -o my_plan.toml

Exit status: 0 written, and all is well; 2 what cannot be read (nothing is written), or the check found problems."""
MEASURED_ROWS = 200  # of each dataset, spread over it
FITS = 0.9  # of the rows have room in the context
FEWEST_STEPS, ENOUGH_STEPS, MOST_EPOCHS = 50, 1000, 10  # of a stage, so that a curve is worth looking at


@dataclass(frozen=True)
class Device:
    """What suits a kind of device: a shape that trains in an hour, not in days."""

    train: dict[str, object]
    contexts: tuple[int, int]  # the shortest and the longest proposed
    batch_size: int
    mini_batch_size: int | str


SMALL = Device(
    {"num_blocks": 4, "embed_dim": 128, "num_heads": 4, "tokenizer": "gpt2:4096", "dropout": 0.0, "lr": 2e-3},
    contexts=(32, 256), batch_size=16, mini_batch_size=16,
)  # fmt: skip
LARGE = Device({"exp": "gpt2ish", "tokenizer": "gpt2", "lr": 6e-4}, (64, 1024), 64, "auto")
_WHY = {
    "exp": "6 blocks, 768 wide; others: lmp_trainer --exp list",
    "num_blocks": "a small model, for a processor; on a GPU leave the three out: 6, 768, 12",
    "tokenizer": "gpt2 has 50,257 tokens; the first 4,096 of them are enough for a small model",
    "lr": "learning rate",
}


@dataclass(frozen=True)
class Measured:
    """A dataset as it was found. Of some of its rows, `lengths`: tokens; `needed`: of a context that they fit into.

    A prompt takes at most half the context.
    """

    spec: "DatasetSpec"
    columns: "Columns"
    said: str  # of its columns
    notes: tuple[str, ...]
    rows: int  # to train on
    rows_held_out: int
    is_own_split: bool
    size_bytes: int
    lengths: list[int]
    needed: list[int]

    @property
    def tokens(self) -> float:
        """Of all its rows, by those that were looked at."""
        return sum(self.lengths) / max(len(self.lengths), 1) * self.rows

    @property
    def has_answers(self) -> bool:
        return self.columns.text is None


def main(arguments: Sequence[str], prog: str) -> int:
    """Write a plan and check it. Raises `UserError`, a line for each of the DATA that cannot be used."""
    line = parse_line(parser(prog), arguments)
    target = Path(line.output or f"{_stem(Path(line.data[0]))}.toml")
    if target.suffix != ".toml":
        raise UserError(f"-o {one_line(target)}: a plan's name ends in .toml")
    if is_there(target):
        raise UserError(f"{one_line(target)}: is there already; choose another name with -o FILE")
    options = TrainOptions(device=line.device)
    specs = _specs(line.data)
    from lmplay_tui.data.tokenizer import load_tokenizer
    from lmplay_tui.train.device import choose_device, device_name

    device = choose_device(options.device)
    suits = SMALL if device.type == "cpu" else LARGE
    tokenizer = load_tokenizer(str(suits.train["tokenizer"]))
    measured = _measured(specs, tokenizer, line.out_dir)
    text = plan_text(measured, suits, device_name(device), target)
    _write(target, text)
    print(f"wrote {one_line(target, 400)}")
    launch = [] if line.device == "auto" else ["--device", line.device]
    train = " ".join([typed("lmplay-tui"), shlex.join(["--training-plan", str(target), *launch])])
    if line.check and not _is_well(target, line.device):
        again = f"{typed('lmplay-tui check')} {shlex.quote(str(target))}"
        print(f"there are problems: change {one_line(target, 400)}, then: {printable(again)}")
        return EXIT_USAGE
    print(f"train it with: {printable(train)}")
    return EXIT_OK


def parser(prog: str) -> argparse.ArgumentParser:
    """The command line of `new`."""
    made = new_parser(prog, DESCRIPTION, EPILOG.format(prog=prog))
    made.add_argument("data", type=home_path, nargs="+", metavar="DATA", help="a file or a folder of rows")
    made.add_argument("-o", "--output", type=home_path, default=None, metavar="FILE",
                      help="the plan's file [the first DATA's name, .toml]")  # fmt: skip
    made.add_argument("--device", type=device_argument, default="auto", metavar="NAME",
                      help="propose for auto, cpu, cuda, cuda:1, mps [auto]")  # fmt: skip
    made.add_argument("--no-check", dest="check", action="store_false", default=True, help="write the plan only")
    made.add_argument("--out-dir", type=home_path, default=None, metavar="DIR",
                      help="where saved datasets are looked for [out_gpt]")  # fmt: skip
    return made


# ---- the data


def _specs(data: Sequence[str]) -> list["DatasetSpec"]:
    """A dataset for each of the files and folders, called after it. Raises `UserError`, a line each."""
    from lmplay_tui.plan.dataset_specs import Shelf

    shelf, specs, problems = Shelf(Path()), [], []
    names: set[str] = set()
    for place in dict.fromkeys(data):
        if not is_there(Path(place)):
            problems.append(f"{one_line(place, 200)}: no such file or folder")
            continue
        name = _stem(Path(place))[:36]
        name = next(each for each in (name, *(f"{name}-{n}" for n in range(2, 10_000))) if each.lower() not in names)
        spec, problem = shelf.at(str(Path(place).absolute()), name=name)
        if spec is None:
            problems.append(f"{one_line(place, 200)}: {problem}")
            continue
        names.add(name.lower())
        specs.append(spec)
    if problems:
        raise UserError("\n".join(problems))
    return specs


def _stem(path: Path) -> str:
    """A file's or folder's name as a plan may call a dataset and a run: without its endings, letters and digits."""
    from lmplay_tui.plan.dataset_specs import file_kind
    from lmplay_tui.plan.schema import check_name, name_from

    name = path.absolute().name
    if is_file(path) and (kind := file_kind(name)) is not None:
        name = name[: -len("".join(kind))]
    name = name_from(name, "-") or "data"
    return f"{name}-data"[:40] if check_name("dataset", name) is not None else name


def _measured(specs: Sequence["DatasetSpec"], tokenizer: "Tokenizer", out_dir: str | None) -> list[Measured]:
    """Each dataset, opened and measured; what cannot be read is said, a line each. Raises `UserError`."""
    found, problems = [], []
    with ProgressLine() as progress:
        for spec in specs:
            try:
                found.append(_measure(spec, tokenizer, out_dir, progress.report))
            except UserError as error:
                problems.append(str(error))
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))
    return found


def _measure(spec: "DatasetSpec", tokenizer: "Tokenizer", out_dir: str | None, report: "ReportProgress") -> Measured:
    from lmplay_tui.data.local import size_bytes
    from lmplay_tui.data.sources import open_source
    from lmplay_tui.data.stage_data import open_stage
    from lmplay_tui.plan.schema import Stage
    from lmplay_tui.run.folder import datasets_folder

    folder = datasets_folder(out_dir)
    data = open_stage(Stage(spec.name, (spec,)), TrainOptions(), tokenizer, datasets_folder=folder, report=report)
    (part,) = data.parts
    lengths, needed = [], []
    for row in range(0, part.training_rows, max(part.training_rows // MEASURED_ROWS, 1)):
        sizes = [(len(tokenizer.encode(item.prompt)), len(tokenizer.encode(item.truth))) for item in part.training(row)]
        lengths.append(sum(prompt + truth for prompt, truth in sizes))
        needed.append(max((max(prompt + truth, 2 * prompt) + 1 for prompt, truth in sizes), default=0))
    columns = part.source.train.columns
    named = replace(spec, **_named(columns))
    if named != spec:
        with contextlib.suppress(UserError):  # said in the plan, the same columns must be read in the same way
            source = open_source(named, datasets_folder=folder, report=report)
            spec = named if source.train.columns.key() == columns.key() else spec
    return Measured(
        spec, columns, part.source.columns, part.source.notes, part.training_rows, part.validation_rows,
        part.validation_rows > 0 and not part.holds_out, size_bytes(Path(spec.path)), lengths, needed,
    )  # fmt: skip


def _named(columns: "Columns") -> dict[str, str]:
    """The columns as a plan's keys; none where a plan cannot say how these are read."""
    if columns.others or columns.history or columns.transcript or columns.alternating:
        return {}
    roles = {"text": columns.text, "title": columns.title, "system": columns.system, "truth": columns.truth}
    if columns.messages:
        is_plain = len(columns.messages) == 1 and not columns.prompt and not any(roles.values())
        return {"messages": columns.messages[0]} if is_plain else {}
    if columns.truth and len(columns.prompt) != 1:
        return {}
    roles |= {"prompt": columns.prompt[0] if columns.prompt else None}
    return {role: name for role, name in roles.items() if name is not None and len(name) <= 200}


# ---- the plan


def plan_text(measured: Sequence[Measured], suits: Device, device: str, target: Path) -> str:
    """The TOML of a plan that trains `measured`, with comments that say why each line is as it is."""
    context_len = _context_len(measured, suits)
    stages = {
        name: each
        for name, has_answers in (("texts", False), ("answers", True))
        if (each := [one for one in measured if one.has_answers == has_answers])
    }
    batch_size = min(_batch_size(each, context_len, suits) for each in stages.values())
    epochs = {name: _epochs(each, context_len, batch_size) for name, each in stages.items()}
    reads = {name: math.ceil(sum(one.rows for one in each) * epochs[name]) for name, each in stages.items()}
    steps = sum(epochs[name] * _samples(each, context_len) / batch_size for name, each in stages.items())
    train: dict[str, tuple[object, str]] = {name: (value, _WHY.get(name, "")) for name, value in suits.train.items()}
    size = suits.mini_batch_size
    train |= {
        "context_len": (context_len, _fits(measured, context_len)),
        "batch_size": (batch_size, "samples a step"),
        "mini_batch_size": (
            size if isinstance(size, str) else min(size, batch_size),
            "as many as the device holds" if size == "auto" else "of them at once; fewer take less memory",
        ),
        "shuffle": (True, "rows in another order in each epoch"),
        "continue_rows": (True, "what a batch cuts off of a row comes with the next one"),
        "optimizer_warmup_steps": (max(min(int(steps / 10), 100), 1), "the learning rate grows over so many steps"),
        "validation_interval": (_interval(reads, 50, batch_size), "rows between looks at a few held-out samples"),
        "eval_interval": (_interval(reads, 10, batch_size), "rows between evaluations of a fixed set"),
        "save_interval": (_interval(reads, 10, batch_size), "rows between checkpoints"),
    }
    kinds = ", ".join(one_line(Path(one.spec.path).name, 60) for one in measured[:8]) + ", ..." * (len(measured) > 8)
    lines = [
        f"# From {one_line(kinds, 400)}, for {one_line(device, 100)}.",
        "# Made by lmplay-tui new. All of it may be changed; every key is in docs/reference.md, and",
        f"# lmplay-tui check {one_line(shlex.quote(target.name), 200)} says what a change does.",
        "", "[train]",
    ]  # fmt: skip
    keys = [_key(name, value) for name, (value, _) in train.items()]
    width = max(map(len, keys))
    for key, (_, why) in zip(keys, train.values(), strict=True):
        lines.append(f"{key:<{width}}  # {why}" if why else key)
    for one in measured:
        lines += ["", *_dataset_lines(one, target)]
    for name, each in stages.items():
        lines += ["", *_stage_lines(name, each, epochs[name], context_len, batch_size)]
    return "\n".join(lines) + "\n"


def _key(name: str, value: object) -> str:
    import tomli_w

    return tomli_w.dumps({name: value}).strip()


def _dataset_lines(one: Measured, target: Path) -> list[str]:
    held = f"{one.rows_held_out:,} {'of a split of its own' if one.is_own_split else 'held out of them'}"
    lines = [
        f"# {format_bytes(one.size_bytes)}: {counted(one.rows, 'row')} to train on, {held} to validate on;",
        f"# {format_count(one.tokens, guessed=True)} tokens, {one.tokens / max(one.rows, 1):.0f} a row.",
        f"# Columns: {one_line(one.said, 1000)}",
        *(f"# {one_line(note, 1000)}" for note in one.notes),
        f"[datasets.{one.spec.name}]",
        _key("path", _shown_path(Path(one.spec.path), target)),
    ]
    named = ("text", "title", "prompt", "system", "truth", "messages")
    return [*lines, *(_key(role, value) for role in named if (value := getattr(one.spec, role)) is not None)]


def _shown_path(path: Path, target: Path) -> str:
    """Relative where it lies below the plan's folder: the two may then move together."""
    folder = target.absolute().parent
    return str(path.relative_to(folder)) if path.is_relative_to(folder) and path != folder else str(path)


def _stage_lines(name: str, each: Sequence[Measured], epochs: int, context_len: int, batch_size: int) -> list[str]:
    steps = epochs * _samples(each, context_len) / batch_size
    lines = [f"# {format_count(max(steps, 1), guessed=True)} steps.", f"[stages.{name}]"]
    if len(each) == 1:
        lines.append(_key("dataset", each[0].spec.name))
    else:
        shares = [max(round(one.rows / sum(other.rows for other in each), 3), 0.001) for one in each]
        lines += [
            "datasets = [" + ", ".join(f'"{one.spec.name}"' for one in each) + "]",
            f"weights = [{', '.join(f'{share:g}' for share in shares)}]  # by their rows",
        ]
    return [*lines, _key("epochs", epochs) + "  # passes over the rows; may be fractional"]


def _context_len(measured: Sequence[Measured], suits: Device) -> int:
    """The power of two that nine rows in ten have room in, as far as the device has."""
    needed = sorted(count for one in measured for count in one.needed if count) or [1]
    wanted = needed[math.ceil(FITS * len(needed)) - 1]
    shortest, longest = suits.contexts
    power = 1 << (wanted - 1).bit_length()
    return min(max(power, shortest), longest)


def _fits(measured: Sequence[Measured], context_len: int) -> str:
    needed = [count for one in measured for count in one.needed if count]
    share = sum(count <= context_len for count in needed) / max(len(needed), 1)
    longer = "" if share >= 0.995 else "; longer ones go on in further samples"
    return f"tokens of a sample, at most: {100 * share:.0f} % of the rows fit whole{longer}"


def _samples(each: Sequence[Measured], context_len: int) -> float:
    """About how many samples an epoch gives."""
    return sum(
        sum(math.ceil((length + 1) / context_len) for length in one.lengths) / max(len(one.lengths), 1) * one.rows
        for one in each
    )


def _batch_size(each: Sequence[Measured], context_len: int, suits: Device) -> int:
    """The largest that leaves some steps an epoch."""
    size = suits.batch_size
    while size > 4 and _samples(each, context_len) / size < FEWEST_STEPS:
        size //= 2
    return size


def _epochs(each: Sequence[Measured], context_len: int, batch_size: int) -> int:
    steps = max(_samples(each, context_len) / batch_size, 1)
    return min(max(math.ceil(ENOUGH_STEPS / steps), 1), MOST_EPOCHS)


def _interval(reads: dict[str, int], times: int, batch_size: int) -> int:
    """Rows between what shall happen so many times in the shortest stage, in two figures."""
    return max(int(float(f"{min(reads.values()) / times:.2g}")), batch_size)


def _write(target: Path, text: str) -> None:
    """Write the plan where nothing is. What would not read back is a bug of ours, and is not written."""
    from lmplay_tui.plan.reading import parse_plan

    resolve(parse_plan(text, name="new", file=str(target), folder=target.absolute().parent).train)
    try:
        with target.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except FileExistsError:
        raise UserError(f"{one_line(target)}: is there already; choose another name with -o FILE") from None
    except OSError as error:
        raise os_error(error) from None


def _is_well(target: Path, device: str) -> bool:
    """What `check` says of the plan, printed, and whether it found no problem."""
    from lmplay_tui.train.check import check_plan

    given = {"training_plan": str(target), "device": device}
    with ProgressLine() as progress:
        report = check_plan(Launch(given, "lmplay-tui"), progress.report)
    print(printable(as_text(report)))
    return bool(report["ok"])
