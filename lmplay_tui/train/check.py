"""The pre-flight of a plan: everything that could fail in hour six, tried now, without training.

`--describe`: the model that a command line asks for, before any training.
"""

import math
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lmplay_tui.data.batches import Position
from lmplay_tui.data.leak_guard import look_for_leaks
from lmplay_tui.data.preview import PartPreview
from lmplay_tui.data.samples import Sample
from lmplay_tui.data.splits import ReportProgress
from lmplay_tui.data.stage_data import StageData, open_stage
from lmplay_tui.data.tokenizer import load_tokenizer
from lmplay_tui.errors import UserError
from lmplay_tui.files import is_there
from lmplay_tui.formats import counted, format_bytes, format_megabytes
from lmplay_tui.models.describe import describe
from lmplay_tui.models.registry import allowed_experiment
from lmplay_tui.options import Launch, TrainOptions
from lmplay_tui.plan.builtin import DEFAULT_PLAN
from lmplay_tui.plan.reading import read_plan
from lmplay_tui.plan.schema import Stage
from lmplay_tui.run.events import DatasetOpened, Warned
from lmplay_tui.run.folder import RunFolder, datasets_folder, output_folder
from lmplay_tui.run.sentences import sentence_of
from lmplay_tui.run.statistics import RunStatistics
from lmplay_tui.text import one_line
from lmplay_tui.train.build import (
    Start,
    load_initial,
    model_of_shape,
    nothing_to_recompute,
    read_start,
)
from lmplay_tui.train.checkpoint import load_checkpoint, num_bytes
from lmplay_tui.train.checkpointer import CheckpointWriter, SaveRequest
from lmplay_tui.train.compile import Compilation
from lmplay_tui.train.dataloader import left_out, openings
from lmplay_tui.train.device import choose_device, choose_precision, device_name, room
from lmplay_tui.train.evaluation import Scorer
from lmplay_tui.train.gradients import Gradients, StepConfig
from lmplay_tui.train.model_body import choose_ways
from lmplay_tui.train.optim import build_optimizer, decay_of, freeze, parameter_groups
from lmplay_tui.train.preflight import choose_run
from lmplay_tui.train.process_group import processes_of
from lmplay_tui.train.settings import Settings
from lmplay_tui.train.state import TrainState

SAMPLED_BATCHES = 20  # that estimates are made from
SHOWN_SAMPLES = 2  # a stage
CHECKPOINTS_KEPT = 2  # NAME.lmp and NAME.prev.lmp, besides one a stage and NAME.best.lmp


def check_plan(launch: Launch, report: ReportProgress = lambda *_: None) -> dict[str, Any]:
    """Check the plan that a command line names; a report of plain values, `ok` false where anything failed.

    `report(activity, detail, fraction)` is told what takes time.
    Raises `UserError` where the plan itself, the tokenizer, the device or the model's shape is wrong.
    """
    plan = read_plan(launch.options.training_plan or DEFAULT_PLAN)
    settings = Settings(plan, launch.line)
    options = settings.for_run()
    processes = processes_of(options)
    report("loading", "the tokenizer and the model", None)
    with room():
        state, notes = _new_state(settings)
    problems: list[str] = []
    stages, longest = [], None
    opened: list[tuple[str, StageData]] = []
    for stage in plan.stages:
        report("opening", f"stage {stage.name}", None)
        said, data = _open(stage, settings, state, launch.options.out_dir, report)
        stages.append(said)
        if "problem" in said:
            problems.append(said["problem"])
        if data is None:
            continue
        opened.append((stage.name, data))
        if said["longest"] and (longest is None or said["longest"] > longest[0]):
            longest = (said["longest"], stage, data)
    not_open = [stage.name for stage in plan.stages if stage.name not in {name for name, _ in opened}]
    report("looking", "for rows of the evaluation sets among the training rows", None)
    leaks = look_for_leaks(opened, not_open)
    tried: list[dict[str, Any]] = [{"ok": True, "what": f"the model: {line}"} for line in notes]
    if options.initial_model is not None:
        path = Path(options.initial_model)
        tried.append(_tried("--initial-model", partial(_load_initial, state, path, options.ignore_tokenizer)))
    rate = _try_all(longest[1], longest[2], state, tried, report) if longest is not None else None
    for said in stages:
        if "tokens_estimate" in said:
            said["seconds_estimate"] = said["tokens_estimate"] / rate if rate else None
    names = len(plan.stages) + CHECKPOINTS_KEPT + 1 + _numbered(plan.stages, settings, stages)
    needed, free = names * num_bytes(state.checkpoint()), _free(options)
    if needed > free:
        problems.append(f"the disk has {format_bytes(free)} free; {names} checkpoints will need {format_bytes(needed)}")
    return {
        "ok": not problems and all(step["ok"] for step in tried),
        "plan": plan.name,
        "model": state.model_args | {"parameters": sum(p.numel() for p in state.model.parameters())},
        "device": f"{device_name(state.device)}, {state.precision.name}",
        "processes": processes,
        "stages": stages,
        "leak_guard": leaks.record() | {"sentence": leaks.sentence()},
        "tried": tried,
        "warnings": [warning for said in stages for warning in said.get("warnings", ())],
        "problems": problems,
        "disk": {"needed_bytes": needed, "free_bytes": free},
    }


