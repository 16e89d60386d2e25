"""Every option of a run, declared once, and what is made from the declarations.

A declaration says the type, the default, the bounds, the help, where the option may be set (`Where`), what a resume
does with it (`OnResume`) and which part of a run takes it (`Part`). From it come the command line, what a plan's
`[train]` and stages may hold, and the checkpoint's record.

In this file: the declarations (`TrainOptions`, `OPTIONS`); which value holds (`resolve`); the start that a command line
asks for (`Launch`); a user's value held to an option's type and bounds (`check`).

Every command imports this module, and a first frame waits for it: so it imports nothing that is slow.
"""

import math
import re
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

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
    PROCESS = "process"  # how this one shows and holds the run: one that takes the run over is told its own


@dataclass(frozen=True)
class Option:
    """What is declared of an option, as a field of `TrainOptions`."""

    name: str
    default: Any
    kind: type | None  # bool, int, float or str; None: one of `choices`
    choices: tuple[str, ...]  # words that it may be, beside values of its kind
    help: str
    group: str  # in the command line's help
    where: Where
    on_resume: OnResume
    part: Part
    once: bool = False  # said for one start alone, or a secret: the command that resumes leaves it out
    path: bool = False  # of a file or folder: `~` is the home folder
    metavar: str | None = None
    shown: str | None = None  # as default in the help, where that is not the default itself
    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None
    min_length: int = 0
    max_length: int | None = None
    pattern: str | None = None  # of the whole text

    @property
    def flag(self) -> str:
        """The command line's name of it, as the user's document spells it."""
        return _FLAGS.get(self.name, "--" + self.name.replace("_", "-"))


_FLAGS = {"json_lines": "--json", "context_len": "--context_len"}


def _option(
    default: Any, help: str, metavar: str | None = None, *, where: Where, part: Part | None = None, **declared: Any
) -> Any:
    """A field of `TrainOptions`, with what its `Option` says besides name, type and default."""
    part = part or (Part.START if where is Where.LINE else Part.STEPS)
    return field(default=default, metadata=dict(help=help, metavar=metavar, where=where, part=part, **declared))


LINE, RUN, STAGE = Where.LINE, Where.RUN, Where.STAGE
FIXED, KEPT, FREE = OnResume.FIXED, OnResume.KEPT, OnResume.FREE

SCREEN = "dashboard and process"
MAX_INT = 2**53  # JSON's and TOML's readers elsewhere hold integers exactly up to here

# What the options of a group mostly have in common; what one says itself goes before.
_file = partial(_option, group="plan and files", where=LINE, on_resume=FREE)
_model = partial(_option, group="model", where=RUN, on_resume=FIXED)
_shape = partial(_model, part=Part.MODEL)
_data = partial(_option, group="data and batches", where=STAGE, on_resume=KEPT)
_optimizer = partial(_option, group="optimizer", where=STAGE, on_resume=KEPT)
_warm_up = partial(_optimizer, where=RUN, on_resume=FREE, part=Part.WARM_UP)
_checks = partial(_option, group="validation, saving, logging", where=STAGE, on_resume=FREE)
_device = partial(_option, group="device and speed", where=LINE, on_resume=FREE)
_screen = partial(_option, group=SCREEN, where=LINE, on_resume=FREE)
_of_process = partial(_screen, part=Part.PROCESS)


