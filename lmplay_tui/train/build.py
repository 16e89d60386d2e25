"""From a command line and a checkpoint to a trainer that stands where it should.

In order: what is known of the run before anything large is loaded (`read_start`), the trainer with its model and state
(`build_trainer`), and the weights that a model takes (`load_weights`, `load_initial`).
"""

import math
import shutil
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lmplay_tui.data.tokenizer import Tokenizer, load_tokenizer
from lmplay_tui.errors import UserError
from lmplay_tui.files import Folder
from lmplay_tui.models.generation import Reading
from lmplay_tui.models.lmplay_weights import TOKENIZER as LMPLAYS_TOKENIZER
from lmplay_tui.models.lmplay_weights import convert_lmplay
from lmplay_tui.models.registry import allowed_experiment, build_model, load_experiment
from lmplay_tui.models.units import recompute, units_of
from lmplay_tui.options import OPTIONS, Launch, OnResume, Part, TrainOptions, recorded
from lmplay_tui.plan.editing import extend_plan, list_changes
from lmplay_tui.plan.problems import PlanError
from lmplay_tui.plan.reading import parse_plan, read_plan
from lmplay_tui.plan.schema import Plan
from lmplay_tui.run.controls import Controls
from lmplay_tui.run.events import ActivityChanged, Event, OptionChanged, Warned
from lmplay_tui.run.folder import RunFolder, datasets_folder, keep_plan, statistics_folder
from lmplay_tui.run.statistics import RunStatistics
from lmplay_tui.run.upkeep import files_of
from lmplay_tui.text import one_line
from lmplay_tui.train.checkpoint import load_archive, load_checkpoint, newest_checkpoint
from lmplay_tui.train.checkpoint_fields import bounds_of, problem_of_model, problem_of_tensors
from lmplay_tui.train.checkpointer import CheckpointWriter
from lmplay_tui.train.dataloader import LoadedData, in_thread
from lmplay_tui.train.device import Precision, choose_device, choose_precision, hardware_note, speed_choices
from lmplay_tui.train.gradients import Gradients
from lmplay_tui.train.handoff import resume_command
from lmplay_tui.train.model_body import choose_ways
from lmplay_tui.train.preflight import check_compiled, check_statistics, nothing_to_extend, plan_to_begin_with
from lmplay_tui.train.progress import Progress
from lmplay_tui.train.settings import Settings, check_fixed, describe_changes, overruled_of, rate_jumps, without_effect
from lmplay_tui.train.state import TrainState, said_of_warm_up
from lmplay_tui.train.trainer import Trainer

if TYPE_CHECKING:
    from lmplay_tui.train.leader import Leader


def set_aside(run: RunFolder, statistics: Path) -> Path | None:
    """Move what earlier training left to `NAME.past/<time>/`; where it went, or None if there was nothing."""
    files = files_of(run, statistics)
    if run.folder.is_dir() and run.files.has(run.events.name):
        files.append(run.folder)
    if not files:
        return None
    target = run.past / time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    number = 1
    while target.exists():
        number += 1
        target = target.with_name(f"{target.name.partition('-')[0]}-{number}")
    Folder(run.past).make()
    Folder(target, own=2).make()
    for path in files:
        shutil.move(path, target / path.name)  # statistics may lie on another disk
    return target