def _new_state(settings: Settings) -> tuple[TrainState, tuple[str, ...]]:
    """The state that a run begins with, and what is to be told of the ways in which its model is computed."""
    options = settings.for_run()
    device = choose_device(options.device)
    tokenizer = load_tokenizer(options.tokenizer)
    model, model_args = model_of_shape(options.exp, vars(options), tokenizer, options)
    precision = choose_precision(options, device)
    ways = choose_ways(model.to(device), precision, vocab_size=tokenizer.vocab_size, context_len=options.context_len)
    state = TrainState(
        run=RunFolder(Path("check.lmp")), settings=settings, model=model,
        model_args=model_args | {"tokenizer": tokenizer.name},
        gradients=Gradients(model, precision, hidden=ways.hidden, trunk=ways.trunk), reading=ways.reading,
        tokenizer=tokenizer, precision=precision, statistics=RunStatistics("check"),
    )  # fmt: skip
    return state, ways.notes + nothing_to_recompute(model, options)


def _load_initial(state: TrainState, path: Path, ignore_tokenizer: bool) -> str:
    said = load_initial(state.model, state.model_args, path, state.tokenizer, ignore_tokenizer=ignore_tokenizer)
    return "; ".join([f"the weights of {one_line(path)} fit", *said])


def _numbered(stages: Sequence[Stage], settings: Settings, said: Sequence[Mapping[str, Any]]) -> int:
    """How many checkpoints `--keep` will hold: no more than will be saved, where the rows are known."""
    kept = saves = 0
    for stage, known in zip(stages, said, strict=True):
        options = settings.for_stage(stage)
        kept = max(kept, options.keep)
        by_rows = options.save_minutes is None and "rows" in known
        saves += math.ceil(known["rows"] / options.save_interval) + 1 if by_rows else options.keep
    return min(kept, saves)


def _free(options: TrainOptions) -> int:
    folder = Path(options.model).parent if options.model is not None else output_folder(options.out_dir)
    while not is_there(folder) and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _open(
    stage: Stage, settings: Settings, state: TrainState, out_dir: str | None, report: ReportProgress
) -> tuple[dict[str, Any], StageData | None]:
    """A stage's row of the report, from a sample of its batches."""
    said: dict[str, Any] = {
        "name": stage.name, "datasets": [spec.name for spec in stage.datasets], "epochs": stage.epochs, "samples": [],
    }  # fmt: skip
    options = settings.for_stage(stage)
    try:
        data = open_stage(
            stage, options, state.tokenizer, datasets_folder=datasets_folder(out_dir),
            report=report, stages=state.settings.plan.stages,
        )  # fmt: skip
        report("cutting", f"the first rows of stage {stage.name} into samples", None)
        return said | _sampled(stage, data), data
    except UserError as error:
        return said | {"problem": f"stage {stage.name}: {one_line(error, 400)}"}, None


def _sampled(stage: Stage, data: StageData) -> dict[str, Any]:
    found = data.preview(SAMPLED_BATCHES)
    scale = data.rows_total / max(found.rows, 1)
    lengths = [len(s.prompt_ids) + len(s.truth_ids) for s in found.samples]
    said: dict[str, Any] = {
        "rows": data.rows_total,
        "rows_sampled": found.rows,
        "rows_without_sample_estimate": round(sum(part.rows_without_sample for part in found.parts) * scale),
        "steps_estimate": math.ceil(found.steps * scale),
        "tokens_estimate": round(sum(lengths) * scale),
        "text_shown": found.text_shown,
        "longest": max(lengths, default=0),
        "mean_tokens": sum(lengths) / len(lengths) if lengths else 0.0,
        "data": [
            _dataset(data, number, opening, part)
            for number, (opening, part) in enumerate(zip(openings(data), found.parts, strict=True))
        ],
        "samples": [shown_sample(sample, data.eot) for sample in found.samples[:SHOWN_SAMPLES]],
        "warnings": [sentence.text for event in left_out(found, stage) if (sentence := sentence_of(event))],
    }
    if not found.samples:
        rows = counted(found.rows, "row")
        which = rows if found.rows == data.rows_total else f"first {rows}"
        said["problem"] = f"stage {stage.name}: nothing would be trained in it: none of its {which} gives a sample"
    return said


