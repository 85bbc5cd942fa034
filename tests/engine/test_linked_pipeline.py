from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.engine.simulation import Simulation
from penstock.recording.records import TURN_COLUMNS, TurnChunk
from penstock.spec.load import load_cluster
from penstock.spec.options import RunOptions
from penstock.workload.workload import Workload


class Keep:
    def __init__(self) -> None:
        self.chunks: dict[int, list[TurnChunk]] = {}

    def accept(self, chunk: TurnChunk) -> None:
        self.chunks.setdefault(chunk.instance, []).append(chunk)

    def turns(self) -> np.ndarray:
        """All columns of instance 0, but for done_ns of empty steps, whose result waits for what is before it."""
        values = np.concatenate([chunk.values for chunk in self.chunks[0]])
        values[values[:, TURN_COLUMNS.index("tokens")] == 0, TURN_COLUMNS.index("done_ns")] = 0
        return values

    def transfers(self, instance: int) -> list[tuple[int, int, int]]:
        """(ready to leave stage 0, arrived at stage 1, tokens) of every step."""
        rows = [
            (end, arrive, tokens)
            for chunk in self.chunks[instance]
            for end, arrive, tokens in zip(
                chunk.stage(0, "end"), chunk.stage(1, "arrive"), chunk.column("tokens"), strict=True
            )
            if tokens
        ]
        return [(int(end), int(arrive), int(tokens)) for end, arrive, tokens in rows]


def cluster(*, instances: int, shared: bool) -> dict[str, Any]:
    instance = {
        "model_name": "meta-llama/Llama-3.1-8B",
        "hardware": "H100",
        "npu_mem": {"mem_size": 80, "mem_bw": 3350, "mem_latency": 0},
        "tp_size": 1,
        "pp_size": 2,
        "placement_nodes": [0, 1],
    }
    return {
        "num_nodes": 2,
        "link_bw": [100, 2],
        "link_latency": [1000, 30000],
        "shared_node_links": shared,
        "nodes": [
            {"num_instances": instances, "instances": [instance] * instances},
            {"num_instances": 0, "instances": []},
        ],
    }


def run(config: dict[str, Any], lengths: Sequence[tuple[int, int, int]]) -> tuple[Keep, np.ndarray]:
    arrivals, inputs, outputs = zip(*lengths, strict=True)
    keep = Keep()
    workload = Workload.from_columns(arrivals, inputs, outputs, "test")
    record = Simulation(load_cluster(config), workload, RunOptions(router="RR"), sinks=[keep]).run()
    return keep, record.requests.values()


lengths_strategy = st.lists(
    st.tuples(st.integers(0, 50_000_000), st.integers(1, 3000), st.integers(1, 12)), min_size=2, max_size=10
)


@settings(max_examples=20, deadline=None)
@given(lengths_strategy)
def test_a_link_that_nobody_else_uses_is_a_link_of_ones_own(lengths: list[tuple[int, int, int]]) -> None:
    own, finished = run(cluster(instances=1, shared=False), lengths)
    alone, finished_alone = run(cluster(instances=1, shared=True), lengths)
    assert np.array_equal(finished, finished_alone)
    assert np.array_equal(own.turns(), alone.turns())


@settings(max_examples=20, deadline=None)
@given(lengths_strategy)
def test_a_shared_link_serves_first_come_first_served_one_at_a_time(
    lengths: list[tuple[int, int, int]],
) -> None:
    keep, finished = run(cluster(instances=2, shared=True), lengths)
    assert len(finished) == len(lengths)
    bytes_per_ns = 2 * 2**30 / 1e9
    transfers = sorted(transfer for instance in keep.chunks for transfer in keep.transfers(instance))
    free = 0
    for ready, arrived, tokens in transfers:
        size = tokens * 4096 * 2 * 2
        depart = max(free, ready)
        assert arrived == depart + int(30000 + size / bytes_per_ns)
        free = depart + int(size / bytes_per_ns)


def test_sharing_a_slow_link_costs_both() -> None:
    lengths = [(0, 2000, 5), (0, 2000, 5)]
    _, own = run(cluster(instances=2, shared=False), lengths)
    _, shared = run(cluster(instances=2, shared=True), lengths)
    first_token = 6
    assert own[:, first_token].max() < shared[:, first_token].max()
