"""Tiers that several instances share, that lie behind a link, or that steps wait for: whole runs."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import penstock
from kv_clusters import cluster, instance
from penstock.engine.simulation import Simulation
from penstock.errors import UserError
from penstock.recording.records import REQUEST_COLUMNS, RunRecord, TierTotals
from penstock.spec.load import load_cluster
from penstock.spec.options import RunOptions
from penstock.workload.workload import Call, Columns, Workload

SMALL = {"num_gpu_blocks": 41, "enable_prefix_caching": True}
FIRST_TOKEN, ARRIVAL = (REQUEST_COLUMNS.index(name) for name in ("first_token_ns", "arrival_ns"))


def prompts(order: Sequence[int], *, gap_ns: int = 2_000_000_000, tokens: int = 512) -> Workload:
    """One after the other, prompts of ``tokens`` tokens by number."""
    columns = Columns()
    for place, number in enumerate(order):
        ids = array("i", range(10_000 * number, 10_000 * number + tokens))
        columns.add(place * gap_ns, Call(tokens, 4, input_ids=ids))
    return Workload(columns, "test")


def run(*instances: dict[str, Any], load: Workload, **more: Any) -> tuple[Simulation, RunRecord]:
    simulation = Simulation(load_cluster(cluster(*instances, **more)), load, RunOptions(router="RR"))
    record = simulation.run()
    for replica in simulation.instances:
        status = replica.scheduler.status()
        assert status.free_blocks == status.usable_blocks
    return simulation, record


def tiers(record: RunRecord) -> list[TierTotals]:
    return [one.tier for one in record.totals if one.tier is not None]


def ttfts_ns(record: RunRecord) -> list[int]:
    rows = record.requests.values()
    rows = rows[rows[:, 0].argsort()]
    return (rows[:, FIRST_TOKEN] - rows[:, ARRIVAL]).tolist()


@pytest.mark.parametrize("load", ["async", "sync"])
def test_what_one_instance_has_stored_another_finds(load: str) -> None:
    # In turn: instance 0 computes a prompt, instance 1 gets the same.
    own, shared = (
        run(
            *[instance(**SMALL, kv_offloading={"shared": scope, "load": load})] * 2,
            load=prompts([0, 0, 1, 1]),
        )[1]
        for scope in ("instance", "node")
    )
    assert [one.hit_tokens for one in tiers(own)] == [0, 0]
    # A load that the request waits for may bring the whole prompt: the last token is computed again. A step that waits
    # needs a token to compute, which is taken off.
    whole = 512 if load == "async" else 511
    assert [one.hit_tokens for one in tiers(shared)] == [0, 2 * whole]
    assert [one.stores for one in tiers(shared)] == [2, 0]


@pytest.mark.parametrize("load", ["async", "sync"])
def test_what_another_instance_will_store_later_is_not_there_yet(load: str) -> None:
    # Both get the same prompt at the same time. Where one computes and stores it, the other waits for that.
    options = {"shared": "node", "load": load}
    _, record = run(*[instance(**SMALL, kv_offloading=options)] * 2, load=prompts([0, 0], gap_ns=1))
    assert [one.stores for one in tiers(record)] == [1, 0]
    computed, waited = ttfts_ns(record)
    assert waited > computed


@pytest.mark.parametrize("sleep_ns", [0, 1_000_000])
def test_who_waits_for_a_slow_store_of_another_is_not_given_up(sleep_ns: int) -> None:
    options = {"shared": "node", "d2h_gb_per_s": 0.05}
    one = instance(**SMALL, kv_offloading=options, engine_idle_sleep_ns=sleep_ns)
    _, record = run(one, one, load=prompts([0, 0], gap_ns=1))
    assert [one.stores for one in tiers(record)] == [1, 0]
    assert min(ttfts_ns(record)) < 100_000_000
    assert max(ttfts_ns(record)) > 1_000_000_000


def test_instances_of_two_nodes_share_a_store() -> None:
    store = {"shared": "cluster", "store": "network", "store_gb": 64, "store_gb_per_s": 10}
    config = cluster(instance(**SMALL, kv_offloading=store))
    config |= {"num_nodes": 2, "nodes": config["nodes"] * 2, "link_bw": 16}
    record = Simulation(load_cluster(config), prompts([0, 0]), RunOptions(router="RR")).run()
    assert [one.hit_tokens for one in tiers(record)] == [0, 512]


@pytest.mark.parametrize("load", ["async", "sync"])
def test_latency_and_bandwidth_of_a_store_are_paid(load: str) -> None:
    def last_ttft_ns(**more: Any) -> int:
        options = {"store": "network", "store_gb": 64, "store_gb_per_s": 1000, "load": load} | more
        _, record = run(instance(**SMALL, kv_offloading=options), load=prompts([0, 1, 0]))
        assert tiers(record)[0].loads == 1
        return ttfts_ns(record)[2]

    near = last_ttft_ns()
    assert last_ttft_ns(store_latency_ns=30_000_000) - near == pytest.approx(30_000_000, abs=2_000_000)
    # The GPU's 40 blocks hold 7 of the prompt's 32 still. 25 of 16 tokens of 131,072 bytes: 48.8 ms at 1 GB/s.
    assert last_ttft_ns(store_gb_per_s=1) - near == pytest.approx(48_800_000, abs=2_000_000)


def test_users_of_one_store_wait_for_each_other() -> None:
    options = {"store": "network", "store_gb": 64, "store_gb_per_s": 1, "shared": "cluster"}
    both = prompts([0, 1, 2, 3])
    columns = Columns()
    for call in range(2):
        ids = array("i", range(10_000 * call, 10_000 * call + 512))
        columns.add(9_000_000_000, Call(512, 4, input_ids=ids))
    together = Workload(columns, "test")
    config = load_cluster(cluster(*[instance(**SMALL, kv_offloading=options)] * 2))
    simulation = Simulation(config, both, RunOptions(router="RR"))
    simulation.advance(9_000_000_000)
    for request in together.requests():
        simulation.submit(
            type(request)(simulation.next_index, request.arrival_ns, 512, 4, input_ids=request.input_ids)
        )
    record = simulation.run()
    # 0 and 1 were computed at instance 0 and 1 and have left the GPUs' 40 blocks since; both are loaded at once now.
    assert [one.loads for one in tiers(record)] == [1, 1]
    early, late = sorted(ttfts_ns(record)[4:])
    assert late - early == pytest.approx(48_800_000, abs=3_000_000)


def test_a_step_waits_for_what_it_loads_and_others_do_not() -> None:
    """LMCache's default beside vLLM's: the same bytes, but the others' tokens stop for them."""
    slow = {"d2h_gb_per_s": 100, "h2d_gb_per_s": 1}
    gaps: list[int] = []
    for load in ("async", "sync"):
        columns = Columns()
        prompt = array("i", range(512))
        columns.add(0, Call(512, 2, input_ids=prompt))
        columns.add(1_000_000_000, Call(520, 2, input_ids=array("i", range(50_000, 50_520))))
        columns.add(2_000_000_000, Call(32, 60, input_ids=array("i", range(90_000, 90_032))))
        columns.add(2_020_000_000, Call(512, 2, input_ids=prompt))
        _, record = run(
            instance(**SMALL, kv_offloading=slow | {"load": load}), load=Workload(columns, "test")
        )
        assert tiers(record)[0].loads == 1
        sizes, weights = record.token_gaps
        gaps.append(int(sizes[weights > 0].max()))
    waits_not, waits = gaps
    assert waits - waits_not > 50_000_000


def test_those_who_share_have_chunks_of_one_size() -> None:
    options = {"shared": "node"}
    wide = instance(tp_size=16, kv_offloading=options)  # eight KV heads on sixteen NPUs: each is kept twice
    with pytest.raises(UserError, match="give them the same tp_size"):
        Simulation(load_cluster(cluster(instance(kv_offloading=options), wide)), prompts([0]))


def test_llmservingsim_s_own_recall(shared_dir: Path) -> None:
    """Ten prompts, each twice: what its simulator says of the same load (no tuning: within 5%)."""
    data = shared_dir / "data" / "llmservingsim"
    result = penstock.simulate(
        data / "configs" / "cluster" / "rtx4090_single_instance.json",
        data / "replayed" / "prefix-recall.jsonl",
        profile_root=data / "perf",
        prefix_storage="CPU",
    )
    theirs = pl.read_csv(data / "replayed" / "rtx4090_single_instance-prefix-storage-cpu.csv")["TTFT"]
    ours = result.requests["ttft_ns"]
    for mine, other in zip(ours.to_list(), theirs.to_list(), strict=True):
        assert mine == pytest.approx(other, rel=0.05)
    (tier,) = tiers(result.record)
    assert tier.hit_tokens == 10 * 31 * 256
