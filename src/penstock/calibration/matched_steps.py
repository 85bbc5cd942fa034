"""Which requests were in which line of a server's log.

The lines tell how many requests a step held, not which. The requests are known from the benchmark, the order of
their arrival at the engine from their first tokens, and the scheduler serves first come, first served: so the counts
of each line fix its members. Where they cannot be met, the log is of another run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from penstock.calibration.benchmark import Benchmark, FloatArray
from penstock.calibration.server_log import LogLine, ServerLog, in_window, span
from penstock.errors import Problem, UserError
from penstock.units import Int64Array

_ENOUGH = 0.9
"""A log whose lines are met up to here is this run's; what follows is left out."""

Token = tuple[int, int]
"""(request, how many tokens of its answer there are with this one)."""


@dataclass(frozen=True, slots=True)
class MatchedSteps:
    """One entry per step of the benchmark, as the cost model counts (a chunk of one token is a decode).

    ``tokens`` are those that came out of the step. ``cached_tokens`` is by request: how much of its prompt was not
    computed. ``complete`` is false where the log's lines could be met only up to a point. ``note`` says what is odd.
    """

    elapsed_s: FloatArray
    prefill_tokens: Int64Array
    prefill_context: Int64Array
    decodes: Int64Array
    decode_context: Int64Array
    min_context: Int64Array
    max_context: Int64Array
    sampled: Int64Array
    tokens: tuple[tuple[Token, ...], ...]
    cached_tokens: Int64Array
    complete: bool
    note: str

    def __len__(self) -> int:
        return len(self.elapsed_s)

    def ends_s(self, benchmark: Benchmark) -> FloatArray:
        """When the client had a step's tokens (their median), NaN where it gave none."""
        times = [benchmark.token_times_s(request) for request in range(len(benchmark))]
        return np.array(
            [
                float(np.median([times[request][count - 1] for request, count in own])) if own else np.nan
                for own in self.tokens
            ]
        )


@dataclass(slots=True)
class _Progress:
    """A request on its way: prompt tokens not computed yet, tokens of the answer, and the last step it was in."""

    request: int
    left: int
    context: int = 0
    generated: int = 0
    last_step: int = -9
    cached: int = 0


def match_log(log: ServerLog, benchmark: Benchmark, pp_size: int, *, caches: bool) -> MatchedSteps:
    """Find the benchmark's part of a log, and the members of each of its lines.

    ``caches`` says that the server had prefix caching on: a prompt may then be computed in part only.

    Raises:
        UserError: the log ends before the benchmark or begins after it, or is of another run.
    """
    window, apart = _window(log, benchmark)
    best: _Follower | None = None
    for start in window:
        line = log.lines[start]
        if line.decodes or not line.context_requests:
            continue
        follower = _Follower(benchmark, pp_size, caches=caches)
        follower.follow(log.lines[start:])
        if best is None or follower.finished > best.finished:
            best = follower
        if follower.done:
            break
    reached = 0 if best is None else best.finished
    if best is None or reached < _ENOUGH * len(benchmark):
        message = apart or (
            f"is the log of another run than {benchmark.source}: its lines fit no more than {reached} of the "
            f"{len(benchmark)} requests"
        )
        raise UserError([Problem(log.source, message)])
    return best.matched(f"{log.source}: {apart}; its lines fit every request, so it is used" if apart else "")


def _window(log: ServerLog, benchmark: Benchmark) -> tuple[Sequence[int], str]:
    """Places of the lines in which the benchmark may begin; and, where its time is in none of them, so that all
    lines may, a sentence about the clocks."""
    everywhere = range(len(log.lines))
    try:
        end = datetime.strptime(benchmark.date, "%Y%m%d-%H%M%S")
    except ValueError:
        return everywhere, ""
    covered = span(log, end.year)
    if covered is None:
        return everywhere, ""
    window = in_window(log.lines, end, benchmark.duration_s)
    if window:
        return window, ""
    return everywhere, (
        f"the clocks do not match: its iterations are of {covered[0]:%m-%d %H:%M:%S} to {covered[1]:%m-%d %H:%M:%S}, "
        f"the benchmark {benchmark.source} ran for {benchmark.duration_s:.0f} s until {end:%m-%d %H:%M:%S}"
    )


