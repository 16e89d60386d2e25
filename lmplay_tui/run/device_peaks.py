"""What devices can compute at most, by their vendors' data sheets."""

# Dense peaks in FLOP/s: (bfloat16 or float16, TF32 or float32).
_VENDOR_PEAKS = {
    "H200": (989e12, 494e12),
    "H100": (989e12, 494e12),
    "A100": (312e12, 156e12),
    "L40S": (362e12, 183e12),
    "L4": (121e12, 60e12),
    "A10G": (70e12, 35e12),
    "T4": (65e12, 8.1e12),
    "V100": (125e12, 15.7e12),
    "RTX 4090": (165e12, 83e12),
    "RTX 3090": (71e12, 36e12),
}


def vendor_peak(device_name: str, *, half: bool) -> float | None:
    """Dense FLOP/s of a GPU by the name that its driver gives it; None for one that is not known.

    `half`: in bfloat16 or float16, else in float32 (TF32 where it has that).
    """
    for model, (in_half, in_single) in _VENDOR_PEAKS.items():
        if model in device_name:
            return in_half if half else in_single
    return None
