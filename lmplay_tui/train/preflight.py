"""What is wrong with a start, as far as neither torch nor the network is needed to see it: every problem at once.

It is asked before a screen opens and before torch is imported, so that a mistake is met at the shell. Each check is one
that the run itself makes: what cannot be seen here (the model in a checkpoint, the hub, large files) it finds later.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from lmplay_tui.background import BackgroundCall
from lmplay_tui.errors import UserError, os_error
from lmplay_tui.files import is_there
from lmplay_tui.formats import time_zone
from lmplay_tui.options import Launch, TrainOptions, resolve, shown_value
from lmplay_tui.plan.builtin import DEFAULT_PLAN, shipped_plans
from lmplay_tui.plan.problems import Form, KeyPath, locate, shown_key
from lmplay_tui.plan.reading import failure_problems, parse_plan, read_plan
from lmplay_tui.plan.schema import NAME_PATTERN, Plan, check_name, name_from
from lmplay_tui.process import RANK_VARIABLES
from lmplay_tui.run.folder import (
    LOCK_FROM,
    RunFolder,
    RunLock,
    datasets_folder,
    output_folder,
    saved_status,
    statistics_folder,
)
from lmplay_tui.run.statistics import clash
from lmplay_tui.text import one_line

_LOOKS_EVERY_S = 0.05

T = TypeVar("T")


@dataclass(frozen=True)
class Waits:
    """Seconds that one thing is waited for, whose disk may hang."""

    said_s: float = 5.0  # until it is said what is waited for
    refused_s: float = 20.0  # until the start is refused: the run could not do without it
    left_s: float = 8.0  # data: the run opens them itself, says so, and can be stopped meanwhile


def problems_of(
    launch: Launch, say: Callable[[str], None], waits: Waits = Waits(), *, run: bool = True, data: bool = True
) -> list[str]:
    """All that is wrong with the start that a command line asks for, a line each; nothing: it may begin.

    Nothing is written, and no file of more than a few megabytes is read. A process that takes a run over is not asked:
    the one before it has begun with the same line. A disk that hangs is waited for as `waits` says; `say` is given a
    line of what is waited for. `run`, `data`: whether the run that is named and the plan's files of rows are looked at.
    """
    if LOCK_FROM in os.environ:
        return []
    found = _Found(launch, run=run, data=data)
    looking = BackgroundCall(found.look, "preflight")
    said = ""
    while not looking.wait(_LOOKS_EVERY_S):
        at = found.at
        waited_s = time.monotonic() - at.since
        if at.is_data and waited_s >= waits.left_s:
            break
        if waited_s >= waits.refused_s:
            hangs = f"{at.what}: no answer in {waited_s:.0f} s: its disk hangs; is it mounted, and its server up?"
            return list(dict.fromkeys([*found.problems, hangs]))
        if waited_s >= waits.said_s and at.what != said:
            said = at.what
            say(f"waiting for {said}")
    else:
        looking.result()  # a bug of the look's is raised
    return list(dict.fromkeys(found.problems))


@dataclass(frozen=True)
class _LookedAt:
    """What is looked at, since when (`time.monotonic`)."""

    what: str
    since: float
    is_data: bool = False


class _Found:
    """The problems of one start, in the order of the line, the run, its plan, its data."""

    def __init__(self, launch: Launch, *, run: bool, data: bool) -> None:
        self._launch = launch
        self._options = launch.options
        self._looks_at_run, self._looks_at_data = run, data
        self.problems: list[str] = []
        self.at = _LookedAt("the folders", time.monotonic())

    def _look_at(self, what: object, *, is_data: bool = False) -> None:
        self.at = _LookedAt(one_line(what, 300), time.monotonic(), is_data)

    def look(self) -> None:
        """Find all of them, in `problems`. What may hang is named in `at` before."""
        options = self._options
        self._try(lambda: time_zone(options.tz))
        self._try(lambda: statistics_folder(options.out_dir))  # $LMP_DATASETS
        self._look_at(f"plan {options.training_plan or DEFAULT_PLAN}")
        plan = self._try(lambda: _named_plan(self._launch)) if _reads_plan(self._launch) else None
        run = self._try(lambda: _run_of(self._launch, plan)) if plan or not _needs_plan_for_name(options) else None
        if run is not None and self._looks_at_run:
            self._look_at_run(run)
            begins_with_own = options.training_plan is None and not self._launch.anew and not _has_checkpoint(run)
            if plan is None and begins_with_own and options.model is not None:
                plan = self._try(lambda: plan_to_begin_with(run, options, []))
            if self._launch.anew or not _has_checkpoint(run):
                self._try(lambda: check_statistics(run, plan, options))
        self._try(lambda: _check_processes(options))
        self._look_at_names(plan)
        if plan is not None and self._looks_at_data:
            self._look_at_data(plan)

    def _try(self, work: Callable[[], T], at: str = "") -> T | None:
        """What `work` gives; None where it fails by the user's mistake, which is a problem. `at`: of this option."""
        try:
            return work()
        except UserError as error:
            self.problems += [self._place_of(at) + line for line in str(error).splitlines()]
        except OSError as error:
            self.problems += str(os_error(error)).splitlines()
        return None

    def _place_of(self, option: str) -> str:
        """Where the plan says an option that the line does not give: `x.toml:2: train.exp: `; else nothing."""
        file = self._plan_file
        if not option or option in self._launch.line or file is None:
            return ""
        text, form = _text_and_form(file)
        place: KeyPath = ("train", option)
        return f"{one_line(file, 300)}:{locate(text, form).line(place)}: {shown_key(place)}: "

    def _look_at_run(self, run: RunFolder) -> None:
        options = self._options
        self._look_at(run.folder)
        self._try(lambda: _check_place(run))
        self._try(lambda: _check_free(run))
        if (path := self._launch.resumes_from) is not None:
            self._look_at(path)
            self._try(lambda: _check_file(path, "--resume"))
        if options.initial_model is not None and (self._launch.anew or not _has_checkpoint(run)):
            initial = Path(options.initial_model)
            self._look_at(initial)
            self._try(lambda: _check_file(initial, "--initial-model"))
        if options.extend is not None and (self._launch.anew or not _has_checkpoint(run)) and path is None:
            self.problems.append(nothing_to_extend(run))

    def _look_at_names(self, plan: Plan | None) -> None:
        """The experiment and the tokenizer that the line names; those of the plan where it says them alone."""
        from lmplay_tui.data.tokenizer import check_tokenizer
        from lmplay_tui.models.registry import check_experiment

        options = resolve(self._launch.line, {} if plan is None else plan.train)
        self._look_at(f"--exp {options.exp}")
        self._try(lambda: check_experiment(options.exp), at="exp")
        self._try(lambda: check_tokenizer(options.tokenizer), at="tokenizer")

    def _look_at_data(self, plan: Plan) -> None:
        """The plan's files of rows, as far as they are opened in a moment: the columns that are read of them."""
        folder = self._try(lambda: datasets_folder(self._options.out_dir))
        specs = dict.fromkeys(spec for stage in plan.stages for spec in stage.datasets if Path(spec.path).is_absolute())
        if folder is None or not specs:
            return
        from lmplay_tui.data.sources import open_source, opens_in_a_moment

        for spec in specs:
            self._look_at(f"dataset {spec.name}", is_data=True)
            if opens_in_a_moment(spec, folder):
                try:
                    open_source(spec, datasets_folder=folder, report=lambda *_: None)
                except UserError as error:
                    self.problems += self._with_places(str(error))

    def _with_places(self, message: str) -> list[str]:
        """A dataset's problems with the line of the plan that names it, where the plan is a file."""
        file = self._plan_file
        if file is None:
            return message.splitlines()
        text, form = _text_and_form(file)
        return [str(problem) for problem in failure_problems(message, text, file=one_line(file, 300), form=form)]

    @property
    def _plan_file(self) -> str | None:
        named = self._options.training_plan
        return None if named is None or named in shipped_plans() else named


