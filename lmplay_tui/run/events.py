"""What happens in a run: frozen structs of plain values, in the past tense; `from_record` reads a journal's line.

`rows` are dataset rows over the run, `stage_rows` within the stage, `tokens` positions read without padding over the
run; losses are nats per truth token, durations seconds, accuracies 0 to 1.
"""

import contextlib
import dataclasses
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from functools import cache, partial
from typing import Any, ClassVar, TypeVar, cast

from lmplay_tui.errors import EXIT_TRAINING
from lmplay_tui.run.journal import number
from lmplay_tui.structs import Struct


class Event(Struct):
    """The base of all events. `journaled`: it is written to `events.jsonl`."""

    journaled: ClassVar[bool] = True

    def record(self) -> dict[str, Any]:
        """The event as plain values, `event` first: what the journal holds. `from_record` is the way back."""
        return {"event": type(self).__name__} | {name: _plain(value) for name, value in vars(self).items()}


def _plain(value: Any) -> Any:
    """A field's value with tables for structs. `dataclasses.asdict` copies each number and text too: twice the time."""
    if isinstance(value, Struct):
        return {name: _plain(item) for name, item in vars(value).items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return value


class StageInfo(Struct):
    """A stage of the curriculum as a screen shows it before it has begun. `rows_total` None: not known yet."""

    name: str
    datasets: tuple[str, ...]
    epochs: float
    rows_total: int | None
    rows_done: int
    rows_per_epoch: int | None = None  # known once its data have been opened


class RunStarted(Event):
    """The model stands and the first batch is next. `resumed_from`: the checkpoint's step."""

    name: str
    device: str
    num_parameters: int
    step: int
    rows: int
    tokens: int
    stages: tuple[StageInfo, ...]
    resumed_from: int | None
    note: str  # what was chosen for speed and precision, one line
    pid: int
    plan_folder: str = ""  # absolute: where relative paths of the plan start
    pinned: tuple[str, ...] = ()  # prompts that are answered at each evaluation
    elapsed_s: float = 0.0  # training time before this start
    plan_text: str = ""  # the plan that holds now
    plan_file: str = ""  # absolute: the file that it was given with; empty for a shipped plan, and where none was given
    on_line: Mapping[str, str] = field(default_factory=dict)  # a plan's options that the command line gives, as words
    train_loss: float | None = None  # over the last steps before `step`; None: none, or a journal that does not say it
    val_loss: float | None = None  # of the last validation before
    own_experiment: str = ""  # FILE:CLASS, as the command line gives it: no checkpoint can say it to the next start


class ActivityChanged(Event):
    """What the trainer is doing now; `fraction` 0 to 1 where it is known."""

    journaled: ClassVar[bool] = False
    activity: str  # loading, downloading, cutting, compiling, training, validating, evaluating, saving, paused, ...
    detail: str = ""
    fraction: float | None = None


class DatasetOpened(Event):
    """A dataset was opened that this start has not read before: which columns are read, and which are left out.

    `notes`: what else is to be said of how it is read, a line each.
    """

    dataset: str
    columns: str
    notes: tuple[str, ...]
    rows_train: int
    rows_held_out: int
    rows_looked_at: int = 0  # the first ones
    rows_without_sample: int = 0  # of these


class TextLeftOut(Event):
    """Much of a dataset's text would reach no sample, by the first batches of a stage that begins."""

    stage: str
    dataset: str
    text_shown: float  # share of the characters of `rows` that would reach a sample
    rows: int  # of the dataset, that were looked at


class StageStarted(Event):
    """The first batch of a stage is next (also after a resume inside it)."""

    stage: str
    index: int  # from 0
    num_stages: int
    rows_total: int
    rows_done: int
    step: int
    rows: int
    unigram_entropy: float | None  # nats a token of the evaluation set, by the set's own token frequencies
    rows_per_epoch: int | None = None


class StepDone(Event):
    """One optimizer step has happened and the position has moved on."""

    journaled: ClassVar[bool] = False
    step: int
    stage: str
    rows: int
    stage_rows: int
    tokens: int  # over the run
    loss_tokens: int  # of this step
    step_tokens: int  # of this step
    samples: int  # cut samples of this step
    epoch: float
    row: int  # of the epoch, next to read
    loss: float
    recent_loss: float  # mean over the loss tokens of the run's last steps: what screens call the train loss
    accuracy: float | None
    lr: float
    grad_norm: float
    elapsed_s: float  # training time over the run, resumes included
    data_s: float
    forward_s: float
    backward_s: float
    optimizer_s: float
    step_s: float
    text_shown: float  # share of the characters read that reached a sample, over the stage
    rows_without_sample: int = 0  # over the stage: they hold no words
    character_accuracy: float | None = None  # of the truths that are written without spaces
    reduce_s: float | None = None  # from the end of rank 0's own work until gradients were summed; None: one process

    def record(self) -> dict[str, Any]:
        """As every event's, without looking for what lies deeper: this one comes with each step."""
        return {"event": "StepDone"} | vars(self)


class MetricsLogged(Event):
    """Means over `--log-interval` steps, under the names of `metrics.jsonl`; written there, not to `events.jsonl`.

    The values of a line that was read are as they stand there: `number` and `one_line` are for them.
    """

    journaled: ClassVar[bool] = False
    values: Mapping[str, Any]


class Prediction(Struct):
    """One sample with what the model made of it. Per truth token: its text, its probability, the five likeliest.

    `accuracy` is by words; a truth that is written without spaces has `character_accuracy` in its place.
    """

    kind: str  # validation, pinned, asked
    prompt: str
    truth: str
    prediction: str
    accuracy: float | None
    loss: float | None
    truth_tokens: tuple[str, ...] = ()
    truth_p: tuple[float, ...] = ()
    top5: tuple[tuple[tuple[str, float], ...], ...] = ()
    character_accuracy: float | None = None


class Predicted(Event):
    """A prediction was made; written to `predictions.jsonl`."""

    journaled: ClassVar[bool] = False
    step: int
    stage: str
    prediction: Prediction


class Validated(Event):
    """The next few validation samples were scored: those written without spaces by `character_accuracy`."""

    step: int
    stage: str
    rows: int
    tokens: int
    loss: float
    accuracy: float | None
    samples: int
    seconds: float
    elapsed_s: float | None = None  # of training, until then
    character_accuracy: float | None = None


class EvaluationResult(Struct):
    """Scores of one stage's fixed evaluation set.

    `accuracy`: of its truths with words between spaces. `character_accuracy`: of those written without spaces. None
    where it has no such truth.
    """

    loss: float
    accuracy: float | None
    bits_per_byte: float
    character_accuracy: float | None = None


class Evaluated(Event):
    """Fixed sets were scored: the stage's own and, at a stage's end, those of the stages before it."""

    step: int
    stage: str
    rows: int
    tokens: int
    sets: Mapping[str, EvaluationResult]  # by stage name
    at_stage_end: bool
    seconds: float
    elapsed_s: float | None = None  # of training, until then


class CheckpointSaved(Event):
    """A checkpoint is on disk, whole."""

    path: str
    step: int
    rows: int
    size_bytes: int
    seconds: float  # until the bytes were safe
    blocked_s: float  # that training waited: for the state and its copy, and for the write where it did
    reason: str  # asked, interval, stage end, stop, handing over, before the end


class LearningRateChanged(Event):
    """The keyboard has set the factor of the learning rate. `lr`: what schedule and factor give, a warm-up left out."""

    step: int
    factor: float  # of what the schedule says, now
    lr: float | None = None
    outlook: str = ""  # what becomes of it, in figures: by a warm-up, by the schedule, in the stages to come


class OptionChanged(Event):
    """A start's command line gave another value than the run had. `option`: as it is typed."""

    step: int
    option: str
    before: str
    after: str


class PlanChanged(Event):
    """`what`: one line a change. `text`: the new plan."""

    step: int
    what: tuple[str, ...]
    text: str
    stages: tuple[StageInfo, ...]


class StagesCounted(Event):
    """The rows of stages to come are known, as far as they can be without opening them."""

    stages: tuple[StageInfo, ...]


class Bookmarked(Event):
    step: int
    note: str


class Paused(Event):
    step: int


class Resumed(Event):
    step: int


class Warned(Event):
    message: str
    step: int | None = None


class LossSpiked(Event):
    """A step's loss stands far above those before it. `first_row` to `last_row`, of the stage: its batch."""

    step: int
    stage: str
    loss: float
    usual_loss: float  # median of the steps before
    z: float  # robust z-score
    first_row: int
    last_row: int


class Stalled(Event):
    """A step takes much longer than those before it, or took, or no batch has come for long."""

    what: str  # step, data
    seconds: float
    usual_s: float | None  # median of the steps before; None where there are none
    step: int
    lasts: bool = False  # the step has not ended yet


class PinsChanged(Event):
    """`pinned`: the prompts that are answered at each evaluation from now on."""

    step: int
    pinned: tuple[str, ...]


class Answered(Event):
    """The answer to a command that came with an identity (a control file)."""

    command: str
    id: str
    ok: bool
    message: str


class HandedOver(Event):
    """This process leaves and another goes on with the run."""

    step: int
    pid: int


class LeftToAgent(Event):
    """Another of the processes that train together is lost: this one, rank 0, leaves, and the agent starts all again.

    It is the agent that says so: it knows how the lost one has ended, and what becomes of the run.
    """

    journaled: ClassVar[bool] = False
    step: int


class StageDone(Event):
    stage: str
    index: int
    step: int
    rows: int
    tokens: int
    seconds: float
    text_shown: float | None = None  # share of the characters read that reached a sample
    rows_without_sample: int = 0  # they hold no words


class RunStopped(Event):
    """Stopped before the plan's end. `path`: the newest checkpoint; None: nothing had been trained, nothing was saved.

    `saved`: by this process; else the checkpoint is the one that was there before.
    """

    step: int
    path: str | None
    command: str  # what to type to go on
    reason: str
    saved: bool = True


class RunFailed(Event):
    message: str
    exit_code: int
    step: int
    path: str | None  # the last good checkpoint


class RunDone(Event):
    """The plan is done. `already`: it was before this start, so nothing was trained."""

    step: int
    path: str
    seconds: float
    already: bool = False


LAST_EVENTS = (RunStopped, RunFailed, RunDone, HandedOver, LeftToAgent)


class Rewound(Event):
    """What a journal holds beyond `step` does not count: a process before wrote it, and it is trained anew.

    `journal`: the one that says so, by its file's stem; None: all of them.
    """

    journaled: ClassVar[bool] = False
    step: int
    journal: str | None = None


class LogLine(Event):
    """A line for the log alone (what a library printed, what `--verbose` says)."""

    journaled: ClassVar[bool] = False
    message: str
    level: str = field(default="info")


# ---- back from a journal's line

Kind = TypeVar("Kind")

_TOO_LARGE = 2**63  # no count of ours: what NumPy could not hold
_TOKENS = ("truth_tokens", "truth_p", "top5")


def from_record(record: Mapping[str, Any]) -> Event | None:
    """The event in a line of a journal; None where the line is none of ours, or spoilt.

    A line of `predictions.jsonl` is `Predicted`, one of `metrics.jsonl` `MetricsLogged`, and `{"resumed_from": STEP}`
    is `Rewound`. What versions before did not write takes its default. Any value has a text, and a measure that is no
    number is NaN; a count, a list or a table that is none spoils the line. A prediction whose tokens do not fit
    together is one without tokens.
    """
    try:
        if (name := record.get("event")) is not None:
            kind = _KINDS.get(name)
            return None if kind is None else _event(kind, record)
        if isinstance(step := record.get("resumed_from"), int):
            return Rewound(_whole(step), record.get("journal"))
        if "prompt" in record:
            return Predicted(_whole(record.get("step")), _text(record.get("stage")), _prediction(record))
        return MetricsLogged(record) if "step" in record and _whole(record["step"]) >= 0 else None
    except (TypeError, ValueError):
        return None


def read_stages(value: object) -> list[StageInfo]:
    """The stages that a `run.json` holds; what is none of ours is passed over."""
    stages = []
    for each in value if isinstance(value, list) else ():
        with contextlib.suppress(TypeError, ValueError):
            stages.append(_read(StageInfo, each))
    return stages


def _event(kind: type[Event], record: Mapping[str, Any]) -> Event:
    if kind is MetricsLogged:
        return MetricsLogged(_table(record.get("values")))
    if kind is RunFailed:
        code = record.get("exit_code")
        known = isinstance(code, int) and 0 < code < 256
        record = {**record, "exit_code": code if known else EXIT_TRAINING}
    return _read(kind, record)


def _read(kind: type[Kind], record: object) -> Kind:
    """A struct of this file from plain values. Raises `TypeError` and `ValueError`."""
    record = _table(record)
    values = {}
    for name, plain, convert, default in _fields(cast(Any, kind)):
        value = record.get(name)
        if type(value) is plain:  # a journal of a million lines: most values are as they should be
            values[name] = value
        elif default is None or name in record:
            values[name] = convert(value)
        else:
            values[name] = default()
    made = object.__new__(kind)
    object.__setattr__(made, "__dict__", values)  # as `__init__` would, a frozen field at a time: half of the time here
    return made


@cache
def _fields(kind: Any) -> list[tuple[str, object, Callable[[Any], Any], Callable[[], Any] | None]]:
    """Of each field of a struct: name, the type that is taken as it is, converter, what makes its default."""
    hints = typing.get_type_hints(kind)
    return [
        (
            each.name, next((plain for plain in (str, float, bool) if hints[each.name] in (plain, plain | None)), None),
            _converter(hints[each.name]), _default(each),
        )
        for each in dataclasses.fields(kind)
    ]  # fmt: skip


def _default(of: dataclasses.Field[Any]) -> Callable[[], Any] | None:
    if of.default_factory is not dataclasses.MISSING:
        return of.default_factory
    return None if of.default is dataclasses.MISSING else lambda: of.default


def _converter(kind: Any) -> Callable[[Any], Any]:
    """What makes a value of this type from one that JSON knows; the types are those of the fields in this file."""
    if kind in _PLAIN:
        return _PLAIN[kind]
    if kind is Prediction:
        return _prediction
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:  # something or None
        convert = _converter(arguments[0])
        return lambda value: None if value is None else convert(value)
    if origin is tuple and arguments[-1] is Ellipsis:
        plain, convert = arguments[0], _converter(arguments[0])
        return lambda value: _all_of(plain, convert, _sequence(value))
    if origin is Mapping:
        convert = _converter(arguments[1])
        return lambda value: {name: convert(item) for name, item in _table(value).items()}
    return partial(_read, kind)


def _text(value: object) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)


