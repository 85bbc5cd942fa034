"""The simulation in real time, with a clock that the test turns."""

from __future__ import annotations

import asyncio
from array import array
from typing import Any

import numpy as np
import pytest

from penstock.engine.simulation import Simulation
from penstock.server.clock import SimulatedClock
from penstock.server.engine_stats import EngineStats
from penstock.server.live import LiveCluster, Wanted
from penstock.server.mailbox import Mailbox
from penstock.spec.load import load_cluster
from penstock.workload.request import Request
from penstock.workload.workload import Workload


def config(**changes: Any) -> dict[str, Any]:
    instance: dict[str, Any] = {
        "model_name": "meta-llama/Llama-3.1-8B",
        "hardware": "H100",
        "npu_mem": {"mem_size": 80, "mem_bw": 3350, "mem_latency": 0},
        "tp_size": 1,
        "pp_size": 2,
        **changes,
    }
    node = {"num_instances": 1, "instances": [instance]}
    return {"num_nodes": 1, "link_bw": 100, "link_latency": 1000, "nodes": [node]}


class Clock(SimulatedClock):
    """Stands still until it is set."""

    def __init__(self) -> None:
        super().__init__()
        self.time_ns = 0

    def now_ns(self) -> int:
        return self.time_ns


def wanted(prompt: int, answer: int, first_id: int = 0) -> Wanted:
    ids = range(first_id, first_id + prompt)
    return Wanted(input_ids=array("i", ids), output_ids=array("i", [1] * answer))


def test_the_same_arrivals_have_the_same_token_times_as_a_run() -> None:
    cluster = load_cluster(config())
    arrivals = [(i * 3_000_000 + 17, 50 + 97 * i % 700, 3 + 11 * i % 60) for i in range(30)]

    async def serve() -> list[list[int]]:
        clock = Clock()
        live = LiveCluster(Simulation(cluster), clock)
        mailboxes: list[Mailbox] = []
        for step in range(1000):
            while len(mailboxes) < len(arrivals) and arrivals[len(mailboxes)][0] <= step * 1_700_000:
                arrival_ns, prompt, answer = arrivals[len(mailboxes)]
                clock.time_ns = arrival_ns
                mailboxes.append(Mailbox())
                live.submit([wanted(prompt, answer, 1000 * len(mailboxes))], mailboxes[-1])
            clock.time_ns = step * 1_700_000
            live.tick()
        assert live.num_open == 0
        return [[due_ns for _, due_ns in await mailbox.take()] for mailbox in mailboxes]

    served = asyncio.run(serve())
    workload = Workload.from_columns(*zip(*arrivals, strict=True), "test")
    log = Simulation(cluster, workload).run().requests
    order = np.argsort(log.values()[:, 0])
    assert served == [log.token_times_ns(int(row)).tolist() for row in order]


def test_a_client_that_leaves_gives_its_blocks_back() -> None:
    async def serve() -> None:
        clock = Clock()
        simulation = Simulation(load_cluster(config(enable_prefix_caching=False)))
        live = LiveCluster(simulation, clock)
        (replica,) = simulation.instances
        free = replica.scheduler.status().free_blocks
        numbers = live.submit([wanted(1000, 1000), wanted(500, 9)], Mailbox())
        clock.time_ns = 200_000_000
        live.tick()
        assert replica.scheduler.status().free_blocks < free
        live.abort(numbers)
        clock.time_ns = 400_000_000
        live.tick()
        assert live.num_open == 0
        assert replica.scheduler.status().free_blocks == free

    asyncio.run(serve())


def test_a_request_that_can_never_run_is_told_so() -> None:
    async def serve() -> None:
        live = LiveCluster(Simulation(load_cluster(config(num_gpu_blocks=10))), Clock())
        mailbox = Mailbox()
        live.submit([wanted(1000, 10)], mailbox)
        assert await mailbox.take() == []
        assert mailbox.failure is not None
        assert "KV blocks" in mailbox.failure

    asyncio.run(serve())


class Arrivals:
    """Notes when requests arrive."""

    def __init__(self) -> None:
        self.at_ns: list[int] = []

    def arrived(self, request: Request, wanted: Wanted) -> None:
        self.at_ns.append(request.arrival_ns)


def test_a_request_arrives_when_it_was_received_unless_the_engine_went_on() -> None:
    async def serve() -> None:
        clock, arrivals = Clock(), Arrivals()
        simulation = Simulation(load_cluster(config()))
        live = LiveCluster(simulation, clock)
        live.listeners.append(arrivals)
        clock.time_ns = 5_000_000
        live.submit([wanted(100, 200)], Mailbox(), 3_000_000)
        assert arrivals.at_ns == [3_000_000]
        done_ns = simulation.now_ns
        clock.time_ns = 200_000_000
        live.tick()
        assert simulation.now_ns > done_ns
        live.submit([wanted(100, 2, 500)], Mailbox(), 100_000_000)
        assert arrivals.at_ns[1] > 100_000_000
        assert arrivals.at_ns[1] <= clock.time_ns

    asyncio.run(serve())


def test_what_has_ended_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.server.live.FORGET_EVERY", 16)

    async def serve() -> None:
        clock = Clock()
        simulation = Simulation(load_cluster(config()))
        live = LiveCluster(simulation, clock)
        stats = EngineStats(simulation)
        live.listeners.append(stats)
        for number in range(200):
            live.submit([wanted(40, 2, 50 * number)], Mailbox())
            clock.time_ns += 100_000_000
            live.tick()
        assert sum(stats.instances[0].finished.values()) == 200
        assert live.num_open == 0
        assert len(simulation.record().requests.values()) <= 16

    asyncio.run(serve())


def test_a_fault_of_the_simulator_leaves_nobody_waiting() -> None:
    async def serve() -> None:
        clock = Clock()
        live = LiveCluster(Simulation(load_cluster(config())), clock)
        mailbox = Mailbox()
        live.submit([wanted(100, 10)], mailbox)

        def broken(_: object) -> None:
            raise OverflowError("too big")

        live.tokens_taken = broken  # type: ignore[method-assign]
        clock.time_ns = 10**9
        with pytest.raises(OverflowError):
            live.tick()
        assert await mailbox.take() == []
        assert mailbox.failure is not None
        assert "too big" in mailbox.failure
        assert live.num_open == 0

    asyncio.run(serve())
