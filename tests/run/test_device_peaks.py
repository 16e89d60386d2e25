"""A GPU's peak is that of its very name: cards whose names begin alike differ by half."""

import pytest

from lmplay_tui.run.device_peaks import PEAKS, vendor_peak


@pytest.mark.parametrize(
    ("name", "half", "single"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4, 494.7),
        ("NVIDIA H100 PCIe", 756, 378),
        ("NVIDIA H100 NVL", 835.5, 417.5),
        ("NVIDIA H200", 989.4, 494.7),
        ("NVIDIA B200", 2250, 1100),
        ("NVIDIA A100-SXM4-40GB", 312, 156),
        ("A100-SXM4-40GB", 312, 156),
        ("NVIDIA L40", 181, 90.5),
        ("NVIDIA L40S", 362, 183),
        ("NVIDIA L4", 121, 60),
        ("NVIDIA A10", 125, 62.5),
        ("NVIDIA A10G", 70, 35),
        ("NVIDIA GeForce RTX 4070", 58.3, 29.1),
        ("NVIDIA GeForce RTX 4070 Ti SUPER", 88.2, 44.1),
        ("NVIDIA GeForce RTX 5090", 209.5, 104.8),
    ],
)
def test_each_by_its_own_name(name: str, half: float, single: float) -> None:
    found = [vendor_peak(name, number_format) for number_format in ("bfloat16", "float16", "float32")]
    assert found == pytest.approx([half * 1e12, half * 1e12, single * 1e12])


@pytest.mark.parametrize(
    "name",
    ["NVIDIA H100", "NVIDIA L400", "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA A100-SXM4-80GB MIG 1g.10gb",
     "Quadro 4000", "", "NVIDIA GeForce RTX 4090 D", "L40S-48Q"],
)  # fmt: skip
def test_a_name_that_only_begins_alike_is_not_known(name: str) -> None:
    assert vendor_peak(name, "float16") is None


def test_no_figure_for_what_a_gpu_only_emulates() -> None:
    assert vendor_peak("Tesla V100-SXM2-16GB", "float16") == 125e12
    assert vendor_peak("Tesla T4", "bfloat16") is None
    assert vendor_peak("NVIDIA A100-SXM4-40GB", "float64") is None


def test_half_precision_is_at_least_as_fast() -> None:
    assert all(peak.single is None or 1.9 * peak.single < peak.half for peak in PEAKS.values())
