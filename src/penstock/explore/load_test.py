"""One deployment under test: built once, run at many request rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from penstock.accounting.metrics import RequestTable, throughput
from penstock.engine.build import BuiltInstance, build_instances
from penstock.engine.simulation import Simulation
from penstock.explore.bottleneck import Bottleneck, EdgeWatch
from penstock.explore.offered_load import OfferedLoad
from penstock.explore.slo import Slo, attained, statistics_ns
from penstock.recording.records import RunRecord, TurnSink
from penstock.spec.cluster import ClusterSpec
from penstock.spec.options import RunOptions
from penstock.workload.workload import Workload

SHOWN_STATISTICS = (
    "ttft_p50",
    "ttft_p99",
    "tpot_p50",
    "tpot_p99",
    "itl_p99",
    "latency_p99",
    "queuing_p99",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One run at one rate. ``rate_per_s`` is None where the workload came as given.

    ``excess`` is the worst statistic over its limit (the SLO holds up to 1; None is infinity), ``attained`` the
    share of requests within all limits by themselves, ``statistics_ns`` those of ``SHOWN_STATISTICS`` and of the
    SLO. ``None`` among them: never, or not measured.
    """

    rate_per_s: float | None
    seed: int
    requests: int
    rejected: int
    excess: float | None
    worst: str | None
    attained: float
    requests_per_s: float
    generated_tokens_per_s: float
    preemptions: int
    statistics_ns: Mapping[str, float | None]

    @property
    def holds(self) -> bool:
        """Whether the SLO is kept (where there is none, it is)."""
        return self.excess is not None and self.excess <= 1

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Trial:
        """What :meth:`to_json` wrote."""
        return cls(**data)


class LoadTest:
    """One cluster behind one router, under an offered load. Runs share what was built, and cost tables grow with
    the runs."""

    def __init__(
        self,
        cluster: ClusterSpec,
        offered_load: OfferedLoad,
        slo: Slo | None,
        options: RunOptions | None = None,
    ) -> None:
        self.cluster = cluster
        self.offered_load = offered_load
        self.slo = slo
        self._options = replace(options or RunOptions(), record="requests", keep_token_times=False)
        root = Path(self._options.profile_root) if self._options.profile_root else None
        self._built = build_instances(cluster, root)

    @property
    def basis(self) -> tuple[str, ...]:
        """What the costs and memory rest on, each statement once."""
        lines = [line for one in self._built for line in (*one.deployment.basis, one.deployment.memory.basis)]
        return tuple(dict.fromkeys(lines))

    @property
    def gpus(self) -> int:
        """Of all instances."""
        return sum(spec.tp_size * spec.pp_size for spec in self.cluster.instances)

    @property
    def built(self) -> Sequence[BuiltInstance]:
        """Each instance, built."""
        return self._built

    def try_rate(self, rate_per_s: float, seed: int) -> Trial:
        """Serve the offered_load at a rate; infinity means all at once."""
        record = self._run(self.offered_load.at(rate_per_s, seed))
        return self._trial(record, rate_per_s, seed)

    def try_as_given(self) -> Trial:
        """Serve the workload with its own arrivals."""
        return self._trial(self._run(self.offered_load.as_given()), None, 0)

    def explain(self, rate_per_s: float | None, seed: int) -> Bottleneck:
        """Serve again and look where the time of the stages goes."""
        workload = (
            self.offered_load.as_given() if rate_per_s is None else self.offered_load.at(rate_per_s, seed)
        )
        watch = EdgeWatch(self.cluster)
        record = self._run(workload, [watch])
        trial = self._trial(record, rate_per_s, seed)
        return watch.bottleneck(record, trial.worst)

    def _run(self, workload: Workload, sinks: Sequence[TurnSink] = ()) -> RunRecord:
        return Simulation(self.cluster, workload, self._options, sinks=sinks, built=self._built).run()

    def _trial(self, record: RunRecord, rate_per_s: float | None, seed: int) -> Trial:
        statistics = statistics_ns(record)
        table = RequestTable.of(record)
        rates = throughput(table, record.first_arrival_ns)
        bounds = self.slo.bounds if self.slo else ()
        values = [statistics[bound.name] for bound in bounds]
        names = dict.fromkeys((*SHOWN_STATISTICS, *(bound.name for bound in bounds)))
        excess = self.slo.excess(values) if self.slo else 0.0
        return Trial(
            rate_per_s=_finite(rate_per_s),
            seed=seed,
            requests=len(table) + len(record.rejections),
            rejected=len(record.rejections),
            excess=_finite(excess),
            worst=self.slo.worst(values).name if self.slo else None,
            attained=attained(record, self.slo)
            if self.slo
            else len(table) / max(len(self.offered_load.workload), 1),
            requests_per_s=rates.requests_per_s if rates else 0.0,
            generated_tokens_per_s=rates.generated_tokens_per_s if rates else 0.0,
            preemptions=sum(total.preemptions for total in record.totals),
            statistics_ns={name: _finite(statistics[name]) for name in names},
        )


def _finite(value: float | None) -> float | None:
    """JSON has no infinity."""
    return None if value is None or value == float("inf") else value
