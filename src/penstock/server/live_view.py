"""What the page of a running server shows: the last seconds of every stage, queues, caches, and latencies."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from penstock.accounting.bubbles import CAUSE_NAMES, BubbleLedger
from penstock.accounting.stage_spans import StageSpans
from penstock.engine.observer import Observer, RequestView
from penstock.rendering.page import document
from penstock.server.engine_stats import EngineStats
from penstock.server.lateness import Lateness
from penstock.server.live import LiveCluster
from penstock.spec.cluster import ClusterSpec
from penstock.units import NS_PER_S

WINDOW_S = 3.0
RECENT_REQUESTS = 1000
MOST_SPANS = 2000
"""Of a stage in one answer; the latest are sent."""
_BODY = (
    '<section class="card verdict" aria-label="State"><p id="state">connecting</p></section>'
    '<section id="facts" class="facts" aria-label="In short"></section><div id="instances"></div>'
)
"""Filled by ``live.js`` from ``/penstock/data``."""

_SAMPLES = 240
_SAMPLE_EVERY_S = 0.25


class StageWatch:
    """A :class:`~penstock.accounting.bubbles.SpanSink` of ``ledger`` that keeps the spans of the last ``window_ns``."""

    def __init__(self, pp_sizes: Sequence[int], window_ns: int) -> None:
        self._window_ns = window_ns
        nothing = np.zeros(0, dtype=np.int64)
        self._stages = [[StageSpans(nothing, nothing, nothing)] * pp_size for pp_size in pp_sizes]

    def take(self, instance: int, spans: Sequence[StageSpans]) -> None:
        """See :class:`~penstock.accounting.bubbles.SpanSink`."""
        stages = self._stages[instance]
        for place, fresh in enumerate(spans):
            if not len(fresh.end_ns):
                continue
            known = StageSpans.joined([stages[place], fresh])
            stages[place] = known.chosen(known.end_ns > known.end_ns.max() - self._window_ns)

    def recent(self, instance: int, now_ns: int) -> list[list[list[int]]]:
        """By stage, [begin, length, cause] of its latest spans, in microseconds, the begin from ``now_ns`` back.
        What a step that has begun will do on later stages is known already, but has not happened."""
        found: list[list[list[int]]] = []
        for spans in self._stages[instance]:
            kept = spans.chosen((spans.end_ns > now_ns - self._window_ns) & (spans.begin_ns < now_ns))
            kept = kept.chosen(np.argsort(kept.begin_ns)[-MOST_SPANS:])
            begin = np.maximum(kept.begin_ns - now_ns, -self._window_ns)
            end = np.minimum(kept.end_ns, now_ns) - now_ns
            found.append(np.stack([begin // 1000, (end - begin) // 1000, kept.cause], axis=1).tolist())
        return found


class LiveView(Observer):
    """``GET /penstock`` and its data. ``ledger`` has accounted for the stages since the server began."""

    def __init__(
        self,
        live: LiveCluster,
        stats: EngineStats,
        lateness: Lateness,
        ledger: BubbleLedger,
        watch: StageWatch,
    ) -> None:
        self._live = live
        self._stats = stats
        self._lateness = lateness
        self._ledger = ledger
        self._watch = watch
        self._window_ns = round(WINDOW_S * live.clock.scale * NS_PER_S)
        self._ttft_ns: deque[int] = deque(maxlen=RECENT_REQUESTS)
        self._tpot_ns: deque[int] = deque(maxlen=RECENT_REQUESTS)
        self._samples: deque[tuple[float, list[list[float]]]] = deque(maxlen=_SAMPLES)
        live.simulation.observe(self)

    def routes(self) -> list[Route]:
        """The page and what it asks for."""
        return [
            Route("/penstock", self.page, methods=["GET"]),
            Route("/penstock/data", self.data, methods=["GET"]),
        ]

    def request_ended(self, request: RequestView) -> None:
        """See :class:`~penstock.engine.observer.Observer`."""
        if request.outcome == "finished" and request.first_token_ns is not None:
            self._ttft_ns.append(request.first_token_ns - request.arrival_ns)
            if request.output_tokens > 1:
                self._tpot_ns.append((request.end_ns - request.first_token_ns) // (request.output_tokens - 1))

    async def page(self, request: Request) -> Response:
        """``GET /penstock``."""
        return HTMLResponse(document("Penstock, live", _BODY, scripts=("live.js",), draws=False))

    async def data(self, request: Request) -> Response:
        """``GET /penstock/data``."""
        self._live.tick()
        simulation = self._live.simulation
        for replica in simulation.instances:
            replica.log.flush()
        now_ns = self._live.clock.now_ns()
        now_s = now_ns / NS_PER_S
        self._sample(now_s)
        p50, p99, worst = self._lateness.quantiles_s(0.5, 0.99, 1.0)
        return JSONResponse(
            {
                "now_s": now_s,
                "time_scale": self._live.clock.scale,
                "window_us": self._window_ns // 1000,
                "causes": CAUSE_NAMES,
                "instances": [self._instance(place, now_ns) for place in range(len(simulation.instances))],
                "ttft_ms": _percentiles(self._ttft_ns),
                "tpot_ms": _percentiles(self._tpot_ns),
                "lateness_ms": [round(one * 1e3, 3) for one in (p50, p99, worst)],
                "open": self._live.num_open,
                "finished": sum(sum(one.finished.values()) for one in self._stats.instances),
                "series": {
                    "at_s": [at_s for at_s, _ in self._samples],
                    "values": [values for _, values in self._samples],
                },
                "failure": self._live.failure,
            }
        )

    def _instance(self, place: int, now_ns: int) -> dict[str, Any]:
        simulation = self._live.simulation
        deployment, one = simulation.deployments[place], self._stats.instances[place]
        so_far = self._ledger.so_far_ns(place)
        whole = np.maximum(so_far.sum(axis=1, keepdims=True), 1)
        return {
            "model": deployment.model,
            "hardware": list(deployment.hardware),
            "tp": deployment.tp_size,
            "layers": list(deployment.layers),
            "running": one.replica.num_running,
            "waiting": one.replica.num_waiting,
            "max_num_seqs": one.replica.max_num_seqs,
            "kv_usage": round(one.kv_cache_usage, 4),
            "preemptions": one.counter("num_preemptions"),
            "shares": (so_far / whole).round(4).tolist(),
            "spans": self._watch.recent(place, now_ns),
        }

    def _sample(self, now_s: float) -> None:
        if self._samples and now_s - self._samples[-1][0] < _SAMPLE_EVERY_S * self._live.clock.scale:
            return
        values = [
            [one.replica.num_running, one.replica.num_waiting, round(one.kv_cache_usage, 4)]
            for one in self._stats.instances
        ]
        self._samples.append((now_s, values))


def watched_stages(cluster: ClusterSpec, time_scale: float) -> tuple[BubbleLedger, StageWatch]:
    """A ledger of the stages of a cluster, a sink of its turns, and what keeps the latest spans of it."""
    pp_sizes = [instance.pp_size for instance in cluster.instances]
    watch = StageWatch(pp_sizes, round(WINDOW_S * time_scale * NS_PER_S))
    ledger = BubbleLedger(
        pp_sizes,
        blocking_sends=[instance.blocking_sends for instance in cluster.instances],
        in_lockstep=[instance.in_lockstep for instance in cluster.instances],
        sinks=[watch],
    )
    return ledger, watch


def _percentiles(values: deque[int]) -> list[float] | None:
    if not values:
        return None
    return [round(float(one) / 1e6, 2) for one in np.percentile(list(values), (50, 90, 99))]
