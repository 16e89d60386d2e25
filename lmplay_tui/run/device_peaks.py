"""What devices can compute at most, by their vendors' data sheets, looked up by the exact name that the driver gives.

Dense products, without sparsity; half precision with sums in float32, as training does. A name that is not here
(a laptop's GPU, a slice of one, a new one) has no figure: it is measured.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class _Peak:
    """TFLOP/s. `single`: TF32 where the GPU has it, else float32. `bfloat16`: as fast as float16, in hardware."""

    half: float
    single: float | None
    bfloat16: bool = True


_A100 = _Peak(312, 156)  # NVIDIA A100 data sheet
_H100_SXM = _Peak(989.4, 494.7)  # NVIDIA H100 data sheet and white paper
_H100_PCIE = _Peak(756, 378)  # NVIDIA H100 white paper
_H100_NVL = _Peak(835.5, 417.5)  # NVIDIA H100 NVL data sheet, halved: it tells sparse figures
_GH200 = _Peak(989.4, 494.7)  # NVIDIA GH200 data sheet
_V100 = _Peak(125, 15.7, bfloat16=False)  # NVIDIA V100 data sheet
_V100_PCIE = _Peak(112, 14, bfloat16=False)

# Without the `NVIDIA ` that newer drivers put before.
PEAKS = {
    "B200": _Peak(2250, 1100),  # NVIDIA HGX B200 data sheet, an eighth, halved
    "H200": _H100_SXM,  # NVIDIA H200 data sheet
    "H200 NVL": _H100_NVL,
    "GH200 120GB": _GH200,
    "GH200 480GB": _GH200,
    "GH200 144G HBM3e": _GH200,
    "H100 80GB HBM3": _H100_SXM,
    "H800": _H100_SXM,
    "H100 PCIe": _H100_PCIE,
    "H800 PCIe": _H100_PCIE,
    "H100 NVL": _H100_NVL,
    "H20": _Peak(148, 74),  # NVIDIA H20 data sheet
    "A100-SXM4-40GB": _A100,
    "A100-SXM4-80GB": _A100,
    "A100-PCIE-40GB": _A100,
    "A100 80GB PCIe": _A100,
    "A800-SXM4-80GB": _A100,
    "A800 80GB PCIe": _A100,
    # NVIDIA's data sheets of each.
    "A40": _Peak(149.7, 74.8),
    "A30": _Peak(165, 82),
    "A10": _Peak(125, 62.5),
    "A10G": _Peak(70, 35),
    "A2": _Peak(18, 9),
    "L40": _Peak(181, 90.5),
    "L40S": _Peak(362, 183),
    "L4": _Peak(121, 60),
    "RTX A6000": _Peak(154.8, 77.4),  # NVIDIA Ampere GA102 white paper
    "RTX A5000": _Peak(111.1, 55.6),
    "RTX A4000": _Peak(76.7, 38.3),
    "RTX 6000 Ada Generation": _Peak(364.2, 182.1),
    "RTX PRO 6000 Blackwell Workstation Edition": _Peak(503.8, 251.9),  # NVIDIA RTX Blackwell PRO white paper
    # NVIDIA RTX Blackwell GPU architecture white paper.
    "GeForce RTX 5090": _Peak(209.5, 104.8),
    "GeForce RTX 5080": _Peak(112.6, 56.3),
    "GeForce RTX 5070 Ti": _Peak(87.9, 43.9),
    "GeForce RTX 5070": _Peak(61.7, 30.9),
    # NVIDIA Ada GPU architecture white paper; the SUPER cards by their clocks and units.
    "GeForce RTX 4090": _Peak(165.2, 82.6),
    "GeForce RTX 4080 SUPER": _Peak(104.4, 52.2),
    "GeForce RTX 4080": _Peak(97.5, 48.7),
    "GeForce RTX 4070 Ti SUPER": _Peak(88.2, 44.1),
    "GeForce RTX 4070 Ti": _Peak(80.2, 40.1),
    "GeForce RTX 4070 SUPER": _Peak(71, 35.5),
    "GeForce RTX 4070": _Peak(58.3, 29.1),
    "GeForce RTX 4060 Ti": _Peak(44.1, 22.1),
    "GeForce RTX 4060": _Peak(30.2, 15.1),
    # NVIDIA Ampere GA102 and GA104 white papers.
    "GeForce RTX 3090 Ti": _Peak(80, 40),
    "GeForce RTX 3090": _Peak(71, 35.6),
    "GeForce RTX 3080 Ti": _Peak(68.2, 34.1),
    "GeForce RTX 3080": _Peak(59.5, 29.8),
    "GeForce RTX 3070 Ti": _Peak(43.5, 21.7),
    "GeForce RTX 3070": _Peak(40.6, 20.3),
    "GeForce RTX 3060 Ti": _Peak(32.4, 16.2),
    "GeForce RTX 3060": _Peak(25.5, 12.7),
    # NVIDIA Turing GPU architecture white paper.
    "GeForce RTX 2080 Ti": _Peak(53.8, 13.4, bfloat16=False),
    "TITAN RTX": _Peak(130.5, 16.3, bfloat16=False),
    "Tesla T4": _Peak(65, 8.1, bfloat16=False),
    "T4": _Peak(65, 8.1, bfloat16=False),
    "Tesla V100-SXM2-16GB": _V100,
    "Tesla V100-SXM2-32GB": _V100,
    "Tesla V100-PCIE-16GB": _V100_PCIE,
    "Tesla V100-PCIE-32GB": _V100_PCIE,
    "Tesla V100S-PCIE-32GB": _Peak(130, 16.4, bfloat16=False),
    "Tesla P100-SXM2-16GB": _Peak(21.2, 10.6, bfloat16=False),
    "Tesla P100-PCIE-16GB": _Peak(18.7, 9.3, bfloat16=False),
    "AMD Instinct MI300X": _Peak(1307.4, None),  # AMD data sheet; what float32 products run in is the library's choice
}


def vendor_peak(device_name: str, number_format: str) -> float | None:
    """Dense FLOP/s of a GPU by the name that its driver gives it; None for one, or a format, that is not known.

    `number_format`: `float32` (TF32 where the GPU has that), `float16` or `bfloat16`.
    """
    peak = PEAKS.get(device_name.removeprefix("NVIDIA "))
    if peak is None or (number_format == "bfloat16" and not peak.bfloat16):
        return None
    tera = {"float32": peak.single, "float16": peak.half, "bfloat16": peak.half}.get(number_format)
    return None if tera is None else tera * 1e12
