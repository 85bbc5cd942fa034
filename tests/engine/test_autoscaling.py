"""Autoscaling: when replicas start and stop, who gets requests meanwhile, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from penstock.accounting.metrics import RequestTable
from penstock.engine.router import ROUTERS
from penstock.engine.simulation import Simulation
from penstock.errors import UserError
from penstock.recording.records import RunRecord
from penstock.rendering.replica_use import replica_use
from penstock.rendering.summary import build_summary, render_summary
from penstock.spec.load import load_cluster
from penstock.spec.options import RunOptions
from penstock.units import NS_PER_S
from penstock.workload.workload import Workload

START_UP_S = 20
INTERVAL_S = 10
DOWN_AFTER_S = 30


def config(replicas: int, **autoscaling: Any) -> Mapping[str, Any]:
    instance = {
        "model_name": "meta-llama/Llama-3.1-8B",
        "hardware": "H100",
        "npu_mem": {"mem_size": 80, "mem_bw": 3350, "mem_latency": 0},
        "tp_size": 1,
        "max_num_seqs": 8,
        "num_gpu_blocks": 400,
    }
    node = {"num_instances": replicas, "instances": [instance] * replicas}
    config = {"num_nodes": 1, "link_bw": 64, "link_latency": 5000, "nodes": [node]}
    times = {"start_up_s": START_UP_S, "interval_s": INTERVAL_S, "down_after_s": DOWN_AFTER_S}
    return config | ({"autoscaling": times | autoscaling} if autoscaling else {})


def busy_middle() -> Workload:
    """A request a second, but for 25 a second from 100 s to 160 s."""
    seconds = [*range(100), *np.arange(100, 160, 0.04), *range(160, 400)]
    times = [round(at * NS_PER_S) for at in seconds]
    return Workload.from_columns(times, [400] * len(times), [60] * len(times), "busy middle")


def run(replicas: int = 4, router: str = "LOAD", **autoscaling: Any) -> RunRecord:
    options = RunOptions(router=router)
    return Simulation(load_cluster(config(replicas, **autoscaling)), busy_middle(), options).run()


def test_replicas_come_with_the_load_and_go_after_it() -> None:
    record = run(metric="requests", target=4)
    assert len(record.requests) == len(busy_middle())
    first, *others = record.replica_times
    assert (first.instance, first.start_ns) == (0, 0)
    assert first.stop_ns == record.end_ns
    assert {one.instance for one in others} == {1, 2, 3}
    for one in others:
        assert one.ready_ns == one.start_ns + START_UP_S * NS_PER_S
        # At a look after the load has come, and not before a window has passed since it went.
        assert one.start_ns % (INTERVAL_S * NS_PER_S) == 0
        assert 100 * NS_PER_S < one.start_ns <= 120 * NS_PER_S
        assert one.stop_ns >= (160 + DOWN_AFTER_S - INTERVAL_S) * NS_PER_S
        assert one.stop_ns < record.end_ns


@pytest.mark.parametrize("router", list(ROUTERS))
def test_nobody_is_served_by_a_replica_that_is_not_there(router: str) -> None:
    record = run(router=router, metric="requests", target=4)
    table = RequestTable.of(record)
    arrival, finish, instance = (table.column(name) for name in ("arrival_ns", "finish_ns", "instance"))
    for place in range(4):
        stays = [one for one in record.replica_times if one.instance == place]
        mine = instance == place
        covered = np.zeros(int(mine.sum()), dtype=np.bool_)
        for stay in stays:
            covered |= (arrival[mine] >= stay.ready_ns) & (finish[mine] <= stay.stop_ns)
        assert covered.all()
        assert mine.any()


def test_the_number_wanted_is_the_sum_over_the_target() -> None:
    # One replica serves eight at once, of 25 a second that take 0.5 s or so: the queue grows by the second.
    record = run(replicas=12, metric="queue", target=50)
    table = RequestTable.of(record)
    look = 110 * NS_PER_S
    waiting = int(((table.column("arrival_ns") < look) & (table.column("first_scheduled_ns") >= look)).sum())
    started = sum(one.start_ns == look for one in record.replica_times)
    assert 1 + started == pytest.approx(math.ceil(waiting / 50), abs=1)
    assert started >= 1


def test_kv_in_use_starts_replicas_too() -> None:
    record = run(metric="kv", target=0.3)
    assert max(one.instance for one in record.replica_times) >= 1
    assert not [one for one in run(metric="kv", target=1.0).replica_times if one.instance]


def test_with_all_replicas_at_least_nothing_changes() -> None:
    fixed = RequestTable.of(run(replicas=3))
    scaled = RequestTable.of(run(replicas=3, metric="requests", target=4, min_replicas=3))
    for name in ("arrival_ns", "first_token_ns", "finish_ns", "instance"):
        assert np.array_equal(fixed.column(name), scaled.column(name))


def test_moving_the_simulation_on_by_hand_gives_the_same() -> None:
    whole = run(metric="requests", target=4)
    simulation = Simulation(load_cluster(config(4, metric="requests", target=4)), busy_middle())
    for at in range(0, 420, 7):
        simulation.advance(at * NS_PER_S)
    simulation.advance(1 << 60)
    assert simulation.record().replica_times == whole.replica_times


def test_the_cost_is_that_of_the_time_in_which_replicas_are_there() -> None:
    record = run(metric="requests", target=4)
    use = replica_use(record)
    assert use is not None
    hours = sum(one.stop_ns - one.start_ns for one in record.replica_times) / 3600e9
    assert use.replica_hours == use.gpu_hours == pytest.approx(hours)
    assert use.usd == pytest.approx(2.99 * hours)
    assert use.usd_of_all == pytest.approx(2.99 * 4 * (record.end_ns - record.first_arrival_ns) / 3600e9)
    assert 1 < use.mean_replicas < use.most_replicas == 4
    assert use.starts == len(record.replica_times) - 1
    text = render_summary(build_summary(record))
    assert f"{use.mean_replicas:.2f} of 4 replicas on average, 4 at most, {use.starts} started" in text
    assert replica_use(run(replicas=2)) is None


def test_slower_starts_make_first_tokens_later() -> None:
    def worst(start_up_s: float) -> float:
        times = Simulation(
            load_cluster(config(4, metric="requests", target=4, start_up_s=start_up_s)), busy_middle()
        ).run()
        return float(np.percentile(RequestTable.of(times).ttft_ns, 99))

    assert worst(0) < worst(20) < worst(60)


def mistakes(config: Mapping[str, Any]) -> Sequence[str]:
    with pytest.raises(UserError) as caught:
        load_cluster(config)
    return [str(one) for one in caught.value.problems]


def test_what_it_does_not_go_with_is_refused() -> None:
    (missing,) = mistakes(config(2, metric="queue"))
    assert "missing key 'target'" in missing
    too_much = mistakes(config(2, metric="kv", target=3, min_replicas=5))
    assert "a share of the KV blocks" in too_much[0]
    assert "5 is more than the 2 instances" in too_much[1]
    uneven = dict(config(2, metric="queue", target=1))
    (node,) = uneven["nodes"]
    one, _ = node["instances"]
    uneven["nodes"] = [{**node, "instances": [one, {**one, "max_num_seqs": 9}]}]
    (alike,) = mistakes(uneven)
    assert "needs instances that are all alike" in alike
    apart = dict(uneven)
    apart["nodes"] = [{**node, "instances": [{**one, "pd_type": kind} for kind in ("prefill", "decode")]}]
    (of_parts,) = mistakes(apart)
    assert "prefill and decode apart" in of_parts
    ranks = dict(uneven)
    ranks["nodes"] = [{"num_instances": 1, "instances": [{**one, "data_parallel_size": 2}]}]
    (of_ranks,) = mistakes(ranks)
    assert "data-parallel ranks" in of_ranks
