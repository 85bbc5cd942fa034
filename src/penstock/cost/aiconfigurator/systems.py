"""Which of AIConfigurator's systems is which chip of the catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from penstock.spec.hardware import find_hardware


@dataclass(frozen=True, slots=True)
class System:
    """``name`` is the directory of its tables. Its attention kernels give a multiprocessor ``tile_rows`` query rows of
    a head at a time, which says how many tokens of a chunk the chip works on at once. ``vllm_arithmetic`` is how
    much longer arithmetic takes in vLLM than the sum of its kernels: found on H200 from times to first token
    (docs/costs.md) and taken for the chips of its kind and later ones. Clocks under load and what stands between the
    kernels are both in it."""

    name: str
    multiprocessors: int
    tile_rows: int
    vllm_skew: float
    vllm_arithmetic: float = 1.0
    kind: str | None = None


_BLACKWELL = "Blackwell with HBM"
_SPLIT, _WHOLE = 0.06, 0.7
"""Skew of FlashAttention 2, which splits long contexts: the median of LLMServingSim's profiles of RTX PRO 6000 for
decodes alone. And of what runs on newer chips: found on H200 from times per output token (docs/costs.md)."""

_FLASH_ATTENTION_2, _FLASH_ATTENTION_3, _TRTLLM_GEN = 64, 128, 256

SYSTEMS: Mapping[str, System] = {
    "A100-80GB": System("a100_sxm", 108, _FLASH_ATTENTION_2, _SPLIT),
    "H100": System("h100_sxm", 132, _FLASH_ATTENTION_3, _WHOLE, 1.25),
    "H200": System("h200_sxm", 132, _FLASH_ATTENTION_3, _WHOLE, 1.25),
    "B200": System("b200_sxm", 148, _TRTLLM_GEN, _WHOLE, 1.25, _BLACKWELL),
    "B300": System("b300_sxm", 148, _TRTLLM_GEN, _WHOLE, 1.25, _BLACKWELL),
    "GB200": System("gb200", 148, _TRTLLM_GEN, _WHOLE, 1.25, _BLACKWELL),
    "GB300": System("gb300", 148, _TRTLLM_GEN, _WHOLE, 1.25, _BLACKWELL),
    "L40S": System("l40s", 142, _FLASH_ATTENTION_2, _SPLIT),
    "RTXPRO6000": System("rtx_pro_6000_server", 188, _FLASH_ATTENTION_2, _SPLIT),
}
"""By label of the catalogue."""


def find_system(hardware: str) -> System | None:
    """The system of a hardware label or alias, None where nothing was measured."""
    known = find_hardware(hardware)
    return None if known is None else SYSTEMS.get(known.label)


def like(system: System) -> Mapping[str, System]:
    """Systems of the same kind besides it, by label."""
    return {
        label: other
        for label, other in SYSTEMS.items()
        if other.kind is not None and other.kind == system.kind and other != system
    }