def _dataset(data: StageData, number: int, opening: DatasetOpened, part: PartPreview) -> dict[str, Any]:
    """What is read of a dataset, and its own first rows as the model sees them."""
    return {
        "name": opening.dataset,
        "columns": opening.columns,
        "notes": list(opening.notes),
        "rows": opening.rows_train,
        "rows_held_out": opening.rows_held_out,
        "rows_sampled": part.rows,
        "rows_without_sample": part.rows_without_sample,  # of those sampled
        "text_shown": part.text_shown,
        "samples": [shown_sample(sample, data.eot) for sample in data.first_samples(number, SHOWN_SAMPLES)],
    }


def shown_sample(sample: Sample, eot: int) -> dict[str, Any]:
    """A sample as the model sees it. `ends`: the end-of-text mark closes its truth; an empty prompt is that mark."""
    tokens = len(sample.prompt_ids) + len(sample.truth_ids)
    ends = bool(sample.truth_ids[-1] == eot)
    return {"row": sample.row, "prompt": sample.prompt, "truth": sample.truth, "ends": ends, "tokens": tokens}


def _try_all(
    stage: Stage, data: StageData, state: TrainState, tried: list[dict[str, Any]], report: ReportProgress
) -> float | None:
    """Two mini-batches, a validation, a save and load; the rate of training in tokens a second, if it was measured."""
    options = state.settings.for_stage(stage)
    batches = data.batches(Position())
    samples = [s for batch, _ in zip(batches, range(SAMPLED_BATCHES), strict=False) for s in batch.samples]
    batches.close()
    samples.sort(key=lambda s: -(len(s.prompt_ids) + len(s.truth_ids)))
    size = options.mini_batch_size if isinstance(options.mini_batch_size, int) else 4
    how = (options.compile_backend, options.compile_mode, state.device)
    compilation = Compilation(*how) if options.compile_model else None
    rates: list[float] = []

    def config() -> StepConfig:
        plain = StepConfig.of(options, size, state.model_args["context_len"])
        return plain if compilation is None else compilation.shaped(plain)

    def train() -> str:
        rates.append(_train(state, options, samples[: 2 * size], config))
        longest = len(samples[0].prompt_ids) + len(samples[0].truth_ids)
        return f"two mini-batches of {size}, the longest sample {counted(longest, 'token')}: {rates[0]:,.0f} tokens/s"

    def compile_it(compilation: Compilation) -> str:
        events = list(compilation.prepare(state.gradients, config(), min(size, 2), step=0))
        if failed := [event.message for event in events if isinstance(event, Warned)]:
            raise UserError(failed[0])
        return f"compiled, {one_line(options.compile_backend or 'inductor')}"

    def validate() -> str:
        held_out, _ = data.validation(0, options.validation_batch_size)
        if not held_out:
            return "no validation rows: nothing to validate on"
        score = Scorer(state.model, state.gradients.hidden, state.tokenizer, state.precision).score(
            held_out, options.validation_batch_size
        )
        return f"a validation of {counted(len(held_out), 'sample')}: loss {score.loss:.3f}"

    def save() -> str:
        with tempfile.TemporaryDirectory(prefix="lmplay-check-") as folder:
            begun = time.perf_counter()
            size_bytes = _save(state, RunFolder(Path(folder) / "check.lmp"))
            return f"a save and load of {format_megabytes(size_bytes, 1)} in {time.perf_counter() - begun:.1f} s"

    works = [("training", train), ("validating", validate), ("saving", save)]
    if compilation is not None:
        works.insert(0, ("compiling", partial(compile_it, compilation)))
    for what, work in works:
        report("trying", what, None)
        tried.append(_tried(what, work))
    return rates[0] if rates else None


def _save(state: TrainState, run: RunFolder) -> int:
    """Save as a run does, copy and thread included, and load it again; the size in bytes."""
    saver = CheckpointWriter(run, run.model.parent, state.device)
    saver.start(state.checkpoint, SaveRequest(0, 0, "check", "asked", keep=0, is_best=False))
    outcome = saver.wait()
    assert outcome is not None
    if outcome.saved is None:
        raise UserError(outcome.problems[0])
    load_checkpoint(run.model)
    return outcome.saved.size_bytes


