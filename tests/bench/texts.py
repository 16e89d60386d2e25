"""`tokenize` and `cut`: what preparing the data costs, beside what training on them costs."""

import itertools
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.bench.settings import SETTINGS, TOKENIZER, Setting, plan_text

BATCHES = 200


def _ignored(activity: str, detail: str, fraction: float | None) -> None:
    """Nobody watches the loading here."""


def stage_and_options(setting: Setting, data: str) -> tuple[Any, Any]:
    """The comparison's one stage, and what holds in it."""
    from lmplay_tui.plan.reading import parse_plan
    from lmplay_tui.train.settings import Settings

    plan = parse_plan(plan_text(setting, data), name="bench", file="bench", folder=Path.cwd())
    return plan.stages[0], Settings(plan, {}).for_stage(plan.stages[0])


def stage_data(setting: Setting, data: str) -> Any:
    """The data of the comparison's one stage."""
    from lmplay_tui.data.stage_data import open_stage
    from lmplay_tui.data.tokenizer import load_tokenizer

    stage, options = stage_and_options(setting, data)
    return open_stage(
        stage, options, load_tokenizer(TOKENIZER), datasets_folder=Path(tempfile.gettempdir()), report=_ignored
    )


def texts_of(data: str) -> Iterator[str]:
    """The training rows' texts, as long as anybody asks."""
    from lmplay_tui.data.batches import Position

    for batch in stage_data(SETTINGS["S"], data).batches(Position()):
        for sample in batch.samples:
            yield sample.truth


def run_tokenize(arguments: Any) -> dict[str, str]:
    """Tokens a second of the tokenizer alone."""
    from lmplay_tui.data.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(TOKENIZER)
    texts = list(itertools.islice(texts_of("pydocs"), 4000))
    begun = time.perf_counter()
    tokens = sum(len(tokenizer.encode(text)) for text in texts)
    return {"tokenize: tokens/s": f"{tokens / (time.perf_counter() - begun):,.0f}"}


def run_cut(arguments: Any) -> dict[str, str]:
    """Rows to samples, tokenizing included; and how much of what is computed is padding."""
    from lmplay_tui.data.batches import Position

    rows = {}
    for setting in SETTINGS.values():
        data = stage_data(setting, "pydocs")
        begun = time.perf_counter()
        batches = list(itertools.islice(data.batches(Position()), BATCHES))
        seconds = time.perf_counter() - begun
        tokens = sum(len(s.prompt_ids) + len(s.truth_ids) for batch in batches for s in batch.samples)
        rows[f"cut {setting.name}: tokens/s"] = f"{tokens / seconds:,.0f}"
        rows |= _in_process(setting, [batch.digest() for batch in batches])
        rows[f"padding {setting.name}"] = f"{100 * _padding(batches, setting):.1f} %"
    return rows


def _in_process(setting: Setting, digests: list[str]) -> dict[str, str]:
    """The same by the process that takes over where steps wait: until it has opened the data, and its rate."""
    from lmplay_tui.data.batches import Position
    from lmplay_tui.data.worker import Job, Worker

    stage, options = stage_and_options(setting, "pydocs")
    begun = time.perf_counter()
    process = Worker(Job(stage, options, TOKENIZER, Path(tempfile.gettempdir())))
    messages = process.messages()
    next(messages)
    opened = time.perf_counter()
    process.begin(Position())
    found = list(itertools.islice(messages, BATCHES))
    seconds = time.perf_counter() - opened
    process.kill()
    process.close()
    if [batch.digest() for batch in found] != digests:
        raise SystemExit("the reader's process cuts other batches than its thread")
    tokens = sum(len(s.prompt_ids) + len(s.truth_ids) for batch in found for s in batch.samples)
    return {
        f"cut {setting.name} in a process: until it is open": f"{opened - begun:.2f} s",
        f"cut {setting.name} in a process: tokens/s": f"{tokens / seconds:,.0f}",
    }


def _padding(batches: list[Any], setting: Setting) -> float:
    """Share of the computed positions that is padding, in mini-batches packed as training on a processor has them."""
    import torch

    from lmplay_tui.train.collate import mini_batches, pack

    real = computed = 0
    for batch in batches:
        for part in mini_batches(batch.samples, setting.mini_batch_size, by_length=True):
            mini = pack(part, include_prompts=False, device=torch.device("cpu"))
            real += mini.num_tokens
            computed += mini.ids.numel()
    return 1 - real / computed
