"""What each field of a checkpoint may hold: declared once, looked at before anything computes with it or prints it.

`CHECKPOINT` is the declaration. `problem_of` holds a loaded file to it: first each field by itself, its type and its
bounds; then the fields that say the same thing twice, and the optimizer's tensors against the weights. A value is never
walked further than its declaration says and never printed whole: few bytes of a pickle can stand for a list of 10^9.
What only the built model can say (which weights it has, and how large) is `load_weights`' part in `build.py`.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch

from lmplay_tui.options import MAX_INT, OPTIONS, check, shown_value
from lmplay_tui.plan.schema import NAME_PATTERN
from lmplay_tui.run.statistics import AVERAGED, MAX_POINTS, SPLITS
from lmplay_tui.text import can_name_a_file, one_line
from lmplay_tui.train.checkpoint_parts import FORMATS, Deferred

FORMAT = 1
# How a run's random numbers are drawn: each mini-batch's by itself, or one sequence for all, as in versions before.
BY_MINI_BATCH, RUNNING = "mini-batch", "running"
# Which packed samples share a mini-batch: so that each has as much work, or those of like length, as before.
BY_WORK, BY_LENGTH = "work", "length"
MOST_TEXT = 16 << 20  # characters, of a plan or a pinned prompt
_MOST_ENTRIES = 100_000
_MOST_RNG_BYTES = 1 << 16  # torch's generators have 5,056 at most
_MOST_S = 1e12


def shown(value: object) -> str:
    """A value of a file in a message: a container by its kind alone."""
    if isinstance(value, torch.Tensor):
        return one_line(f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {tuple(value.shape)}", 100)
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, str):
        return shown_value(value[:60])
    return shown_value(value) if isinstance(value, bool | int | float | None) else one_line(type(value).__name__, 60)


class Kind:
    """A kind of value. `problem` says what is wrong with one, and where; None: nothing."""

    def problem(self, value: object, place: str) -> str | None:
        raise NotImplementedError


@dataclass(frozen=True)
class One(Kind):
    """A single value. `fits`: whether it is of the kind; `what`: the kind in words."""

    fits: Callable[[Any], bool]
    what: str

    def problem(self, value: object, place: str) -> str | None:
        return None if self.fits(value) else f"{place} must be {self.what}, not {shown(value)}"

    def or_none(self) -> "One":
        """The same, or nothing."""
        return One(lambda value: value is None or self.fits(value), f"{self.what} or nothing")


def whole_number(at_least: int = 0, at_most: int = MAX_INT) -> One:
    """A whole number, true and false apart."""
    return One(lambda v: type(v) is int and at_least <= v <= at_most, f"a whole number from {at_least} to {at_most}")


def number(at_least: float = -math.inf, at_most: float = math.inf, *, finite: bool = True) -> One:
    """A number. `finite` False: a loss that has blown up is recorded as it was, NaN or infinite."""
    if not finite:
        return One(lambda v: type(v) is float or (type(v) is int and abs(v) <= MAX_INT), "a number")
    what = "a finite number" if math.isinf(at_least) else f"a number from {at_least:g} to {at_most:g}"
    return One(
        lambda v: type(v) in (int, float) and abs(v) <= 1.7e308 and math.isfinite(v) and at_least <= v <= at_most, what
    )


def text(at_most: int = 400, *, is_utf8: bool = True) -> One:
    """Text without NUL. `is_utf8` False: a path, which may hold any other byte."""

    def fits(value: object) -> bool:
        if not isinstance(value, str) or len(value) > at_most or not can_name_a_file(value):
            return False
        return not is_utf8 or re.search("[\ud800-\udfff]", value) is None

    return One(fits, f"a text of at most {at_most} characters")


def one_of(*words: str) -> One:
    return One(lambda value: isinstance(value, str) and value in words, f"one of {', '.join(map(repr, words))}")


@dataclass(frozen=True)
class OfOption(Kind):
    """A value of an option of `options.py`, by its own declaration; the model's shape may leave one out."""

    name: str

    def problem(self, value: object, place: str) -> str | None:
        if not isinstance(value, bool | int | float | str | None):  # not to be printed
            return f"{place} must be a single value, not {shown(value)}"
        _, problem = check(self.name, value, strict=True)
        return None if problem is None else f"{place} {problem}"


