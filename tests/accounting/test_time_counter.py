"""What machine code counts of the stages' time and power is what numpy does, to the bit."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from accounting.test_energy import POWER, config
from both_ways import Turns, needs_core, serve
from penstock.accounting.bubbles import BubbleLedger
from penstock.accounting.interval_sums import IntervalSums
from penstock.api import simulate
from penstock.recording.records import REQUEST_COLUMNS, TurnChunk
from penstock.rendering.result import SimulationResult
from penstock.spec.options import RunOptions
from penstock.workload.generate import Recipe, generate
from penstock.workload.lengths import Lengths
from reference.cases import seeded_cluster
from reference.simulated import built_instance, example_cluster

pytestmark = needs_core


def _ledgers(
    monkeypatch: pytest.MonkeyPatch, pp_sizes: list[int], blocking: list[bool]
) -> list[BubbleLedger]:
    made: list[BubbleLedger] = []
    for pure in ("1", "0"):
        monkeypatch.setenv("PENSTOCK_PURE", pure)
        made.append(BubbleLedger(pp_sizes, blocking_sends=blocking))
    return made


@pytest.mark.parametrize("seed", range(40))
def test_every_nanosecond_has_the_same_cause(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    case = seeded_cluster(seed)
    built = [built_instance(index, each) for index, each in enumerate(case.instances)]
    spec = replace(example_cluster(), instances=tuple(each.spec for each in built))
    served = serve(monkeypatch, True, spec, case.workload, RunOptions(router="RR"), built)
    assert served.record is not None
    ledgers = _ledgers(
        monkeypatch,
        [each.pp_size for each in case.instances],
        [each.blocking_sends for each in case.instances],
    )
    rng = random.Random(seed)
    for instance in range(len(built)):
        for chunk in _cut(served.turns, instance, case.instances[instance].pp_size, rng):
            for ledger in ledgers:
                ledger.accept(chunk)
            python, machine = (ledger.so_far_ns(instance) for ledger in ledgers)
            assert machine.tolist() == python.tolist()
    finishes = served.record.requests.values()[:, REQUEST_COLUMNS.index("finish_ns")]
    if len(finishes):
        window = served.record.first_arrival_ns, int(finishes.max())
        python, machine = (ledger.finish(*window) for ledger in ledgers)
        assert list(machine.rows()) == list(python.rows())
        assert all((table.sum(axis=1) == machine.window_ns).all() for table in machine.ns)


def _cut(turns: Turns, instance: int, pp_size: int, rng: random.Random) -> list[TurnChunk]:
    values = turns.of(instance) if instance in turns.rows else np.zeros((0, 15 + 3 * pp_size), dtype=np.int64)
    chunks: list[TurnChunk] = []
    begin = 0
    while begin < len(values):
        end = begin + rng.randint(1, 40)
        chunks.append(TurnChunk(instance, pp_size, begin, values[begin:end]))
        begin = end
    return chunks


def test_a_window_that_is_too_short_is_refused_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    row = np.zeros((1, 18), dtype=np.int64)
    row[0, [0, 1, 3, 4, 13, 14, 15, 16, 17]] = [10, 5, 1, 1, 30, 30, 10, 10, 30]
    messages: list[str] = []
    for ledger in _ledgers(monkeypatch, [1], [False]):
        ledger.accept(TurnChunk(0, 1, 0, row))
        with pytest.raises(ValueError, match="does not cover") as caught:
            ledger.finish(0, 9)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize("seed", range(20))
def test_amounts_are_spread_alike(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    rng = np.random.default_rng(seed)
    sums: list[IntervalSums] = []
    for pure in ("1", "0"):
        monkeypatch.setenv("PENSTOCK_PURE", pure)
        sums.append(IntervalSums(1000, 2, 64, intervals=16))
    at = 1000
    for _ in range(12):
        edges = at + np.cumsum(rng.integers(0, 90, 2 * int(rng.integers(1, 30))))
        for one in sums:
            one.spread(int(at) % 2, edges[::2], edges[1::2], 0.1 + float(seed))
        at = int(edges[-1])
    python, machine = (one.table(at) for one in sums)
    assert machine.tobytes() == python.tobytes()
    assert machine.sum() > 0


@pytest.mark.parametrize("power", [None, POWER])
def test_power_is_measured_alike(monkeypatch: pytest.MonkeyPatch, power: dict[str, Any] | None) -> None:
    cluster = config(instances=2, power=power, pp_size=2, num_npus=2)
    workload = generate(
        Recipe(
            num_requests=60,
            rate_per_s=3,
            seed=4,
            input_tokens=Lengths("fixed", {"tokens": 300}),
            output_tokens=Lengths("fixed", {"tokens": 40}),
        )
    )
    results: list[SimulationResult] = []
    for pure in ("1", "0"):
        monkeypatch.setenv("PENSTOCK_PURE", pure)
        results.append(simulate(cluster, workload, record="requests"))
    python, machine = (result.energy for result in results)
    assert python is not None
    assert machine is not None
    for name in ("nodes", "instances", "watts"):
        assert getattr(machine, name) == getattr(python, name)
    assert max(python.watts["npu"]) > min(python.watts["npu"])