def _tried(what: str, work: Callable[[], str]) -> dict[str, Any]:
    """A dry run may fail in any way that the real run may: say how instead of ending."""
    try:
        return {"ok": True, "what": work()}
    except UserError as error:
        return {"ok": False, "what": f"{what}: {one_line(error, 300)}"}
    except Exception as error:
        return {"ok": False, "what": f"{what}: {type(error).__name__}: {one_line(error, 300)}"}


def _train(
    state: TrainState, options: TrainOptions, samples: list[Sample], config_of: Callable[[], StepConfig]
) -> float:
    """Forward, backward and update of the longest samples; real tokens a second of the second time."""
    freeze(state.model, options.default_freeze)
    optimizer = build_optimizer(
        options.optimizer, state.model, lr=options.lr, weight_decay=options.weight_decay,
        device_type=state.device.type,
    )  # fmt: skip
    state.optimizer, state.optimizer_name, gradients = optimizer, options.optimizer, state.gradients
    gradients.scaler = state.precision.scaler()
    config = config_of()
    seconds = math.inf
    for _ in range(2):  # the first one also allocates
        begun = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        result = gradients.accumulate(samples, config)
        gradients.update(optimizer, result, lr=options.lr, grad_clip=config.grad_clip)
        if state.device.type == "cuda":
            torch.cuda.synchronize(state.device)
        seconds = time.perf_counter() - begun
        if not result.is_finite:
            raise UserError("the loss or its gradient is not finite in the first step")
    return result.num_tokens / seconds


def describe_run(launch: Launch) -> str:
    """Parameters by module, which of them are trained and decay, and an estimate of the memory. Raises `UserError`.

    Above them stands what a resume would warn of: a checkpoint that is damaged, say, and the one that is read for it.
    """
    warnings: list[str] = []
    start = read_start(choose_run(launch), launch, warnings)
    options = start.settings.for_run()
    shape = start.checkpoint["model"]["state_args"] if start.checkpoint else vars(options)
    tokenizer = load_tokenizer(shape["tokenizer"])
    exp = allowed_experiment(launch.line.get("exp"), shape["exp"])
    weights = start.checkpoint["model"]["state"] if start.checkpoint else None
    model, model_args = model_of_shape(exp, shape, tokenizer, options, weights)
    first, *others = _stages_to_come(start)
    options = start.settings.for_stage(first)
    freeze(model, options.default_freeze)
    size = options.mini_batch_size
    page = describe(
        model, model_args, optimizer=options.optimizer, mini_batch_size=size if isinstance(size, int) else 4,
        amp_dtype=choose_precision(options, choose_device(options.device)).dtype, decays=_decays(model, options),
        recomputes=options.recompute, num_ranks=processes_of(options), is_sharded=options.shard != "none",
    )  # fmt: skip
    lines = [_line_of(model, stage, start.settings.for_stage(stage)) for stage in (first, *others)]
    if len({said for _, said in lines}) > 1:  # the table above is the first one's
        page += "\n\nBy stages\n" + "\n".join(f"  {name}: {said}" for name, said in lines)
    return "\n".join([*(f"warning: {one_line(warning, 1000)}" for warning in warnings), page])


def _stages_to_come(start: Start) -> list[Stage]:
    """From the one that training stands in; all of a plan that is done."""
    stages = list(start.settings.plan.stages)
    names = [stage.name for stage in stages]
    here = start.progress.stage
    return stages[names.index(here) :] if here in names else stages


def _decays(model: nn.Module, options: TrainOptions) -> dict[nn.Parameter, float]:
    groups = parameter_groups(model, decay_of(options.optimizer, options.weight_decay))
    return {parameter: group["weight_decay"] for group in groups for parameter in group["params"]}


def _line_of(model: nn.Module, stage: Stage, options: TrainOptions) -> tuple[str, str]:
    """A stage's name, and what it trains; the model is frozen as the stages before have left it."""
    freeze(model, options.default_freeze)
    decays = _decays(model, options)
    trained = [p for p in model.parameters() if p.requires_grad]
    values, decayed = sum(p.numel() for p in trained), sum(p.numel() for p in trained if decays[p])
    decay = decay_of(options.optimizer, options.weight_decay)
    return stage.name, f"{values:,} values trained by {options.optimizer}, {decayed:,} of them decay by {decay:g}"
