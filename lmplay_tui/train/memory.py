"""When the device's memory is too small: finding it out, and smaller mini-batches.

A lack of memory is never dealt with inside the handler that caught it: the exception holds the frames of the failed
pass, and those hold its tensors.
"""

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

from lmplay_tui.errors import OutOfMemoryError

T = TypeVar("T")
# The last one is oneDNN's, which allocates for itself.
_SAID_BY_PROCESSORS = ("can't allocate memory", "not enough memory", "out of memory", "could not create a primitive")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory was lacking: GPUs have a class for it, processors only words."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _SAID_BY_PROCESSORS)


def fits(work: Callable[[], T]) -> tuple[bool, T | None]:
    """Do `work`; whether memory sufficed, and its value. Everything else that it raises is raised."""
    try:
        return True, work()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    return False, None  # the handler is left, and with it the failed pass's tensors


def give_memory_back(device: torch.device) -> None:
    """Return what the failed pass held to the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def halved(size: int, what: str, option: str) -> int:
    """The next smaller mini-batch. Raises `OutOfMemoryError` with advice below 1."""
    if size <= 1:
        raise OutOfMemoryError(
            f"{what}: the memory of the device does not hold one sample at a time, {option} is 1 already; "
            "close other programs, or train a smaller model or a shorter --context_len"
        )
    return size // 2
