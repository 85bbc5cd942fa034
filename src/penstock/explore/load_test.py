"""One deployment under test: built once, run at many request rates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from penstock.accounting.energy import EnergyMeter
from penstock.accounting.metrics import RequestTable, throughput
from penstock.engine.build import BuiltInstance, build_instances
from penstock.engine.simulation import Simulation
from penstock.explore.bottleneck import Bottleneck, EdgeWatch
from penstock.explore.slo import METRICS, Slo, attained, statistics_ns
from penstock.explore.steady_state import FullThroughput, SteadyRun, SteadyState, full_throughput, steady_run
from penstock.recording.records import RunRecord, TurnSink
from penstock.spec.cluster import ClusterSpec
from penstock.spec.options import RunOptions
from penstock.statistics.drift import NO_GROWTH
from penstock.units import NS_PER_S, Int64Array
from penstock.workload.offered_load import OfferedLoad
from penstock.workload.workload import Workload

SHOWN_STATISTICS = (
    "ttft_p50",
    "ttft_p99",
    "tpot_p50",
    "tpot_p99",
    "latency_p99",
    "queuing_p99",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One run at one rate. ``rate_per_s`` is None where the workload came as given.

    Of its ``requests`` so many were ``rejected``. The figures are those of its steady window
    (:mod:`penstock.explore.steady_state`); where the workload came as given, or all at once, of the whole run.
    ``excess`` is the worst statistic over its limit (the SLO holds up to 1; None is infinity), ``attained`` the
    share of requests within all limits by themselves, ``statistics_ns`` those of ``SHOWN_STATISTICS`` and of the
    SLO. ``None`` among them: never, or not measured. ``growth_per_s`` is by how much the queue grows,
    ``warm_up_s`` what was cut off at the start. ``joules_per_token`` is the energy of the whole run by generated
    tokens, None where the power of an accelerator is not known.
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
    growth_per_s: float = 0.0
    warm_up_s: float = 0.0
    joules_per_token: float | None = None

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
        gaps = slo is not None and slo.has_gaps
        self._options = replace(options or RunOptions(), record="requests", keep_token_times=gaps)
        root = Path(self._options.profile_root) if self._options.profile_root else None
        self._built = build_instances(cluster, root)
        self._joules_per_token: float | None = None

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

    def try_rate(self, rate_per_s: float, seed: int, count: int | None = None) -> Trial:
        """Serve ``count`` requests of the load at a rate; infinity means all at once."""
        return self.run_at(rate_per_s, seed, count)[0]

    def run_at(
        self, rate_per_s: float, seed: int, count: int | None = None
    ) -> tuple[Trial, SteadyRun | None]:
        """The trial, and its steady window: None where all requests came at once."""
        workload = self.offered_load.at(rate_per_s, seed, count)
        record = self._run(workload)
        if not math.isfinite(rate_per_s):
            return self._trial(record, workload, rate_per_s, seed), None
        steady = steady_run(record, int(workload.arrival_ns.max()), self.slo, self._priority(workload))
        return self._steady_trial(record, steady, rate_per_s, seed), steady

    def run_users(self, users: int, think_s: float, seed: int, count: int) -> tuple[Trial, SteadyRun]:
        """Serve ``count`` requests of a closed loop: ``users`` who think so many seconds on average before each. The
        trial's rate is what they come to."""
        workload = self.offered_load.at(math.inf, seed, count)
        options = replace(self._options, max_concurrency=users, think_time_s=think_s, seed=seed)
        record = self._run(workload, options=options)
        sent = [int(RequestTable.of(record).column("arrival_ns").max(initial=0))]
        sent += [one.arrival_ns for one in record.rejections]
        steady = steady_run(record, max(sent), self.slo, self._priority(workload))
        # Users who wait send nothing: what grows while the loop fills up does not go on growing.
        steady = replace(steady, growth=NO_GROWTH)
        return self._steady_trial(record, steady, steady.finished_per_s, seed), steady

    def explain_users(self, users: int, think_s: float, count: int, metric: str | None) -> Bottleneck:
        """Serve again and look where the time of the stages goes."""
        watch = EdgeWatch(self.cluster)
        options = replace(self._options, max_concurrency=users, think_time_s=think_s)
        return watch.bottleneck(self._run(self.offered_load.at(math.inf, 0, count), [watch], options), metric)

    def try_as_given(self) -> Trial:
        """Serve the workload with its own arrivals."""
        workload = self.offered_load.as_given()
        return self._trial(self._run(workload), workload, None, 0)

    def full_throughput(self, count: int) -> tuple[Trial, FullThroughput | None]:
        """Serve ``count`` requests that come all at once."""
        workload = self.offered_load.at(math.inf, 0, count)
        record = self._run(workload)
        return self._trial(record, workload, math.inf, 0), full_throughput(record)

    def explain(self, rate_per_s: float | None, seed: int, count: int | None = None) -> Bottleneck:
        """Serve again and look where the time of the stages goes."""
        load = self.offered_load
        workload = load.as_given() if rate_per_s is None else load.at(rate_per_s, seed, count)
        watch = EdgeWatch(self.cluster)
        record = self._run(workload, [watch])
        trial = self._trial(record, workload, rate_per_s, seed)
        return watch.bottleneck(record, trial.worst)

    def _priority(self, workload: Workload) -> Int64Array | None:
        """By number of request, where the SLO asks for it."""
        bounds = self.slo.bounds if self.slo else ()
        return workload.priority if any(bound.priority is not None for bound in bounds) else None

    def _run(
        self, workload: Workload, sinks: Sequence[TurnSink] = (), options: RunOptions | None = None
    ) -> RunRecord:
        meter = EnergyMeter.of(self.cluster, workload.first_arrival_ns)
        listening = sinks if meter is None else (*sinks, meter)
        record = Simulation(
            self.cluster, workload, options or self._options, sinks=listening, built=self._built
        ).run()
        self._joules_per_token = None if meter is None else meter.finish(record).per_token_j
        return record

    def _steady_trial(self, record: RunRecord, steady: SteadyRun, rate_per_s: float, seed: int) -> Trial:
        state = SteadyState(rate_per_s, (steady,), self.slo)
        tokens = self.offered_load.answer_tokens / self.offered_load.calls_per_request
        return Trial(
            rate_per_s=rate_per_s,
            seed=seed,
            requests=len(record.requests) + len(record.rejections),
            rejected=len(record.rejections),
            excess=_finite(state.excess),
            worst=state.worst,
            attained=steady.attained,
            requests_per_s=steady.finished_per_s,
            generated_tokens_per_s=steady.finished_per_s * tokens,
            preemptions=sum(total.preemptions for total in record.totals),
            statistics_ns=shown_statistics_ns(state),
            growth_per_s=steady.growth.whole_per_s,
            warm_up_s=(steady.window_ns[0] - record.first_arrival_ns) / NS_PER_S,
            joules_per_token=self._joules_per_token,
        )

    def _trial(self, record: RunRecord, workload: Workload, rate_per_s: float | None, seed: int) -> Trial:
        priority = self._priority(workload)
        statistics = statistics_ns(record, self.slo, priority)
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
            attained=attained(record, self.slo, priority)
            if self.slo
            else len(table) / max(len(self.offered_load.workload), 1),
            requests_per_s=rates.requests_per_s if rates else 0.0,
            generated_tokens_per_s=rates.generated_tokens_per_s if rates else 0.0,
            preemptions=sum(total.preemptions for total in record.totals),
            statistics_ns={name: _finite(statistics[name]) for name in names},
            joules_per_token=self._joules_per_token,
        )


def shown_statistics_ns(state: SteadyState) -> dict[str, float | None]:
    """Those of ``SHOWN_STATISTICS`` and of the SLO; None: never, or not measured."""
    bounds = state.slo.bounds if state.slo else ()
    values = state.statistics_ns(state.slo.series if state.slo else METRICS)
    return {name: values[name] for name in dict.fromkeys((*SHOWN_STATISTICS, *(b.name for b in bounds)))}


def _finite(value: float | None) -> float | None:
    """JSON has no infinity."""
    return None if value is None or value == float("inf") else value