@dataclass(frozen=True)
class ListOf(Kind):
    """At most `most` values of a kind."""

    kind: Kind
    most: int = _MOST_ENTRIES

    def problem(self, value: object, place: str) -> str | None:
        if not isinstance(value, list | tuple):
            return f"{place} must be a list, not {shown(value)}"
        if len(value) > self.most:
            return f"{place} has {len(value)} entries; {self.most} are the most"
        for i, item in enumerate(value):  # a curve has tens of thousands
            if not (isinstance(self.kind, One) and self.kind.fits(item)) and (
                problem := self.kind.problem(item, f"{place}/{i}")
            ):
                return problem
        return None


@dataclass(frozen=True)
class RowOf(Kind):
    """A list with one value of each kind. `later`: the last ones, which versions before did not write."""

    kinds: tuple[Kind, ...]
    later: int = 0

    def problem(self, value: object, place: str) -> str | None:
        most = len(self.kinds)
        if not isinstance(value, list | tuple) or len(value) not in (most, most - self.later):
            return f"{place} must be a list of {most}"
        found = (kind.problem(item, f"{place}/{i}") for i, (kind, item) in enumerate(zip(self.kinds, value)))  # noqa: B905
        return next(filter(None, found), None)


@dataclass(frozen=True)
class ColumnsOf(Kind):
    """Nothing at all, or the columns of at most `most` rows."""

    row: RowOf
    most: int

    def problem(self, value: object, place: str) -> str | None:
        if isinstance(value, list | tuple) and not value:
            return None
        columns = RowOf(tuple(ListOf(kind, self.most) for kind in self.row.kinds), self.row.later)
        if problem := columns.problem(value, place):
            return problem
        assert isinstance(value, list | tuple)
        return None if len({len(column) for column in value}) == 1 else f"{place}: its columns differ in length"


@dataclass(frozen=True)
class Fields(Kind):
    """The fields of a table. `later`: what versions before did not write."""

    fields: Mapping[str, Kind]
    later: Mapping[str, Kind] = field(default_factory=dict)
    may_be_empty: bool = False
    or_none: bool = False

    def problem(self, value: object, place: str) -> str | None:
        if self.or_none and value is None:
            return None
        if not isinstance(value, dict):
            return f"{place} must be a table, not {shown(value)}"
        if self.may_be_empty and not value:
            return None
        for name in self.fields:
            if name not in value:
                return f"{place}/{name} is missing"
        for name, item in value.items():
            kind = self.fields.get(name) or self.later.get(name) if isinstance(name, str) else None
            if kind is None:
                return f"{place}/{shown(name)} is unknown to this version"
            if problem := kind.problem(item, f"{place}/{name}"):
                return problem
        return None


@dataclass(frozen=True)
class TableOf(Kind):
    """A table whose names are data too. `name_problem`: what is wrong with a name, None nothing."""

    kind: Kind
    names: Kind = field(default_factory=text)
    most: int = _MOST_ENTRIES

    def problem(self, value: object, place: str) -> str | None:
        if not isinstance(value, dict):
            return f"{place} must be a table, not {shown(value)}"
        if len(value) > self.most:
            return f"{place} has {len(value)} entries; {self.most} are the most"
        for name, item in value.items():
            if problem := self.names.problem(name, f"a name in {place}"):
                return problem
            if problem := self.kind.problem(item, f"{place}/{one_line(name, 60)}"):
                return problem
        return None


class OptionRecord(Kind):
    """Options by their names, as command lines gave them."""

    def problem(self, value: object, place: str) -> str | None:
        if not isinstance(value, dict):
            return f"{place} must be a table, not {shown(value)}"
        for name, item in value.items():
            if not isinstance(name, str) or name not in OPTIONS:
                return f"{place}/{shown(name)}: this version has no such option"
            if problem := OfOption(name).problem(item, f"{place}/{name}"):
                return problem
        return None


