"""An entry of the hardware catalogue in short."""

from __future__ import annotations

from collections.abc import Mapping

from penstock.spec.hardware import HardwareLink, HardwareSpec, LinkKind
from penstock.units import GIB

_TERA = 1e12
_GIGA = 1e9


def chip(
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
