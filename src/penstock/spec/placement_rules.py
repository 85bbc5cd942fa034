"""``placement`` of an instance to a :class:`PlacementSpec`: LLMServingSim's section.

``layers`` go before ``blocks``, these before ``default``. ``cpu`` is the memory of the instance's own node.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from penstock.errors import Problem, nearest
from penstock.files.place import Place
from penstock.spec.check import check, shown
from penstock.spec.placement import MemoryDevice, PlacementSpec
from penstock.spec.ranges import NonNegative
from penstock.spec.raw import RawCxlMemory, RawHostMemory, RawPlacement
from penstock.units import GIB

EDGES = ("embedding", "final_layernorm", "lm_head")
LAYER_ROWS = (
    "layernorm",
    "qkv_proj",
    "qk_norm",
    "rotary_emb",
    "attention",
    "o_proj",
    "gate_up_proj",
    "act_fn",
    "down_proj",
    "gate",
    "expert",
    "moe",
)
_DEVICE = re.compile(r"npu|cpu|cxl:\d+")
_DEFAULTS = {"weights": "npu", "kv_loc": "npu", "kv_evict_loc": "cpu"}


@dataclass(frozen=True, slots=True)
class HostDevices:
    """What an instance can place things on: its node's memory, and the cluster's CXL devices."""

    node: int
    host: RawHostMemory | None
    cxl: RawCxlMemory | None

    def devices(self) -> dict[str, MemoryDevice]:
        """By the name that ``placement`` gives them."""
        found: dict[str, MemoryDevice] = {}
        if self.host is not None and self.host.mem_size and self.host.mem_bw:
            name = f"cpu:{self.node}"
            found["cpu"] = _device(name, self.host.mem_size, self.host.mem_bw, self.host.mem_latency)
        if self.cxl is not None and self.cxl.mem_size and self.cxl.mem_bw:
            for number in range(self.cxl.num_devices):
                name = f"cxl:{number}"
                found[name] = _device(name, self.cxl.mem_size, self.cxl.mem_bw, self.cxl.mem_latency)
        return found


def _device(name: str, size_gb: float, gb_per_s: float, latency_ns: NonNegative) -> MemoryDevice:
    """``mem_bw`` is in 10**9 bytes/s, as LLMServingSim computes with it."""
    return MemoryDevice(name, round(size_gb * GIB), gb_per_s, float(latency_ns))


def placement_spec(
    raw: dict[str, Any] | None,
    num_layers: int,
    hosts: HostDevices,
    place: Place,
    problems: list[Problem],
) -> tuple[PlacementSpec | None, list[str]]:
    """The placement, None where all is on the NPU or something is wrong; and notices of what has no effect."""
    if raw is None:
        return None, []
    reader = _Reader(num_layers, hosts.devices(), place.key("placement"), problems)
    return reader.read(raw)


class _Reader:
    def __init__(
        self, num_layers: int, devices: Mapping[str, MemoryDevice], place: Place, problems: list[Problem]
    ) -> None:
        self._layers = num_layers
        self._devices = devices
        self._place = place
        self._problems = problems
        self._notices: list[str] = []

    def read(self, raw: dict[str, Any]) -> tuple[PlacementSpec | None, list[str]]:
        before = len(self._problems)
        default: Mapping[str, str | None] = {}
        by_block: dict[int, dict[str, str | None]] = {}
        by_row: dict[str, dict[str, str | None]] = {}
        prefetch: int | None = None
        for key, member in raw.items():
            spot = self._place.key(key)
            if key == "default":
                default = self._entry(member, spot)
            elif key == "blocks" and isinstance(member, list):
                for index, entry in enumerate(member):
                    self._blocks(entry, spot.item(index), by_block)
            elif key == "layers" and isinstance(member, dict):
                for row, entry in member.items():
                    self._check_row(row, spot)
                    by_row[row] = self._entry(entry, spot.key(row))
            elif key == "prefetch_layers" and (type(member) is int and member >= 1):
                prefetch = member
            elif key in ("blocks", "layers", "prefetch_layers"):
                kind = {"blocks": "a list", "layers": "an object"}.get(key, "an integer >= 1")
                self._blame(spot, f"must be {kind}, not {shown(member)}")
            else:
                self._blame(self._place, f"unknown key '{key}' (default, blocks, layers, prefetch_layers)")
        if len(self._problems) > before:
            return None, self._notices
        return self._spec({**_DEFAULTS, **default}, by_block, by_row, prefetch), self._notices

    def _spec(
        self,
        default: Mapping[str, str | None],
        by_block: Mapping[int, Mapping[str, str | None]],
        by_row: Mapping[str, Mapping[str, str | None]],
        prefetch: int | None,
    ) -> PlacementSpec | None:
        def found(name: str, layer: int | None, row: str) -> str | None:
            own = by_row.get(row, {}).get(name)
            block = None if layer is None else by_block.get(layer, {}).get(name)
            device = own or block or default[name]
            return None if device in (None, "npu") else self._devices[device].name

        rows = [row for row in by_row if row not in EDGES]
        weights = tuple(
            (("", found("weights", layer, "")), *((row, found("weights", layer, row)) for row in rows))
            for layer in range(self._layers)
        )
        spec = PlacementSpec(
            devices=tuple(self._devices.values()),
            weights=weights,
            edges=tuple((row, found("weights", None, row)) for row in EDGES),
            kv=tuple(found("kv_loc", layer, "attention") for layer in range(self._layers)),
            prefetch_layers=prefetch,
        )
        return None if spec.is_all_on_npu else spec

    def _entry(self, value: Any, spot: Place) -> dict[str, str | None]:
        checked = check(RawPlacement, value, spot, self._problems)
        if checked is None:
            return {}
        given: dict[str, str | None] = {}
        for name in _DEFAULTS:
            device = getattr(checked.value, name)
            if device is None:
                continue
            if not _DEVICE.fullmatch(device):
                self._blame(spot.key(name), f"must be npu, cpu or cxl:N, not {shown(device)}")
            elif device.startswith("cxl") and device not in self._devices:
                hint = nearest(device, tuple(self._devices))
                self._blame(spot.key(name), f"there is no {device}{hint}: see cxl_mem")
            elif name == "kv_evict_loc":
                if device != "cpu":  # which any config of LLMServingSim's says
                    self._notices.append(
                        f"{spot.key(name)}: has no effect: preempted requests are recomputed"
                    )
            elif device == "cpu" and device not in self._devices:
                self._blame(spot.key(name), "needs the node's cpu_mem with mem_size and mem_bw")
            given[name] = device
        return given

    def _blocks(self, value: Any, spot: Place, by_block: dict[int, dict[str, str | None]]) -> None:
        entry = self._entry(value, spot)
        text = value.get("blocks") if isinstance(value, dict) else None
        if not isinstance(text, str) or not re.fullmatch(r"[\d,\- ]+", text):
            if text is None:
                self._blame(spot, "missing key 'blocks'")
            return
        for part in text.replace(" ", "").split(","):
            ends = [int(number) for number in part.split("-") if number]
            if not ends:
                continue
            for layer in range(min(ends), max(ends) + 1):
                if layer >= self._layers:
                    self._blame(
                        spot.key("blocks"), f"there is no layer {layer}: the model has {self._layers}"
                    )
                    return
                by_block.setdefault(layer, {}).update(entry)

    def _check_row(self, row: str, spot: Place) -> None:
        known = (*EDGES, *LAYER_ROWS)
        if row not in known:
            self._blame(spot, f"unknown layer '{row}'{nearest(row, known)} ({', '.join(known)})")

    def _blame(self, place: Place, message: str) -> None:
        self._problems.append(Problem(str(place), message))
