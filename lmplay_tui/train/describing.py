"""`--describe`: the model that a command line asks for, before any training."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from lmplay_tui.data.tokenizer import load_tokenizer
from lmplay_tui.models.describe import describe
from lmplay_tui.models.registry import build_model, load_experiment
from lmplay_tui.options import TrainOptions
from lmplay_tui.plan.schema import Stage
from lmplay_tui.train.device import choose_device, choose_precision
from lmplay_tui.train.optim import decay_of, freeze, parameter_groups
from lmplay_tui.train.starting import Start, allowed_experiment, choose_run, read_start


def describe_run(given: Mapping[str, Any]) -> str:
    """Parameters by module, which of them are trained and decay, and an estimate of the memory. Raises `UserError`."""
    start = read_start(choose_run(given), given, [])
    options = start.settings.for_run()
    shape = start.checkpoint["model"]["state_args"] if start.checkpoint else options.model_dump()
    tokenizer = load_tokenizer(shape["tokenizer"])
    model, model_args = build_model(
        load_experiment(allowed_experiment(given, shape["exp"])), vocab_size=tokenizer.vocab_size,
        context_len=shape["context_len"], num_blocks=shape["num_blocks"], embed_dim=shape["embed_dim"],
        num_heads=shape["num_heads"], dropout=options.dropout, seed=options.seed,
    )  # fmt: skip
    first, *others = _stages_to_come(start)
    options = start.settings.for_stage(first)
    freeze(model, options.default_freeze)
    size = options.mini_batch_size
    page = describe(
        model, model_args, optimizer=options.optimizer, mini_batch_size=size if isinstance(size, int) else 4,
        amp_dtype=choose_precision(options, choose_device(options.device)).dtype, decays=_decays(model, options),
    )  # fmt: skip
    lines = [_line_of(model, stage, start.settings.for_stage(stage)) for stage in (first, *others)]
    if len({said for _, said in lines}) > 1:  # the table above is the first one's
        page += "\n\nBy stages\n" + "\n".join(f"  {name}: {said}" for name, said in lines)
    return page


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