@dataclass(frozen=True)
class TensorKind(Kind):
    """A tensor as this program writes one: on the processor, laid out in rows, no larger than its bytes in the file.

    `alone`: no view of a part of other bytes either; what is computed in place must share them with nothing.
    """

    dtypes: tuple[torch.dtype, ...] | None = None
    alone: bool = False
    most_bytes: int | None = None

    def problem(self, value: object, place: str) -> str | None:
        if type(value) not in (torch.Tensor, torch.nn.Parameter):
            return f"{place} must be a tensor, not {shown(value)}"
        assert isinstance(value, torch.Tensor)
        if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized or value.is_nested:
            return f"{place} must be a plain tensor"
        size = value.numel() * value.element_size()
        if size > value.untyped_storage().nbytes():
            return f"{place}, {shown(value)}, is larger than its bytes in the file"
        if self.dtypes is not None and value.dtype not in self.dtypes:
            return f"{place} must not be {shown(value)}"
        if self.most_bytes is not None and size > self.most_bytes:
            return f"{place}, {shown(value)}, is too large"
        if self.alone and (not value.is_contiguous() or size != value.untyped_storage().nbytes()):
            return f"{place}, {shown(value)}, is a view of other bytes"
        return None


_STEP = whole_number()
_COUNT = whole_number()
_SECONDS = number(0, _MOST_S)
_LOSS = number(finite=False)
_DIGEST = text(200)
_STAGE_NAME = One(
    lambda value: isinstance(value, str) and NAME_PATTERN.match(value) is not None, "a stage's name"
)  # fmt: skip
_STAGE = One(lambda value: value == "" or _STAGE_NAME.fits(value), "a stage's name, or empty")
_SIZE = whole_number(1).or_none()
_FLAG = One(lambda value: isinstance(value, bool), "true or false")

_STAGE_PROGRESS = Fields(
    {
        "position": Fields({"row": _COUNT, "item": _COUNT, "char": _COUNT}),
        "rows_total": _COUNT.or_none(),
        "rows_per_epoch": _COUNT.or_none(),
        "tokens": _COUNT,
        "chars_read": _COUNT,
        "chars_shown": _COUNT,
        "elapsed_s": _SECONDS,
        "validation_position": _COUNT,
        "validated_rows": _COUNT,
        "evaluated_rows": _COUNT,
        "fingerprint": _DIGEST.or_none(),
        "begun": _FLAG,
        "done": _FLAG,
        "loss_at_end": _LOSS.or_none(),
    },
    later={"rows_without_sample": _COUNT, "mini_batch_size": _SIZE, "held_out_by": one_of("place", "block")},
)
_WARM_UP = {"from_step": _STEP, "fraction": number(0, 1), "steps": whole_number(1)}
_PROGRESS = Fields(
    {
        "step": _STEP,
        "rows": _COUNT,
        "tokens": _COUNT,
        "elapsed_s": _SECONDS,
        "stage": _STAGE,
        "stages": TableOf(_STAGE_PROGRESS, _STAGE_NAME),
        "saved_rows": _COUNT,
        "lr_factor": number(0, 1.7e308),
        "warm_up": Fields(_WARM_UP, or_none=True),
        "pinned": ListOf(text(MOST_TEXT)),
        "eval_loss": _LOSS.or_none(),
        "best_eval_loss": number().or_none(),
        "next_batch": _DIGEST,
    },
    later={
        "numbered": ListOf(_STEP),
        "best_step": _STEP.or_none(),
        "changes": _COUNT,
        "probed_mini_batch_size": _SIZE,
        "mini_batch_size": _SIZE,  # of the whole run, as versions before had it
    },
)
_POINT = RowOf((_COUNT, _COUNT, _LOSS, _COUNT, _LOSS, _COUNT, _LOSS, _COUNT), later=2)
_RECENT = RowOf((_LOSS, _COUNT, _LOSS.or_none(), _LOSS.or_none()), later=1)
_SERIES = Fields(
    {
        "updates": _COUNT,
        "stride": whole_number(1),
        "points": ColumnsOf(_POINT, MAX_POINTS),
        "open": One(lambda v: v is None or _POINT.problem(v, "") is None, "a list of numbers or nothing"),
        "recent": ColumnsOf(_RECENT, AVERAGED),
    }
)
_RECORD = Fields(
    {
        **dict.fromkeys(SPLITS, _SERIES),
        **{f"total_{split}_{what}": _COUNT for split in SPLITS for what in ("samples", "tokens")},
        **{f"{split}_loss_total": _LOSS for split in SPLITS},
        **{f"{split}_loss_tokens": _COUNT for split in SPLITS},
    },
    later={"train_rows_without_sample": _COUNT},
)
_SCALER = Fields(
    {
        "scale": number(1e-45, 1.7e308),
        "growth_factor": number(1, 1e6),
        "backoff_factor": number(1e-6, 1),
        "growth_interval": whole_number(1),
        "_growth_tracker": _COUNT,
    },
    may_be_empty=True,
)
_RNG = TensorKind((torch.uint8,), alone=True, most_bytes=_MOST_RNG_BYTES)