@dataclass(frozen=True)
class Start:
    """What is known before anything large is loaded."""

    run: RunFolder
    launch: Launch
    settings: Settings
    checkpoint: dict[str, Any] | None
    is_newest: bool = False  # the checkpoint is the run's `NAME.lmp`
    before: Settings | None = None  # with the plan that the checkpoint holds; None without one

    @property
    def progress(self) -> Progress:
        """Where the checkpoint stands in the plan that holds now; the beginning without one."""
        if self.checkpoint is None:
            return Progress()
        progress = Progress.from_state(self.checkpoint["runner"]["state"]["progress"])
        progress.reopen(self.settings.plan)
        return progress

    def complete(self) -> Iterator[str]:
        """See to it that `NAME.lmp` has its other names and its statistics; a line each for what fails."""
        known = {stage.name for stage in self.settings.plan.stages}
        if self.checkpoint is not None and self.is_newest and self.progress.stage in known:
            folder = statistics_folder(self.launch.options.out_dir)
            yield from CheckpointWriter(self.run, folder).complete(self.checkpoint)

    def finished(self) -> bool:
        """Whether every stage of the plan is done."""
        stages = self.progress.stages
        return all(stage.name in stages and stages[stage.name].done for stage in self.settings.plan.stages)


def read_start(run: RunFolder, launch: Launch, warnings: list[str]) -> Start:
    """Read the checkpoint, if there is one to resume from, and the plan. Raises `UserError`."""
    options, is_newest = launch.options, False
    if launch.anew:
        checkpoint = None
    elif launch.resumes_from is not None:
        checkpoint = load_checkpoint(launch.resumes_from)
    else:
        found = newest_checkpoint(run, warnings.append)
        checkpoint, is_newest = (found[0], found[1] == run.model) if found else (None, False)
    if checkpoint is None:
        if options.extend is not None:
            raise UserError(nothing_to_extend(run))
        plan = plan_to_begin_with(run, options, warnings)
        check_statistics(run, plan, options)
        return Start(run, launch, Settings(plan, launch.line, plan_as_given=plan.text, plan_unedited=plan.text), None)
    curriculum = checkpoint["curriculum"]["state_args"]
    try:
        plan_before = parse_plan(
            curriculum["plan"], name=curriculum["plan_name"], file=f"plan in {run.model.name}",
            folder=Path(curriculum["plan_folder"]),
        )  # fmt: skip
    except PlanError as error:
        more = f" (and {len(error.problems) - 1} more)" if len(error.problems) > 1 else ""
        raise UserError(f"the checkpoint's plan cannot be used any more: {error.problems[0]}{more}") from None
    as_given = curriculum.get("plan_as_given") or plan_before.text
    unedited = curriculum.get("plan_unedited") or as_given
    plan = plan_before
    if options.training_plan is not None:
        plan = choose_plan(plan_before, read_plan(options.training_plan), as_given, unedited, warnings)
        if plan is not plan_before:
            as_given = unedited = plan.text
    if options.extend is not None:
        longer = extend_plan(plan, options.extend)
        if plan.text == unedited:
            unedited = longer.text
        plan = longer
    of_run = checkpoint["runner"]["state_args"]
    before = Settings(plan_before, launch.line, recorded(of_run["options"]), overruled_of(of_run), as_given, unedited)
    settings = before.with_plan(plan)
    check_fixed(settings, checkpoint["model"]["state_args"])
    start = Start(run, launch, settings, checkpoint, is_newest, before)
    if plan is not plan_before:
        progress = Progress.from_state(checkpoint["runner"]["state"]["progress"])
        warnings += [f"changed plan: {line}" for line in describe_changes(plan_before, plan, start.progress)]
        warnings += [*without_effect(before, settings, progress), *rate_jumps(before, settings, progress)]
    return start


def choose_plan(own: Plan, file: Plan, as_given: str, unedited: str, warnings: list[str]) -> Plan:
    """The plan to go on with: the run's own or the file's, whichever has changed since the file was last read.

    `as_given`: the file's text then; `unedited`: the run's own, but for edits. A file that has changed holds as it is,
    without what `--extend` had added to the one before.
    Raises `UserError` with the differences where both have.
    """
    if file.text in (as_given, own.text):
        if own.text != unedited:
            warnings.append(f"plan {one_line(file.name)} was edited while it ran: going on with the edited plan")
        return own
    if own.text == unedited:
        return file
    lines = "\n".join(f"  {change}" for change in list_changes(own, file))
    raise UserError(
        f"plan {one_line(file.name)} has changed, and the run's own was edited while it ran; from its own to the "
        f"file's:\n{lines}\nleave --training-plan out to go on with the run's own"
    )


