"""The engine's own time where nobody says it: named defaults by class of hardware, from ``data/overheads.toml``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from penstock.spec.hardware import find_hardware
from penstock.spec.options import EngineOverhead
from penstock.spec.packaged import packaged


def default_overhead(engine: str | None, hardware: str, num_layers: int) -> EngineOverhead:
    """The default of an engine preset (None: vLLM's rules) for a model of ``num_layers`` on a hardware."""
    known = find_hardware(hardware)
    label = hardware if known is None else known.label
    for name, entry in _entries().items():
        if label in entry.get("hardware", (label,)):
            assumed = ", assumed as vLLM's" if engine is not None and not engine.startswith("vllm") else ""
            return EngineOverhead(
                update_ns=entry["update_ns"],
                prefill_step_ns=entry["prefill_layer_ns"] * num_layers,
                source=f"default '{name}': {entry['source']}{assumed}; {entry['range']}",
            )
    raise LookupError("overheads.toml has no entry for all that is left")


@cache
def _entries() -> Mapping[str, Any]:
    return packaged("overheads.toml")["overheads"]