# What torch's optimizers keep of a parameter: tensors of its shape, and whether these may be negative.
_MOMENTS: Mapping[str, Mapping[str, bool]] = {
    "": {},
    "adamw": {"exp_avg": True, "exp_avg_sq": False},
    "adam": {"exp_avg": True, "exp_avg_sq": False},
    "adagrad": {"sum": False},
    "sgd": {"momentum_buffer": True},
    "rmsprop": {"square_avg": False},
}
_COMPARED = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_COUNTS_STEPS = {"adamw", "adam", "adagrad", "rmsprop"}
_MOMENT = TensorKind(alone=True)

_WEIGHT = TensorKind()
_WEIGHTS = TableOf(_WEIGHT, text(1000))
_MODEL_ARGS: Mapping[str, Kind] = {
    **{name: OfOption(name) for name in ("exp", "tokenizer", "context_len", "dropout")},
    **{name: OfOption(name) for name in ("num_blocks", "embed_dim", "num_heads")},
    "vocab_size": whole_number(1, 10**9),
}

CHECKPOINT = Fields(
    {
        "curriculum": Fields(
            {
                "state_args": Fields(
                    {
                        "plan": text(MOST_TEXT),
                        "plan_name": text(is_utf8=False),
                        "plan_folder": text(8192, is_utf8=False),
                        "current_step": _STAGE,
                    },
                    later={"plan_as_given": text(MOST_TEXT), "plan_unedited": text(MOST_TEXT)},
                ),
                "state": TableOf(_STAGE_PROGRESS, _STAGE_NAME),
            }
        ),
        "model": Fields(
            {
                "state_args": Fields(_MODEL_ARGS),
                "state": _WEIGHTS,
            }
        ),
        "runner": Fields(
            {
                "state_args": Fields(
                    {"name": text(is_utf8=False), "options": OptionRecord()},
                    later={"overruled": TableOf(ListOf(text(), 1000), _STAGE)},
                ),
                "state": Fields(
                    {
                        "format": One(lambda value: value == FORMAT and type(value) is int, f"{FORMAT}"),
                        "version": text(),
                        "tokenizer_fingerprint": _DIGEST,
                        "hardware": TableOf(
                            One(lambda v: text().fits(v) or whole_number().fits(v), "a text or a whole number"),
                            most=100,
                        ),
                        "progress": _PROGRESS,
                        "rng": Fields({"cpu": _RNG}, later={"cuda": _RNG, "mps": _RNG}, may_be_empty=True),
                        "scaler": _SCALER,
                        "stats": _RECORD,
                        "step_stats": TableOf(_RECORD, _STAGE_NAME),
                    },
                    later={"random_numbers": one_of(BY_MINI_BATCH, RUNNING), "cut": one_of(BY_WORK, BY_LENGTH)},
                ),
            }
        ),
        "optimizers": Fields(
            {
                "state_args": Fields({"name": one_of(*_MOMENTS)}, later={"num_parameters": _COUNT}),
                "state": TableOf(
                    TableOf(One(lambda v: v is None or isinstance(v, torch.Tensor | Deferred), "a tensor"), most=10),
                    text(1000),
                ),
            }
        ),
        "lr_schedulers": Fields(
            {
                "state_args": Fields(_WARM_UP, may_be_empty=True),
                "state": Fields({"factor": number(0, 1.7e308), "step": _STEP}),
            }
        ),
    }
)


# What a head says of its tensors in the folder beside it: of each its number format, its shape and where its rows lie.
_PIECE = RowOf((whole_number(at_most=1 << 20), _COUNT, _COUNT, whole_number(1), whole_number(at_most=(1 << 32) - 1)))
_IN_PARTS = (one_of(*FORMATS), ListOf(whole_number(at_most=1 << 40), 16))
_PARTS = Fields({"folder": text(255), "tensors": TableOf(RowOf((*_IN_PARTS, ListOf(_PIECE, 1 << 20))), text(1100))})
# What a process tells of its part: what hindered it, or each tensor of which it has written rows.
PART_REPORT = Fields(
    {"problem": text(4000).or_none(), "written": ListOf(RowOf((text(1100), *_IN_PARTS, _PIECE)), _MOST_ENTRIES)}
)