def build_trainer(
    start: Start,
    controls: Controls,
    *,
    go_on_elsewhere: Callable[[], int],
    tell: Callable[[Event], None],
    may_not_save: Callable[[], str | None],
    leader: "Leader | None" = None,
) -> Generator[Event, None, Trainer]:
    """Load the tokenizer, build the model, take the checkpoint's state. Yields what it is doing.

    `go_on_elsewhere`, `tell`, `may_not_save`: see `Trainer`. `leader`: of the processes that train with this one.
    Raises `UserError`, and `StopRequested` where a stop is asked for meanwhile.
    """
    run, launch, settings = start.run, start.launch, start.settings
    options = settings.for_run()

    # where it computes, and in which number format
    device = choose_device(options.device)
    precision = choose_precision(options, device)
    chosen = speed_choices(options, precision)

    # the model, with a checkpoint's weights, those of --initial-model, or its own by the seed
    model_args = start.checkpoint["model"]["state_args"] if start.checkpoint else None
    weights = start.checkpoint["model"]["state"] if start.checkpoint else None
    tokenizer = yield from _load_tokenizer(model_args["tokenizer"] if model_args else options.tokenizer, controls)
    yield ActivityChanged("loading", "the model")
    shape = model_args or vars(options)
    exp = allowed_experiment(launch.line.get("exp"), shape["exp"])
    model, built_with = model_of_shape(exp, shape, tokenizer, options, weights)
    if weights is not None:
        load_weights(model, weights, run.model, resumes=True)
    elif options.initial_model is not None:
        path = Path(options.initial_model)
        for line in load_initial(model, built_with, path, tokenizer, ignore_tokenizer=options.ignore_tokenizer):
            yield Warned(line)
    if options.shard == "none":
        model.to(device)  # in parts it may be larger than the device: each block goes there as it is sharded

    # how steps compute it: what it offers beside `forward`, what other processes do of it
    ways = choose_ways(model, precision, vocab_size=tokenizer.vocab_size, context_len=built_with["context_len"])
    for line in ways.notes + nothing_to_recompute(model, options):
        yield Warned(f"experiment {one_line(built_with['exp'])}: {line}")
    if leader is not None:
        way = "forward" if ways.hidden is None else "hidden" if ways.trunk is None else "trunk"
        leader.build(precision, built_with, options, way)
    gradients = Gradients(model, precision, hidden=ways.hidden, trunk=ways.trunk)
    if options.shard != "none":
        ways = replace(ways, reading=Reading.FORWARD)  # a cache is made by the head's own numbers, which lie in parts
        _shard(gradients, options, precision, leader)

    # the run's state, standing where the checkpoint stands
    state = TrainState(
        run=run, settings=settings, model=model, model_args=built_with | {"tokenizer": tokenizer.name},
        gradients=gradients, reading=ways.reading,
        tokenizer=tokenizer, precision=precision, statistics=RunStatistics(run.name), leader=leader,
    )  # fmt: skip
    torch.manual_seed(options.seed)
    yield from _restore(start, state, options)
    if leader is not None:
        chosen.append(f"{leader.world_size} processes")
        yield from _draw_by_mini_batch(state, options)
    yield from _write_plan(start, state.progress.step)

    return Trainer(
        state,
        LoadedData(
            state.stage_options, lambda: state.settings.plan.stages, tokenizer, datasets_folder(options.out_dir)
        ),
        controls,
        statistics_folder=statistics_folder(options.out_dir),
        resume_command=partial(resume_command, launch, run),
        go_on_elsewhere=go_on_elsewhere,
        tell=tell,
        may_not_save=may_not_save,
        resumed_from=state.progress.step if start.checkpoint is not None else None,
        note=", ".join((*chosen, "samples padded" if ways.trunk is None else "samples packed")),
    )


