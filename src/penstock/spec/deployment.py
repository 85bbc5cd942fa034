"""What follows from a Spec before anything runs: which layers stand where, and what fits beside them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StageMemory:
    """Memory of one NPU of one pipeline stage (all ``tp_size`` NPUs of a stage are alike).

    ``usable_bytes`` = capacity x utilization. ``reserves`` are named bytes taken before KV (activation peak,
    CUDA context, CUDA graphs). ``kv_blocks`` is what this stage alone could hold; ``stranded_bytes`` is what
    the instance's smaller common number of blocks leaves unused here.
    """

    capacity_bytes: int
    usable_bytes: int
    weights_bytes: int
    reserves: tuple[tuple[str, int], ...]
    kv_bytes_per_block: int
    kv_blocks: int
    stranded_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """KV capacity of an instance: ``num_gpu_blocks`` is the minimum over stages, null block included."""

    stages: tuple[StageMemory, ...]
    block_size: int
    num_gpu_blocks: int
    basis: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One instance as it will run: layers per stage, memory per stage, and what each cost rests on."""

    instance: int
    model: str
    hardware: tuple[str, ...]
    tp_size: int
    pp_size: int
    layers: tuple[int, ...]
    memory: MemoryPlan
    basis: tuple[str, ...]
