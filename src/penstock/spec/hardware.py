"""What an accelerator can do on paper, for costs without a measured profile: the roofline's inputs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

LinkKind = Literal["nvlink", "pcie", "infinity-fabric", "ici", "ethernet"]

_STAND_IN_DTYPE = {
    "nvfp4": "fp4",
    "fp4": "fp8",
    "fp8_block": "fp8",
    "fp8": "bfloat16",
    "int8": "bfloat16",
    "bfloat16": "float16",
}
"""Where a chip has no units for a dtype, the matrices are widened first and run at this one's rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HardwareLink:
    """The link to a neighbouring chip: ``bytes_per_s`` in one direction, decimal, as data sheets give it."""

    kind: LinkKind
    bytes_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HardwareSpec:
    """One accelerator. ``flops_per_s`` are dense matrix rates by dtype (no structured sparsity, 32-bit
    accumulation where the maker gives both). ``capacity_bytes`` is what the maker prints on the box,
    read as GiB; ``memory_bytes_per_s`` is decimal. ``source`` says where the figures stand."""

    label: str
    name: str
    flops_per_s: Mapping[str, float]
    memory_bytes_per_s: float
    capacity_bytes: int
    link: HardwareLink
    source: str
    aliases: tuple[str, ...] = ()

    def peak_flops_per_s(self, dtype: str) -> float:
        """Dense peak for ``float32 | float16 | bfloat16 | fp8 | fp8_block | int8 | nvfp4 | fp4``; a dtype
        without units of its own runs at the rate of the one it is widened to."""
        wanted = dtype
        while wanted not in self.flops_per_s:
            wanted = _STAND_IN_DTYPE[wanted]
        return self.flops_per_s[wanted]


def hardware_key(label: str) -> str:
    """How labels are compared: letters and digits only, upper case, makers and families left out."""
    key = re.sub(r"[^A-Z0-9]", "", label.upper())
    return re.sub(r"^(NVIDIA|GEFORCE|AMD|INSTINCT|GOOGLE|CLOUD|INTEL)+", "", key)


@cache
def _by_key() -> Mapping[str, HardwareSpec]:
    from penstock.spec.catalogue import CATALOGUE

    found: dict[str, HardwareSpec] = {}
    for hardware in CATALOGUE:
        for label in (hardware.label, hardware.name, *hardware.aliases):
            found[hardware_key(label)] = hardware
    return found


def find_hardware(label: str) -> HardwareSpec | None:
    """The catalogue's entry for a label or one of its aliases, whatever its case and punctuation."""
    return _by_key().get(hardware_key(label))


def hardware_labels() -> tuple[str, ...]:
    """The catalogue's own labels, in its order."""
    from penstock.spec.catalogue import CATALOGUE

    return tuple(hardware.label for hardware in CATALOGUE)
