"""Engine presets: what an engine runs by default on given hardware, from ``data/engines.toml``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from penstock.spec.hardware import hardware_key
from penstock.spec.packaged import packaged
from penstock.units import GIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """An engine's defaults for one instance. ``options`` are named as those of a run; ``policy`` may be among
    them. They stand between what a user says and Penstock's own defaults."""

    name: str
    describes: str
    source: str
    options: Mapping[str, Any]

    def basis(self, used: Mapping[str, Any]) -> str:
        """What the result rests on: the defaults, those that the user ``used`` otherwise, and the source."""
        taken = ", ".join(
            f"{name} {_shown(value)}"
            for name, value in self.options.items()
            if used.get(name, value) == value
        )
        changed = [
            f"{name} {_shown(used[name])} instead of {_shown(value)}"
            for name, value in self.options.items()
            if used.get(name, value) != value
        ]
        tail = f"; as given: {', '.join(changed)}" if changed else ""
        return f"defaults of {self.name} ({self.describes}): {taken}{tail}; read in {self.source}"


def engine_names() -> tuple[str, ...]:
    """The presets there are."""
    return tuple(_entries())


def engine_router(name: str) -> str | None:
    """The router of an engine of several instances, where it has one here."""
    return _entries()[name].get("router")


def engine_preset(name: str, *, hardware: str, memory_bytes: int, pp_size: int) -> Preset:
    """The defaults of the engine ``name`` on devices of ``memory_bytes``."""
    entry = _entries()[name]
    options = dict(entry["options"])
    options |= entry.get("at_pp_1" if pp_size == 1 else "at_pp_above_1", {})
    options |= _by_memory(entry.get("by_memory", ()), hardware, memory_bytes)
    return Preset(name=name, describes=entry["describes"], source=entry["source"], options=options)


def _by_memory(classes: list[dict[str, Any]], hardware: str, memory_bytes: int) -> dict[str, Any]:
    key = hardware_key(hardware)
    for entry in classes:
        left_out = any(part in key for part in entry.get("not_for", ()))
        if memory_bytes >= entry["from_gib"] * GIB and not left_out:
            return {name: value for name, value in entry.items() if name not in ("from_gib", "not_for")}
    return {}


def _shown(value: Any) -> str:
    return ("on" if value else "off") if isinstance(value, bool) else str(value)


@cache
def _entries() -> Mapping[str, Any]:
    return packaged("engines.toml")
