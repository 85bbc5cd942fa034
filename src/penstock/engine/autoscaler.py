"""How many of a cluster's replicas serve: looked at again and again, by what those that serve are seen to do.

The rule is that of Kubernetes' HorizontalPodAutoscaler for a mean over pods (``AverageValue``): wanted is the sum of
the metric over the target, rounded up; nothing changes while that is within a tenth of what there is; down only to the
most that was wanted in a window. There are the lowest numbers: up takes the next one, down the last. One that serves
what is left of its requests is taken back at once where it is wanted again.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from penstock.engine.replica import Replica
from penstock.recording.records import ReplicaTime
from penstock.spec.autoscaling import AutoscalingSpec

TOLERANCE = 0.1
"""``--horizontal-pod-autoscaler-tolerance``: what is wanted may be so far from what there is and change nothing."""


@dataclass(slots=True)
class _Stay:
    """From when it was started; ``leaves_ns`` is when it was told to take no more."""

    start_ns: int
    ready_ns: int
    leaves_ns: int | None = None


class Autoscaler:
    """Over ``replicas``, the most that there may be; ``spec.min_replicas`` of them are ready at the beginning."""

    def __init__(self, spec: AutoscalingSpec, replicas: Sequence[Replica]) -> None:
        self._spec = spec
        self._replicas = replicas
        self._stays: dict[int, _Stay] = {}
        self._past: list[ReplicaTime] = []
        self._wanted = spec.min_replicas
        self._looks: deque[tuple[int, int]] = deque()
        self.next_look_ns = 0

    def begin(self, at_ns: int) -> None:
        """The first request comes: from here on it looks, and the smallest number of replicas has been there."""
        self.next_look_ns = at_ns + self._spec.interval_ns
        self._stays = {index: _Stay(at_ns, at_ns) for index in range(self._wanted)}

    def serving(self, now: int) -> int:
        """How many take requests: the first so many."""
        count = 0
        while count < self._wanted and self._stays[count].ready_ns <= now:
            count += 1
        return count

    def look(self) -> None:
        """Look, start or stop replicas, and say when to look next."""
        now = self.next_look_ns
        self.next_look_ns = now + self._spec.interval_ns
        self._let_go()
        wanted = self._desired(now)
        for index in range(self._wanted, wanted):
            stay = self._stays.get(index)
            if stay is None:
                self._stays[index] = _Stay(now, now + self._spec.start_up_ns)
            else:
                stay.leaves_ns = None
        for index in range(wanted, self._wanted):
            self._stays[index].leaves_ns = now
        self._wanted = wanted
        self._let_go()

    def times(self, end_ns: int) -> tuple[ReplicaTime, ...]:
        """All stays so far, those that go on up to the end of the run."""
        open_ = [self._closed(index, end_ns) for index in self._stays]
        return tuple(sorted([*self._past, *open_], key=lambda one: (one.start_ns, one.instance)))

    def _desired(self, now: int) -> int:
        """Within the bounds, and down only to what the window allows."""
        spec = self._spec
        total = sum(self._metric(self._replicas[index]) for index in range(self.serving(now)))
        ratio = total / (spec.target * self._wanted)
        wanted = self._wanted
        if abs(ratio - 1) > TOLERANCE:
            wanted = math.ceil(total / spec.target)
        wanted = min(max(wanted, spec.min_replicas), len(self._replicas))
        looks = self._looks
        looks.append((now, wanted))
        while looks[0][0] < now - spec.down_after_ns:
            looks.popleft()
        return wanted if wanted >= self._wanted else min(max(one for _, one in looks), self._wanted)

    def _metric(self, replica: Replica) -> float:
        if self._spec.metric == "queue":
            return float(replica.num_waiting)
        if self._spec.metric == "requests":
            return float(replica.num_waiting + replica.num_running)
        status = replica.scheduler.status()
        return 1 - status.free_blocks / status.usable_blocks

    def _let_go(self) -> None:
        """Those that have nothing left to serve stop."""
        for index, stay in list(self._stays.items()):
            replica = self._replicas[index]
            if stay.leaves_ns is not None and not replica.num_waiting + replica.num_running:
                self._past.append(self._closed(index, stay.leaves_ns))
                del self._stays[index]

    def _closed(self, index: int, end_ns: int) -> ReplicaTime:
        stay = self._stays[index]
        stop_ns = end_ns
        if stay.leaves_ns is not None:
            stop_ns = max(stay.leaves_ns, *self._replicas[index].executor.stage_free_ns)
        return ReplicaTime(
            instance=index,
            start_ns=stay.start_ns,
            ready_ns=stay.ready_ns,
            stop_ns=max(stop_ns, stay.start_ns),
        )