def problem_of_parts(said: object) -> str | None:
    """What is wrong with what a head says of its parts."""
    return _PARTS.problem(said, "runner/state/parts")


def problem_of_tensors(table: Mapping[Any, Any]) -> str | None:
    """What is wrong with any of the tensors in a table, whatever else is in there."""
    found = (_WEIGHT.problem(value, shown(name)) for name, value in table.items() if isinstance(value, torch.Tensor))
    return next(filter(None, found), None)


def problem_of_model(weights: object, arguments: object) -> str | None:
    """What is wrong with weights and the arguments of their model, of any file; arguments may be missing, or others."""
    problem = _WEIGHTS.problem(weights, "model/state")
    if problem is None and isinstance(arguments, dict):
        own = {name: value for name, value in arguments.items() if isinstance(name, str) and name in _MODEL_ARGS}
        found = (_MODEL_ARGS[name].problem(value, f"model/state_args/{name}") for name, value in own.items())
        problem = next(filter(None, found), None)
    elif problem is None and arguments is not None:
        problem = f"model/state_args must be a table, not {shown(arguments)}"
    return problem


def problem_of(checkpoint: Mapping[str, Any]) -> str | None:
    """What is wrong with a loaded file as a checkpoint, in one line; None: a run can go on with it."""
    problem = CHECKPOINT.problem(checkpoint, "")
    if problem is None:
        looks = (
            _generator_problems(checkpoint["runner"]["state"]),
            _series_problems(checkpoint),
            _disagreements(checkpoint),
            _optimizer_problems(checkpoint),
        )
        problem = next(chain.from_iterable(looks), None)
    return None if problem is None else problem.lstrip("/")


