"""Every option of a run, declared once.

A declaration says the type, the default, the bounds, the help, where the option may be set (`Where`) and what a
resume does with it (`OnResume`). The command line, a plan's `[train]` and stages, and the checkpoint's record are
all made from it.

A user's value held to an option's type and bounds, and what is wrong with it in our words.

Command lines made from the declared options, and back: a parser, what was given, the words that give it again.
"""

import argparse
import difflib
import re
import threading
import types
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Union, cast, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from lmplay_tui.errors import UserError
from lmplay_tui.text import one_line


class Where(StrEnum):
    """Where an option may be set; each place includes those before it."""

    LINE = "line"  # on the command line only
    RUN = "run"  # also in a plan's [train]
    STAGE = "stage"  # also in a stage of a plan


class OnResume(StrEnum):
    """What a resume does with the checkpoint's value."""

    FIXED = "fixed"  # it must be the same
    KEPT = "kept"  # it holds, unless the command line or a changed plan gives another
    FREE = "free"  # each start says it anew


class Part(StrEnum):
    """The part of a run that takes an option: so whether a plan that is edited while it runs can still change it."""

    MODEL = "model"  # built once: an edit is refused
    HELD_OUT = "held out"  # which rows are held out: an edit is refused once a stage has begun
    ORDER = "order"  # of a stage's rows: refused for a stage that has begun
    BEGINNING = "beginning"  # acts where a stage begins: refused for one that has begun
    DATA = "data"  # a stage's data are opened anew
    DROPOUT = "dropout"  # the model's layers take it between two steps
    WARM_UP = "warm-up"  # begins anew
    STEPS = "steps"  # read by each step, or by what happens between steps
    START = "start"  # of the process: no plan can say it


def _option(
    default: Any,
    help: str,
    group: str,
    where: Where,
    on_resume: OnResume,
    *,
    part: Part | None = None,
    once: bool = False,
    metavar: str | None = None,
    shown_default: str | None = None,
    is_path: bool = False,
    **bounds: Any,
) -> Any:
    """`part`: what takes it, where that is neither the steps nor the start of the process. `once`: see `said_once`."""
    extra: dict[str, JsonValue] = {
        "group": group,
        "where": where.value,
        "on_resume": on_resume.value,
        "part": (part or (Part.START if where is Where.LINE else Part.STEPS)).value,
        "once": once,
        "metavar": metavar,
        "shown_default": shown_default,
        "is_path": is_path,  # of a file or folder: `~` is the home folder
    }
    return Field(default, description=help, json_schema_extra=extra, **bounds)


LINE, RUN, STAGE = Where.LINE, Where.RUN, Where.STAGE
FIXED, KEPT, FREE = OnResume.FIXED, OnResume.KEPT, OnResume.FREE
MODEL, DATA, OPTIMIZER, CHECKS = "model", "data and batches", "optimizer", "validation, saving, logging"
DEVICE, FILES, SCREEN = "device and speed", "plan and files", "dashboard and hosting"

MAX_INT = 2**53  # JSON's and TOML's readers elsewhere hold integers exactly up to here


