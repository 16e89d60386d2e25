"""Three facts of processors that decide how fast training is; each is asked for, and left alone where it does not hold.

All are chosen by what the machine is, never by a stopwatch: each start on one machine chooses the same, or a resumed
run would not be bitwise the run that was stopped.
"""

import contextlib
import ctypes
import platform
import sys
from functools import cache

import torch
from torch import Tensor

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # malloc.h
_MOST = 2**31 - 1


@cache
def keep_freed_memory() -> bool:
    """Have glibc's malloc keep what is freed; whether it does.

    It gives large blocks back at once and asks the kernel for them anew: each step then pays for zeroing hundreds of
    megabytes, page by page (measured: up to 1.7 times the time of a step). One arena for all threads, because a
    thread's own cannot hold large blocks, and under the dashboard training is a thread. Not on glibc: nothing happens.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has none
        return False
    wanted = ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _MOST))
    return all(mallopt(name, value) == 1 for name, value in wanted)


def has_fast_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 matrices in hardware. Else they take two to fifty times as long.

    oneDNN's own word is not enough: with AVX-512 alone it says yes, converts to float32 and back, and a training takes
    two to three times as long as in float32.
    """
    with contextlib.suppress(AttributeError, RuntimeError):
        if platform.machine().lower() in ("x86_64", "amd64"):
            return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return False


@cache
def use_fast_products() -> bool:
    """Let oneDNN do the float32 matrix products where its are exact and faster than MKL's; whether it does now.

    MKL's float32 kernels use half the width of processors with AVX-512 that are not Intel's. oneDNN's are reached
    through a switch that *allows* bfloat16 inside: without the hardware (AMX) for that it computes in float32, and
    twice as fast. With it, the products would be coarse: so their error decides, against float64.
    """
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX512") or _is_intel():
        return False
    switch = getattr(torch.backends.mkldnn, "matmul", None)
    before = getattr(switch, "fp32_precision", None)
    if switch is None or before is None:  # torch before 2.9
        return False
    error_before = _error_of_products()
    try:
        switch.fp32_precision = "bf16"
        if _error_of_products() <= 4 * error_before:
            return True
    except RuntimeError:
        pass
    switch.fp32_precision = before
    return False


def products_by() -> str:
    """Which library does the float32 matrix products now."""
    switch = getattr(torch.backends.mkldnn, "matmul", None)
    return "oneDNN" if getattr(switch, "fp32_precision", "") == "bf16" else "default"


def _is_intel() -> bool:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - a device, not a file
            return "GenuineIntel" in file.read(4096)
    except OSError:
        return True  # unknown: leave MKL alone


def _error_of_products() -> float:
    """The largest error of the three products of a training step, on fixed numbers."""
    generator = torch.Generator().manual_seed(0)

    def numbers(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, generator=generator)

    x, weight, grad = numbers(256, 384), numbers(2048, 384), numbers(256, 2048)
    pairs = ((x, weight.t()), (grad, weight), (grad.t(), x))
    return max(float(((a @ b).double() - a.double() @ b.double()).abs().max()) for a, b in pairs)


def processor_choices() -> list[str]:
    """Make the choices for training on this processor; what was chosen, in words."""
    chosen = []
    if use_fast_products():
        chosen.append("float32 products by oneDNN (error checked)")
    if keep_freed_memory():
        chosen.append("freed memory kept")
    return chosen
