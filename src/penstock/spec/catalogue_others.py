"""Chips of AMD, Google and Intel."""

from __future__ import annotations

from penstock.spec.chip import chip
from penstock.spec.hardware import HardwareSpec

_MI300X = {"float16": 1307.4, "fp8": 2614.9, "int8": 2614.9, "float32": 163.4}

OTHERS: tuple[HardwareSpec, ...] = (
    chip(
        "MI300X",
        "AMD Instinct MI300X",
        _MI300X,
        (192, 5300),
        ("infinity-fabric", 64),
        ("AMD Instinct MI300X data sheet; link: one of seven, one way", "MI300", "MI300X-192GB"),
    ),
    chip(
        "MI325X",
        "AMD Instinct MI325X",
        _MI300X,
        (256, 6000),
        ("infinity-fabric", 64),
        ("AMD Instinct MI325X data sheet; link: one of seven, one way", "MI325X-256GB"),
    ),
    chip(
        "MI355X",
        "AMD Instinct MI355X",
        {"float16": 2516.6, "fp8": 5033.2, "fp4": 10066.3, "int8": 5033.2, "float32": 157.3},
        (288, 8000),
        ("infinity-fabric", 76.8),
        ("AMD Instinct MI355X data sheet; link: one of seven, one way", "MI355X-288GB"),
    ),
    chip(
        "Gaudi3",
        "Intel Gaudi 3 HL-325L",
        {"float16": 1835.0, "fp8": 1835.0, "float32": 14.3},
        (128, 3700),
        ("ethernet", 75),
        (
            "Intel Gaudi 3 white paper; link: three 200 Gbit/s ports to a neighbour; float32: vector engines",
            "Gaudi-3",
            "HL-325L",
        ),
    ),
    chip(
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
    chip(
        "TPUv5p",
        "Google Cloud TPU v5p",
        {"float16": 459.0, "int8": 918.0, "float32": 459.0 / 6},
        (95, 2765),
        ("ici", 100),
        ("Google Cloud TPU v5p page; ICI 4800 Gbit/s per chip over six links; float32 as six passes", "v5p"),
    ),
    chip(
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
    chip(
        "TPUv7",
        "Google Cloud TPU v7 (Ironwood)",
        {"float16": 2307.0, "fp8": 4614.0, "float32": 2307.0 / 6},
        (192, 7380),
        ("ici", 100),
        (
            "Google Cloud TPU7x page; ICI 1.2 TB/s both ways over six links; float32 as six bfloat16 passes",
            "Ironwood",
            "TPU7x",
            "v7",
        ),
    ),
)
