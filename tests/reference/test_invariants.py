"""The reference on its own, also on combinations that the simulator does not take: laws that need no second opinion."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from .cases import ClusterCase, random_cluster
from .cluster import ReferenceCluster
from .combinations import REFUSED

SEEDS = range(60)


def drawn(seed: int) -> ClusterCase:
    """A case of any combination, the refused ones included."""
    return random_cluster(random.Random(seed))


def served(seed: int) -> tuple[ClusterCase, ReferenceCluster]:
    case = drawn(seed)
    cluster = ReferenceCluster(case.instances, case.workload)
    cluster.run()
    return case, cluster


@pytest.mark.parametrize("seed", SEEDS)
def test_every_request_ends_with_all_its_tokens_and_no_block_is_lost(seed: int):
    case, cluster = served(seed)
    workload = case.workload
    assert sorted(cluster.instance_of) == list(range(len(workload)))
    for index, place in cluster.instance_of.items():
        engine = cluster.engines[place]
        times = engine.trace.requests[index]["token_times_ns"]
        request = workload.request(index)
        room = engine.options.max_model_len - request.input_tokens
        assert len(times) == min(request.output_tokens, room)
        assert times == sorted(times)
    for engine in cluster.engines:
        assert len(engine.scheduler.kv.free) == engine.scheduler.usable_blocks
        assert not engine.trace.deadlock


@pytest.mark.parametrize("seed", SEEDS)
def test_stages_compute_one_step_at_a_time_and_wait_for_blocking_sends(seed: int):
    case, cluster = served(seed)
    for instance, engine in zip(case.instances, cluster.engines, strict=True):
        steps = [turn for turn in engine.trace.turns if turn["tokens"]]
        for before, after in pairwise(steps):
            for stage in range(instance.pp_size):
                assert before["end"][stage] <= after["start"][stage]
                if instance.blocking_sends and stage < instance.pp_size - 1:
                    assert before["arrive"][stage + 1] <= after["start"][stage]
        for turn in steps:
            for stage in range(1, instance.pp_size):
                assert turn["end"][stage - 1] <= turn["arrive"][stage] <= turn["start"][stage]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_shared_link_serves_in_the_order_of_asking(seed: int):
    case, cluster = served(seed)
    transfers: dict[str, list[tuple[int, int, int, int, int]]] = {}
    for place, (instance, engine) in enumerate(zip(case.instances, cluster.engines, strict=True)):
        steps = (turn for turn in engine.trace.turns if turn["tokens"])
        for number, turn in enumerate(steps):
            for stage, hop in enumerate(instance.cost.hops):
                if hop.shared_link:
                    tokens = turn["tokens"]
                    depart = turn["arrive"][stage + 1] - hop.arrival_ns[tokens]
                    asked = turn["end"][stage]
                    transfer = (asked, place, number, depart, depart + hop.occupancy_ns[tokens])
                    transfers.setdefault(hop.shared_link, []).append(transfer)
    for line in transfers.values():
        free = 0
        for asked, _, _, depart, end in sorted(line):
            assert depart == max(free, asked)
            free = end


@pytest.mark.parametrize("seed", SEEDS)
def test_steps_keep_within_the_depth_of_the_queue_and_the_policy(seed: int):
    case, cluster = served(seed)
    for instance, engine in zip(case.instances, cluster.engines, strict=True):
        options = instance.options
        assert all(turn["in_flight"] < options.max_in_flight for turn in engine.trace.turns)
        assert all(turn["tokens"] <= options.max_num_batched_tokens for turn in engine.trace.turns)
        name, _, arguments = options.policy.rstrip(")").partition("(cap=")
        cap = int(arguments) if arguments else -(-options.max_num_seqs // instance.pp_size)
        for row in engine.trace.iterations:
            partial = set(row.get("partial_prefill", ()))
            if name == "all-cap":
                assert len(row["scheduled"]) <= cap
            if name == "decode-cap":
                decodes = [
                    index
                    for index, new, computed in row["scheduled"]
                    if new == 1
                    and index not in partial
                    and computed >= case.workload.request(index).input_tokens
                    and not engine.trace.requests[index]["num_preemptions"]
                ]
                assert len(decodes) <= cap


def test_the_seeds_meet_every_combination_that_is_refused():
    combined = [each for seed in range(400) for each in drawn(seed).combines]
    for refused in REFUSED:
        assert any(refused <= each for each in combined), refused