def _shard(gradients: Gradients, options: TrainOptions, precision: Precision, leader: "Leader | None") -> None:
    """Let each process keep a part of the model. Raises `UserError` where that cannot be."""
    if leader is None:
        raise UserError(f"--shard {options.shard}: there is one process alone, which keeps all")
    check_compiled(options)
    if precision.grad_scale:
        raise UserError("--shard: float16's scaled gradients are not sharded; use --amp-dtype bfloat16")
    gradients.sharding = leader.shard(
        gradients.model, options.shard, has_hidden=gradients.hidden is not None, trunk=gradients.trunk
    )
    gradients.hidden = gradients.sharding.hidden


def _draw_by_mini_batch(state: TrainState, options: TrainOptions) -> Iterator[Event]:
    """One sequence of random numbers through all steps, as a checkpoint of before has it, is one process's alone."""
    if not state.random_numbers.is_running:
        return
    state.random_numbers.is_running = False
    if options.dropout:
        yield Warned(
            "the checkpoint is of an earlier version, whose dropout one process draws: from here on it is drawn for "
            "each mini-batch by itself, and stays so; with one process the run would have gone on as it was",
            state.progress.step,
        )


def _load_tokenizer(name: str, controls: Controls) -> Generator[Event, None, Tokenizer]:
    yield ActivityChanged("loading", f"tokenizer {name}")
    return (yield from in_thread(lambda _: load_tokenizer(name), controls))


def model_of_shape(
    exp: str, shape: Mapping[str, Any], tokenizer: Tokenizer, options: TrainOptions,
    weights: Mapping[str, torch.Tensor] | None = None,
) -> tuple[torch.nn.Module, dict[str, Any]]:  # fmt: skip
    """An experiment's model with weights by chance, and the arguments that it was built with.

    `shape`: a checkpoint's record of its model, or the options themselves. `weights`: the checkpoint's.
    """
    model, built_with = build_model(
        load_experiment(exp), vocab_size=tokenizer.vocab_size, context_len=shape["context_len"],
        num_blocks=shape["num_blocks"], embed_dim=shape["embed_dim"], num_heads=shape["num_heads"],
        dropout=options.dropout, seed=options.seed, weights=weights,
    )  # fmt: skip
    if options.recompute:
        recompute(model)
    return model, built_with


def nothing_to_recompute(model: torch.nn.Module, options: TrainOptions) -> tuple[str, ...]:
    """That `--recompute` changes nothing, where the model has no blocks."""
    has_blocks = bool(units_of(model))
    return (
        ("--recompute changes nothing: the model has no list of blocks",)
        if options.recompute and not has_blocks
        else ()
    )


def _restore(start: Start, state: TrainState, options: TrainOptions) -> Generator[Event, None, None]:
    """Set position, statistics, optimizer and warm-up: from the checkpoint, or from the beginning."""
    if start.checkpoint is None:
        state.start_warm_up(options)
        return
    state.restore(start.checkpoint, ignore_optimizer=options.ignore_optimizer)
    state.progress.reopen(start.settings.plan)
    recorded = start.checkpoint["runner"]["state"]
    if recorded["tokenizer_fingerprint"] != state.tokenizer.fingerprint:
        raise UserError(
            f"tokenizer {one_line(state.tokenizer.name)} is not the one that the checkpoint was trained with: "
            "its tokens mean other things to the model; install the version that was used"
        )
    assert start.before is not None
    says_anew = said_of_warm_up(options) != said_of_warm_up(start.before.for_run())  # the plan
    on_line = any(OPTIONS[name].part is Part.WARM_UP and OPTIONS[name].once for name in start.launch.line)
    if says_anew or on_line or options.ignore_optimizer:
        state.start_warm_up(options)
    elif options.disable_optimizer_warmup:
        state.progress.warm_up = None
    yield from _differences(start, state)