@dataclass(frozen=True)
class TrainOptions:
    """The options of one run, or of one stage of it: frozen, complete, valid.

    Raises `ValueError` for a value that is not of its option's type or bounds.
    """

    # Plan and files
    training_plan: str | None = _file(
        None, "plan: a shipped name (demo, default, wikitext3, ...) or a .toml/.json file", "PLAN",
        shown="default, or the run's own plan on a resume", path=True, once=True)  # fmt: skip
    model: str | None = _file(
        None, "checkpoint to resume from and to save to", "FILE",
        shown="<out-dir>/<exp>_<plan>.lmp", path=True, once=True, part=Part.PROCESS)  # fmt: skip
    initial_model: str | None = _file(
        None, "start from these weights if --model is not there yet", "FILE", path=True, once=True
    )
    ignore_tokenizer: bool = _file(
        False, "take --initial-model's weights though another tokenizer made its tokens", once=True
    )
    resume: str = _file(
        "auto", "auto: resume if there is a checkpoint; none: train anew; or the checkpoint to start from",
        "auto|none|FILE", path=True, once=True)  # fmt: skip
    reset_history: bool = _file(False, "train anew; earlier checkpoints and statistics move to NAME.past/", once=True)
    extend: float | None = _file(
        None, "go on with so many epochs more of the plan's last stage", "EPOCHS", gt=0, le=10_000, once=True
    )
    ignore_optimizer: bool = _file(False, "do not load the optimizer's state", once=True)
    out_dir: str | None = _file(
        None, "folder for the model, the run and its statistics", "DIR", shown="out_gpt", path=True
    )
    save_datasets: bool = _file(False, "store the plan's datasets for use without network, then exit", once=True)

    # Model
    exp: str = _shape(
        "gpt2ish", "experiment: a name from --exp list, or file.py:Name (command line only)", "NAME",
        min_length=1, max_length=400, path=True)  # fmt: skip
    num_blocks: int | None = _shape(None, "transformer blocks", ge=1, le=1000, shown="the experiment's own")
    embed_dim: int | None = _shape(None, "width of the residual stream", ge=1, le=65536, shown="the experiment's own")
    num_heads: int | None = _shape(None, "attention heads a block", ge=1, le=1024, shown="the experiment's own")
    context_len: int = _shape(1024, "longest sample, in tokens", ge=8, le=1_048_576)
    tokenizer: str = _shape(
        "gpt2", "gpt2, gpt2:N (its first N tokens), cl100k_base, o200k_base, bytes", "NAME",
        pattern=r"[A-Za-z0-9_]{1,40}(:[0-9]{1,9})?")  # fmt: skip
    dropout: float = _model(0.1, "dropout probability", ge=0, lt=1, on_resume=KEPT, part=Part.DROPOUT)
    seed: int = _model(
        0, "seed of weights, dropout, shuffling and mixing", ge=0, le=2**63 - 1, on_resume=KEPT, part=Part.HELD_OUT
    )
    describe: bool = _model(
        False, "show the parameters, which are trained and decay, and the memory, then exit",
        where=LINE, on_resume=FREE, once=True)  # fmt: skip

    # Data and batches
    batch_size: int = _data(50, "samples an optimizer step", ge=1, le=MAX_INT, part=Part.DATA)
    mini_batch_size: int | Literal["auto"] = _data(
        4, "samples the device holds at once, or auto", "N|auto", ge=1, le=MAX_INT, on_resume=FREE
    )
    shuffle: bool = _data(False, "permute the rows of each epoch", part=Part.ORDER)
    continue_rows: bool = _data(
        False, "keep the rest of a row that a full batch cut for the next batch", part=Part.DATA
    )
    include_prompts: bool = _data(False, "count the prompt's tokens in the loss too")
    validation_split: float = _data(
        0.1, "share of rows held out where a dataset has no validation split; one for a whole plan",
        ge=0, lt=1, part=Part.HELD_OUT)  # fmt: skip

    # Optimizer
    optimizer: Literal["adamw", "adam", "adagrad", "sgd", "rmsprop"] = _optimizer("adamw", "update rule")
    lr: float = _optimizer(0.0006, "learning rate", gt=0, le=1000)
    lr_schedule: Literal["constant", "cosine", "linear", "wsd"] = _optimizer(
        "constant", "how the learning rate runs over a stage"
    )
    weight_decay: float | None = _optimizer(
        None, "weight decay; vectors (biases, norms), numbers and embeddings are left out",
        ge=0, le=1000, shown="adamw 0.01, others 0")  # fmt: skip
    grad_clip: float | None = _optimizer(None, "largest gradient norm", gt=0, shown="off")
    loss_normalization: Literal["tokens", "samples"] = _optimizer(
        "tokens", "tokens: mean over the batch's tokens; samples: mean over mini-batches weighted by their samples"
    )
    default_freeze: bool = _optimizer(False, "freeze every parameter that does not carry `freeze = False`")
    reset_optimizer: bool = _optimizer(False, "start a stage without optimizer state", part=Part.BEGINNING)
    optimizer_warmup_fraction: float | None = _warm_up(
        None, "share of the learning rate that a warm-up starts at",
        ge=0, le=1, shown="off; 0.1 with --optimizer-warmup-steps", once=True)  # fmt: skip
    optimizer_warmup_steps: int | None = _warm_up(
        None, "steps that a warm-up takes",
        ge=1, le=MAX_INT, shown="off; 40 with --optimizer-warmup-fraction", once=True)  # fmt: skip
    disable_optimizer_warmup: bool = _warm_up(False, "no warm-up, whatever the plan says")
    check_grads: bool = _optimizer(
        False, "name the parameters that get no gradient, once", where=LINE, on_resume=FREE, once=True
    )

    # Validation, saving, logging
    validation_interval: int = _checks(100, "rows between validations", ge=1, le=MAX_INT)
    validation_batch_size: int = _checks(4, "samples a validation", ge=1, le=100_000)
    eval_interval: int = _checks(5000, "rows between evaluations of the fixed set", ge=1, le=MAX_INT)
    eval_samples: int = _checks(256, "samples of the evaluation set", ge=1, le=100_000, part=Part.DATA)
    save_interval: int = _checks(10000, "rows between checkpoints", ge=1, le=MAX_INT)
    save_minutes: float | None = _checks(None, "minutes between checkpoints, beside --save-interval", gt=0, shown="off")
    log_interval: int = _checks(10, "steps a line of the log and of the metrics", ge=1, le=MAX_INT)
    keep: int = _checks(0, "numbered checkpoints to keep beside the newest", ge=0, le=100_000)
    verbose: bool = _checks(
        False, "say more in the log: each activity, and the figures of each log interval", where=LINE
    )

    # Device and speed
    device: str = _device("auto", "auto, cpu, cuda, cuda:1, mps", pattern=r"auto|cpu|mps|cuda(:[0-9]{1,3})?")
    amp: bool = _device(False, "mixed precision: bfloat16 where the device has it, else float16")
    amp_dtype: Literal["bfloat16", "float16"] | None = _device(
        None, "number format of --amp", shown="the best of the device"
    )
    no_grad_scale: bool = _device(False, "no gradient scaling with float16")
    shard: Literal["none", "full", "hybrid"] = _device(
        "none", "with several processes: each holds a part of weights, gradients and optimizer state, of one model "
        "(full) or of one a host (hybrid)")  # fmt: skip
    shard_save: Literal["auto", "file", "folder"] = _device(
        "auto", "with --shard: a checkpoint is one file that rank 0 gathers (file), or has a folder beside it, into "
        "which each process writes its part (folder); auto: a folder from 20 GB on")  # fmt: skip
    recompute: bool = _device(
        False, "keep only what goes into each block, and compute the rest again in the backward pass: less memory, "
        "more time")  # fmt: skip
    nproc: int | Literal["auto"] = _device(
        1, "processes that train together, each on a device of its own, or auto: one for each CUDA device", "N|auto",
        ge=1, le=1024)  # fmt: skip
    compile_model: bool = _device(False, "compile the model with torch.compile")
    compile_mode: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] | None = _device(
        None, "mode of torch.compile"
    )
    compile_backend: str | None = _device(None, "backend of torch.compile", "NAME", shown="inductor")

    # Dashboard and process
    headless: bool = _of_process(False, "train without the dashboard", once=True)
    json_lines: bool = _of_process(False, "headless: one JSON object a line")
    start: bool = _of_process(False, "start at once instead of opening the launcher", once=True)
    detach: bool = _of_process(False, "run the trainer in a process of its own and attach to it", once=True)
    on_hangup: Literal["continue", "stop"] | None = _of_process(
        None, "when the terminal is lost", shown="dashboard: continue, headless: stop"
    )
    refresh_hz: float = _of_process(2.0, "screen refreshes a second", ge=0.1, le=30)
    ascii: bool = _of_process(False, "draw and write with ASCII only; letters of texts stay")
    no_mouse: bool = _of_process(False, "leave the mouse to the terminal")
    notify_url: str | None = _of_process(  # handed down by the environment: everyone on the machine reads command lines
        None, "POST a line here when a stage ends, the run ends or fails, the loss spikes or a step stalls", "URL",
        pattern=r"https?://[^\s/]+\S*", once=True)  # fmt: skip
    price_per_hour: float | None = _screen(None, "price of the machine, for the cost so far and at the end", ge=0)
    max_hours: float | None = _screen(None, "stop and save after so many hours", gt=0)
    on_done: str | None = _screen(
        None, "shell command to run when the run ends; LMP_STATE, LMP_CHECKPOINT, ... tell it how", "CMD",
        min_length=1)  # fmt: skip
    tz: str | None = _screen(None, "time zone of clock times", "ZONE", shown="the machine's own")

    def __post_init__(self) -> None:
        set_here = [(name, value) for name, value in vars(self).items() if value is not _DEFAULTS[name]]
        for name, value in set_here:
            typed, problem = _typed(OPTIONS[name], value)
            if problem is not None:
                raise ValueError(f"{name}: {problem}, got {shown_value(value)}")
            object.__setattr__(self, name, typed)