class TrainOptions(BaseModel):
    """The options of one run, or of one stage of it: frozen, complete, valid. `resolve` makes them."""

    # The validator is built when it is first used: a command line is checked without it, and no first frame waits.
    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=(), defer_build=True
    )

    # Plan and files
    training_plan: str | None = _option(
        None,
        "plan: a shipped name (demo, default, wikitext3, ...) or a .toml/.json file",
        FILES,
        LINE,
        FREE,
        metavar="PLAN",
        shown_default="default, or the run's own plan on a resume",
        is_path=True,
        once=True,
    )
    model: str | None = _option(
        None,
        "checkpoint to resume from and to save to",
        FILES,
        LINE,
        FREE,
        metavar="FILE",
        shown_default="<out-dir>/<exp>_<plan>.lmp",
        is_path=True,
        once=True,
    )
    initial_model: str | None = _option(
        None,
        "start from these weights if --model is not there yet",
        FILES,
        LINE,
        FREE,
        metavar="FILE",
        is_path=True,
        once=True,
    )
    ignore_tokenizer: bool = _option(
        False, "take --initial-model's weights though another tokenizer made its tokens", FILES, LINE, FREE, once=True
    )
    resume: str = _option(
        "auto",
        "auto: resume if there is a checkpoint; none: train anew; or the checkpoint to start from",
        FILES,
        LINE,
        FREE,
        metavar="auto|none|FILE",
        is_path=True,
        once=True,
    )
    reset_history: bool = _option(
        False, "train anew; earlier checkpoints and statistics move to NAME.past/", FILES, LINE, FREE, once=True
    )
    extend: float | None = _option(
        None,
        "go on with so many epochs more of the plan's last stage",
        FILES,
        LINE,
        FREE,
        metavar="EPOCHS",
        gt=0,
        le=10_000,
        once=True,
    )
    ignore_optimizer: bool = _option(False, "do not load the optimizer's state", FILES, LINE, FREE, once=True)
    out_dir: str | None = _option(
        None,
        "folder for the model, the run and its statistics",
        FILES,
        LINE,
        FREE,
        metavar="DIR",
        shown_default="out_gpt",
        is_path=True,
    )
    save_datasets: bool = _option(
        False, "store the plan's datasets for use without network, then exit", FILES, LINE, FREE, once=True
    )

    # Model
    exp: str = _option(
        "gpt2ish",
        "experiment: a name from --exp list, or file.py:Name (command line only)",
        MODEL,
        RUN,
        FIXED,
        metavar="NAME",
        min_length=1,
        max_length=400,
        is_path=True,
        part=Part.MODEL,
    )
    num_blocks: int | None = _option(
        None,
        "transformer blocks",
        MODEL,
        RUN,
        FIXED,
        ge=1,
        le=1000,
        shown_default="the experiment's own",
        part=Part.MODEL,
    )
    embed_dim: int | None = _option(
        None,
        "width of the residual stream",
        MODEL,
        RUN,
        FIXED,
        ge=1,
        le=65536,
        shown_default="the experiment's own",
        part=Part.MODEL,
    )
    num_heads: int | None = _option(
        None,
        "attention heads a block",
        MODEL,
        RUN,
        FIXED,
        ge=1,
        le=1024,
        shown_default="the experiment's own",
        part=Part.MODEL,
    )
    context_len: int = _option(
        1024, "longest sample, in tokens", MODEL, RUN, FIXED, ge=8, le=1_048_576, part=Part.MODEL
    )
    tokenizer: str = _option(
        "gpt2",
        "gpt2, gpt2:N (its first N tokens), cl100k_base, o200k_base, bytes",
        MODEL,
        RUN,
        FIXED,
        metavar="NAME",
        pattern=r"^[A-Za-z0-9_]{1,40}(:[0-9]{1,9})?$",
        part=Part.MODEL,
    )
    dropout: float = _option(0.1, "dropout probability", MODEL, RUN, KEPT, ge=0, lt=1, part=Part.DROPOUT)
    seed: int = _option(
        0, "seed of weights, dropout, shuffling and mixing", MODEL, RUN, KEPT, ge=0, le=2**63 - 1, part=Part.HELD_OUT
    )
    describe: bool = _option(
        False,
        "show the parameters, which are trained and decay, and the memory, then exit",
        MODEL,
        LINE,
        FREE,
        once=True,
    )

    # Data and batches
    batch_size: int = _option(50, "samples an optimizer step", DATA, STAGE, KEPT, ge=1, le=MAX_INT, part=Part.DATA)
    mini_batch_size: Annotated[int, Field(ge=1, le=MAX_INT)] | Literal["auto"] = _option(
        4, "samples the device holds at once, or auto", DATA, STAGE, FREE, metavar="N|auto"
    )
    shuffle: bool = _option(False, "permute the rows of each epoch", DATA, STAGE, KEPT, part=Part.ORDER)
    continue_rows: bool = _option(
        False, "keep the rest of a row that a full batch cut for the next batch", DATA, STAGE, KEPT, part=Part.DATA
    )
    include_prompts: bool = _option(False, "count the prompt's tokens in the loss too", DATA, STAGE, KEPT)
    validation_split: float = _option(
        0.1,
        "share of rows held out where a dataset has no validation split; one for a whole plan",
        DATA,
        STAGE,
        KEPT,
        ge=0,
        lt=1,
        part=Part.HELD_OUT,
    )

    # Optimizer
    optimizer: Literal["adamw", "adam", "adagrad", "sgd", "rmsprop"] = _option(
        "adamw", "update rule", OPTIMIZER, STAGE, KEPT
    )
    lr: float = _option(0.0006, "learning rate", OPTIMIZER, STAGE, KEPT, gt=0, le=1000)
    lr_schedule: Literal["constant", "cosine", "linear", "wsd"] = _option(
        "constant", "how the learning rate runs over a stage", OPTIMIZER, STAGE, KEPT
    )
    weight_decay: float | None = _option(
        None,
        "weight decay; vectors (biases, norms), numbers and embeddings are left out",
        OPTIMIZER,
        STAGE,
        KEPT,
        ge=0,
        le=1000,
        shown_default="adamw 0.01, others 0",
    )
    grad_clip: float | None = _option(None, "largest gradient norm", OPTIMIZER, STAGE, KEPT, gt=0, shown_default="off")
    loss_normalization: Literal["tokens", "samples"] = _option(
        "tokens",
        "tokens: mean over the batch's tokens; samples: mean over mini-batches weighted by their samples",
        OPTIMIZER,
        STAGE,
        KEPT,
    )
    default_freeze: bool = _option(
        False, "freeze every parameter that does not carry `freeze = False`", OPTIMIZER, STAGE, KEPT
    )
    reset_optimizer: bool = _option(
        False, "start a stage without optimizer state", OPTIMIZER, STAGE, KEPT, part=Part.BEGINNING
    )
    optimizer_warmup_fraction: float | None = _option(
        None,
        "share of the learning rate that a warm-up starts at",
        OPTIMIZER,
        RUN,
        FREE,
        ge=0,
        le=1,
        shown_default="off; 0.1 with --optimizer-warmup-steps",
        part=Part.WARM_UP,
        once=True,
    )
    optimizer_warmup_steps: int | None = _option(
        None,
        "steps that a warm-up takes",
        OPTIMIZER,
        RUN,
        FREE,
        ge=1,
        le=MAX_INT,
        shown_default="off; 40 with --optimizer-warmup-fraction",
        part=Part.WARM_UP,
        once=True,
    )
    disable_optimizer_warmup: bool = _option(
        False, "no warm-up, whatever the plan says", OPTIMIZER, RUN, FREE, part=Part.WARM_UP
    )
    check_grads: bool = _option(
        False, "name the parameters that get no gradient, once", OPTIMIZER, LINE, FREE, once=True
    )

    # Validation, saving, logging
    validation_interval: int = _option(100, "rows between validations", CHECKS, STAGE, FREE, ge=1, le=MAX_INT)
    validation_batch_size: int = _option(4, "samples a validation", CHECKS, STAGE, FREE, ge=1, le=100_000)
    eval_interval: int = _option(
        5000, "rows between evaluations of the fixed set", CHECKS, STAGE, FREE, ge=1, le=MAX_INT
    )
    eval_samples: int = _option(
        256, "samples of the evaluation set", CHECKS, STAGE, FREE, ge=1, le=100_000, part=Part.DATA
    )
    save_interval: int = _option(10000, "rows between checkpoints", CHECKS, STAGE, FREE, ge=1, le=MAX_INT)
    save_minutes: float | None = _option(
        None, "minutes between checkpoints, beside --save-interval", CHECKS, STAGE, FREE, gt=0, shown_default="off"
    )
    log_interval: int = _option(10, "steps a line of the log and of the metrics", CHECKS, STAGE, FREE, ge=1, le=MAX_INT)
    keep: int = _option(0, "numbered checkpoints to keep beside the newest", CHECKS, STAGE, FREE, ge=0, le=100_000)
    verbose: bool = _option(
        False, "say more in the log: each activity, and the figures of each log interval", CHECKS, LINE, FREE
    )

    # Device and speed
    device: str = _option(
        "auto", "auto, cpu, cuda, cuda:1, mps", DEVICE, LINE, FREE, pattern=r"^(auto|cpu|mps|cuda(:[0-9]{1,3})?)$"
    )
    amp: bool = _option(False, "mixed precision: bfloat16 where the device has it, else float16", DEVICE, LINE, FREE)
    amp_dtype: Literal["bfloat16", "float16"] | None = _option(
        None, "number format of --amp", DEVICE, LINE, FREE, shown_default="the best of the device"
    )
    no_grad_scale: bool = _option(False, "no gradient scaling with float16", DEVICE, LINE, FREE)
    compile_model: bool = _option(False, "compile the model with torch.compile", DEVICE, LINE, FREE)
    compile_mode: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] | None = _option(
        None, "mode of torch.compile", DEVICE, LINE, FREE
    )
    compile_backend: str | None = _option(
        None, "backend of torch.compile", DEVICE, LINE, FREE, metavar="NAME", shown_default="inductor"
    )

    # Dashboard and hosting
    headless: bool = _option(False, "train without the dashboard", SCREEN, LINE, FREE, once=True)
    json_lines: bool = _option(False, "headless: one JSON object a line", SCREEN, LINE, FREE)
    start: bool = _option(False, "start at once instead of opening the launcher", SCREEN, LINE, FREE, once=True)
    detach: bool = _option(
        False, "run the trainer in a process of its own and attach to it", SCREEN, LINE, FREE, once=True
    )
    on_hangup: Literal["continue", "stop"] | None = _option(
        None, "when the terminal is lost", SCREEN, LINE, FREE, shown_default="dashboard: continue, headless: stop"
    )
    refresh_hz: float = _option(2.0, "screen refreshes a second", SCREEN, LINE, FREE, ge=0.1, le=30)
    ascii: bool = _option(False, "draw with ASCII only", SCREEN, LINE, FREE)
    no_mouse: bool = _option(False, "leave the mouse to the terminal", SCREEN, LINE, FREE)
    notify_url: str | None = _option(
        None,
        "POST a line here when a stage ends, the run ends or fails, the loss spikes or a step stalls",
        SCREEN,
        LINE,
        FREE,
        metavar="URL",
        pattern=r"^https?://[^\s/]+\S*$",
        once=True,
    )
    price_per_hour: float | None = _option(
        None, "price of the machine, for the cost so far and at the end", SCREEN, LINE, FREE, ge=0
    )
    max_hours: float | None = _option(None, "stop and save after so many hours", SCREEN, LINE, FREE, gt=0)
    on_done: str | None = _option(
        None,
        "shell command to run when the run ends; LMP_STATE, LMP_CHECKPOINT, ... tell it how",
        SCREEN,
        LINE,
        FREE,
        metavar="CMD",
        min_length=1,
    )
    tz: str | None = _option(
        None, "time zone of clock times", SCREEN, LINE, FREE, metavar="ZONE", shown_default="the machine's own"
    )