def _differences(start: Start, state: TrainState) -> Iterator[Event]:
    """What is computed by other means than before, and what the command line says otherwise than the run so far."""
    assert start.checkpoint is not None
    then = start.checkpoint["runner"]["state"]["hardware"]
    now = hardware_note() | {"device": state.device.type, "precision": state.precision.name}
    differing = [f"{name} {then[name]} -> {now[name]}" for name in now if name in then and then[name] != now[name]]
    if differing:
        said = f"not as the checkpoint was computed ({one_line(', '.join(differing))})"
        drawn = " and dropout" if then.get("device") != now["device"] and state.settings.for_run().dropout else ""
        yield Warned(f"{said}: results agree but for rounding{drawn}", state.progress.step)
    yield from _changed_options(start, state.progress)


def _changed_options(start: Start, progress: Progress) -> Iterator[Event]:
    """Name what the command line gives and the run so far had otherwise, in the stage that it stands in."""
    so_far = replace(start.settings, line={})
    stage = next((stage for stage in so_far.plan.stages if stage.name == progress.stage), None)
    before = so_far.for_run() if stage is None else so_far.for_stage(stage)
    for name, value in start.launch.line.items():
        then = getattr(before, name)
        if OPTIONS[name].on_resume is OnResume.KEPT and then != value:
            yield OptionChanged(progress.step, OPTIONS[name].flag, one_line(then), one_line(value))
            if OPTIONS[name].part is Part.HELD_OUT:
                yield Warned(f"{OPTIONS[name].flag}: rows that were held out until now may be trained", progress.step)


def _write_plan(start: Start, step: int) -> Iterator[Event]:
    """The run's `plan.toml`, for viewers; another plan that lies there is kept."""
    run = start.run
    try:
        kept = keep_plan(run, start.settings.plan.text, step)
    except OSError as error:  # viewers miss its text, the run does not
        yield Warned(f"{one_line(run.plan)}: cannot be written ({error.strerror}); training goes on")
        return
    if kept is None or start.checkpoint is None:
        return
    if run.history.read(kept.name, 1 << 22) != start.checkpoint["curriculum"]["state_args"]["plan"].encode("utf-8"):
        said = f"{one_line(run.plan)} was another plan than the checkpoint's, which holds; it is kept: "
        yield Warned(f"{said}--training-plan {one_line(kept)} takes it", step)


def load_weights(model: torch.nn.Module, weights: Mapping[str, Any], path: Path, *, resumes: bool = False) -> None:
    """Put weights into a model. `UserError` that names the first that does not fit.

    `resumes`: training goes on with them, so they are of the model's own number format, and finite.
    """
    own, where = model.state_dict(), one_line(path)
    for name, tensor in own.items():
        if name not in weights:
            raise UserError(f"{where}: has no weights called {name}; it is of another model")
        given = weights[name]
        if given.shape != tensor.shape:
            raise UserError(
                f"{where}: {name} has shape {one_line(tuple(given.shape), 60)}, "
                f"the model {tuple(tensor.shape)}; give the shape that it was trained with"
            )
        same = given.dtype == tensor.dtype if resumes else given.is_floating_point() == tensor.is_floating_point()
        if not same or given.is_complex() != tensor.is_complex():
            raise UserError(f"{where}: {name} is of {given.dtype}, the model's of {tensor.dtype}")
    if extra := [name for name in weights if name not in own]:
        raise UserError(f"{where}: has weights that the model has not: {one_line(extra[0], 60)}")
    if resumes:
        for name, _ in model.named_parameters():
            if not all(map(math.isfinite, bounds_of(weights[name]) or ())):
                raise UserError(f"{where}: {name} holds numbers that are not finite: nothing can be trained from them")
    model.load_state_dict(dict(weights))


