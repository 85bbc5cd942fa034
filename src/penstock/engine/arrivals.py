"""Who is still to come: the requests of the workload, those submitted, and those that the end of another releases."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import replace

from penstock.engine.users import Users
from penstock.units import NEVER_NS
from penstock.workload.request import Request
from penstock.workload.workload import Workload


class Arrivals:
    """In the order of time; of those at one time the workload's own come first.

    The workload's requests (sessions as a whole) are sent by ``users``, no earlier than they arrive. ``next_index`` is
    a number that no request has yet. ``are_released`` says whether the end of a request may let another come.
    """

    def __init__(self, workload: Workload, users: Users) -> None:
        self.next_index = len(workload)
        self.are_released = workload.has_sessions or users.is_limited
        self._workload = workload
        self._requests: Iterator[Request] = workload.requests()
        self._upcoming: Request | None = next(self._requests, None)
        self._submitted: list[tuple[int, int, Request]] = []
        self._users = users

    def submit(self, request: Request) -> None:
        """One more, whose ``index`` is at least ``next_index``."""
        self.next_index = request.index + 1
        heapq.heappush(self._submitted, (request.arrival_ns, request.index, request))

    @property
    def are_submitted(self) -> bool:
        """Whether any were submitted beside the workload."""
        return self.next_index > len(self._workload)

    def next_ns(self) -> int:
        """When the next one comes, as far as is known; NEVER_NS if none does."""
        first = self._upcoming_ns()
        return min(first, self._submitted[0][0]) if self._submitted else first

    def _upcoming_ns(self) -> int:
        """When the workload's next request is sent, as far as is known."""
        if self._upcoming is None:
            return NEVER_NS
        return max(self._upcoming.arrival_ns, self._users.free_ns())

    def take(self) -> Request:
        """The next one; somebody must come (:meth:`next_ns`)."""
        upcoming, at_ns = self._upcoming, self._upcoming_ns()
        if upcoming is None or (self._submitted and self._submitted[0][0] < at_ns):
            return heapq.heappop(self._submitted)[2]
        self._upcoming = next(self._requests, None)
        self._users.send()
        return upcoming if upcoming.arrival_ns == at_ns else replace(upcoming, arrival_ns=at_ns)

    def take_all(self) -> Workload:
        """The whole workload, of which nobody has come yet, at once."""
        self._upcoming, self._requests = None, iter(())
        return self._workload

    def ended(self, request: Request, at_ns: int) -> None:
        """A request has ended: its session's next call may come, or its user send the workload's next one."""
        call = None if request.session is None else self._workload.next_call(request.index, at_ns)
        if call is not None:
            heapq.heappush(self._submitted, (call.arrival_ns, call.index, call))
        elif request.index < len(self._workload):
            self._users.answered(request.index, at_ns)
