"""What the parts of a node draw: as a cluster config's ``power`` says or, for accelerators, by their data sheets."""

from __future__ import annotations

from dataclasses import dataclass

from penstock.spec.hardware import find_hardware, hardware_key
from penstock.spec.prices import listed_watts
from penstock.units import NEVER_NS

CPU_WHILE_SERVING = 0.7
"""A host's CPU load while it serves, where its ``util`` is lower (LLMServingSim ``PowerModel``)."""

_NOT_BUSY = 0.15
"""Of the board power: what a card with a loaded model draws between steps. An estimate, between the 10 to 20% that
``nvidia-smi`` shows for data-centre cards with a context and memory at full clocks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NpuPower:
    """W while a step runs, for ``standby_ns`` after one, and later. ``basis`` says where that is from."""

    active_w: float
    standby_w: float
    idle_w: float
    standby_ns: int
    basis: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePower:
    """A node beside its NPUs. ``memory_w`` is all DIMMs (or PIM channels) at rest, ``links_w``, ``nics_w`` and
    ``storage_w`` all devices; bytes moved cost on top."""

    npus: tuple[tuple[str, NpuPower], ...]
    base_w: float
    cpu_idle_w: float
    cpu_active_w: float
    cpu_utilization: float
    memory_w: float
    memory_j_per_byte: float
    links_w: float
    link_j_per_byte: float
    nics_w: float
    storage_w: float

    @property
    def cpu_w(self) -> float:
        """While nothing is served."""
        return self.cpu_idle_w + (self.cpu_active_w - self.cpu_idle_w) * self.cpu_utilization

    @property
    def cpu_serving_w(self) -> float:
        """More than that while a step runs."""
        return (self.cpu_active_w - self.cpu_idle_w) * max(CPU_WHILE_SERVING - self.cpu_utilization, 0.0)

    @property
    def constant_w(self) -> float:
        """What the node draws without its NPUs, whatever happens."""
        return self.base_w + self.cpu_w + self.memory_w + self.links_w + self.nics_w + self.storage_w

    def npu(self, hardware: str) -> NpuPower | None:
        """Of an accelerator, by label."""
        return next((one for label, one in self.npus if hardware_key(label) == hardware_key(hardware)), None)


def estimated_npu_power(hardware: str) -> NpuPower | None:
    """From the data sheet of a catalogued accelerator: board power while busy, a share of it else; None if
    unknown.

    Most kernels draw less, so energies from here are on the high side.
    """
    known, tdp_w = find_hardware(hardware), listed_watts(hardware)
    if known is None or tdp_w is None:
        return None
    return NpuPower(
        active_w=tdp_w,
        standby_w=_NOT_BUSY * tdp_w,
        idle_w=_NOT_BUSY * tdp_w,
        standby_ns=NEVER_NS,
        basis=f"{known.name}: an estimate, its board power of {tdp_w:g} W in steps, {_NOT_BUSY:.0%} of that between",
    )
