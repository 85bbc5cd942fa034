"""A node's ``power`` to a :class:`NodePower`: LLMServingSim's section, all of its keys.

W, and pJ per bit; ``standby_duration`` is in seconds, as its code has it (its documentation says ns).
"""

from __future__ import annotations

from collections.abc import Iterable

from penstock.errors import Problem
from penstock.files.place import Place
from penstock.spec.hardware import hardware_key
from penstock.spec.pim import PimSpec
from penstock.spec.power import NodePower, NpuPower
from penstock.spec.raw import RawNode, RawPower
from penstock.units import NEVER_NS, NS_PER_S

_J_PER_BYTE = 8e-12
"""From pJ per bit."""


def node_power(
    raw: RawNode, hardware: Iterable[str], pim: PimSpec | None, place: Place, problems: list[Problem]
) -> NodePower | None:
    """A node's ``power``, complete; None where it has none or a mistake. ``hardware`` are its instances' labels."""
    power = raw.power
    if power is None:
        return None
    spot = place.key("power")
    if any(str(problem.where).startswith(str(spot)) for problem in problems):
        return None  # what is broken is not missing too
    missing = list(_missing(power, spot, has_pim=pim is not None))
    known = {hardware_key(label) for label in power.npu or {}}
    missing += [
        Problem(str(spot.key("npu")), f"has no entry for '{label}', which the node has")
        for label in dict.fromkeys(hardware)
        if hardware_key(label) not in known
    ]
    if raw.cpu_mem is None or raw.cpu_mem.mem_size is None:
        missing.append(
            Problem(str(place), "'power' needs 'cpu_mem' with 'mem_size': how many DIMMs there are")
        )
    problems += missing
    if missing:
        return None
    return _node(power, raw, pim)


def _node(power: RawPower, raw: RawNode, pim: PimSpec | None) -> NodePower:
    cpu, dram, link, nic, storage = power.cpu, power.dram, power.link, power.nic, power.storage
    assert cpu is not None
    assert dram is not None
    assert link is not None
    assert nic is not None
    assert storage is not None
    assert raw.cpu_mem is not None
    size = raw.cpu_mem.mem_size or 0.0
    if pim is not None:
        memory_w = pim.channels * pim.idle_w
    else:
        memory_w = (dram.idle_power or 0.0) * (size // dram.dimm_size if dram.dimm_size else 0)
    return NodePower(
        npus=tuple(
            (
                label,
                NpuPower(
                    active_w=npu.active_power or 0.0,
                    standby_w=npu.standby_power or 0.0,
                    idle_w=npu.idle_power or 0.0,
                    standby_ns=min(round((npu.standby_duration or 0.0) * NS_PER_S), NEVER_NS),
                    basis="power of the cluster config",
                ),
            )
            for label, npu in (power.npu or {}).items()
        ),
        base_w=power.base_node_power or 0.0,
        cpu_idle_w=cpu.idle_power or 0.0,
        cpu_active_w=cpu.active_power or 0.0,
        cpu_utilization=cpu.util or 0.0,
        memory_w=memory_w,
        memory_j_per_byte=(dram.energy_per_bit or 0.0) * _J_PER_BYTE,
        links_w=(link.num_links or 0) * (link.idle_power or 0.0),
        link_j_per_byte=(link.energy_per_bit or 0.0) * _J_PER_BYTE,
        nics_w=(nic.num_nics or 0) * (nic.idle_power or 0.0),
        storage_w=(storage.num_devices or 0) * (storage.idle_power or 0.0),
    )


def _missing(power: RawPower, spot: Place, *, has_pim: bool) -> Iterable[Problem]:
    """Keys that are needed and not there."""
    for name in ("base_node_power", "npu", "cpu", "dram", "link", "nic", "storage"):
        if getattr(power, name) is None:
            yield Problem(str(spot), f"missing key '{name}'")
    parts = {name: getattr(power, name) for name in ("cpu", "dram", "link", "nic", "storage")}
    parts |= {f"npu.{label}": entry for label, entry in (power.npu or {}).items()}
    for name, part in parts.items():
        for field in () if part is None else type(part).model_fields:
            of_pim = has_pim and name == "dram" and field in ("dimm_size", "idle_power")
            if getattr(part, field) is None and not of_pim:
                place = spot
                for key in name.split(".", 1):
                    place = place.key(key)
                yield Problem(str(place), f"missing key '{field}'")
