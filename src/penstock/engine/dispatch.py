"""How requests get to instances, and what routers see of these."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from penstock.engine.build import BuiltInstance
from penstock.engine.fleet import Fleet, watch
from penstock.engine.instance import Instance
from penstock.engine.kernel import Agenda, Phase
from penstock.engine.lockstep_build import LockstepGroups
from penstock.engine.router import Router
from penstock.errors import Problem, UserError
from penstock.scheduler.request_state import RequestState
from penstock.workload.request import Request

if TYPE_CHECKING:
    from penstock.engine.autoscaler import Autoscaler


class Dispatch:
    """``router`` chooses among ``instances``, unless ``groups`` say that front-ends do. ``routes`` says whether
    anybody looks at how instances stand; ``moved`` are those that have acted or got a request since somebody did. With
    a ``scaler`` routers see the instances that serve, of which there may be one."""

    def __init__(
        self,
        built: Sequence[BuiltInstance],
        instances: Sequence[Instance],
        groups: LockstepGroups,
        agenda: Agenda,
        router: Router,
        scaler: Autoscaler | None = None,
    ) -> None:
        self.routes = len(instances) > 1 and not groups.take_all(len(instances))
        self.moved: dict[Instance, None] = {}
        self._built = built
        self._instances = instances
        self._groups = groups
        self._agenda = agenda
        self.router = router
        self._scaler = scaler
        self._fleet, self._columns = watch(instances)
        self._first = {len(instances): self._fleet}

    def choose(self, request: Request) -> int:
        """The instance that serves a request.

        Raises:
            UserError: the router named one that is not there.
        """
        if not self.routes:
            return 0
        for replica in self.moved:
            self._columns.refresh(replica.index, replica)
        self.moved.clear()
        fleet = self._serving(request.arrival_ns)
        if len(fleet) == 1:
            return 0
        index = self.router.route(request, fleet)[0]
        if not 0 <= index < len(fleet):
            raise UserError([Problem("--router", f"returned instance {index} of {len(fleet)}")])
        return index

    def _serving(self, now: int) -> Fleet:
        """The instances that a router may choose from."""
        if self._scaler is None:
            return self._fleet
        count = self._scaler.serving(now)
        if count not in self._first:
            limits = [instance.max_num_seqs for instance in self._instances[:count]]
            self._first[count] = Fleet(limits, self._columns)
        return self._first[count]

    def deliver(self, index: int, request: Request, now: int, at_ns: int, by: int = -1) -> int:
        """Send a request to an instance, where it comes at ``at_ns`` (``by``: see :meth:`Replica.expect`); returns
        the instance that gets it: another rank of the same group where its front-end chooses. Ranks get it once
        messages are delivered."""
        replica = self._instances[index]
        state = RequestState(request, replica.options.max_model_len, at_ns)
        group = self._groups.deployment_of(index)
        if group is not None:
            return group.take_in(now, state, self._built[index].spec.dp_rank)
        replica.deliver(state, by)
        self.moved[replica] = None
        self.rewake(replica)
        return index

    def deliver_messages(self, now: int) -> None:
        """What arrives at one instant arrives before what happens then. Not to be called by an actor."""
        if not self._groups:
            return
        if self._groups.native is not None:
            self._groups.native.deliver_messages(now)
            return
        while self._agenda.next_ns() <= now and self._agenda.next_is(Phase.MESSAGE):
            self._agenda.run_next(now + 1, alone=False)

    def group_moved(self, index: int) -> None:
        """The front-end of an instance's group, if it has one, may have sent a request to any of its ranks."""
        group = self._groups.deployment_of(index)
        if group is not None:
            self.moved.update(dict.fromkeys(group.ranks))

    def rewake(self, replica: Instance) -> None:
        """A replica that had nothing to do may have now."""
        if replica.next_ns is not None:
            self._agenda.wake(replica, replica.next_ns)
