"""Waiting requests some of which cannot be admitted before a KV connector says so: those are not tried until then."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

from penstock.scheduler.request_state import RequestState
from penstock.scheduler.waiting import FcfsQueue, PriorityQueue


class ParkingQueue:
    """A :class:`~penstock.scheduler.waiting.WaitingQueue` around ``queue``. Its length counts all, its truth value says
    whether somebody can be tried; :meth:`first` and :meth:`pop` pass those by who are parked. Whoever is called
    stands where it would have stood all along."""

    def __init__(self, queue: FcfsQueue | PriorityQueue) -> None:
        self._queue = queue
        self._parked: dict[RequestState, None] = {}
        # Places in a queue that is first come first served: the newest, those put back before all others.
        self._places: dict[RequestState, int] | None = {} if isinstance(queue, FcfsQueue) else None
        self._last = self._first = 0

    def __len__(self) -> int:
        return len(self._queue) + len(self._parked)

    def __bool__(self) -> bool:
        return bool(self._queue)

    def add(self, state: RequestState) -> None:
        """See :class:`~penstock.scheduler.waiting.WaitingQueue`."""
        self._queue.add(state)
        if self._places is not None:
            self._last += 1
            self._places[state] = self._last

    def put_back(self, state: RequestState) -> None:
        """See :class:`~penstock.scheduler.waiting.WaitingQueue`."""
        self._queue.put_back(state)
        if self._places is not None:
            self._first -= 1
            self._places[state] = self._first

    def first(self) -> RequestState:
        """See :class:`~penstock.scheduler.waiting.WaitingQueue`."""
        return self._queue.first() if self._queue else next(iter(self._parked))

    def pop(self) -> RequestState:
        """See :class:`~penstock.scheduler.waiting.WaitingQueue`."""
        return self._queue.pop()

    def restore(self, skipped: Sequence[RequestState]) -> None:
        """See :class:`~penstock.scheduler.waiting.WaitingQueue`."""
        self._queue.restore(skipped)

    def park(self, state: RequestState) -> None:
        """One that was popped is not tried until it is called."""
        self._parked[state] = None

    def call(self, state: RequestState) -> None:
        """Try it again; nothing happens unless it is parked."""
        if self._parked.pop(state, state) is not None:
            return
        queue = self._queue
        if self._places is None or not isinstance(queue, FcfsQueue):
            queue.add(state)
            return
        place = self._places[state]
        before: list[RequestState] = []
        while queue and self._places[queue.first()] < place:
            before.append(queue.pop())
        queue.put_back(state)
        queue.restore(before)

    def left(self, state: RequestState) -> None:
        """One that was popped does not wait any more."""
        if self._places is not None:
            self._places.pop(state, None)

    def discard(self, state: RequestState) -> None:
        """See :class:`~penstock.scheduler.waiting.WaitingQueue`."""
        self._parked.pop(state, None)
        self._queue.discard(state)
        self.left(state)

    def states(self) -> Iterable[RequestState]:
        """See :class:`~penstock.scheduler.waiting.WaitingQueue`."""
        states = chain(self._queue.states(), self._parked)
        return states if self._places is None else sorted(states, key=self._places.__getitem__)
