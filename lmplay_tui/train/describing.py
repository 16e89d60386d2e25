"""`--describe`: the model that a command line asks for, before any training."""

from collections.abc import Mapping
from typing import Any

from lmplay_tui.data.tokenizer import load_tokenizer
from lmplay_tui.models.describe import describe
from lmplay_tui.models.registry import build_model, load_experiment
from lmplay_tui.train.device import choose_device, choose_precision
from lmplay_tui.train.starting import allowed_experiment, choose_run, read_start


def describe_run(given: Mapping[str, Any]) -> str:
    """Parameters by module, shapes, and an estimate of the memory. Raises `UserError`."""
    start = read_start(choose_run(given), given, [])
    options = start.settings.for_run()
    shape = start.checkpoint["model"]["state_args"] if start.checkpoint else options.model_dump()
    tokenizer = load_tokenizer(shape["tokenizer"])
    model, model_args = build_model(
        load_experiment(allowed_experiment(given, shape["exp"])), vocab_size=tokenizer.vocab_size,
        context_len=shape["context_len"], num_blocks=shape["num_blocks"], embed_dim=shape["embed_dim"],
        num_heads=shape["num_heads"], dropout=options.dropout, seed=options.seed,
    )  # fmt: skip
    size = options.mini_batch_size
    return describe(
        model, model_args, optimizer=options.optimizer, mini_batch_size=size if isinstance(size, int) else 4,
        amp_dtype=choose_precision(options, choose_device(options.device)).dtype,
    )  # fmt: skip
