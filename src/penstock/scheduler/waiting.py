"""The requests that wait for admission, in the order in which they will be tried.

vLLM's ``v1/core/sched/request_queue.py``: first come first served, or by priority.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from penstock.scheduler.request_state import RequestState


class WaitingQueue(Protocol):
    """A queue of requests; its truth value and length are those of a collection."""

    def __len__(self) -> int: ...

    def add(self, state: RequestState) -> None:
        """A request has arrived."""
        ...

    def put_back(self, state: RequestState) -> None:
        """A request was preempted: it goes before those that arrived after it, or by its priority."""
        ...

    def first(self) -> RequestState:
        """Who is tried next. The queue must not be empty."""
        ...

    def pop(self) -> RequestState:
        """Take out who is tried next."""
        ...

    def restore(self, skipped: Sequence[RequestState]) -> None:
        """Put requests back that were popped one after the other and passed over."""
        ...

    def discard(self, state: RequestState) -> None:
        """Take a request out wherever it stands; nothing happens where it is not in the queue."""
        ...

    def states(self) -> Iterable[RequestState]:
        """All of them; in the order of the queue where it is first come first served."""
        ...


class FcfsQueue(deque[RequestState]):
    """First come first served; a preempted request goes to the head."""

    def add(self, state: RequestState) -> None:
        """See :class:`WaitingQueue`."""
        self.append(state)

    def put_back(self, state: RequestState) -> None:
        """See :class:`WaitingQueue`."""
        self.appendleft(state)

    def first(self) -> RequestState:
        """See :class:`WaitingQueue`."""
        return self[0]

    def pop(self) -> RequestState:  # type: ignore[override]
        """See :class:`WaitingQueue`."""
        return self.popleft()

    def restore(self, skipped: Sequence[RequestState]) -> None:
        """See :class:`WaitingQueue`."""
        self.extendleft(reversed(skipped))

    def discard(self, state: RequestState) -> None:
        """See :class:`WaitingQueue`."""
        if state in self:
            self.remove(state)

    def states(self) -> Iterator[RequestState]:
        """See :class:`WaitingQueue`."""
        return iter(self)


class PriorityQueue(list[tuple[int, int, int, RequestState]]):
    """By (priority, arrival, place in the workload), the lowest first; a preempted request goes back among them."""

    def add(self, state: RequestState) -> None:
        """See :class:`WaitingQueue`."""
        request = state.request
        heapq.heappush(self, (request.priority, state.arrived_ns, request.index, state))

    put_back = add

    def first(self) -> RequestState:
        """See :class:`WaitingQueue`."""
        return self[0][3]

    def pop(self) -> RequestState:  # type: ignore[override]
        """See :class:`WaitingQueue`."""
        return heapq.heappop(self)[3]

    def restore(self, skipped: Sequence[RequestState]) -> None:
        """See :class:`WaitingQueue`."""
        for state in skipped:
            self.add(state)

    def discard(self, state: RequestState) -> None:
        """See :class:`WaitingQueue`."""
        kept = [entry for entry in self if entry[3] is not state]
        if len(kept) < len(self):
            self[:] = kept
            heapq.heapify(self)

    def states(self) -> Iterator[RequestState]:
        """See :class:`WaitingQueue`."""
        return (entry[3] for entry in self)
