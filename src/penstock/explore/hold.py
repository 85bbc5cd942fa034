"""Whether a deployment holds its SLO at a rate, and by how much the rate may grow."""

from __future__ import annotations

import math

from penstock.explore.capacity import PER_CONCURRENT, Capacity, CapacityOptions
from penstock.explore.load_test import LoadTest
from penstock.explore.replications import Replications, rounded
from penstock.explore.steady_state import SteadyState
from penstock.units import NS_PER_S

_EDGE_TRIALS = 3
_EXPLAINED_REQUESTS = 1_000
_EDGE_RESOLUTION = 0.08
_LARGEST_STEP = 1.6


def hold_rate(
    load_test: LoadTest,
    rate_per_s: float,
    options: CapacityOptions,
    *,
    explain: bool = True,
    clear_excess: float = math.inf,
) -> Capacity:
    """Whether a deployment holds its SLO at one rate: ``held`` or ``broke`` is its steady state there.

    Runs that have not settled are made longer, up to ``max_requests``. Then replications are added until the answer is
    sure, or all of them together have ``max_requests`` for each of ``seeds``: then the estimates decide, and
    ``why_wide`` says so. A limit that is exceeded by the factor ``clear_excess`` needs no second look.
    """
    rate = rounded(rate_per_s)
    runs = Replications(load_test, options.requests, options.max_requests)
    seeds = options.seeds
    while True:
        found = runs.state(rate, seeds)
        sure = found.surely_holds or found.surely_breaks
        if sure or found.excess > clear_excess:
            break
        if not all(run.settled for run in found.runs) and not runs.longest:
            runs.lengthen(max(2 * runs.count, math.ceil(PER_CONCURRENT * _in_system(found))))
        elif (seeds + 1) * runs.count <= options.seeds * options.max_requests:
            seeds += 1
        else:
            break
    return Capacity(
        rate_per_s=rate,
        low_per_s=rate,
        high_per_s=rate,
        goodput_per_s=rate * found.attained,
        full=None,
        held=found if found.holds else None,
        broke=None if found.holds else found,
        requests=runs.count,
        trials=tuple(runs.trials),
        why_wide=None if sure else f"not sure after {_runs(seeds)} of {runs.count:,} requests",
        bottleneck=load_test.explain(rate, 0, runs.count) if explain else None,
    )


def _runs(count: int) -> str:
    return f"{count} runs" if count > 1 else "a run"


def _in_system(state: SteadyState) -> float:
    """Requests at once, by Little's law."""
    latency_ns = state.statistics_ns(("latency",))["latency_mean"]
    return 0.0 if latency_ns is None else state.rate_per_s * latency_ns / NS_PER_S


def find_edge(load_test: LoadTest, held: tuple[float, float], guess_per_s: float, requests: int) -> Capacity:
    """The highest rate above one that holds, to some per cent and from one replication: a look at the headroom.

    ``held`` is that rate, and the worst statistic over its limit there. A few runs of ``requests``, each at the rate
    where that ratio, taken as a power of the rate, would be 1. ``broke`` is the state above the edge; a shorter run
    explains it.
    """
    runs = Replications(load_test, requests, requests)
    low, high = held, (math.inf, math.inf)
    states: dict[float, SteadyState] = {}
    # Latencies rise faster than the load: what is near its limit already is not far from the edge.
    nearest = low[0] / max(low[1], 1e-3) ** 2
    rate = max(min(guess_per_s, nearest), low[0] * (1 + _EDGE_RESOLUTION))
    for _ in range(_EDGE_TRIALS):
        found = states[rounded(rate)] = runs.state(rounded(rate), 1)
        if found.holds:
            low = max(low, (found.rate_per_s, found.excess))
        else:
            high = min(high, (found.rate_per_s, found.excess))
        if high[0] <= low[0] * (1 + _EDGE_RESOLUTION):
            break
        rate = _next_rate(low, high)
    explained = high[0] if math.isfinite(high[0]) else low[0]
    below = states.get(low[0])
    return Capacity(
        rate_per_s=low[0],
        low_per_s=low[0],
        high_per_s=high[0],
        goodput_per_s=low[0] * (below.attained if below else 1.0),
        full=None,
        held=below,
        broke=states.get(high[0]),
        requests=runs.count,
        trials=tuple(runs.trials),
        bottleneck=load_test.explain(explained, 0, min(runs.count, _EXPLAINED_REQUESTS)),
    )


def _next_rate(low: tuple[float, float], high: tuple[float, float]) -> float:
    """Between the two, nearer to whichever is nearer to its limit; further up where nothing broke yet."""
    if not math.isfinite(high[0]):
        return low[0] * min(max(1 / max(low[1], 1e-3), 1.1), _LARGEST_STEP)
    share = 0.5
    if math.isfinite(high[1]) and low[1] > 0:
        share = -math.log(low[1]) / math.log(high[1] / low[1])
    return low[0] * (high[0] / low[0]) ** min(max(share, 0.2), 0.8)
