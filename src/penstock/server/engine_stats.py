"""What one instance has done, in the terms of vLLM's metrics (``v1/metrics/stats.py``)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from penstock.engine.observer import Observer, RequestView, StepView, TokensView
from penstock.engine.replica import Replica
from penstock.engine.simulation import Simulation
from penstock.kv_transfer.copy_workers import CopyWorkers
from penstock.kv_transfer.stacked import find_workers
from penstock.server.histogram import Histogram
from penstock.server.live import ArrivalListener, Wanted
from penstock.server.metric_names import COUNTS, TIMES, TOKEN_COUNTS, token_buckets
from penstock.workload.request import Request


@dataclass(slots=True)
class _Open:
    """A request that has not ended; times in ns, None where it has not come so far."""

    arrival_ns: int
    input_tokens: int
    wanted: Wanted
    cached_tokens: int | None = None
    first_token_ns: int | None = None
    last_token_ns: int = 0


class InstanceStats:
    """Counters and histograms of one instance. What is true at a moment (running, waiting, blocks) is asked of
    ``replica``."""

    def __init__(self, replica: Replica, role: str | None) -> None:
        self.replica = replica
        self.is_prefill_side = role == "prefill"
        self.is_decode_side = role == "decode"
        options = replica.options
        self.counters: Counter[str] = Counter()
        self.sources: Counter[str] = Counter()
        self.finished: Counter[str] = Counter()
        tokens = token_buckets(options.max_model_len)
        self.histograms = {
            **{name: Histogram(bounds) for name, (bounds, _) in TIMES.items()},
            **{name: Histogram(bounds, 1) for name, (bounds, _) in COUNTS.items()},
            **{name: Histogram(tokens, 1) for name in TOKEN_COUNTS},
        }

    @property
    def kv_cache_usage(self) -> float:
        """Share of the blocks that are taken."""
        status = self.replica.scheduler.status()
        return 1.0 - status.free_blocks / status.usable_blocks if status.usable_blocks else 0.0

    @property
    def deferred(self) -> int:
        """Requests that wait for KV from elsewhere."""
        return self.replica.scheduler.status().loading

    def counter(self, name: str) -> int:
        """A counter of :data:`~penstock.server.metric_names.COUNTERS`."""
        if name == "num_preemptions":
            return self.replica.scheduler.preemptions
        workers = find_workers(self.replica.workers, CopyWorkers)
        if workers is not None:
            connector = workers.connector
            if name == "external_prefix_cache_queries":
                return connector.looked_up_tokens
            if name == "external_prefix_cache_hits":
                return connector.hit_tokens
            if name == "prefix_cache_hits":
                return max(self.counters[name] - connector.hit_tokens, 0)
        return self.counters[name]


class EngineStats(Observer, ArrivalListener):
    """Keeps an :class:`InstanceStats` for each instance of a simulation that it observes."""

    def __init__(self, simulation: Simulation) -> None:
        specs = simulation.cluster.instances
        self.instances = [
            InstanceStats(replica, spec.pd_type)
            for replica, spec in zip(simulation.instances, specs, strict=True)
        ]
        self._open: dict[int, _Open] = {}
        simulation.observe(self)

    def arrived(self, request: Request, wanted: Wanted) -> None:
        """See :class:`~penstock.server.live.ArrivalListener`."""
        self._open[request.index] = _Open(request.arrival_ns, request.input_tokens, wanted)

    def step_scheduled(self, step: StepView) -> None:
        """See :class:`~penstock.engine.observer.Observer`."""
        stats = self.instances[step.instance]
        opened = self._open
        for request, _, computed in step.scheduled:
            entry = opened.get(request)
            if entry is None or entry.cached_tokens is not None:
                continue
            entry.cached_tokens = min(computed, entry.input_tokens)
            if stats.is_decode_side:
                stats.counters["external_prefix_cache_queries"] += entry.input_tokens
                stats.counters["external_prefix_cache_hits"] += entry.cached_tokens
            elif stats.replica.options.enable_prefix_caching:
                stats.counters["prefix_cache_queries"] += entry.input_tokens
                stats.counters["prefix_cache_hits"] += entry.cached_tokens

    def tokens_taken(self, tokens: TokensView) -> None:
        """See :class:`~penstock.engine.observer.Observer`."""
        stats = self.instances[tokens.instance]
        opened = self._open
        at_ns = tokens.at_ns
        add_gap = stats.histograms["inter_token_latency_seconds"].add
        computed = 0
        for request in tokens.requests:
            entry = opened.get(request)
            if entry is None:
                continue
            if entry.first_token_ns is None:
                entry.first_token_ns = at_ns
                computed += self._count_prompt(stats, entry, at_ns)
            else:
                add_gap(at_ns - entry.last_token_ns)
            entry.last_token_ns = at_ns
            if stats.is_prefill_side:  # the decode side counts the request anew, as another server would
                entry.first_token_ns = entry.cached_tokens = None
        stats.counters["generation_tokens"] += len(tokens.requests)
        if tokens.requests or tokens.contexts:
            stats.histograms["iteration_tokens_total"].add(computed + len(tokens.requests))

    @staticmethod
    def _count_prompt(stats: InstanceStats, entry: _Open, at_ns: int) -> int:
        """Count a prompt when its first token comes, as vLLM does; returns the tokens of it computed here."""
        cached = entry.cached_tokens or 0
        computed = entry.input_tokens - cached
        stats.histograms["time_to_first_token_seconds"].add(at_ns - entry.arrival_ns)
        stats.counters["prompt_tokens"] += entry.input_tokens
        stats.counters["prompt_tokens_cached"] += cached
        stats.sources["local_compute"] += computed
        stats.sources["external_kv_transfer" if stats.is_decode_side else "local_cache_hit"] += cached
        return computed

    def request_ended(self, request: RequestView) -> None:
        """See :class:`~penstock.engine.observer.Observer`."""
        stats = self.instances[request.instance]
        entry = self._open.pop(request.request, None)
        if entry is None:
            return
        if request.outcome != "finished":
            stats.finished["abort" if request.outcome == "aborted" else "error"] += 1
            return
        stats.finished[entry.wanted.finish_reason] += 1
        add = {name: histogram.add for name, histogram in stats.histograms.items()}
        scheduled_ns = request.first_scheduled_ns or request.arrival_ns
        first_ns = request.first_token_ns or request.end_ns
        gaps = max(request.output_tokens - 1, 1)
        add["e2e_request_latency_seconds"](request.end_ns - request.arrival_ns)
        add["request_queue_time_seconds"](scheduled_ns - request.arrival_ns)
        add["request_prefill_time_seconds"](first_ns - scheduled_ns)
        add["request_decode_time_seconds"](request.end_ns - first_ns)
        add["request_inference_time_seconds"](request.end_ns - scheduled_ns)
        add["request_time_per_output_token_seconds"]((request.end_ns - first_ns) // gaps)
        add["request_prompt_tokens"](request.input_tokens)
        add["request_generation_tokens"](request.output_tokens)
        add["request_prefill_kv_computed_tokens"](request.input_tokens - (entry.cached_tokens or 0))
        add["request_max_num_generation_tokens"](request.output_tokens)
        add["request_num_preemptions"](request.preemptions)
        add["request_params_n"](entry.wanted.n)
        if entry.wanted.max_tokens:
            add["request_params_max_tokens"](entry.wanted.max_tokens)
