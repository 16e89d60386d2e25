"""The state of a run in memory, and its way into a checkpoint and back."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

import lmplay_tui
from lmplay_tui.data.tokenizer import Tokenizer
from lmplay_tui.models.generation import Reading
from lmplay_tui.options import Part, TrainOptions, names_of
from lmplay_tui.plan.schema import Stage
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.run.learning_rate import schedule, warmup
from lmplay_tui.run.statistics import RunStatistics
from lmplay_tui.train.checkpoint_fields import BY_LENGTH, BY_WORK, FORMAT
from lmplay_tui.train.checkpoint_parts import PartsSave, whole
from lmplay_tui.train.device import Precision, RandomNumbers, hardware_note, matmul_parameters
from lmplay_tui.train.gradients import Gradients, StepConfig
from lmplay_tui.train.optim import freeze, load_by_name, next_optimizer, set_dropout, state_by_name
from lmplay_tui.train.progress import Progress, WarmUp
from lmplay_tui.train.settings import Settings

if TYPE_CHECKING:
    from lmplay_tui.train.leader import Leader

FOLDER_FROM_BYTES = 20 * 10**9  # of a sharded state: more is not gathered in one process's memory


@dataclass
class TrainState:
    """Model, optimizer, numbers and position of a run."""

    run: RunFolder
    settings: Settings
    model: nn.Module
    model_args: dict[str, Any]
    gradients: Gradients  # how steps compute the model
    reading: Reading  # how text is generated
    tokenizer: Tokenizer
    precision: Precision
    statistics: RunStatistics
    progress: Progress = field(default_factory=Progress)
    optimizer: torch.optim.Optimizer | None = None
    optimizer_name: str = ""
    loaded_optimizer: dict[str, Any] | None = None  # a checkpoint's, until the stage it belongs to has been entered
    leader: "Leader | None" = None  # where others train the same run with this process
    cut: str = BY_WORK  # which packed samples share a mini-batch; a checkpoint of before goes on by length
    random_numbers: RandomNumbers = field(init=False)

    def __post_init__(self) -> None:
        self.random_numbers = RandomNumbers(self.device)

    @property
    def device(self) -> torch.device:
        return self.precision.device

    @property
    def optimizer_before(self) -> str:
        """The optimizer until the next stage is entered, a checkpoint's too; empty where there was none."""
        return self.optimizer_name if self.loaded_optimizer is None else self.loaded_optimizer["name"]

    def stage_options(self, stage: Stage) -> TrainOptions:
        """The options that hold in `stage`, as the settings are now."""
        return self.settings.for_stage(stage)

    def enter_stage(self, stage: Stage, *, is_new: bool) -> TrainOptions:
        """Set the optimizer up for `stage` and give its options.

        The state of the optimizer goes on from stage to stage, parameter by parameter, unless the stage asks for a
        fresh one or for another kind: then a warm-up, where one is set, begins anew with it. `is_new`: the stage
        begins, as opposed to going on after a resume.
        """
        options = self.stage_options(stage)
        self._freeze(options.default_freeze)
        name_before, self.optimizer_name = self.optimizer_before, options.optimizer
        fresh = is_new and options.reset_optimizer
        is_other = name_before not in ("", options.optimizer)
        if (fresh or is_other) and self.progress.warm_up is not None:
            self.progress.warm_up.from_step = self.progress.step
        keeps = not fresh and not is_other
        self.optimizer = next_optimizer(
            options.optimizer, self.model, lr=options.lr, weight_decay=options.weight_decay,
            device_type=self.device.type, before=self.optimizer if keeps and self.loaded_optimizer is None else None,
        )  # fmt: skip
        loaded = self.loaded_optimizer["state"] if self.loaded_optimizer is not None and keeps else {}
        self.loaded_optimizer = None
        if loaded and self.gradients.sharding is None:
            in_memory = {
                name: {key: whole(value) for key, value in entries.items()} for name, entries in loaded.items()
            }
            load_by_name(self.optimizer, self.model, in_memory)
        if self.leader is not None:
            self.leader.enter_stage(
                self.model, self.optimizer, self.gradients.scaler, options, loaded=loaded, keeps_state=keeps
            )
        return options

    def step_config(self, options: TrainOptions, mini_batch_size: int) -> StepConfig:
        """How the batches of a stage become gradients."""
        config = StepConfig.of(options, mini_batch_size, self.model_args["context_len"])
        if self.gradients.trunk is None or self.cut == BY_LENGTH:
            return config
        body, head = matmul_parameters(self.model)
        return replace(config, head_work=head / max(body, 1))

    def lr(self, options: TrainOptions, progress_of_stage: float) -> float:
        """The learning rate of the next step: schedule x warm-up x the factor given at the keyboard."""
        factor = schedule(options.lr_schedule, progress_of_stage) * self.progress.lr_factor
        warm_up = self.progress.warm_up
        if warm_up is not None:
            since = self.progress.step - warm_up.from_step
            factor *= warmup(since, fraction=warm_up.fraction, steps=warm_up.steps)
        return options.lr * factor

    def checkpoint(self) -> dict[str, Any]:
        """All that a resume needs, as the document lays it out.

        Parameters and the optimizer's tensors are the live ones: copy them before the next update. All else is a copy
        already, the model's buffers too, which a forward pass may change.
        """
        plan, scaler = self.settings.plan, self.gradients.scaler
        statistics = self.statistics.state()
        weights, optimizer_state, parts = self._tensors()
        return {
            "curriculum": {
                "state_args": {
                    "plan": plan.text,
                    "plan_as_given": self.settings.plan_as_given,
                    "plan_unedited": self.settings.plan_unedited,
                    "plan_name": plan.name,
                    "plan_folder": plan.folder,
                    "current_step": self.progress.stage,
                },
                "state": {name: asdict(stage) for name, stage in self.progress.stages.items()},
            },
            "model": {"state_args": self.model_args, "state": weights},
            "runner": {
                "state_args": {
                    "name": self.run.name,
                    "options": self.settings.to_remember(),
                    "overruled": self.settings.overruled_since(),
                },
                "state": {
                    "format": FORMAT,
                    "version": lmplay_tui.__version__,
                    "tokenizer_fingerprint": self.tokenizer.fingerprint,
                    "hardware": hardware_note() | {"device": self.device.type, "precision": self.precision.name},
                    "progress": self.progress.state(),
                    **self.random_numbers.state(),
                    "cut": self.cut,
                    "scaler": scaler.state_dict() if scaler is not None else {},
                    **statistics,
                    **({} if parts is None else {"parts": parts}),
                },
            },
            "optimizers": {
                "state_args": {"name": self.optimizer_name, "num_parameters": len(optimizer_state)},
                "state": optimizer_state,
            },
            "lr_schedulers": {
                "state_args": asdict(self.progress.warm_up) if self.progress.warm_up else {},
                "state": {"factor": self.progress.lr_factor, "step": self.progress.step},
            },
        }

    def _tensors(self) -> tuple[Mapping[str, Tensor | str], dict[str, dict[str, Any]], PartsSave | None]:
        """Weights, and the optimizer's state by parameters' names; of a sharded model gathered, or being written."""
        sharding = self.gradients.sharding
        if sharding is None:
            state = {} if self.optimizer is None else state_by_name(self.optimizer, self.model)
            return _weights(self.model), state, None
        assert self.leader is not None
        way = self.settings.for_run().shard_save
        if way == "folder" or (way == "auto" and sharding.state_bytes(self.optimizer) > FOLDER_FROM_BYTES):
            return self.leader.state_in_parts(self.optimizer, self.run)
        return *self.leader.whole_state(self.optimizer), None

    def restore(self, checkpoint: dict[str, Any], *, ignore_optimizer: bool) -> None:
        """Take everything but the weights and the settings from a checkpoint (they were needed to build this)."""
        state = checkpoint["runner"]["state"]
        self.progress = Progress.from_state(state["progress"])
        self.statistics.load({"stats": state["stats"], "step_stats": state["step_stats"]})
        self.random_numbers.restore(state)
        self.cut = state.get("cut", BY_LENGTH)
        if self.gradients.scaler is not None and state["scaler"]:
            self.gradients.scaler.load_state_dict(state["scaler"])
        if not ignore_optimizer:
            optimizers = checkpoint["optimizers"]
            self.loaded_optimizer = {"name": optimizers["state_args"]["name"], "state": optimizers["state"]}

    def change_plan(self, settings: Settings) -> list[str]:
        """Take the settings of a changed plan, from the next batch on; a line for what does not act in this process.

        Raises `UserError`, with all as it was, if nothing would be left to train.
        """
        self._try_to_freeze(settings)
        settings_before, self.settings = self.settings, settings
        before, options = settings_before.for_run(), settings.for_run()
        for stage in settings.plan.stages:  # another size is tried, even where memory lacked for one before
            if settings_before.for_stage(stage).mini_batch_size != settings.for_stage(stage).mini_batch_size:
                self.progress.of(stage.name).mini_batch_size = None
        if said_of_warm_up(options) != said_of_warm_up(before):
            self.start_warm_up(options)
        if options.dropout == before.dropout:
            return []
        if self.leader is not None:
            self.leader.set_dropout(before.dropout, options.dropout)
        if not set_dropout(self.model, before.dropout, options.dropout):
            return ["train.dropout: this experiment's cannot be changed while it runs: it acts from the next start on"]
        return []

    def _try_to_freeze(self, settings: Settings) -> None:
        """Raise `UserError` if a stage of the plan would freeze all there is; nothing is changed."""
        now = next((stage for stage in self.settings.plan.stages if stage.name == self.progress.stage), None)
        try:
            for default_freeze in sorted({settings.for_stage(stage).default_freeze for stage in settings.plan.stages}):
                self._freeze(default_freeze)
        finally:
            if now is not None:
                self._freeze(self.stage_options(now).default_freeze)

    def _freeze(self, default_freeze: bool) -> None:
        if self.gradients.sharding is not None:
            self.gradients.sharding.give_back()  # its parts are what is frozen
        freeze(self.model, default_freeze)

    def start_warm_up(self, options: TrainOptions) -> None:
        """Begin a warm-up here if the options ask for one."""
        fraction, steps = options.optimizer_warmup_fraction, options.optimizer_warmup_steps
        if options.disable_optimizer_warmup or (fraction is None and steps is None):
            self.progress.warm_up = None
            return
        self.progress.warm_up = WarmUp(
            from_step=self.progress.step,
            fraction=0.1 if fraction is None else fraction,
            steps=40 if steps is None else steps,
        )


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """The model's state: its parameters, and copies of its buffers."""
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return {name: value if name in parameters else value.clone() for name, value in model.state_dict().items()}


def said_of_warm_up(options: TrainOptions) -> object:
    """What the options say of a warm-up: where they come to say other things, another one begins."""
    return tuple(getattr(options, name) for name in names_of(Part.WARM_UP))
