"""vLLM's log lines: one per iteration, and one every ten seconds (``v1/metrics/loggers.py: LoggingStatLogger``)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from penstock.engine.observer import Observer, StepView, TokensView
from penstock.engine.simulation import Simulation
from penstock.server.engine_stats import EngineStats, InstanceStats
from penstock.spec.cluster import InstanceSpec

INTERVAL_S = 10.0
"""vLLM's VLLM_LOG_STATS_INTERVAL."""


def stamped(write: Callable[[str], None], source: str) -> Callable[[str], None]:
    """``write`` with the prefix of vLLM's logger before each line."""
    pid = os.getpid()

    def line(text: str) -> None:
        now = time.strftime("%m-%d %H:%M:%S")
        write(f"(APIServer pid={pid}) INFO {now} [{source}] {text}")

    return line


class IterationLines(Observer):
    """A line per step, as ``--enable-logging-iteration-details`` writes it.

    Elapsed time runs from when the engine begins to wait for a step: after the last thing it did before, which is to
    schedule, or to take the tokens of the step before.
    """

    def __init__(self, simulation: Simulation, stats: EngineStats, write: Callable[[str], None]) -> None:
        self._stats = stats
        self._write = stamped(write, "loggers.py:199")
        self._specs = simulation.cluster.instances
        self._waits_from_ns = [0] * len(self._specs)
        self._iterations = [0] * len(self._specs)
        simulation.observe(self)

    def step_scheduled(self, step: StepView) -> None:
        """See :class:`~penstock.engine.observer.Observer`."""
        self._after(step.instance, step.schedule_ns, _overhead(self._specs[step.instance], "schedule"))

    def tokens_taken(self, tokens: TokensView) -> None:
        """See :class:`~penstock.engine.observer.Observer`."""
        place = tokens.instance
        elapsed_ms = max(tokens.at_ns - self._waits_from_ns[place], 0) / 1e6
        self._write(
            f"Engine {place:03d}: Iteration({self._iterations[place]}): {tokens.contexts} context requests, "
            f"{tokens.context_tokens} context tokens, {tokens.generations} generation requests, "
            f"{tokens.generation_tokens} generation tokens, "
            f"iteration elapsed time: {elapsed_ms:.2f} ms, "
            f"GPU KV cache usage: {self._stats.instances[place].kv_cache_usage * 100:.1f}%"
        )
        self._iterations[place] += 1
        self._after(place, tokens.at_ns, _overhead(self._specs[place], "update"))

    def _after(self, place: int, at_ns: int, takes_ns: int) -> None:
        self._waits_from_ns[place] = max(self._waits_from_ns[place], at_ns + takes_ns)


def _overhead(spec: InstanceSpec, what: str) -> int:
    overhead = spec.overhead
    return overhead.schedule_ns if what == "schedule" else overhead.update_ns


class PeriodicLines:
    """A line per instance for the time since the last one; nothing of an instance that stayed idle."""

    def __init__(self, stats: EngineStats, write: Callable[[str], None]) -> None:
        self._stats = stats
        self._write = stamped(write, "loggers.py:273")
        self._before = [_counts(one) for one in stats.instances]
        self._was_idle = [True] * len(stats.instances)
        self._at_s = time.monotonic()

    def log(self) -> None:
        """Write the lines."""
        now_s = time.monotonic()
        passed_s, self._at_s = max(now_s - self._at_s, 1e-9), now_s
        for place, one in enumerate(self._stats.instances):
            counts, before = _counts(one), self._before[place]
            self._before[place] = counts
            prompt, generation, preempted, queries, hits = (
                new - old for new, old in zip(counts, before, strict=True)
            )
            is_idle = not (prompt or generation)
            if not (is_idle and self._was_idle[place]):
                self._write(
                    _periodic(place, one, prompt / passed_s, generation / passed_s, preempted, queries, hits)
                )
            self._was_idle[place] = is_idle


def _counts(one: InstanceStats) -> tuple[int, ...]:
    names = (
        "prompt_tokens",
        "generation_tokens",
        "num_preemptions",
        "prefix_cache_queries",
        "prefix_cache_hits",
    )
    return tuple(one.counter(name) for name in names)


def _periodic(
    place: int, one: InstanceStats, prompt: float, generation: float, preempted: int, queries: int, hits: int
) -> str:
    parts = [
        f"Engine {place:03d}: Avg prompt throughput: {prompt:.1f} tokens/s",
        f"Avg generation throughput: {generation:.1f} tokens/s",
        f"Running: {one.replica.num_running} reqs",
        f"Waiting: {one.replica.num_waiting} reqs",
    ]
    if one.deferred:
        parts.append(f"Deferred: {one.deferred} reqs")
    if preempted:
        parts.append(f"Preemptions: {preempted}")
    parts.append(f"GPU KV cache usage: {one.kv_cache_usage * 100:.1f}%")
    if queries:
        parts.append(f"Prefix cache hit rate: {hits / queries * 100:.1f}%")
    return ", ".join(parts)