def _whole(value: object) -> int:
    if type(value) is int and -_TOO_LARGE < value < _TOO_LARGE:
        return value
    if isinstance(value, int | float) and value == value // 1 and -_TOO_LARGE < value < _TOO_LARGE:
        return int(value)
    raise ValueError("no whole number")


def _flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise TypeError("neither true nor false")


def _sequence(value: object) -> list[Any] | tuple[Any, ...]:
    if isinstance(value, list | tuple):
        return value
    if value is None:
        return ()
    raise TypeError("no list")


def _all_of(plain: object, convert: Callable[[Any], Any], values: Sequence[Any]) -> tuple[Any, ...]:
    """The values converted, those that are strings or floats already as they are."""
    if plain in (str, float) and set(map(type, values)) <= {plain}:
        return tuple(values)
    return tuple(map(convert, values))


def _pairs(value: object) -> tuple[tuple[str, float], ...]:
    return tuple([
        (text if type(text) is str else _text(text), share if type(share) is float else number(share))
        for text, share in _sequence(value)
    ])  # fmt: skip


def _table(value: object) -> Mapping[str, Any]:
    if isinstance(value, dict):
        return value
    if value is None:
        return {}
    raise TypeError("no table")


def _prediction(value: object) -> Prediction:
    """With the tokens, or without them where they do not fit together."""
    record = _table(value)
    try:
        read = _read(Prediction, record)
    except (TypeError, ValueError):
        read = None
    if read is not None and len(read.truth_tokens) == len(read.truth_p) >= len(read.top5):
        return read
    return _read(Prediction, {name: item for name, item in record.items() if name not in _TOKENS})


_PLAIN: dict[Any, Callable[[Any], Any]] = {
    str: _text,
    int: _whole,
    float: number,
    bool: _flag,
    tuple[tuple[str, float], ...]: _pairs,
}
_KINDS: dict[object, type[Event]] = {kind.__name__: kind for kind in Event.__subclasses__()}
