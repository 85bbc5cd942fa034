"""Several reference engines behind a round-robin router, with links they share and sessions that go on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from penstock.cost.step_cost import PipelineCost
from penstock.spec.options import EngineOverhead, SchedulerOptions
from penstock.workload.request import Request
from penstock.workload.workload import Workload

from .engine import ReferenceEngine
from .pipeline import Link, ReferencePipeline, prefill_ns
from .scheduler import ReferenceScheduler
from .trace import ReferenceTrace
from .world import Phase, World


@dataclass(frozen=True, slots=True)
class InstanceCase:
    """One instance of a run. Hops of ``cost`` with one ``shared_link`` take turns on it, also across instances."""

    options: SchedulerOptions
    num_gpu_blocks: int
    cost: PipelineCost
    overhead: EngineOverhead
    blocking_sends: bool

    @property
    def pp_size(self) -> int:
        """Stages."""
        return len(self.cost.hops) + 1


class ReferenceCluster:
    """Requests go to the instances in turn, in the order of their arrival: of those at one time the ones that
    arrive by themselves first, then calls that others have released, each by place in the workload."""

    def __init__(self, instances: Sequence[InstanceCase], workload: Workload) -> None:
        self.world = World()
        self.workload = workload
        links: dict[str, Link] = {}
        self.engines = [self._engine(index, each, links) for index, each in enumerate(instances)]
        self.instance_of: dict[int, int] = {}

    def _engine(self, index: int, case: InstanceCase, links: dict[str, Link]) -> ReferenceEngine:
        scheduler = ReferenceScheduler(
            case.options, case.num_gpu_blocks, case.pp_size, prefill_ns=prefill_ns(case.cost)
        )
        pipeline = ReferencePipeline(self.world, case.cost, index, links, blocking_sends=case.blocking_sends)
        return ReferenceEngine(self.world, scheduler, pipeline, case.overhead, self._release_next_call)

    def run(self) -> list[ReferenceTrace]:
        """Serve the workload; what each instance did."""
        for request in self.workload.requests():
            self._arrives(request, released=False)
        self.world.run()
        return [engine.trace for engine in self.engines]

    def _arrives(self, request: Request, *, released: bool) -> None:
        rank = (int(released), request.index)
        self.world.at(request.arrival_ns, Phase.ARRIVAL, rank, lambda: self._route(request))

    def _route(self, request: Request) -> None:
        instance = len(self.instance_of) % len(self.engines)
        self.instance_of[request.index] = instance
        self.engines[instance].deliver(request)

    def _release_next_call(self, request: Request, now: int) -> None:
        call = self.workload.next_call(request.index, now)
        if call is not None:
            self._arrives(call, released=True)
