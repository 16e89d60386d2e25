"""What devices can compute at most, by their vendors' data sheets."""

# Dense peaks in TFLOP/s (float16 or bfloat16 with float32 sums, TF32 or else float32), by the names that drivers give.
# A name stands for itself alone: an H100 PCIe is no H100, an L40S no L40, and a laptop's RTX 4090 another chip.
# Data-centre GPUs: NVIDIA's product data sheets, their figures with sparsity halved; GeForce and RTX: the whitepapers
# of their architectures (Turing, Ampere GA102, Ada, Blackwell), at the boost clock; MI300X: AMD's data sheet.
_HOPPER_SXM, _AMPERE_A100 = (989.4, 494.7), (312.0, 156.0)
_VENDOR_PEAKS = {
    "NVIDIA GB200": (2500.0, 1250.0),
    "NVIDIA B200": (2250.0, 1125.0),
    "NVIDIA H200": _HOPPER_SXM,
    "NVIDIA H200 NVL": (835.5, 417.5),
    "NVIDIA GH200 480GB": _HOPPER_SXM,
    "NVIDIA GH200 120GB": _HOPPER_SXM,
    "NVIDIA GH200 144G HBM3e": _HOPPER_SXM,
    "NVIDIA H100 80GB HBM3": _HOPPER_SXM,
    "NVIDIA H100 NVL": (835.5, 417.5),
    "NVIDIA H100 PCIe": (756.0, 378.0),
    "NVIDIA H800": _HOPPER_SXM,
    "NVIDIA H20": (148.0, 74.0),
    "NVIDIA A100-SXM4-40GB": _AMPERE_A100,
    "NVIDIA A100-SXM4-80GB": _AMPERE_A100,
    "NVIDIA A100-PCIE-40GB": _AMPERE_A100,
    "NVIDIA A100 80GB PCIe": _AMPERE_A100,
    "NVIDIA A800-SXM4-80GB": _AMPERE_A100,
    "NVIDIA A800 80GB PCIe": _AMPERE_A100,
    "NVIDIA A40": (149.7, 74.8),
    "NVIDIA A30": (165.0, 82.0),
    "NVIDIA A10": (125.0, 62.5),
    "NVIDIA A10G": (70.0, 35.0),
    "NVIDIA L40S": (362.0, 183.0),
    "NVIDIA L40": (181.0, 90.5),
    "NVIDIA L4": (121.0, 60.0),
    "Tesla T4": (65.0, 8.1),
    "Tesla V100-SXM2-16GB": (125.0, 15.7),
    "Tesla V100-SXM2-32GB": (125.0, 15.7),
    "Tesla V100-PCIE-16GB": (112.0, 14.0),
    "Tesla V100-PCIE-32GB": (112.0, 14.0),
    "NVIDIA RTX 6000 Ada Generation": (364.2, 182.1),
    "NVIDIA RTX A6000": (154.8, 77.4),
    "NVIDIA GeForce RTX 5090": (209.5, 104.8),
    "NVIDIA GeForce RTX 5080": (112.6, 56.3),
    "NVIDIA GeForce RTX 5070 Ti": (87.9, 43.9),
    "NVIDIA GeForce RTX 5070": (61.7, 30.9),
    "NVIDIA GeForce RTX 4090": (165.2, 82.6),
    "NVIDIA GeForce RTX 4080 SUPER": (104.4, 52.2),
    "NVIDIA GeForce RTX 4080": (97.5, 48.7),
    "NVIDIA GeForce RTX 4070 Ti SUPER": (88.2, 44.1),
    "NVIDIA GeForce RTX 4070 Ti": (80.2, 40.1),
    "NVIDIA GeForce RTX 4070": (58.3, 29.1),
    "NVIDIA GeForce RTX 3090 Ti": (80.0, 40.0),
    "NVIDIA GeForce RTX 3090": (71.2, 35.6),
    "NVIDIA GeForce RTX 3080": (59.5, 29.8),
    "NVIDIA GeForce RTX 3070": (40.6, 20.3),
    "NVIDIA GeForce RTX 2080 Ti": (53.8, 13.4),
    "AMD Instinct MI300X": (1307.4, 163.4),
}


def vendor_peak(device_name: str, *, half: bool) -> float | None:
    """Dense FLOP/s of a GPU by the name that its driver gives it; None for one that is not known.

    `half`: in bfloat16 or float16, else in float32 (TF32 where it has that).
    """
    known = _VENDOR_PEAKS.get(device_name.strip())
    return None if known is None else known[0 if half else 1] * 1e12