_building = threading.Lock()  # the trainer's thread resolves options, and so does the one that reads an edited plan

_FLAG_NAMES = {"json_lines": "--json", "context_len": "--context_len"}


def flag(name: str) -> str:
    """The command line's name of an option, as the user's document spells it."""
    return _FLAG_NAMES.get(name, "--" + name.replace("_", "-"))


def extra(name: str) -> dict[str, Any]:
    """What a declaration says beside type and bounds: group, metavar, the default as help shows it."""
    declared = TrainOptions.model_fields[name].json_schema_extra
    assert isinstance(declared, dict)
    return cast(dict[str, Any], declared)


def default(name: str) -> Any:
    """What holds where nobody says anything."""
    return TrainOptions.model_fields[name].default


def where(name: str) -> Where:
    """Where the option may be set."""
    return Where(extra(name)["where"])


def on_resume(name: str) -> OnResume:
    """What a resume does with the option."""
    return OnResume(extra(name)["on_resume"])


def part(name: str) -> Part:
    """Which part of a run takes the option."""
    return Part(extra(name)["part"])


@cache
def names_of(*parts: Part) -> tuple[str, ...]:
    """The options that one of these parts of a run takes."""
    return tuple(name for name in TrainOptions.model_fields if part(name) in parts)


def said_once(name: str) -> bool:
    """Whether it is said for one start alone, or holds a secret: the command that resumes leaves it out."""
    return bool(extra(name)["once"])


