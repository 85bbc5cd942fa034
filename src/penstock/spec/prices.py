"""What a GPU costs an hour and draws: the user's own figure, or the lists of the package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from penstock.spec.hardware import find_hardware
from penstock.spec.packaged import packaged


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per GPU and hour, and where the figure comes from."""

    usd_per_hour: float
    source: str


def listed_prices() -> Mapping[str, Price]:
    """The package's list by catalogue label."""
    entries: Mapping[str, Mapping[str, Any]] = packaged("prices.toml")["prices"]
    return {
        label: Price(float(entry["usd_per_hour"]), f"{entry['source']}, {entry['date']}, not checked since")
        for label, entry in entries.items()
    }


def find_price(hardware: str, own: Mapping[str, float], listed: Mapping[str, Price]) -> Price | None:
    """The user's price for a label or one of its aliases, else the list's, else None."""
    entry = find_hardware(hardware)
    label = entry.label if entry is not None else hardware
    for name, usd in own.items():
        named = find_hardware(name)
        if name == hardware or (named is not None and named.label == label):
            return Price(usd, "given")
    return listed.get(label)


def listed_watts(hardware: str) -> float | None:
    """Maximum board power of a GPU by the package's list, None where it is not on it."""
    entry = find_hardware(hardware)
    return _watts().get(entry.label if entry is not None else hardware)


@cache
def _watts() -> Mapping[str, float]:
    return {label: float(watts) for label, watts in packaged("power.toml")["watts"].items()}