def _text_and_form(file: str) -> tuple[str, Form]:
    return Path(file).read_text(encoding="utf-8"), "json" if file.lower().endswith(".json") else "toml"


def _reads_plan(launch: Launch) -> bool:
    """Whether the plan that is named has to be read: one that is shipped has no mistakes, if the run has its name."""
    options = launch.options
    if options.training_plan is None:
        return _needs_plan_for_name(options)
    return options.training_plan not in shipped_plans() or _needs_plan_for_name(options)


def _needs_plan_for_name(options: TrainOptions) -> bool:
    return options.model is None and options.resume in ("auto", "none")


def _has_checkpoint(run: RunFolder) -> bool:
    return is_there(run.model) or is_there(run.checkpoint("prev"))


def _check_place(run: RunFolder) -> None:
    """Raise `UserError` where the run's folder could not be made, or not be written."""
    place = run.folder if run.folder.exists() else run.folder.parent
    while not place.exists() and place != place.parent:
        place = place.parent
    why = "not a directory" if not place.is_dir() else None if os.access(place, os.W_OK | os.X_OK) else "not writable"
    if why is not None:
        raise UserError(
            f"{one_line(run.folder)}: the run's folder cannot be made ({one_line(place)}: {why}); "
            "choose another place with --model or --out-dir"
        )


