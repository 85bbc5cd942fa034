"""The hardware catalogue: peak figures from the makers' data sheets, dense, per chip.

Labels follow LLMServingSim's spelling (``RTXPRO6000``, ``RTX4090``, ``H100``, ``A6000``). Tensor rates that
a data sheet gives with sparsity only are halved here.
"""

from __future__ import annotations

from collections.abc import Mapping

from penstock.spec.hardware import HardwareLink, HardwareSpec, LinkKind
from penstock.units import GIB

_TERA = 1e12
_GIGA = 1e9


def _chip(
    label: str,
    name: str,
    teraflops: Mapping[str, float],
    memory: tuple[float, float],
    link: tuple[LinkKind, float],
    notes: tuple[str, ...],
) -> HardwareSpec:
    """``memory`` = (GiB, GB/s); ``link`` = (kind, GB/s one way); ``notes`` = (source, *aliases). bfloat16
    runs at float16's rate unless given (V100 and T4 have none, and run it as float16 would)."""
    flops = {dtype: rate * _TERA for dtype, rate in teraflops.items()}
    flops.setdefault("bfloat16", flops["float16"])
    return HardwareSpec(
        label=label,
        name=name,
        flops_per_s=flops,
        memory_bytes_per_s=memory[1] * _GIGA,
        capacity_bytes=round(memory[0] * GIB),
        link=HardwareLink(kind=link[0], bytes_per_s=link[1] * _GIGA),
        source=notes[0],
        aliases=notes[1:],
    )


_A100 = {"float16": 312.0, "int8": 624.0, "float32": 19.5}
_HOPPER_SXM = {"float16": 989.4, "fp8": 1978.9, "int8": 1978.9, "float32": 66.9}
_MI300X = {"float16": 1307.4, "fp8": 2614.9, "int8": 2614.9, "float32": 163.4}