class _Follower:
    """Goes through lines and keeps what each request has got."""

    def __init__(self, benchmark: Benchmark, pp_size: int, *, caches: bool) -> None:
        self._prompts = benchmark.input_tokens.tolist()
        self._answers = benchmark.output_tokens.tolist()
        self._queue = deque(benchmark.engine_order().tolist())
        self._pp_size = pp_size
        self._caches = caches
        self._running: list[_Progress] = []
        self._cached = [0] * len(benchmark)
        self._rows: list[tuple[float, ...]] = []
        self._tokens: list[tuple[Token, ...]] = []
        self.finished = 0

    @property
    def done(self) -> bool:
        """Whether every request has all its tokens."""
        return not self._queue and not self._running

    def follow(self, lines: Sequence[LogLine]) -> None:
        """Take lines until all requests are done or a line cannot be met."""
        for place, line in enumerate(lines):
            after = lines[place + 1] if place + 1 < len(lines) else None
            if self.done or not self._take(line, after):
                return

    def matched(self, note: str) -> MatchedSteps:
        """What was taken."""
        table = np.array(self._rows, dtype=np.float64)
        counts = table[:, 1:].astype(np.int64)
        return MatchedSteps(
            table[:, 0],
            *(counts[:, column] for column in range(7)),
            tokens=tuple(self._tokens),
            cached_tokens=np.array(self._cached, dtype=np.int64),
            complete=self.done,
            note=note,
        )

    def _take(self, line: LogLine, after: LogLine | None) -> bool:
        number = len(self._rows)
        ready = self._ready(line.decodes, number)
        if ready is None or line.decode_tokens != line.decodes:
            return False
        waiting = [one for one in self._running if one.left]
        fresh = line.context_requests - len(waiting)
        if fresh > len(self._queue):
            return False
        for _ in range(fresh):
            request = self._queue.popleft()
            one = _Progress(request, self._prompts[request])
            self._running.append(one)
            waiting.append(one)
        chosen = waiting[: line.context_requests]
        finishing = sum(one.generated + 1 >= self._answers[one.request] for one in ready)
        chunks = self._chunks(chosen, line, after, len(ready) - finishing)
        if chunks is None:
            return False
        self._record(line, ready, chosen, chunks, number)
        return True

    def _ready(self, decodes: int, number: int) -> list[_Progress] | None:
        """The requests that decode in this line: those without a token in flight. How many steps are in flight
        follows from the count."""
        able = [one for one in self._running if not one.left]
        for depth in range(self._pp_size - 1, -1, -1):
            ready = [one for one in able if one.last_step < number - depth]
            if len(ready) == decodes:
                return ready
        return None

    def _chunks(
        self, chosen: Sequence[_Progress], line: LogLine, after: LogLine | None, staying: int
    ) -> list[int] | None:
        """The tokens of each prompt in this line: all that is left, but for the last."""
        left = line.context_tokens
        chunks: list[int] = []
        if self._caches and left < sum(one.left for one in chosen):
            self._find_hits(chosen, line, after, staying)
        for one in chosen:
            chunk = min(left, one.left)
            if chunk < 1:
                return None
            chunks.append(chunk)
            left -= chunk
        return None if left else chunks

    def _find_hits(
        self, chosen: Sequence[_Progress], line: LogLine, after: LogLine | None, staying: int
    ) -> None:
        """Fewer tokens than the prompts have left: the budget cut the last one, or parts of them were cached.

        The next line's decodes tell how many prompts ended here (at pp 1). What those lack was cached; where there
        are several, each is taken to lack the same.
        """
        ended = len(chosen) if after is None or self._pp_size > 1 else after.decodes - staying
        ending = [one for one in chosen[: max(ended, 0)] if not one.cached]
        lacking = sum(one.left for one in chosen[: max(ended, 0)]) - line.context_tokens
        for place, one in enumerate(ending):
            if lacking <= 0:
                return
            hit = min(round(lacking / (len(ending) - place)), one.left - 1)
            one.cached = hit
            one.left -= hit
            one.context += hit
            self._cached[one.request] = hit
            lacking -= hit

    def _record(
        self,
        line: LogLine,
        ready: Sequence[_Progress],
        chosen: Sequence[_Progress],
        chunks: Sequence[int],
        number: int,
    ) -> None:
        contexts = [self._prompts[one.request] + one.generated - 1 for one in ready]
        prefill_tokens = prefill_context = 0
        giving = list(ready)
        for one, chunk in zip(chosen, chunks, strict=True):
            if chunk == 1:
                contexts.append(one.context)
            else:
                prefill_tokens += chunk
                prefill_context += one.context
            one.left -= chunk
            one.context += chunk
            one.last_step = number
            if not one.left:
                giving.append(one)
        for one in giving:
            one.generated += 1
            one.last_step = number
        least, most = (min(contexts), max(contexts)) if contexts else (0, 0)
        figures = (prefill_tokens, prefill_context, len(contexts), sum(contexts), least, most, len(giving))
        self._rows.append((line.elapsed_ms / 1e3, *figures))
        self._tokens.append(tuple((one.request, one.generated) for one in giving))
        ended = [one for one in giving if one.generated >= self._answers[one.request]]
        self.finished += len(ended)
        self._running = [one for one in self._running if one not in ended]
