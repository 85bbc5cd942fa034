"""One side of a cluster whose instances serve parts of requests: the instances of a role, and who picks among them."""

from __future__ import annotations

from collections.abc import Sequence

from penstock.engine.fleet import Fleet, watch
from penstock.engine.instance import Instance
from penstock.engine.replica import Replica
from penstock.engine.router import Router
from penstock.errors import Problem, UserError
from penstock.scheduler.request_state import RequestState
from penstock.scheduler.vllm import VllmScheduler
from penstock.workload.request import Request


def vllm_scheduler(replica: Replica) -> VllmScheduler | None:
    """An instance's scheduler, if it is vLLM's."""
    scheduler = replica.scheduler
    return scheduler if isinstance(scheduler, VllmScheduler) else None


class Side:
    """``instances`` of one role, in the order of the cluster. ``where`` names the option that chose ``router``.
    ``moved`` are those that have acted or got a request since somebody looked."""

    def __init__(self, instances: Sequence[Instance], router: Router, where: str) -> None:
        self.instances = list(instances)
        self._router = router
        self.moved: dict[Instance, None] = {}
        self._where = where
        self._place = {replica.index: place for place, replica in enumerate(instances)}
        self._fleet, self._columns = watch(self.instances)

    def choose(self, request: Request) -> int:
        """The instance to serve ``request``.

        Raises:
            UserError: the router named one that is not there.
        """
        if len(self.instances) == 1:
            return self.instances[0].index
        self.look()
        place = self._router.route(request, self._fleet)[0]
        if not 0 <= place < len(self.instances):
            raise UserError([Problem(self._where, f"returned instance {place} of {len(self.instances)}")])
        return self.instances[place].index

    @property
    def fleet(self) -> Fleet:
        """Its instances as routers see them."""
        return self._fleet

    def hit_tokens(self, index: int, request: Request) -> int:
        """How much of the prompt is in an instance's prefix cache now; 0 where its scheduler is not vLLM's."""
        replica = self.instances[self._place[index]]
        scheduler = vllm_scheduler(replica) if isinstance(replica, Replica) else None
        if scheduler is None:
            return 0
        state = RequestState(request, replica.options.max_model_len)
        found = scheduler.kv.find_prefix(state)
        return 0 if found is None else scheduler.kv.count_found(state, found)[0] * scheduler.kv.block_size

    def replace(self, instance: Instance) -> None:
        """Let ``instance`` take the place of the one of its number, which has not acted."""
        self.instances[self._place[instance.index]] = instance

    def look(self) -> None:
        """See how those stand that have moved."""
        for one in self.moved:
            self._columns.refresh(self._place[one.index], one)
        self.moved.clear()
