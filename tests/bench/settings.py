"""What is trained in a comparison, and what a contender says of itself."""

import os
import resource
import sys
from dataclasses import dataclass
from typing import Any

LR, WEIGHT_DECAY, TOKENIZER = 3e-4, 0.01, "gpt2"
WARM_UP_STEPS = 2  # after compiling: the first steps also find out what memory they need


@dataclass(frozen=True)
class Setting:
    """The shape of a model and of its batches; vocabulary 50257, AdamW, dropout 0."""

    name: str
    num_blocks: int
    embed_dim: int
    num_heads: int
    context_len: int
    batch_size: int
    mini_batch_size: int


SETTINGS = {
    "S": Setting("S", 4, 128, 4, 256, 16, 4),
    "M": Setting("M", 6, 384, 6, 512, 8, 4),
    "GPT-2": Setting("GPT-2", 12, 768, 12, 1024, 32, 8),  # 124M parameters where head and embedding are tied
    "tiny": Setting("tiny", 1, 32, 2, 64, 4, 2),
}


def gpt2ish_of(setting: Setting) -> Any:
    """The model that a setting describes, untrained."""
    from lmplay_tui.models.registry import build_model, load_experiment

    model, _ = build_model(
        load_experiment("gpt2ish"), vocab_size=50257, context_len=setting.context_len, num_heads=setting.num_heads,
        num_blocks=setting.num_blocks, embed_dim=setting.embed_dim, dropout=0.0,
    )  # fmt: skip
    return model


def plan_text(setting: Setting, data: str) -> str:
    """The comparison as a plan: training alone, no validation, no checkpoint on the way."""
    never = 2**53 - 1
    return f"""\
[train]
exp = "gpt2ish"
num_blocks = {setting.num_blocks}
embed_dim = {setting.embed_dim}
num_heads = {setting.num_heads}
context_len = {setting.context_len}
tokenizer = "{TOKENIZER}"
batch_size = {setting.batch_size}
mini_batch_size = {setting.mini_batch_size}
lr = {LR}
weight_decay = {WEIGHT_DECAY}
dropout = 0.0
validation_interval = {never}
eval_interval = {never}
save_interval = {never}
[stages.bench]
dataset = {_toml_string(data)}
epochs = 10000
"""


def _toml_string(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def peak_rss_mb() -> float:
    """The most memory that this process has held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def rss_mb() -> float:
    """The memory that this process holds now."""
    import psutil

    return float(psutil.Process().memory_info().rss) / (1 << 20)


def cpu_s() -> float:
    """Processor seconds of this process, all threads: what a busy machine does not blur."""
    times = os.times()
    return times.user + times.system


def line(
    name: str, setting: Setting, *, tokens: int, samples: int, seconds: float, cpu: float, flops: float,
    peak_flops: float, final_loss: float, **more: Any,
) -> dict[str, Any]:  # fmt: skip
    """A contender's figures: those that are compared first, then what helps to read them."""
    return {
        "name": name,
        "setting": setting.name,
        "tokens_per_s": round(tokens / seconds, 1),
        "samples_per_s": round(samples / seconds, 2),
        "peak_rss_mb": round(peak_rss_mb()),
        "final_loss": round(final_loss, 4),
        "mfu": round(flops / seconds / peak_flops, 4) if peak_flops else None,
        "tokens_per_cpu_s": round(tokens / cpu, 1) if cpu else None,
        **more,
    }
