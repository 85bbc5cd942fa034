"""A closed loop: so many users, each of whom sends a request, waits for its answer, and thinks before the next."""

from __future__ import annotations

import heapq

import numpy as np

from penstock.units import NEVER_NS, NS_PER_S


class Users:
    """When one of ``count`` is free to send the next request; 0 of them is any number, always free.

    With ``think_s`` above 0 they think so many seconds on average, exponentially, before each request, the first too.
    Thoughts belong to the requests that they follow, from ``seed``: the same ones whatever the number of users. This is
    the terminal system of queueing theory, N users with think time Z: N = X (R + Z), X the throughput and R the mean
    latency (Denning and Buzen, "The operational analysis of queueing network models", 1978).
    """

    def __init__(self, count: int, think_s: float, seed: int, requests: int) -> None:
        self.is_limited = count > 0
        self._fresh = count
        self._free_ns: list[int] = []
        self._thoughts_ns: list[int] = []
        if count and think_s:
            first, later = (np.random.Generator(np.random.PCG64((seed, stream))) for stream in (2, 3))
            mean_ns = think_s * NS_PER_S
            self._free_ns = np.sort(np.rint(first.exponential(mean_ns, count)).astype(np.int64)).tolist()
            self._thoughts_ns = np.rint(later.exponential(mean_ns, requests)).astype(np.int64).tolist()
            self._fresh = 0

    def free_ns(self) -> int:
        """When the next of them is free, as far as is known; NEVER_NS if all wait for answers."""
        if not self.is_limited or self._fresh:
            return 0
        return self._free_ns[0] if self._free_ns else NEVER_NS

    def send(self) -> None:
        """The one who is free first sends a request."""
        if self._fresh:
            self._fresh -= 1
        elif self.is_limited:
            heapq.heappop(self._free_ns)

    def answered(self, request_index: int, at_ns: int) -> None:
        """The answer to a request has come, or it was refused, or given up."""
        if self.is_limited:
            thought_ns = self._thoughts_ns[request_index] if self._thoughts_ns else 0
            heapq.heappush(self._free_ns, at_ns + thought_ns)