@cache
def names(*places: Where) -> tuple[str, ...]:
    """The options that may be set in one of `places`, in the order of their declaration; all without `places`."""
    return tuple(n for n in TrainOptions.model_fields if not places or where(n) in places)


def train_names() -> tuple[str, ...]:
    """What a plan's `[train]` may hold."""
    return names(Where.RUN, Where.STAGE)


def stage_names() -> tuple[str, ...]:
    """What a stage of a plan may hold, beside its datasets and epochs."""
    return names(Where.STAGE)


def recorded(given: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint remembers of a command line: all that a resume must not lose."""
    return {name: value for name, value in given.items() if on_resume(name) is not OnResume.FREE}


def resolve(*layers: Mapping[str, Any]) -> TrainOptions:
    """The options that hold where several places speak; the first layer that names one wins."""
    merged: dict[str, Any] = {}
    for layer in reversed(layers):
        merged.update(layer)
    with _building:
        TrainOptions.model_rebuild()  # at the first call only
    return TrainOptions.model_validate(merged)


def hosting_options() -> list[str]:
    """The options that say how a run is shown and hosted, not what it trains."""
    return [name for name in TrainOptions.model_fields if extra(name)["group"] == SCREEN]


@cache
def _adapter(name: str) -> TypeAdapter[Any]:
    field: FieldInfo = TrainOptions.model_fields[name]
    kind: Any = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    return TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False))


_SENTENCES = {
    "greater_than": "must be above {gt:g}",
    "greater_than_equal": "must be at least {ge:.16g}",
    "less_than": "must be below {lt:g}",
    "less_than_equal": "must be at most {le:.16g}",
    "finite_number": "must be a finite number",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    "int_from_float": "must be a whole number",
}
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "literal": "one of {expected}",
}


def sentence(error: ErrorDetails) -> str:
    """What is wrong with a value, as our messages say it: `must be above 0`."""
    kind, context = error["type"], error.get("ctx", {})
    if (known := _SENTENCES.get(kind)) is not None:
        said = known.format(**context)
    elif kind == "string_pattern_mismatch":
        said = "is not of the form it needs"
    else:
        said = "must be " + _KINDS.get(kind.split("_")[0], error["msg"]).format(**context)
    return said


def shown_value(value: object) -> str:
    """A user's value in a message: at most 60 characters, nothing a terminal obeys."""
    try:
        text = repr(value)
    except RecursionError:
        text = "a deeply nested value"
    except ValueError:  # an integer of more than 4,300 digits
        text = "a huge number"
    return one_line(text, 60)


def check(name: str, value: object, *, strict: bool) -> tuple[Any, str | None]:
    """The value as the option's type, and what is wrong with it (None: nothing).

    `strict`: the value comes with a type (TOML, JSON); otherwise it is a word of a command line.
    A whole number is fine where a number is meant; true is not 1.
    """
    try:
        return _adapter(name).validate_python(value, strict=strict), None
    except ValidationError as error:
        said = sentence(_most_telling(error.errors(include_url=False)))
        return None, f"{said}, got {shown_value(value) if strict else one_line(value, 60) or 'nothing'}"


def _most_telling(errors: Sequence[ErrorDetails]) -> ErrorDetails:
    """Of a union's errors (`int | "auto"`), the bound that was broken rather than the branch that was not meant."""
    return next((e for e in errors if e["type"] in _SENTENCES), errors[0])


def home_path(text: str) -> str:
    """A path as the user wrote it, with the home folder for a `~` or `~user` at its beginning.

    A shell leaves it alone in `--model=~/x`, and in quotes. Raises `UserError` where there is no such home folder.
    """
    if not text.startswith("~"):
        return text
    try:
        return str(Path(text).expanduser())
    except RuntimeError:
        user = one_line(text.split("/", maxsplit=1)[0], 60)
        raise UserError(f"there is no home folder {user}; a file called so is ./{one_line(text, 60)}") from None


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean X?` for a misspelt word, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


class _Parser(argparse.ArgumentParser):
    """An argparse that says a mistake in one line and leaves the exit to its caller."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {one_line(message)}; see {self.prog} --help")


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34, width=100)


def new_parser(
    prog: str, description: str, epilog: str | None = None, usage: str | None = None
) -> argparse.ArgumentParser:
    """An argument parser whose mistakes are `UserError`s of one line."""
    return _Parser(
        prog=prog,
        usage=usage,
        description=description,
        epilog=epilog,
        allow_abbrev=False,
        formatter_class=_HelpFormatter,
        argument_default=argparse.SUPPRESS,
    )


def add_options(parser: argparse.ArgumentParser, leave_out: Iterable[str] = ()) -> None:
    """Add every declared option to `parser`, in groups; what the line does not give stays out of the namespace."""
    groups: dict[str, argparse._ArgumentGroup] = {}
    left_out = set(leave_out)
    for name, field in TrainOptions.model_fields.items():
        if name in left_out:
            continue
        about = extra(name)
        title = about["group"]
        group = groups.get(title) or groups.setdefault(title, parser.add_argument_group(title))
        flags = [flag(name)] if name != "context_len" else ["--context_len", "--context-len"]
        help_text = f"{field.description} {_default_note(name)}".rstrip().replace("%", "%%")
        if field.annotation is bool:
            if where(name) is Where.LINE:
                group.add_argument(*flags, dest=name, action="store_true", help=help_text)
            else:  # a plan may say true: the line must be able to say no
                group.add_argument(*flags, dest=name, action=argparse.BooleanOptionalAction, help=help_text)
        else:
            group.add_argument(*flags, dest=name, help=help_text, metavar=about["metavar"] or _metavar(name))


def _default_note(name: str) -> str:
    field = TrainOptions.model_fields[name]
    shown = extra(name)["shown_default"]
    if shown is None:
        shown = None if field.default is None or field.default is False else str(field.default)
    return f"[{shown}]" if shown else ""


def _metavar(name: str) -> str:
    annotation = TrainOptions.model_fields[name].annotation
    is_union = get_origin(annotation) in (Union, types.UnionType)
    kinds = get_args(annotation) if is_union else (annotation,)
    for kind in kinds:
        if get_origin(kind) is Literal:
            return "|".join(str(choice) for choice in get_args(kind))
    return "N" if int in kinds else "X" if float in kinds else name.upper()


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
    for name in TrainOptions.model_fields:
        if not hasattr(namespace, name):
            continue
        value, problem = check(name, getattr(namespace, name), strict=False)
        if problem is None and extra(name)["is_path"]:
            value, problem = _at_home(value)
        if problem is None:
            given[name] = value
        else:
            problems.append(f"{flag(name)}: {problem}")
    if problems:
        raise UserError("\n".join(problems))
    return given


def _at_home(value: str) -> tuple[str, str | None]:
    try:
        return home_path(value), None
    except UserError as error:
        return value, str(error)


def command_words(given: Mapping[str, Any]) -> list[str]:
    """The words of a command line that gives these options: the inverse of `given_options`."""
    words: list[str] = []
    for name, value in given.items():
        if value is True:
            words.append(flag(name))
        elif value is False:
            words.append(re.sub("^--", "--no-", flag(name)))
        elif value is not None:
            words += [flag(name), str(value)]
    return words
