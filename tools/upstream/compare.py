"""A shipped run beside ours: means, and how many of its numbers are equal."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from penstock.api import simulate
from penstock.rendering.result import SimulationResult
from penstock.spec.load import load_cluster
from upstream.interleaving import InterleavedRule
from upstream.replay import token_times_ns
from upstream.runs import Rows, Shipped, made_the_same
from upstream.step_rule import StepRule

Gaps = Mapping[int, Sequence[int]]
"""By request: TTFT and all ITLs in ns."""

NS_PER_MS = 1e6


@dataclass(frozen=True, slots=True)
class Beside:
    """Both runs. ``by_rules`` is None where its rules are not replayed."""

    run: Shipped
    theirs: Gaps
    ours: Gaps
    with_members: Gaps
    by_rules: Gaps | None

    def equal(self, gaps: Gaps) -> tuple[int, int]:
        """(numbers equal to the nanosecond, numbers)."""
        pairs = [
            pair for request, own in self.theirs.items() for pair in zip(own, gaps[request], strict=True)
        ]
        return sum(one == other for one, other in pairs), len(pairs)


def beside(run: Shipped, data: Path) -> Beside:
    """Our run of ``run``'s config, and its CSV."""
    rows = run.rows(data)
    with tempfile.TemporaryDirectory() as folder:
        same = made_the_same(run.config, data, Path(folder))
        return Beside(
            run,
            run.theirs(data),
            _ours(run, data, data / "configs" / "cluster" / f"{run.config}.json"),
            _ours(run, data, same),
            by_rules(run, rows, data, same) if run.requests > 1 else None,
        )


def by_rules(run: Shipped, rows: Rows, data: Path, config: Path) -> Gaps:
    """What its rules give with our kernel times."""
    options = {name: value for name, value in run.options.items() if name.startswith("enable_attn")}
    cluster = load_cluster(config, options, profile_root=data / "perf")
    groups: dict[str, list[StepRule]] = {}
    rule = InterleavedRule if "enable_sub_batch_interleaving" in run.options else StepRule
    for number, one in enumerate(cluster.instances):
        groups.setdefault(one.dp_group or str(number), []).append(rule(cluster, one, data / "perf"))
    apart = dict.fromkeys(rows, 0) if run.name == "pd" else None
    times = token_times_ns(list(groups.values()), rows, apart)
    return {
        request: [
            own[0] - int(rows[request]["arrival"]),
            *(after - before for before, after in pairwise(own)),
        ]
        for request, own in times.items()
    }


def mean_ttft_ms(gaps: Gaps) -> float:
    """Over requests."""
    return sum(own[0] for own in gaps.values()) / len(gaps) / NS_PER_MS


def mean_tpot_ms(gaps: Gaps) -> float:
    """Over requests, each the mean of its ITLs."""
    return sum(sum(own[1:]) / max(len(own) - 1, 1) for own in gaps.values()) / len(gaps) / NS_PER_MS


def _ours(run: Shipped, data: Path, config: Path) -> Gaps:
    workload = data / "workloads" / f"{run.workload}.jsonl"
    result = simulate(config, workload, num_reqs=run.requests, profile_root=data / "perf", **run.options)
    return _gaps(result)


def _gaps(result: SimulationResult) -> Gaps:
    first = dict(result.requests.select("request", "ttft_ns").iter_rows())
    found: dict[int, list[int]] = {}
    for request, ttft in first.items():
        times = [int(at) for at in result.token_times_ns(request)]
        found[request] = [int(ttft), *(after - before for before, after in pairwise(times))]
    return found
