"""Decode instances that read: handshakes, leases and what renews them, reads that fail. Whole runs."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from kv_clusters import cluster, instance
from penstock.engine.simulation import Simulation
from penstock.kv_transfer.pull_workers import PullWorkers
from penstock.recording.records import REQUEST_COLUMNS, RunRecord
from penstock.spec.load import load_cluster
from penstock.spec.options import RunOptions
from penstock.units import NS_PER_S
from penstock.workload.workload import Call, Columns, Workload

FIRST_TOKEN = REQUEST_COLUMNS.index("first_token_ns")


def load(*requests: tuple[float, int, int]) -> Workload:
    """Seconds, tokens in and out of each."""
    columns = Columns()
    for at_s, tokens, answer in requests:
        columns.add(round(at_s * NS_PER_S), Call(tokens, answer))
    return Workload(columns, "test")


def run(
    workload: Workload, *, decode: dict[str, Any] | None = None, seed: int = 0, **transfer: Any
) -> tuple[Simulation, RunRecord]:
    sides = instance(pd_type="prefill"), instance(pd_type="decode", **decode or {})
    simulation = Simulation(
        load_cluster(cluster(*sides, kv_transfer=transfer)), workload, RunOptions(seed=seed)
    )
    record = simulation.run()
    for replica in simulation.instances:
        status = replica.scheduler.status()
        assert status.free_blocks == status.usable_blocks
        assert not replica.outstanding_tokens
    return simulation, record


def workers(simulation: Simulation, index: int) -> PullWorkers:
    found = simulation.instances[index].workers
    assert isinstance(found, PullWorkers)
    return found


def test_the_first_read_of_a_stage_waits_for_a_handshake_and_no_other() -> None:
    both = load((0, 300, 5), (1, 300, 5))
    _, at_once = run(both, decode={"pp_size": 2})
    _, shaken = run(both, decode={"pp_size": 2}, handshake_ns=40_000_000)
    later = [
        late.post_ns - early.post_ns for early, late in zip(at_once.transfers, shaken.transfers, strict=True)
    ]
    assert [one.request for one in shaken.transfers] == [0, 0, 1, 1]
    # The engine looks about once in a millisecond whether it may read.
    assert all(40_000_000 <= wait <= 42_000_000 for wait in later[:2])
    assert later[2:] == [0, 0]


def test_the_blocks_of_a_prompt_that_nobody_comes_for_are_given_up_and_read_late() -> None:
    simulation, record = run(load((0, 300, 5), (20, 300, 5)), proxy_ns=9 * NS_PER_S, kv_lease_duration=6)
    leases = workers(simulation, 0).lease_ends
    assert [(end_ns // 100_000_000, request) for end_ns, _, request in leases] == [(60, 0), (260, 1)]
    # The reader is not told: it reads whatever is there, and goes on. The other side hears of it with its next step,
    # which only the first has.
    assert [(total.expired_leases, total.late_reads) for total in record.totals] == [(2, 1), (0, 0)]
    assert len(record.requests) == 2


def test_who_waits_for_a_place_renews_the_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    # The first answer holds the only place for longer than a lease.
    both = load((0, 100, 2000), (0.5, 300, 5))
    heard: list[tuple[int, int]] = []
    hear = PullWorkers.hear

    def listen(workers: PullWorkers, at_ns: int, sender: int, requests: frozenset[int]) -> None:
        heard.extend((at_ns, request) for request in requests)
        hear(workers, at_ns, sender, requests)

    monkeypatch.setattr(PullWorkers, "hear", listen)
    _, record = run(both, decode={"max_num_seqs": 1}, kv_lease_duration=6)
    rows = record.requests.values()
    first = int(rows[rows[:, 0] == 0][0, REQUEST_COLUMNS.index("finish_ns")])
    assert first > 7 * NS_PER_S
    assert min(one.post_ns for one in record.transfers if one.request == 1) > first
    assert [(total.expired_leases, total.late_reads) for total in record.totals] == [(0, 0), (0, 0)]
    times = [at_ns for at_ns, request in heard if request == 1]
    assert len(times) > first / NS_PER_S - 1
    # Once in a sixth of the lease, at the first step after that.
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert all(NS_PER_S <= gap < 1.1 * NS_PER_S for gap in gaps[1:])


FOUR = load((0, 300, 5), (0.5, 300, 5), (1, 300, 5), (1.5, 300, 5))


def test_requests_whose_reads_fail_end_with_an_error_by_default() -> None:
    simulation, record = run(FOUR, read_failure_rate=1.0, kv_lease_duration=2)
    assert [(one.request, one.failed) for one in record.abortions] == [(number, True) for number in range(4)]
    assert len(record.requests) == 0
    assert not any(one.is_ok for one in record.transfers)
    # Nobody told the other side: its blocks go by their leases.
    assert len(workers(simulation, 0).lease_ends) == 4


def test_prompts_whose_reads_fail_are_computed_where_they_were_to_be_read() -> None:
    _, record = run(FOUR, read_failure_rate=1.0, kv_load_failure_policy="recompute", kv_lease_duration=2)
    assert len(record.requests) == 4
    assert [total.prompt_tokens for total in record.totals] == [1200, 1200]
    assert [total.generated_tokens for total in record.totals] == [4, 20]


def test_what_fails_is_drawn_by_the_seed() -> None:
    many = load(*[(number / 10, 100, 2) for number in range(40)])

    def failed(seed: int, **sides: Any) -> list[int]:
        _, record = run(many, seed=seed, decode=sides, read_failure_rate=0.25, kv_lease_duration=2)
        assert len(record.requests) + len(record.abortions) == 40
        lost = {one.request for one in record.transfers if not one.is_ok}
        assert lost == {one.request for one in record.abortions}
        return [one.request for one in record.abortions]

    first = failed(0)
    assert 3 < len(first) < 20
    assert failed(0, pp_size=2) == first
    assert failed(1) != first
