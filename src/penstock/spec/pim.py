"""Memory that computes attention: LLMServingSim's ``pim_config`` and its coefficients.

A file in ``configs/pim/`` describes one channel as DRAMsim3 does (a flat ini file, sections ignored). The times of
attention are LLMServingSim's linear fits for its four files, made for Llama-3.1-8B; where they come from is not
documented upstream, so results that use them rest on them alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from penstock.errors import Problem, UserError, nearest
from penstock.files.place import Place
from penstock.files.reading import read_text

_FIT_NS = {
    "DDR4_8GB_3200_pim": (333.2538, 30675.2739),
    "HBM2_1GB_2000_pim": (242.0548, 14513.5015),
    "LPDDR4X_2GB_4266_pim": (432.4458, 33918.1734),
    "LPDDR5_2GB_6400_pim": (282.4338, 15996.7018),
}
"""By file: ns per token of context, and ns, for 4 query heads per KV head and 32 x 128 query elements."""

_READ = (
    "bankgroups",
    "banks_per_group",
    "rows",
    "columns",
    "device_width",
    "bus_width",
    "channel_size",
    "data_rate",
    "CL",
    "tCK",
    "idle_power",
    "peak_power",
)
_FIT_GROUP = 4.0
_FIT_WIDTH = 4096.0
_MB_PER_GB = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class PimSpec:
    """The PIM of a node: ``channels`` of ``bytes_per_ns`` in sum, ``latency_ns`` per access; W per channel.

    Attention of a sequence with L tokens of context, its KV heads dealt to s channels, takes each of them
    (``slope_ns`` x (heads / KV heads) / 4 x L + ``intercept_ns`` x heads x head_dim / 4096) / s.
    """

    name: str
    channels: int
    bytes_per_ns: float
    latency_ns: float
    idle_w: float
    active_w: float
    slope_ns: float
    intercept_ns: float

    def attention_ns(self, context: int, *, heads: int, kv_heads: int, head_dim: int) -> float:
        """Of one sequence in one layer, on each of the channels that share it; :meth:`split` says how many."""
        slope = self.slope_ns * (heads / kv_heads) / _FIT_GROUP * context
        return (slope + self.intercept_ns * heads * head_dim / _FIT_WIDTH) / self.split(kv_heads)

    def split(self, kv_heads: int) -> int:
        """Channels that share one sequence."""
        return min(self.channels, kv_heads)


def find_pim(
    name: str, host_gb: float | None, directory: Path | None, place: Place, problems: list[Problem]
) -> PimSpec | None:
    """The PIM named, of as many channels as ``host_gb`` hold; None with a problem."""
    if name not in _FIT_NS:
        known = ", ".join(_FIT_NS)
        problems.append(
            Problem(str(place), f"no attention times for '{name}'{nearest(name, tuple(_FIT_NS))} ({known})")
        )
        return None
    path = _file(name, directory)
    if path is None:
        problems.append(Problem(str(place), f"no file configs/pim/{name}.ini beside or above the config"))
        return None
    values = _read(path, problems)
    missing = [key for key in _READ if key not in values]
    if missing:
        problems.append(Problem(str(path), f"missing key '{missing[0]}'"))
        return None
    if not host_gb:
        problems.append(Problem(str(place), "needs cpu_mem.mem_size: how many channels there are"))
        return None
    return _spec(name, values, host_gb)


def _spec(name: str, values: dict[str, float], host_gb: float) -> PimSpec:
    page_bytes = values["columns"] * values["device_width"] / 8
    banks = values["bankgroups"] * values["banks_per_group"]
    rank_mb = page_bytes * values["rows"] / 2**20 * banks * values["bus_width"] / values["device_width"]
    ranks = max(math.floor(values["channel_size"] / rank_mb), 1)
    channels = max(int(host_gb // (ranks * rank_mb / _MB_PER_GB)), 1)
    slope, intercept = _FIT_NS[name]
    return PimSpec(
        name=name,
        channels=channels,
        bytes_per_ns=values["bus_width"] / 8 * values["data_rate"] / 1000 * channels,
        latency_ns=values["CL"] * values["tCK"],
        idle_w=values["idle_power"] / 1000,
        active_w=values["peak_power"] / 1000,
        slope_ns=slope,
        intercept_ns=intercept,
    )


def _file(name: str, directory: Path | None) -> Path | None:
    """``configs/pim`` from the config's directory or one above, or below the working directory."""
    places = [] if directory is None else [directory.resolve(), *directory.resolve().parents]
    for above in (*places, Path.cwd()):
        for folder in (above / "configs" / "pim", above / "pim"):
            path = folder / f"{name}.ini"
            if path.is_file():
                return path
    return None


def _read(path: Path, problems: list[Problem]) -> dict[str, float]:
    """``key = number`` lines; sections, comments and what is not a number are passed over."""
    values: dict[str, float] = {}
    try:
        text = read_text(path)
    except UserError as error:
        problems += error.problems
        return values
    for line in text.splitlines():
        key, sign, value = line.split("#")[0].partition("=")
        if sign and not line.lstrip().startswith((";", "[")):
            try:
                values[key.strip()] = float(value)
            except ValueError:
                continue
    return values