def _check_free(run: RunFolder) -> None:
    """Raise `UserError` where another process has the run. Nothing is made that is not there."""
    if run.lock_path.exists():
        lock = RunLock(run)
        lock.take()
        lock.release()


def _check_processes(options: TrainOptions) -> None:
    """Raise `UserError` where several processes would have to share a device, or one a model with others."""
    if options.shard != "none":
        if options.nproc == 1 and not os.environ.keys() & RANK_VARIABLES:
            raise UserError(f"--shard {options.shard}: there is one process, which keeps all: start more by --nproc")
        check_compiled(options)
    elif options.shard_save != "auto":
        raise UserError(
            f"--shard-save {options.shard_save}: nothing lies in parts; it goes with --shard full or hybrid"
        )
    if options.nproc == 1 or options.device in ("auto", "cpu", "cuda"):
        return
    raise UserError(f"--nproc: {options.nproc} processes cannot share --device {options.device}; use cuda or cpu")


def check_compiled(options: TrainOptions) -> None:
    """Raise `UserError` where a model that lies in parts would be compiled."""
    if options.shard != "none" and options.compile_model:
        raise UserError(
            "--shard and --compile-model: a model that lies in parts is not compiled; leave one of them out"
        )


def _check_file(path: Path, option: str) -> None:
    if not path.is_file():
        said = "is a folder" if path.is_dir() else "no such file"
        raise UserError(f"{option}: {one_line(path)}: {said}")
    if not os.access(path, os.R_OK):
        raise UserError(f"{option}: {one_line(path)}: cannot be read (permission denied); is the file yours?")


# ---- which run is meant, and which plan it begins with


def choose_run(launch: Launch) -> RunFolder:
    """The run that a command line speaks of. Raises `UserError` for a plan that cannot be read or a bad name."""
    return _run_of(launch, _named_plan(launch) if _needs_plan_for_name(launch.options) else None)


def _named_plan(launch: Launch) -> Plan:
    return read_plan(launch.options.training_plan or DEFAULT_PLAN)


def _run_of(launch: Launch, plan: Plan | None) -> RunFolder:
    """`plan`: the one that the run is named after, where the line gives no name."""
    options = launch.options
    if options.model is not None:
        model = Path(options.model)
        stem = model.stem if model.suffix == ".lmp" else model.name
        if (problem := check_name("model", stem)) is not None:
            raise UserError(f"--model: {shown_value(stem)} {problem}")
    elif (path := launch.resumes_from) is not None:
        stem, dot, kind = path.stem.partition(".")  # neither a run's nor a stage's name has a dot
        if check_name("model", stem) is not None or (dot and NAME_PATTERN.match(kind) is None):
            raise UserError(f"--resume: {shown_value(path.name)} does not tell the run's name; give it with --model")
        model = path.with_name(f"{stem}.lmp")
    else:
        assert plan is not None
        exp = resolve(launch.line, plan.train).exp.rpartition(":")[2]
        name = name_from(f"{exp}_{plan.name}", "_")
        model = output_folder(options.out_dir) / f"{name}.lmp"
    return RunFolder(model)


def check_statistics(run: RunFolder, plan: Plan | None, options: TrainOptions) -> None:
    """Raise `UserError` where a run that begins would have other runs' names for its statistics.

    `plan`: its stages have statistics of their own; None: they are not known yet.
    """
    stages = () if plan is None else tuple(stage.name for stage in plan.stages)
    if (said := clash(statistics_folder(options.out_dir), run.name, stages)) is not None:
        raise UserError(f"{said}; choose another --model")


def nothing_to_extend(run: RunFolder) -> str:
    return f"--extend: {one_line(run.model)} is not there: there is nothing to go on with"


def plan_to_begin_with(run: RunFolder, options: TrainOptions, warnings: list[str]) -> Plan:
    """The plan that was asked for, else the one that this run had, else the default. Raises `PlanError`."""
    if options.training_plan is not None or options.model is None:
        return read_plan(options.training_plan or DEFAULT_PLAN)
    try:
        own = run.plan_text()
        text = None if own is None else own.decode("utf-8")
    except (OSError, ValueError):
        text = None
    if text is None:
        if not options.initial_model:
            warnings.append(f"{one_line(run.model)} is not there yet: training anew with plan {DEFAULT_PLAN}")
        return read_plan(DEFAULT_PLAN)
    folder = saved_status(run, alive=False).plan_folder
    start = Path(folder) if folder else run.model.parent
    return parse_plan(text, name=run.name, file=str(run.plan), folder=start)