def weights_in(archive: Mapping[str, Any], path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any], bool]:
    """The weights in what `load_archive` gave, the arguments of their model, and whether the file is LMPlay's own.

    Each argument that is there is of its kind. Raises `UserError` where the file holds no model, or a wrong one.
    """
    component = archive.get("model")
    table = component.get("state", component) if isinstance(component, dict) else None
    if not isinstance(component, dict) or not isinstance(table, dict):
        raise UserError(f"{one_line(path)}: holds no model")
    if problem := problem_of_tensors(table):
        raise UserError(f"{one_line(path)}: {problem}")
    try:
        converted = convert_lmplay(archive)
    except (
        RuntimeError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        ArithmeticError,
    ) as error:  # parts that do not fit together
        raise UserError(f"{one_line(path)}: its weights do not fit together ({one_line(error, 80)})") from None
    if converted is None and "state" not in component:
        raise UserError(f"{one_line(path)}: holds no model")
    weights, arguments = converted or (table, component.get("state_args"))
    if problem := problem_of_model(weights, arguments):
        raise UserError(f"{one_line(path)}: {problem}")
    return weights, dict(arguments or {}), converted is not None


def load_initial(
    model: torch.nn.Module, model_args: Mapping[str, Any], path: Path, tokenizer: Tokenizer, *, ignore_tokenizer: bool
) -> list[str]:
    """Begin with the weights of a checkpoint, of ours or of LMPlay's own; what there is to say of it, a line each.

    Raises `UserError` where they do not fit or, unless `ignore_tokenizer`, their tokens were another tokenizer's.
    """
    archive = load_archive(path)
    weights, theirs, is_lmplays = weights_in(archive, path)
    # No weight's shape shows the number of heads: with another one the model would compute something else.
    if "num_heads" in theirs and theirs["num_heads"] != model_args["num_heads"]:
        raise UserError(
            f"{one_line(path)}: has {one_line(theirs['num_heads'])} heads, the model {model_args['num_heads']}; "
            f"give --num-heads {one_line(theirs['num_heads'])}"
        )
    said = []
    if (problem := _other_tokenizer(archive, theirs, tokenizer, is_lmplays=is_lmplays)) is not None:
        if not ignore_tokenizer:
            raise UserError(
                f"{one_line(path)}: {problem}: the same number means another text there; "
                "--ignore-tokenizer takes its weights all the same"
            )
        said.append(f"{one_line(path)}: {problem}; its weights are taken all the same (--ignore-tokenizer)")
    elif is_lmplays:
        said.append(f"{one_line(path)}: LMPlay's files do not say their tokenizer: taken for gpt2's by its vocabulary")
    load_weights(model, weights, path)
    return said


def _other_tokenizer(
    archive: Mapping[str, Any], theirs: Mapping[str, Any], tokenizer: Tokenizer, *, is_lmplays: bool
) -> str | None:
    """How the tokens of a checkpoint mean other things than `tokenizer`'s; None where they are the same.

    Known by the fingerprint that a checkpoint records; without one by the tokenizer's name. A vocabulary of another
    size shows in the weights' shapes, whatever is ignored.
    """
    name, own = theirs.get("tokenizer"), one_line(tokenizer.name)
    if is_lmplays:  # all of them have GPT-2's
        same = tokenizer.fingerprint == load_tokenizer(LMPLAYS_TOKENIZER).fingerprint
        return None if same else f"is LMPlay's, trained with tokenizer gpt2, not {own}"
    recorded = recorded_fingerprint(archive)
    if recorded == tokenizer.fingerprint or (recorded is None and name in (None, tokenizer.name)):
        return None
    if name == tokenizer.name:
        return f"was trained with another tokenizer called {own}"
    return f"was trained with tokenizer {one_line(name)}, not {own}"


def recorded_fingerprint(archive: Mapping[str, Any]) -> object:
    """The fingerprint of the tokenizer that a checkpoint was trained with, as it records it; None where it does not."""
    runner = archive.get("runner")
    state = runner.get("state") if isinstance(runner, dict) else None
    return state.get("tokenizer_fingerprint") if isinstance(state, dict) else None
