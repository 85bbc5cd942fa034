"""A benchmark of a running server: what was sent when, and what the client saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from penstock.errors import Problem, UserError
from penstock.units import Int64Array

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

_READ_TOGETHER_S = 1e-4
_OFTEN = 0.05

_LONGEST_S = 1e9
"""Thirty years: a time beyond it is no measurement, and sums of such times leave the range of floats."""

_MOST_TOKENS = 10**9

FEWEST_REQUESTS = 20
"""A half of these is held out of a fit; with fewer, a percentile of either half is one request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """One entry per request, in the order of sending; seconds since the first was sent.

    ``gaps_s`` are the times between the messages of an answer, where the file has them and each message is a
    token. ``date`` is the end of the benchmark in local time (``YYYYMMDD-HHMMSS``), empty where unknown, and
    ``duration_s`` its length. ``engine_clock`` is set where the times are the engine's own and no client stands
    between. ``notes`` say what the file lacks.
    """

    source: str
    kind: str
    start_s: FloatArray
    input_tokens: Int64Array
    output_tokens: Int64Array
    ttft_s: FloatArray
    latency_s: FloatArray
    gaps_s: tuple[FloatArray, ...] | None
    date: str = ""
    duration_s: float = 0.0
    engine_clock: bool = False
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.start_s)

    def metrics(self, chosen: BoolArray | None = None) -> dict[str, FloatArray]:
        """Samples in seconds: ``ttft`` and ``e2el`` per request, ``tpot`` per answer of two tokens or more
        (``(latency - ttft) / (output - 1)``, as vLLM's), ``itl`` per gap. ``chosen`` keeps some requests."""
        keep = np.ones(len(self), dtype=bool) if chosen is None else chosen
        several = keep & (self.output_tokens > 1)
        samples = {
            "ttft": self.ttft_s[keep],
            "tpot": (self.latency_s - self.ttft_s)[several] / (self.output_tokens[several] - 1),
            "e2el": self.latency_s[keep],
        }
        if self.gaps_s is not None:
            gaps = [own for own, wanted in zip(self.gaps_s, keep, strict=True) if wanted]
            samples["itl"] = np.concatenate(gaps) if gaps else np.zeros(0)
        return samples

    def throughput(self, chosen: BoolArray | None = None) -> float:
        """Output tokens a second, from the first sending to the last answer."""
        keep = np.ones(len(self), dtype=bool) if chosen is None else chosen
        span = float((self.start_s + self.latency_s)[keep].max() - self.start_s[keep].min())
        return float(self.output_tokens[keep].sum()) / span if span > 0 else 0.0

    def token_times_s(self, request: int) -> FloatArray:
        """When each token of an answer reached the client, shape (output,).

        Raises:
            LookupError: the file has no gaps.
        """
        if self.gaps_s is None:
            raise LookupError("the benchmark has no gaps between tokens")
        first = self.start_s[request] + self.ttft_s[request]
        return np.concatenate([[first], first + np.cumsum(self.gaps_s[request])])

    def engine_order(self) -> Int64Array:
        """Requests in the order in which the engine saw them: by their first tokens.

        Near neighbours overtake each other on their way to the engine; the scheduler serves first come, first
        served, so first tokens come in the order of arrival there.
        """
        return np.argsort(self.start_s + self.ttft_s, kind="stable").astype(np.int64)

    def first_half(self) -> BoolArray:
        """The first half of the requests by sending, as a mask."""
        half = np.zeros(len(self), dtype=bool)
        half[np.argsort(self.start_s, kind="stable")[: len(self) // 2]] = True
        return half

    def only(self, chosen: BoolArray) -> Benchmark:
        """Some of the requests, as if the others had not been sent."""
        gaps = self.gaps_s
        rows = np.flatnonzero(chosen)
        return replace(
            self,
            start_s=self.start_s[rows],
            input_tokens=self.input_tokens[rows],
            output_tokens=self.output_tokens[rows],
            ttft_s=self.ttft_s[rows],
            latency_s=self.latency_s[rows],
            gaps_s=None if gaps is None else tuple(gaps[row] for row in rows),
        )


def check_times(benchmark: Benchmark) -> list[Problem]:
    """What is impossible in a benchmark, one sentence a kind, with the first request it is seen at."""
    times = (benchmark.start_s, benchmark.ttft_s, benchmark.latency_s)
    impossible = np.zeros(len(benchmark), dtype=bool)
    for own in times:
        impossible |= ~(np.abs(own) < _LONGEST_S)
    gaps = benchmark.gaps_s or ()
    rules: Sequence[tuple[BoolArray, str]] = (
        (
            impossible,
            "has a time that cannot be (in seconds, at most 30 years)",
        ),
        (
            np.array([not (np.abs(own) < _LONGEST_S).all() for own in gaps], dtype=bool),
            "has a time between tokens that cannot be (in seconds, at most 30 years)",
        ),
        (
            np.maximum(benchmark.input_tokens, benchmark.output_tokens) > _MOST_TOKENS,
            "has more tokens than can be (a thousand million)",
        ),
        (benchmark.input_tokens < 1, "has a prompt of no tokens"),
        (benchmark.output_tokens < 1, "has an answer of no tokens: nothing of it can be timed"),
        (~(benchmark.ttft_s > 0), "has no time to its first token"),
        (benchmark.latency_s < benchmark.ttft_s * (1 - 1e-9), "ends before its first token"),
        (np.isnan(benchmark.start_s), "has no time of sending"),
    )
    problems: list[Problem] = []
    for broken, what in rules:
        places = np.flatnonzero(broken)
        if len(places):
            more = f" ({len(places)} requests like it)" if len(places) > 1 else ""
            problems.append(Problem(benchmark.source, f"request {places[0]} {what}{more}"))
    return problems


def checked(benchmark: Benchmark) -> Benchmark:
    """The benchmark, with gaps left out where messages are not tokens.

    Raises:
        UserError: with every kind of mistake in it.
    """
    if not len(benchmark):
        raise UserError([Problem(benchmark.source, "holds no request")])
    problems = check_times(benchmark)
    if problems:
        raise UserError(problems)
    order = np.argsort(benchmark.start_s, kind="stable")
    start = benchmark.start_s - benchmark.start_s[order[0]]
    benchmark = replace(benchmark, start_s=start)
    gaps = benchmark.gaps_s
    if gaps is None:
        return benchmark
    merged = np.array(
        [len(own) != tokens - 1 for own, tokens in zip(gaps, benchmark.output_tokens, strict=True)]
    )
    if not merged.any():
        return _with_late_note(benchmark, np.concatenate(gaps))
    return replace(
        benchmark,
        gaps_s=None,
        notes=(
            *benchmark.notes,
            (
                f"{benchmark.source}: {int(merged.sum())} answers have messages of several tokens (first: request "
                f"{int(np.flatnonzero(merged)[0])}), so gaps between messages are no ITL: it is neither fitted nor "
                "compared, TTFT, TPOT and E2E are"
            ),
        ),
    )


def _with_late_note(benchmark: Benchmark, gaps: FloatArray) -> Benchmark:
    """Say it where the client was late so often that low percentiles of ITL are its own."""
    late = float((gaps < _READ_TOGETHER_S).mean()) if len(gaps) else 0.0
    if late < _OFTEN:
        return benchmark
    note = (
        f"{benchmark.source}: {late:.0%} of the gaps are under {_READ_TOGETHER_S * 1e3:g} ms: the client was late and "
        "read several messages in one go, so the low percentiles of ITL are its own"
    )
    return replace(benchmark, notes=(*benchmark.notes, note))


def check_enough(benchmark: Benchmark) -> None:
    """Refuse to fit to next to nothing.

    Raises:
        UserError: fewer than ``FEWEST_REQUESTS`` requests.
    """
    if len(benchmark) < FEWEST_REQUESTS:
        raise UserError(
            [
                Problem(
                    benchmark.source,
                    f"{len(benchmark)} requests are too few to fit to: at least {FEWEST_REQUESTS}, half of them "
                    "to check the fit with",
                )
            ]
        )
