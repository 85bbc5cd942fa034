"""A benchmark's own requests, served by the simulator."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from penstock.calibration.benchmark import Benchmark, FloatArray
from penstock.cost.calibrated import calibrated_stage
from penstock.engine.build import BuiltInstance, build_instances
from penstock.engine.simulation import Simulation
from penstock.errors import Problem, UserError
from penstock.recording.records import REQUEST_COLUMNS, RunRecord, TurnSink
from penstock.spec.calibration import with_calibration
from penstock.spec.cluster import Calibration, ClusterSpec
from penstock.spec.options import RunOptions
from penstock.units import NS_PER_S, Int64Array
from penstock.workload.workload import Call, Columns, Workload

_BEFORE_S = 1000.0
"""How long before the benchmark a cached prefix is brought in; nothing else runs then."""


@dataclass(frozen=True, slots=True)
class Prompts:
    """What the prompts share, where the server caches prefixes.

    ``cached_tokens`` by request is what a log says was not computed. Without a log, the first ``shared_tokens`` of
    every prompt are one of ``groups`` prefixes, request i having prefix i modulo ``groups``. ``workload`` is what
    was sent, with its token ids, in order.
    """

    workload: Workload | None = None
    cached_tokens: Int64Array | None = None
    shared_tokens: int = 0
    groups: int = 1

    @property
    def known(self) -> bool:
        """Whether any hit can come of it."""
        given = self.workload is not None and self.workload.has_token_ids
        return (
            given
            or self.shared_tokens > 0
            or (self.cached_tokens is not None and bool(self.cached_tokens.any()))
        )


def check_prompts(workload: Workload, benchmark: Benchmark) -> None:
    """Whether a workload is what a benchmark sent.

    Raises:
        UserError: its requests are other ones.
    """
    if len(workload) != len(benchmark):
        message = f"{len(workload)} requests, but {benchmark.source} sent {len(benchmark)}"
        raise UserError([Problem(workload.source, message)])
    different = np.flatnonzero(workload.input_tokens != benchmark.input_tokens)
    if len(different):
        message = (
            f"is not what {benchmark.source} sent: {len(different)} prompts have other lengths, the first is request "
            f"{different[0]}"
        )
        raise UserError([Problem(workload.source, message)])


class Replay:
    """One benchmark on one cluster, to be served again and again."""

    def __init__(
        self,
        cluster: ClusterSpec,
        benchmark: Benchmark,
        *,
        prompts: Prompts | None = None,
        as_seen: bool = False,
    ) -> None:
        """``as_seen`` lets the requests arrive in the order in which the measured engine saw them (where there is
        one instance), rather than in the order of sending."""
        self.cluster = cluster
        self.benchmark = benchmark
        self._prompts = prompts or Prompts()
        self._order = self._arrival_order(as_seen and len(cluster.instances) == 1)

    def serve(
        self,
        cluster: ClusterSpec | None = None,
        built: Sequence[BuiltInstance] | None = None,
        sinks: Sequence[TurnSink] = (),
        profile_root: str | None = None,
    ) -> Benchmark:
        """What the client would have seen, with the cluster's calibration where it has one.

        Raises:
            UserError: the cluster refuses some of the requests.
        """
        cluster = cluster or self.cluster
        if self.benchmark.engine_clock:
            cluster = _without_client(cluster)
            built = None if built is None else _specs_of(cluster, built)
        workload, extra = self._workload()
        options = RunOptions(record="requests", profile_root=profile_root)
        record = Simulation(cluster, workload, options, sinks=sinks, built=built).run()
        if record.rejections:
            first = record.rejections[0]
            raise UserError(
                f"{self.benchmark.source}: {len(record.rejections)} requests cannot run on {cluster.source}, "
                f"the first because {first.reason}"
            )
        return self._seen(record, extra)

    def basis(self, profile_root: str | None = None) -> tuple[str, ...]:
        """What the simulation rests on, each statement once."""
        built = build_instances(self.cluster, None if profile_root is None else Path(profile_root))
        return tuple(dict.fromkeys(line for one in built for line in one.deployment.basis))

    def _arrival_order(self, as_seen: bool) -> Int64Array:
        if as_seen:
            return self.benchmark.engine_order()
        return np.argsort(self.benchmark.start_s, kind="stable").astype(np.int64)

    def _workload(self) -> tuple[Workload, int]:
        """The requests in the order of arrival, and how many stand before them to fill the cache."""
        bench, prompts = self.benchmark, self._prompts
        # In the order of arrival nobody overtakes.
        sent_s = np.maximum.accumulate(bench.start_s[self._order])
        arrivals = np.rint(sent_s * NS_PER_S).astype(np.int64)
        source = bench.source
        if not prompts.known:
            columns = (arrivals, bench.input_tokens[self._order], bench.output_tokens[self._order])
            return Workload.from_columns(*(column.tolist() for column in columns), source=source), 0
        table = Columns()
        lead = round(_BEFORE_S * NS_PER_S)
        ids = _Ids(prompts)
        extra = 0
        if prompts.workload is None and prompts.cached_tokens is not None:
            length = int(prompts.cached_tokens.max())
            table.add(0, Call(length + 1, 1, 0, ids.common(length + 1)))
            extra = 1
        for at, request in zip(arrivals.tolist(), self._order.tolist(), strict=True):
            tokens = int(bench.input_tokens[request])
            call = Call(tokens, int(bench.output_tokens[request]), *ids.of(request, tokens))
            table.add(at + lead * extra, call)
        return Workload(table, source), extra

    def _seen(self, record: RunRecord, extra: int) -> Benchmark:
        values = record.requests.values()
        column = {name: place for place, name in enumerate(REQUEST_COLUMNS)}
        lead_s = _BEFORE_S * extra
        count = len(self.benchmark)
        ttft, latency = np.zeros(count), np.zeros(count)
        gaps: list[FloatArray] = [np.zeros(0)] * count
        for row, place in enumerate(values[:, column["request"]] - extra):
            if place < 0:
                continue
            request = self._order[place]
            start = self.benchmark.start_s[request] + lead_s
            first = values[row, column["first_token_ns"]] / NS_PER_S
            ttft[request] = first - start
            latency[request] = values[row, column["finish_ns"]] / NS_PER_S - start
            gaps[request] = np.diff(record.requests.token_times_ns(row)) / NS_PER_S
        return replace(
            self.benchmark, ttft_s=ttft, latency_s=latency, gaps_s=tuple(gaps), kind="penstock", notes=()
        )


def _without_client(cluster: ClusterSpec) -> ClusterSpec:
    """The cluster as its engines see it: requests are there when they are sent."""
    instances = tuple(
        one if one.calibration is None else replace(one, calibration=replace(one.calibration, request_ns=0))
        for one in cluster.instances
    )
    return replace(cluster, instances=instances)


def _specs_of(cluster: ClusterSpec, built: Sequence[BuiltInstance]) -> list[BuiltInstance]:
    return [replace(one, spec=spec) for one, spec in zip(built, cluster.instances, strict=True)]


class _Ids:
    """Token ids that hit what is to be hit, and nothing else."""

    def __init__(self, prompts: Prompts) -> None:
        self._prompts = prompts
        self._next = 1 << 20

    def common(self, length: int) -> array[int]:
        """The prefix that all hits are parts of."""
        return array("i", range(1, length + 1))

    def of(self, request: int, tokens: int) -> tuple[int, array[int] | None, array[int] | None]:
        """What a :class:`Call` takes after its lengths: no tool, the ids of the prompt and of the answer."""
        prompts = self._prompts
        if prompts.workload is not None:
            sent = prompts.workload.request(request)
            return 0, sent.input_ids, sent.output_ids
        if prompts.cached_tokens is not None:
            head = self.common(int(prompts.cached_tokens[request]))
        else:
            shared = min(prompts.shared_tokens, tokens)
            first = 1 + (request % prompts.groups) * prompts.shared_tokens
            head = array("i", range(first, first + shared))
        rest = tokens - len(head)
        own = array("i", range(self._next, self._next + rest))
        self._next = self._next + rest if self._next < 1 << 30 else 1 << 20
        return 0, head + own, None


def with_values(
    cluster: ClusterSpec, built: Sequence[BuiltInstance] | None, calibration: Calibration
) -> tuple[ClusterSpec, list[BuiltInstance]]:
    """The cluster with a calibration, built; ``built`` without one gives the kernel times, where there are any."""
    cluster = replace(
        cluster, instances=tuple(with_calibration(one, calibration) for one in cluster.instances)
    )
    if built is None:
        return cluster, build_instances(cluster, None)
    changed = [
        replace(
            one,
            spec=spec,
            cost=replace(
                one.cost, stage=calibrated_stage(one.cost.stage, calibration, one.deployment.layers)
            ),
        )
        for one, spec in zip(built, cluster.instances, strict=True)
    ]
    return cluster, changed
