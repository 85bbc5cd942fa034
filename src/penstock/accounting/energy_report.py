"""What a run's energy comes to: by component, instance, request and token, and over time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.units import NS_PER_S, Int64Array

COMPONENTS = ("npu", "cpu", "memory", "link", "nic", "storage", "base")
"""Of a node; ``memory`` is the host's, ``base`` fans, power supplies and the board."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceEnergy:
    """An instance's NPUs: their energy, and their time by state, summed over NPUs."""

    instance: int
    npu_j: float
    active_ns: int
    standby_ns: int
    idle_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyReport:
    """Energy in [``begin_ns``, ``end_ns``), J. ``nodes[i]`` by component; ``watts`` by component are means over the
    intervals between ``edges_ns``. ``requests_j`` has each finished request's share in the order of the record, and
    ``unassigned_j`` what belongs to none: both together are the total; None where steps were not kept."""

    begin_ns: int
    end_ns: int
    nodes: tuple[Mapping[str, float], ...]
    instances: tuple[InstanceEnergy, ...]
    edges_ns: Int64Array
    watts: Mapping[str, list[float]]
    generated_tokens: int
    basis: tuple[str, ...]
    requests_j: npt.NDArray[np.float64] | None = None
    unassigned_j: float | None = None

    @property
    def total_j(self) -> float:
        """Of all nodes and components."""
        return sum(sum(node.values()) for node in self.nodes)

    @property
    def components_j(self) -> dict[str, float]:
        """Of all nodes, those that have any."""
        sums = {name: sum(node[name] for node in self.nodes) for name in COMPONENTS}
        return {name: joules for name, joules in sums.items() if joules}

    @property
    def mean_w(self) -> float:
        """Over the window."""
        return self.total_j * NS_PER_S / (self.end_ns - self.begin_ns) if self.end_ns > self.begin_ns else 0.0

    @property
    def per_token_j(self) -> float | None:
        """Everything by generated tokens."""
        return self.total_j / self.generated_tokens if self.generated_tokens else None

    def with_requests(self, requests_j: npt.NDArray[np.float64], unassigned_j: float) -> EnergyReport:
        """The same, with each request's share."""
        return replace(self, requests_j=requests_j, unassigned_j=unassigned_j)

    def columns(self) -> dict[str, Int64Array | list[float]]:
        """The series over time: ``begin_ns``, ``end_ns``, and mean W by component, ``npu_w``, ``cpu_w``, ...."""
        watts = {f"{name}_w": values for name, values in self.watts.items()}
        return {"begin_ns": self.edges_ns[:-1], "end_ns": self.edges_ns[1:], **watts}

    def to_json(self) -> dict[str, Any]:
        """Plain values, without the series over time and the requests."""
        mean = None
        if self.requests_j is not None and len(self.requests_j):
            mean = float(self.requests_j.mean())
        return {
            "total_j": self.total_j,
            "mean_w": self.mean_w,
            "per_generated_token_j": self.per_token_j,
            "per_request_j": mean,
            "unassigned_j": self.unassigned_j,
            "components_j": self.components_j,
            "nodes_j": [dict(node) for node in self.nodes],
            "instances": [
                {
                    "instance": one.instance,
                    "npu_j": one.npu_j,
                    "active_ns": one.active_ns,
                    "standby_ns": one.standby_ns,
                    "idle_ns": one.idle_ns,
                }
                for one in self.instances
            ],
            "basis": list(self.basis),
        }