def _generator_problems(state: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the state of the processor's random numbers, by torch's own word."""
    is_running = state.get("random_numbers", RUNNING) == RUNNING
    if is_running != bool(state["rng"]):
        yield "runner/state/rng " + ("is empty" if is_running else "must be empty, each mini-batch has its own numbers")
    if not state["rng"]:
        return
    try:
        torch.Generator().set_state(state["rng"]["cpu"])
    except (RuntimeError, TypeError) as error:
        yield f"runner/state/rng/cpu is no state of random numbers ({one_line(error, 60)})"


def _series_problems(checkpoint: Mapping[str, Any]) -> Iterator[str]:
    """Curves whose points are not as many as their updates give (see `RecordedSeries.add`)."""
    state = checkpoint["runner"]["state"]
    records = {"stats": state["stats"]} | {f"step_stats/{name}": it for name, it in state["step_stats"].items()}
    for place, record in records.items():
        for split in SPLITS:
            series = record[split]
            full, rest = divmod(series["updates"], series["stride"])
            num_points = len(series["points"][0]) if series["points"] else 0
            num_recent = len(series["recent"][0]) if series["recent"] else 0
            if (num_points, series["open"] is not None) != (full, rest > 0) or num_points >= MAX_POINTS:
                yield f"runner/state/{place}/{split}: {num_points} points are not those of {series['updates']} updates"
            if num_recent != min(series["updates"], AVERAGED):
                yield f"runner/state/{place}/{split}/recent: {num_recent} are not the newest of its updates"


def _disagreements(checkpoint: Mapping[str, Any]) -> Iterator[str]:
    """Places that say of one number what another place says otherwise: one of the two is wrong."""
    state = checkpoint["runner"]["state"]
    progress, rates, curriculum = state["progress"], checkpoint["lr_schedulers"], checkpoint["curriculum"]
    stages = progress["stages"]
    pairs = [
        ("lr_schedulers/state/step", rates["state"]["step"], "progress/step", progress["step"]),
        ("lr_schedulers/state/factor", rates["state"]["factor"], "progress/lr_factor", progress["lr_factor"]),
        ("lr_schedulers/state_args", rates["state_args"] or None, "progress/warm_up", progress["warm_up"]),
        ("curriculum/state_args/current_step", curriculum["state_args"]["current_step"], "progress/stage",
         progress["stage"]),
    ]  # fmt: skip
    pairs += [
        (f"curriculum/state/{name}", curriculum["state"].get(name), f"progress/stages/{name}", stages.get(name))
        for name in sorted(curriculum["state"].keys() | stages.keys())
    ]
    # Rows that hold no words are counted since stages say how many these are.
    if all("rows_without_sample" in stage for stage in stages.values()):
        rows = {name: stage["position"]["row"] for name, stage in stages.items()}
        tokens = {name: stage["tokens"] for name, stage in stages.items()}
        for what, counts in (("samples", rows), ("tokens", tokens)):
            name_here, total = ("rows" if what == "samples" else what), f"total_train_{what}"
            pairs.append((f"progress/{name_here}", progress[name_here], "its stages", sum(counts.values())))
            pairs.append((f"stats/{total}", state["stats"][total], f"progress/{name_here}", progress[name_here]))
            for name, count in counts.items():
                own = state["step_stats"].get(name, {}).get(total, 0)
                pairs.append((f"step_stats/{name}/{total}", own, f"progress/stages/{name}", count))
    for place, value, other_place, other in pairs:
        # By their text: NaN is what NaN is, and 1 is not true.
        if repr(value) != repr(other):
            yield f"{place} is not what {other_place} says"


def _optimizer_problems(checkpoint: Mapping[str, Any]) -> Iterator[str]:
    """Tensors of the optimizer that are not of the parameter they are named for: its kernels would not look.

    Raises `OSError` and `DamagedFileError` by those that lie in parts.
    """
    name, states = checkpoint["optimizers"]["state_args"]["name"], checkpoint["optimizers"]["state"]
    weights, moments = checkpoint["model"]["state"], _MOMENTS[name]
    expected = {*moments, *({"step"} if name in _COUNTS_STEPS else ())}
    counted = checkpoint["optimizers"]["state_args"].get("num_parameters", len(states))
    if counted != len(states):
        yield f"optimizers/state has {len(states)} parameters, not {counted}"
    seen: set[int] = set()
    for parameter, values in states.items():
        place = f"optimizers/state/{one_line(parameter, 60)}"
        if parameter not in weights:
            yield f"{place}: the model has no such weights"
            return
        if values.keys() != expected:
            yield f"{place} must hold {', '.join(sorted(expected))}"
            return
        for what, held in values.items():
            if held is None and name == "sgd":  # no gradient has come yet
                continue
            value = held.whole(check=True) if isinstance(held, Deferred) else held  # one at a time
            if problem := _MOMENT.problem(value, f"{place}/{what}"):
                yield problem
                return
            problem = (
                _step_problem(value) if what == "step" else _moment_problem(value, weights[parameter], moments[what])
            )
            if problem is not None:
                yield f"{place}/{what} {problem}"
            if isinstance(held, Deferred):
                continue
            if value.numel() and value.data_ptr() in seen:
                yield f"{place}/{what} shares its bytes with another tensor"
            seen.add(value.data_ptr())


def bounds_of(tensor: torch.Tensor) -> tuple[float, float] | None:
    """The least and the largest number in a tensor, NaN where it holds one; None for an empty or an exotic one."""
    numbers = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    if not numbers.numel() or numbers.dtype not in _COMPARED:
        return None
    least, most = torch.aminmax(numbers)
    return float(least), float(most)


def _step_problem(value: torch.Tensor) -> str | None:
    if value.shape != () or not (value.is_floating_point() or value.dtype == torch.int64):
        return f"must be a single number, not {shown(value)}"
    steps = float(value)
    return None if 0 <= steps <= MAX_INT and steps.is_integer() else f"must be a number of steps, not {steps:g}"


def _moment_problem(value: torch.Tensor, weight: torch.Tensor, is_signed: bool) -> str | None:
    if value.shape != weight.shape or value.dtype != weight.dtype:
        return f"is {shown(value)}, the weights are {shown(weight)}"
    bounds = bounds_of(value)
    if bounds is None:
        return None
    least, most = bounds
    # A square may have become infinite; it then holds its weight still, as it did before.
    if math.isnan(least) or math.isnan(most) or (is_signed and not (math.isfinite(least) and math.isfinite(most))):
        return "holds numbers that are not finite"
    return "holds squares that are negative" if least < 0 and not is_signed else None