def _declared(name: str, annotation: Any, default: Any, declared: Mapping[str, Any]) -> Option:
    """The declaration of a field, with what its annotation says: `int | None`, `int | Literal["auto"]`, ..."""
    is_union = get_origin(annotation) in (Union, types.UnionType)
    kinds = [kind for kind in (get_args(annotation) if is_union else (annotation,)) if kind is not types.NoneType]
    choices = tuple(word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind))
    plain = [kind for kind in kinds if get_origin(kind) is not Literal]
    return Option(name, default, plain[0] if plain else None, choices, **declared)


OPTIONS: Mapping[str, Option] = types.MappingProxyType(
    {f.name: _declared(f.name, f.type, f.default, f.metadata) for f in fields(TrainOptions)}
)
_DEFAULTS = {name: option.default for name, option in OPTIONS.items()}


@cache
def names_of(*parts: Part) -> tuple[str, ...]:
    """The options that one of these parts of a run takes."""
    return tuple(name for name, option in OPTIONS.items() if option.part in parts)


@cache
def names(*places: Where) -> tuple[str, ...]:
    """The options that may be set in one of `places`, in the order of their declaration; all without `places`."""
    return tuple(name for name, option in OPTIONS.items() if not places or option.where in places)


def train_names() -> tuple[str, ...]:
    """What a plan's `[train]` may hold."""
    return names(Where.RUN, Where.STAGE)


