"""What autoscaling came to: how long replicas were there, and what that costs beside all of them all the time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from penstock.recording.records import RunRecord
from penstock.spec.prices import find_price, listed_prices
from penstock.units import NS_PER_S

_NS_PER_HOUR = 3600 * NS_PER_S


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaUse:
    """Of ``instances`` there were ``mean_replicas`` from the first arrival to the end of the run, ``most_replicas`` at
    once, after ``starts`` beyond those of the beginning. A replica counts from its start, before it serves, to its
    stop. ``usd`` is what the GPUs cost by the package's list, ``usd_of_all`` what all instances would have; None where
    a price is missing. ``times`` are (instance, start, ready, stop) in ns.
    """

    instances: int
    mean_replicas: float
    most_replicas: int
    starts: int
    replica_hours: float
    gpu_hours: float
    usd: float | None
    usd_of_all: float | None
    times: tuple[tuple[int, int, int, int], ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def replica_use(record: RunRecord) -> ReplicaUse | None:
    """Of a run; None without autoscaling."""
    times = record.replica_times
    if not times:
        return None
    window_ns = max(record.end_ns - record.first_arrival_ns, 1)
    starts = np.array([one.start_ns for one in times], dtype=np.int64)
    stops = np.array([one.stop_ns for one in times], dtype=np.int64)
    hours = float((stops - starts).sum()) / _NS_PER_HOUR
    there = [int(((starts <= at) & (stops > at)).sum()) for at in starts]
    deployment = record.deployments[0]
    labels = [label for label in deployment.hardware for _ in range(deployment.tp_size)]
    prices = [find_price(label, {}, listed_prices()) for label in labels]
    hourly = None
    if all(price is not None for price in prices):
        hourly = sum(price.usd_per_hour for price in prices if price is not None)
    return ReplicaUse(
        instances=len(record.deployments),
        mean_replicas=hours * _NS_PER_HOUR / window_ns,
        most_replicas=max(there),
        starts=int((starts > record.first_arrival_ns).sum()),
        replica_hours=hours,
        gpu_hours=hours * len(labels),
        usd=None if hourly is None else hours * hourly,
        usd_of_all=None if hourly is None else hourly * len(record.deployments) * window_ns / _NS_PER_HOUR,
        times=tuple((one.instance, one.start_ns, one.ready_ns, one.stop_ns) for one in times),
    )


def replica_lines(use: Mapping[str, Any] | None) -> list[list[str]]:
    """For a summary."""
    if use is None:
        return []
    text = f"{use['mean_replicas']:.2f} of {use['instances']} replicas on average, {use['most_replicas']} at most, "
    text += f"{use['starts']} started; {use['gpu_hours']:,.2f} GPU-hours"
    if use["usd"] is not None:
        text += f", {use['usd']:,.2f} USD ({use['usd_of_all']:,.2f} for all of them all the time)"
    return [["autoscaling", text]]
