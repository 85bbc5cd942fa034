from __future__ import annotations

import pytest

from penstock.spec.catalogue import CATALOGUE
from penstock.spec.hardware import find_hardware, hardware_key, hardware_labels

DTYPES = ("float32", "float16", "bfloat16", "fp8", "fp8_block", "int8", "nvfp4", "fp4")


def test_every_entry_is_complete_and_plausible() -> None:
    for hardware in CATALOGUE:
        assert hardware.source
        assert 8 << 30 <= hardware.capacity_bytes <= 512 << 30
        assert 2e11 < hardware.memory_bytes_per_s < 1e13
        assert 1e10 < hardware.link.bytes_per_s < 1e12
        for dtype in DTYPES:
            assert 5e12 < hardware.peak_flops_per_s(dtype) < 2e16


@pytest.mark.parametrize(
    "label",
    [
        "A100-40GB",
        "A100-80GB",
        "H100",
        "H100-PCIe",
        "H200",
        "B200",
        "L40S",
        "L4",
        "A10G",
        "A6000",
        "RTX4090",
        "RTXPRO6000",
        "MI300X",
        "TPUv5e",
        "TPUv6e",
        "B300",
        "GB200",
        "GB300",
        "MI325X",
        "MI355X",
        "Gaudi3",
        "TPUv7",
        "RTX5090",
    ],
)
def test_the_usual_hardware_is_there(label: str) -> None:
    assert label in hardware_labels()


@pytest.mark.parametrize(
    ("written", "label"),
    [
        ("rtx pro 6000", "RTXPRO6000"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("H100-SXM", "H100"),
        ("A100", "A100-80GB"),
        ("RTX 4090", "RTX4090"),
        ("NVIDIA GeForce RTX 4090", "RTX4090"),
        ("RTX A6000", "A6000"),
        ("TPU v5e", "TPUv5e"),
        ("AMD Instinct MI300X", "MI300X"),
        ("Intel Gaudi 3", "Gaudi3"),
        ("Ironwood", "TPUv7"),
        ("NVIDIA GB200 NVL72", "GB200"),
    ],
)
def test_aliases(written: str, label: str) -> None:
    found = find_hardware(written)
    assert found is not None
    assert found.label == label


def test_no_two_entries_share_a_key() -> None:
    keys = [
        hardware_key(label)
        for hardware in CATALOGUE
        for label in {hardware_key(one) for one in (hardware.label, hardware.name, *hardware.aliases)}
    ]
    assert len(keys) == len(set(keys))


def test_unknown_hardware_is_none() -> None:
    assert find_hardware("H1000") is None


def test_a_dtype_without_units_runs_as_the_one_it_is_widened_to() -> None:
    a100 = find_hardware("A100")
    assert a100 is not None
    assert a100.peak_flops_per_s("fp8") == a100.peak_flops_per_s("bfloat16") == 312e12
    assert a100.peak_flops_per_s("int8") == 624e12