def stage_names() -> tuple[str, ...]:
    """What a stage of a plan may hold, beside its datasets and epochs."""
    return names(Where.STAGE)


def screen_options() -> list[str]:
    """The options that say how a run is shown and held, not what it trains."""
    return [name for name, option in OPTIONS.items() if option.group == SCREEN]


def recorded(given: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint remembers of a command line: all that a resume must not lose."""
    return {name: value for name, value in given.items() if OPTIONS[name].on_resume is not FREE}


def resolve(*layers: Mapping[str, Any]) -> TrainOptions:
    """The options that hold where several places speak; the first layer that names one wins."""
    merged: dict[str, Any] = {}
    for layer in reversed(layers):
        merged.update(layer)
    return TrainOptions(**merged)


@dataclass(frozen=True)
class Launch:
    """One start of a run as its command line asks for it: made there once, and handed down as it is.

    `line`: the options that it gives, checked. What it leaves out is not in there, so that a plan or a checkpoint can
    say it. `prog`: the command that a resume is typed with.
    """

    line: Mapping[str, Any] = field(default_factory=dict)
    prog: str = "lmp_trainer"

    def __post_init__(self) -> None:
        object.__setattr__(self, "line", types.MappingProxyType(dict(self.line)))

    @cached_property
    def options(self) -> TrainOptions:
        """What the line gives, and the defaults of what it leaves out: for what no plan and no checkpoint can say."""
        return TrainOptions(**self.line)

    @property
    def anew(self) -> bool:
        """Whether it trains from the beginning, whatever checkpoint there is."""
        return self.options.reset_history or self.options.resume == "none"

    @property
    def resumes_from(self) -> Path | None:
        """The checkpoint that `--resume` names."""
        return None if self.options.resume in ("auto", "none") else Path(self.options.resume)

    @property
    def names_a_run(self) -> bool:
        """Whether the line says what to train: a plan, a model, or the checkpoint to go on from."""
        options = self.options
        return options.training_plan is not None or options.model is not None or self.resumes_from is not None

    @property
    def is_apart(self) -> bool:
        """Whether the run is trained outside of the process that shows it: an own one, or several."""
        return self.options.detach or self.options.nproc != 1

    def with_options(self, **options: Any) -> "Launch":
        """The same, with these options besides."""
        return Launch({**self.line, **options}, self.prog)

    def without(self, *names: str) -> "Launch":
        """The same, with these options left out."""
        return Launch({name: value for name, value in self.line.items() if name not in names}, self.prog)


def command_words(given: Mapping[str, Any]) -> list[str]:
    """The words of a command line that gives these options: the inverse of `given_options`."""
    words: list[str] = []
    for name, value in given.items():
        option = OPTIONS[name]
        if value is True:
            words.append(option.flag)
        elif value is False:
            words.append(option.flag.replace("--", "--no-", 1))
        elif value is not None:
            words += [option.flag, str(value)]
    return words


# ---- a user's value held to an option's type and bounds


def check(name: str, value: object, *, strict: bool) -> tuple[Any, str | None]:
    """The value as the option's type, and what is wrong with it (None: nothing).

    `strict`: the value comes with a type (TOML, JSON); otherwise it is a word of a command line.
    A whole number is fine where a number is meant; true is not 1.
    """
    option = OPTIONS[name]
    read = value if strict or not isinstance(value, str) else _of_word(option, value)
    checked, problem = _typed(option, read)
    if problem is None:
        return checked, None
    return None, f"{problem}, got {shown_value(value) if strict else one_line(value, 60) or 'nothing'}"


def _of_word(option: Option, word: str) -> object:
    """What a word of a command line says; the word itself where that is not of the option's type."""
    number = word.strip()
    if option.kind not in (int, float) or not number.isascii():
        return word
    try:
        return float(number) if option.kind is float else int(re.sub(r"\.0+$", "", number))  # `64.0` is whole
    except ValueError:
        return word


def _typed(option: Option, value: object) -> tuple[Any, str | None]:
    """The value as the option's type, and what is wrong with it: a sentence that goes on with what was got."""
    if (value is None and option.default is None) or (isinstance(value, str) and value in option.choices):
        return value, None
    if option.kind is None:
        *others, last = [repr(word) for word in option.choices]
        return value, f"must be one of {', '.join(others)} or {last}"
    if option.kind is bool:
        return value, None if isinstance(value, bool) else "must be true or false"
    if option.kind is str:
        return value, _problem_of_text(option, value)
    if not isinstance(value, int | (float if option.kind is float else int)) or isinstance(value, bool):
        return value, "must be a whole number" if option.kind is int else "must be a number"
    try:
        number = option.kind(value)
    except OverflowError:  # an integer beyond all floats
        return value, "must be a number"
    return number, _problem_of_number(option, number)


def _problem_of_text(option: Option, value: object) -> str | None:
    is_free = not option.min_length and option.pattern is None  # a path, say, which need not be UTF-8
    if not isinstance(value, str) or (not is_free and re.search("[\ud800-\udfff]", value)):
        return "must be text"
    if len(value) < option.min_length:
        return "must not be empty"
    if option.max_length is not None and len(value) > option.max_length:
        return f"must have at most {option.max_length} characters"
    if option.pattern is not None and re.fullmatch(option.pattern, value) is None:
        return "is not of the form it needs"
    return None


def _problem_of_number(option: Option, number: float) -> str | None:
    if isinstance(number, float) and not math.isfinite(number):
        return "must be a finite number"
    if option.le is not None and number > option.le:
        return f"must be at most {option.le:.16g}"
    if option.lt is not None and number >= option.lt:
        return f"must be below {option.lt:g}"
    if option.ge is not None and number < option.ge:
        return f"must be at least {option.ge:.16g}"
    if option.gt is not None and number <= option.gt:
        return f"must be above {option.gt:g}"
    return None


def shown_value(value: object) -> str:
    """A user's value in a message: at most 60 characters, nothing that a terminal acts on."""
    try:
        text = repr(value)
    except RecursionError:
        text = "a deeply nested value"
    except ValueError:  # an integer of more than 4,300 digits
        text = "a huge number"
    return one_line(text, 60)


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
    import difflib  # here: only a mistake needs it

    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""