CATALOGUE: tuple[HardwareSpec, ...] = (
    _chip(
        "A100-40GB",
        "NVIDIA A100 SXM4 40GB",
        _A100,
        (40, 1555),
        ("nvlink", 300),
        ("NVIDIA A100 data sheet (2020)", "A100-SXM4-40GB", "A100-SXM-40GB", "A100-40G"),
    ),
    _chip(
        "A100-80GB",
        "NVIDIA A100 SXM4 80GB",
        _A100,
        (80, 2039),
        ("nvlink", 300),
        ("NVIDIA A100 data sheet (2021)", "A100", "A100-SXM4-80GB", "A100-SXM-80GB", "A100-80G", "A100-SXM"),
    ),
    _chip(
        "A100-PCIe",
        "NVIDIA A100 PCIe 80GB",
        _A100,
        (80, 1935),
        ("pcie", 32),
        ("NVIDIA A100 data sheet (2021)", "A100-PCIe-80GB"),
    ),
    _chip(
        "H100",
        "NVIDIA H100 SXM5 80GB",
        _HOPPER_SXM,
        (80, 3350),
        ("nvlink", 450),
        ("NVIDIA H100 data sheet", "H100-SXM", "H100-SXM5", "H100-80GB", "H100-80GB-HBM3", "H100-SXM-80GB"),
    ),
    _chip(
        "H100-PCIe",
        "NVIDIA H100 PCIe 80GB",
        {"float16": 756.0, "fp8": 1513.0, "int8": 1513.0, "float32": 51.0},
        (80, 2000),
        ("pcie", 64),
        ("NVIDIA H100 PCIe product brief", "H100PCIe80GB"),
    ),
    _chip(
        "H100-NVL",
        "NVIDIA H100 NVL 94GB",
        {"float16": 835.5, "fp8": 1670.5, "int8": 1670.5, "float32": 60.0},
        (94, 3938),
        ("nvlink", 300),
        ("NVIDIA H100 NVL data sheet (tensor rates halved: given with sparsity)",),
    ),
    _chip(
        "H20",
        "NVIDIA H20 96GB",
        {"float16": 148.0, "fp8": 296.0, "int8": 296.0, "float32": 44.0},
        (96, 4000),
        ("nvlink", 450),
        ("NVIDIA H20 figures as published by vendors; no public data sheet", "H20-96GB"),
    ),
    _chip(
        "GH200",
        "NVIDIA GH200 96GB HBM3",
        _HOPPER_SXM,
        (96, 4000),
        ("nvlink", 450),
        ("NVIDIA GH200 data sheet", "GH200-96GB", "GH200-480GB"),
    ),
    _chip(
        "H200",
        "NVIDIA H200 SXM 141GB",
        _HOPPER_SXM,
        (140.4, 4800),
        ("nvlink", 450),
        (
            "NVIDIA H200 data sheet; 141 GB are 143,771 MiB as the driver reports them",
            "H200-SXM",
            "H200-141GB",
        ),
    ),
    _chip(
        "B200",
        "NVIDIA B200 SXM 180GB",
        {"float16": 2250.0, "fp8": 4500.0, "int8": 4500.0, "float32": 75.0},
        (180, 7700),
        ("nvlink", 900),
        ("NVIDIA HGX B200 data sheet, an eighth of the board's figures", "B200-SXM", "B200-180GB"),
    ),
    _chip(
        "L40S",
        "NVIDIA L40S",
        {"float16": 362.05, "fp8": 733.0, "int8": 733.0, "float32": 91.6},
        (48, 864),
        ("pcie", 32),
        ("NVIDIA L40S data sheet", "L40S-48GB"),
    ),
    _chip(
        "L4",
        "NVIDIA L4",
        {"float16": 121.0, "fp8": 242.5, "int8": 242.5, "float32": 30.3},
        (24, 300),
        ("pcie", 32),
        ("NVIDIA L4 data sheet (tensor rates halved: given with sparsity)", "L4-24GB"),
    ),
    _chip(
        "A10G",
        "NVIDIA A10G",
        {"float16": 70.0, "int8": 140.0, "float32": 35.0},
        (24, 600),
        ("pcie", 32),
        ("NVIDIA A10G data sheet for AWS G5", "A10G-24GB"),
    ),
    _chip(
        "A10",
        "NVIDIA A10",
        {"float16": 125.0, "int8": 250.0, "float32": 31.2},
        (24, 600),
        ("pcie", 32),
        ("NVIDIA A10 data sheet", "A10-24GB"),
    ),
    _chip(
        "A6000",
        "NVIDIA RTX A6000",
        {"float16": 154.8, "int8": 309.7, "float32": 38.7},
        (48, 768),
        ("pcie", 32),
        ("NVIDIA RTX A6000 data sheet and GA102 white paper", "RTXA6000"),
    ),
    _chip(
        "A40",
        "NVIDIA A40",
        {"float16": 149.7, "int8": 299.3, "float32": 37.4},
        (48, 696),
        ("pcie", 32),
        ("NVIDIA A40 data sheet", "A40-48GB"),
    ),
    _chip(
        "RTX3090",
        "NVIDIA GeForce RTX 3090",
        {"float16": 71.0, "int8": 284.0, "float32": 35.6},
        (24, 936),
        ("pcie", 32),
        ("NVIDIA GA102 white paper (FP32 accumulation)", "3090"),
    ),
    _chip(
        "RTX4090",
        "NVIDIA GeForce RTX 4090",
        {"float16": 165.2, "fp8": 330.3, "int8": 660.6, "float32": 82.6},
        (24, 1008),
        ("pcie", 32),
        ("NVIDIA Ada GPU architecture white paper (FP32 accumulation)", "4090"),
    ),
    _chip(
        "RTX5090",
        "NVIDIA GeForce RTX 5090",
        {"float16": 209.5, "fp8": 419.0, "int8": 838.0, "float32": 104.8},
        (32, 1792),
        ("pcie", 64),
        ("NVIDIA RTX Blackwell GPU architecture white paper (FP32 accumulation)", "5090"),
    ),
    _chip(
        "RTXPRO6000",
        "NVIDIA RTX PRO 6000 Blackwell Server Edition",
        {"float16": 480.0, "fp8": 960.0, "int8": 960.0, "float32": 120.0},
        (96, 1597),
        ("pcie", 64),
        (
            "NVIDIA data sheet; tensor rates derived: 4 x FP32, as on the RTX PRO 6000 Workstation Edition",
            "RTX6000PRO",
            "RTXPRO6000-Blackwell",
            "RTXPRO6000-Server",
        ),
    ),
    _chip(
        "RTXPRO6000-WS",
        "NVIDIA RTX PRO 6000 Blackwell Workstation Edition",
        {"float16": 503.8, "fp8": 1007.6, "int8": 1007.6, "float32": 126.0},
        (96, 1792),
        ("pcie", 64),
        ("NVIDIA RTX PRO Blackwell white paper", "RTXPRO6000-Workstation"),
    ),
    _chip(
        "V100",
        "NVIDIA V100 SXM2 32GB",
        {"float16": 125.0, "float32": 15.7},
        (32, 900),
        ("nvlink", 150),
        ("NVIDIA V100 data sheet", "V100-32GB", "V100-SXM2-32GB"),
    ),
    _chip(
        "T4",
        "NVIDIA T4",
        {"float16": 65.0, "int8": 130.0, "float32": 8.1},
        (16, 320),
        ("pcie", 16),
        ("NVIDIA T4 data sheet", "T4-16GB"),
    ),
    _chip(
        "MI300X",
        "AMD Instinct MI300X",
        _MI300X,
        (192, 5300),
        ("infinity-fabric", 64),
        ("AMD Instinct MI300X data sheet; link: one of seven, one way", "MI300", "MI300X-192GB"),
    ),
    _chip(
        "MI325X",
        "AMD Instinct MI325X",
        _MI300X,
        (256, 6000),
        ("infinity-fabric", 64),
        ("AMD Instinct MI325X data sheet; link: one of seven, one way", "MI325X-256GB"),
    ),
    _chip(
        "TPUv5e",
        "Google Cloud TPU v5e",
        {"float16": 197.0, "int8": 394.0, "float32": 197.0 / 6},
        (16, 819),
        ("ici", 50),
        (
            "Google Cloud TPU v5e page; ICI 1600 Gbit/s over four links; float32 as six bfloat16 passes",
            "TPU-v5-lite",
            "v5e",
            "v5litepod",
        ),
    ),
    _chip(
        "TPUv5p",
        "Google Cloud TPU v5p",
        {"float16": 459.0, "int8": 918.0, "float32": 459.0 / 6},
        (95, 2765),
        ("ici", 100),
        ("Google Cloud TPU v5p page; ICI 4800 Gbit/s per chip over six links; float32 as six passes", "v5p"),
    ),
    _chip(
        "TPUv6e",
        "Google Cloud TPU v6e (Trillium)",
        {"float16": 918.0, "int8": 1836.0, "float32": 918.0 / 6},
        (32, 1640),
        ("ici", 112),
        (
            "Google Cloud TPU v6e page; ICI 3584 Gbit/s over four links; float32 as six bfloat16 passes",
            "Trillium",
            "v6e",
        ),
    ),
)
