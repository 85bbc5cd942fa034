"""An API server of a data-parallel deployment: which rank a request goes to.

vLLM's ``v1/engine/core_client.py: DPLBAsyncMPClient.get_core_engine_for_request``.
"""

from __future__ import annotations

from collections.abc import Sequence

from penstock.spec.data_parallel import DataParallelOptions

Counts = Sequence[tuple[int, int, float]]
"""Waiting requests, running requests and the used part of the KV cache, per rank of the group."""


class FrontEnd:
    """``ranks`` are those it sees, in order. ``counts[i]`` is [waiting, running, KV usage] of the i-th as last
    published, plus what it has sent there since; ``in_flight[i]`` its own unfinished requests there. ``wave`` and
    ``engines_running`` are what it believes of the group; it stamps requests with the former."""

    def __init__(self, options: DataParallelOptions, ranks: Sequence[int], index: int) -> None:
        self.index = index
        self.ranks = tuple(ranks)
        self.counts: list[list[float]] = [[0, 0, 0.0] for _ in ranks]
        self.in_flight = [0] * len(self.ranks)
        self.start_index = len(self.ranks) * index // options.front_ends
        self.wave = 0
        self.engines_running = False
        self._weight = options.front_ends
        self._is_0_19 = options.generation == "0.19"

    def choose(self) -> int:
        """The rank with the lowest score, the first from ``start_index`` on where several have it. One request
        counts as many as there are front-ends: the others are assumed to do alike."""
        size = len(self.ranks)
        best, lowest = 0, float("inf")
        for step in range(size):
            place = (self.start_index + step) % size
            score = self._score(place)
            if score < lowest:
                best, lowest = place, score
        self.counts[best][0] += self._weight
        if not self._is_0_19:
            self.start_index = (self.start_index + 1) % size
        return self.ranks[best]

    def _score(self, place: int) -> float:
        waiting, running, usage = self.counts[place]
        if self._is_0_19:
            return 4 * waiting + running
        score = max(self._weight * self.in_flight[place], waiting + running)
        # Waiting requests weigh more the fuller the KV cache: a queue there drains slowly.
        return score + waiting * 6.0 * max(0.0, usage - 0.5) if waiting else score

    def sent(self, rank: int) -> None:
        """A request of its has gone to ``rank``."""
        self.in_flight[self.ranks.index(rank)] += 1

    def hear_of_ended(self, at_ns: int, rank: int, how_many: int) -> None:
        """So many of its requests have ended on ``rank``."""
        self.in_flight[self.ranks.index(rank)] -= how_many

    def hear(self, at_ns: int, counts: Counts | None, wave: int, running: bool) -> None:
        """The coordinator has published."""
        self.wave = wave
        self.engines_running = running
        if counts is not None:
            self.counts = [list(counts[rank]) for rank in self.ranks]
