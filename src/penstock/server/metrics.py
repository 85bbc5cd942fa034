"""``/metrics``: vLLM's metrics of the simulated engines, and the server's own about itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from penstock.accounting.bubbles import CAUSE_NAMES, BubbleLedger
from penstock.server.engine_stats import EngineStats, InstanceStats
from penstock.server.lateness import RECENT, Lateness
from penstock.server.live import LiveCluster
from penstock.server.metric_names import (
    COUNTERS,
    COUNTS,
    FINISH_REASONS,
    GAUGES,
    SOURCES,
    TIMES,
    TOKEN_COUNTS,
    WAITING_REASONS,
)
from penstock.spec.cluster import InstanceSpec
from penstock.units import NS_PER_S

LABELS = ("model_name", "engine")


class Metrics(Collector):
    """Collects from ``stats`` when it is scraped. ``names`` are what clients call each instance's model."""

    def __init__(
        self,
        cluster: LiveCluster,
        stats: EngineStats,
        lateness: Lateness,
        ledger: BubbleLedger,
        names: Sequence[str],
    ) -> None:
        self._cluster = cluster
        self._stats = stats
        self._lateness = lateness
        self._ledger = ledger
        self._labels = [[name, str(place)] for place, name in enumerate(names)]
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    async def endpoint(self, request: Request) -> Response:
        """``GET /metrics``."""
        self._cluster.tick()
        return Response(generate_latest(self._registry), headers={"content-type": CONTENT_TYPE_LATEST})

    def describe(self) -> Iterable[Metric]:
        """Nothing is asked of the engines before the first scrape."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """All of them, as they stand."""
        yield from self._gauges()
        yield from self._counters()
        yield from self._histograms()
        yield from self._cache_config()
        yield from self._own()
        yield self._stages()

    def _each(self) -> Iterable[tuple[list[str], InstanceStats]]:
        return zip(self._labels, self._stats.instances, strict=True)

    def _gauges(self) -> Iterable[Metric]:
        found = {
            name: GaugeMetricFamily(f"vllm:{name}", text, labels=LABELS) for name, text in GAUGES.items()
        }
        reasons = GaugeMetricFamily(
            "vllm:num_requests_waiting_by_reason",
            "Number of waiting requests by reason. Sum of all reasons equals vllm:num_requests_waiting.",
            labels=(*LABELS, "reason"),
        )
        sleep = GaugeMetricFamily(
            "vllm:engine_sleep_state", "Engine sleep state.", labels=(*LABELS, "sleep_state")
        )
        for labels, one in self._each():
            waiting = one.replica.num_waiting
            found["num_requests_running"].add_metric(labels, one.replica.num_running)
            found["num_requests_waiting"].add_metric(labels, waiting)
            found["kv_cache_usage_perc"].add_metric(labels, one.kv_cache_usage)
            by_reason = (waiting - one.deferred, one.deferred)
            for reason, count in zip(WAITING_REASONS, by_reason, strict=True):
                reasons.add_metric([*labels, reason], count)
            for state, value in (("awake", 1), ("weights_offloaded", 0), ("discard_all", 0)):
                sleep.add_metric([*labels, state], value)
        yield from (*found.values(), reasons, sleep)

    def _counters(self) -> Iterable[Metric]:
        for name, text in COUNTERS.items():
            counter = CounterMetricFamily(f"vllm:{name}", text, labels=LABELS)
            for labels, one in self._each():
                counter.add_metric(labels, one.counter(name))
            yield counter
        sources = CounterMetricFamily(
            "vllm:prompt_tokens_by_source", "Number of prompt tokens by source.", labels=(*LABELS, "source")
        )
        success = CounterMetricFamily(
            "vllm:request_success",
            "Count of successfully processed requests.",
            labels=(*LABELS, "finished_reason"),
        )
        for labels, one in self._each():
            for source in SOURCES:
                sources.add_metric([*labels, source], one.sources[source])
            for reason in FINISH_REASONS:
                success.add_metric([*labels, reason], one.finished[reason])
        yield from (sources, success)

    def _histograms(self) -> Iterable[Metric]:
        texts = {name: text for name, (_, text) in (*TIMES.items(), *COUNTS.items())} | dict(TOKEN_COUNTS)
        for name, text in texts.items():
            family = HistogramMetricFamily(f"vllm:{name}", text, labels=LABELS)
            for labels, one in self._each():
                histogram = one.histograms[name]
                family.add_metric(labels, histogram.buckets(), histogram.sum)
            yield family

    def _cache_config(self) -> Iterable[Metric]:
        simulation = self._cluster.simulation
        rows = [
            _cache_config(spec, deployment.memory.num_gpu_blocks, place)
            for place, (spec, deployment) in enumerate(
                zip(simulation.cluster.instances, simulation.deployments, strict=True)
            )
        ]
        info = GaugeMetricFamily(
            "vllm:cache_config_info", "Information of the LLMEngine CacheConfig", labels=list(rows[0])
        )
        for row in rows:
            info.add_metric(list(row.values()), 1)
        yield info

    def _own(self) -> Iterable[Metric]:
        late = self._lateness
        histogram = HistogramMetricFamily(
            "penstock_token_lateness_seconds",
            "Between the moment a token is due and its handing over to the socket.",
            buckets=late.histogram.buckets(),
            sum_value=late.histogram.sum,
        )
        quantiles = zip(("p50", "p99", "max"), late.quantiles_s(0.5, 0.99, 1.0), strict=True)
        now_s = self._cluster.clock.now_ns() / NS_PER_S
        yield histogram
        for name, value in quantiles:
            text = f"The {name} of that over the last {RECENT:,} tokens."
            yield GaugeMetricFamily(f"penstock_token_lateness_{name}_seconds", text, value=value)
        yield GaugeMetricFamily("penstock_simulated_seconds", "Simulated time.", value=now_s)
        yield GaugeMetricFamily(
            "penstock_time_scale", "Simulated seconds per second.", value=self._cluster.clock.scale
        )
        yield GaugeMetricFamily(
            "penstock_open_requests", "Requests that have not ended.", value=self._cluster.num_open
        )

    def _stages(self) -> Metric:
        family = CounterMetricFamily(
            "penstock_stage_seconds",
            "Simulated time of each pipeline stage: busy, or why it waited.",
            labels=(*LABELS, "stage", "cause"),
        )
        for place, (labels, one) in enumerate(self._each()):
            one.replica.log.flush()
            for stage, row in enumerate(self._ledger.so_far_ns(place).tolist()):
                for cause, spent_ns in zip(CAUSE_NAMES, row, strict=True):
                    family.add_metric([*labels, str(stage), cause], spent_ns / NS_PER_S)
        return family


def _cache_config(spec: InstanceSpec, num_gpu_blocks: int, place: int) -> dict[str, str]:
    scheduler = spec.scheduler
    return {
        "block_size": str(scheduler.block_size),
        "cache_dtype": spec.kv_cache_dtype,
        "enable_prefix_caching": str(scheduler.enable_prefix_caching),
        "engine": str(place),
        "gpu_memory_utilization": str(spec.memory_utilization),
        "num_gpu_blocks": str(num_gpu_blocks),
    }
