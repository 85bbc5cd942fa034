"""Energy: known cases by hand, and sums that must agree however they are taken."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from penstock.accounting.energy import EnergyMeter
from penstock.accounting.energy_shares import merged
from penstock.accounting.interval_sums import IntervalSums
from penstock.api import Run, load_scenario, simulate
from penstock.cost.placement import host_bytes_per_step
from penstock.cost.traffic import link_bytes_per_token
from penstock.errors import UserError
from penstock.recording.records import TURN_COLUMNS, RequestLog, RunRecord, TurnChunk
from penstock.spec.load import load_cluster
from penstock.spec.power import estimated_npu_power
from penstock.units import NS_PER_S

POWER = {
    "base_node_power": 60,
    "npu": {"H100": {"idle_power": 35, "standby_power": 300, "active_power": 600, "standby_duration": 18}},
    "cpu": {"idle_power": 10, "active_power": 200, "util": 0.15},
    "dram": {"dimm_size": 32, "idle_power": 2.0, "energy_per_bit": 6.0},
    "link": {"num_links": 1, "idle_power": 5, "energy_per_bit": 4.0},
    "nic": {"num_nics": 1, "idle_power": 20},
    "storage": {"num_devices": 2, "idle_power": 5},
}


def config(instances: int = 1, power: Any = POWER, **fields: Any) -> dict[str, Any]:
    instance = {
        "model_name": "meta-llama/Llama-3.1-8B",
        "hardware": "H100",
        "npu_mem": {"mem_size": 80, "mem_bw": 3350},
        "pd_type": None,
        "tp_size": 1,
        **fields,
    }
    node = {
        "num_instances": instances,
        "cpu_mem": {"mem_size": 512, "mem_bw": 256},
        "instances": [instance] * instances,
    }
    if power is not None:
        node["power"] = power
    return {"num_nodes": 1, "link_bw": 64, "link_latency": 1000, "nodes": [node]}


def turns(spans: list[tuple[int, int]]) -> tuple[TurnChunk, RunRecord]:
    """Steps of one decode each on the only stage of the first instance, and a run from 0 to the last one's end."""
    values = np.zeros((len(spans), len(TURN_COLUMNS) + 3), dtype=np.int64)
    for name in ("tokens", "sampled", "decodes"):
        values[:, TURN_COLUMNS.index(name)] = 1
    begin, end = np.array(spans).T
    values[:, -3], values[:, -2], values[:, -1] = begin, begin, end
    for name in ("done_ns", "update_ns"):
        values[:, TURN_COLUMNS.index(name)] = end
    record = RunRecord(
        deployments=(),
        requests=RequestLog(keep_token_times=False),
        rejections=(),
        totals=(),
        token_gaps=(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)),
        first_arrival_ns=0,
        end_ns=int(end.max()),
    )
    return TurnChunk(0, 1, 0, values), record


def measured(spans: list[tuple[int, int]]) -> Any:
    cluster = load_cluster(config())
    meter = EnergyMeter(cluster, 0)
    chunk, record = turns(spans)
    meter.accept(chunk)
    return meter.finish(record)


def test_a_node_at_rest_draws_what_its_parts_say() -> None:
    power = load_cluster(config()).power[0]
    assert power is not None
    # 60 base, 38.5 CPU at 15%, 16 DIMMs of 2, 5 link, 20 NIC, 10 storage; with the NPU's 35 W LLMServingSim's 200.5.
    assert power.constant_w == pytest.approx(60 + 38.5 + 32 + 5 + 20 + 10)
    assert power.constant_w + power.npus[0][1].idle_w == pytest.approx(200.5)


def test_a_millisecond_of_work() -> None:
    energy = measured([(0, 1_000_000)]).nodes[0]
    assert energy["npu"] == pytest.approx(0.600)
    # (200 - 10) W x (0.70 - 0.15) on top of 38.5 W, for a millisecond: LLMServingSim's 0.1045 J.
    assert energy["cpu"] == pytest.approx(0.0385 + 0.1045)


def test_standby_for_eighteen_seconds_and_idle_after() -> None:
    work = 1_000_000
    second = measured([(0, work), (work + NS_PER_S, 2 * work + NS_PER_S)])
    assert second.nodes[0]["npu"] == pytest.approx(0.6 * 2 + 300.0)
    twenty = measured([(0, work), (work + 20 * NS_PER_S, 2 * work + 20 * NS_PER_S)])
    # 4,770 J above idle, as LLMServingSim has it when it looks once.
    assert twenty.nodes[0]["npu"] - 0.6 * 2 - 20 * 35 == pytest.approx(4770)
    (instance,) = twenty.instances
    assert (instance.standby_ns, instance.idle_ns) == (18 * NS_PER_S, 2 * NS_PER_S)


def test_before_its_first_step_an_npu_is_idle() -> None:
    assert measured([(NS_PER_S, 2 * NS_PER_S)]).nodes[0]["npu"] == pytest.approx(35 + 600)


def test_bytes_cost_what_bits_cost() -> None:
    power = load_cluster(config()).power[0]
    assert power is not None
    assert power.memory_j_per_byte * 1e9 == pytest.approx(0.048)
    assert power.link_j_per_byte * 1e9 == pytest.approx(0.032)


def test_a_ring_moves_the_bytes_of_all_ranks() -> None:
    row = 4096 * 2
    (alone,) = load_cluster(config()).instances
    assert link_bytes_per_token(alone) == 0
    (four,) = load_cluster(config(tp_size=4)).instances
    # LLMServingSim counts 12,288 B of an all-reduce of 8,192 B over 4: one rank's. All four move 49,152 B.
    assert link_bytes_per_token(four) == 32 * 2 * 4 * 12_288
    (stages,) = load_cluster(config(tp_size=1, pp_size=4)).instances
    assert link_bytes_per_token(stages) == 3 * 2 * row


@pytest.mark.parametrize(
    "cluster",
    [
        config(),
        config(tp_size=2, pp_size=2),
        config(instances=3),
        config(instances=2, power=None),
        config(max_num_seqs=2, pp_size=4),
        config(num_gpu_blocks=80),
    ],
)
def test_components_requests_and_time_add_up_to_the_same(cluster: dict[str, Any], tmp_path: Any) -> None:
    result = simulate(cluster, "workloads/example_trace.jsonl", num_reqs=40)
    energy = result.energy
    assert energy is not None
    total = energy.total_j
    assert total == pytest.approx(sum(energy.components_j.values()), rel=1e-12)
    # Over time.
    seconds = np.diff(energy.edges_ns) / NS_PER_S
    over_time = sum(float((np.array(watts) * seconds).sum()) for watts in energy.watts.values())
    assert over_time == pytest.approx(total, rel=1e-9)
    # By request, of which each has some, and what nobody ran for.
    assert energy.requests_j is not None
    assert energy.unassigned_j is not None
    assert (energy.requests_j > 0).all()
    assert energy.requests_j.sum() + energy.unassigned_j == pytest.approx(total, rel=1e-9)
    assert result.requests["energy_j"].sum() == pytest.approx(float(energy.requests_j.sum()))
    # NPU times are the stages' own.
    npus = sum(spec["tp_size"] for spec in result.context.inputs["instances"])
    busy = sum(sum(one.busy_ns) for one in result.record.totals)
    assert sum(one.active_ns for one in energy.instances) == busy * npus / len(energy.instances)
    # In the files.
    result.save(tmp_path)
    frame = pl.read_parquet(tmp_path / "power.parquet")
    joules = sum(
        frame[name].dot((frame["end_ns"] - frame["begin_ns"]) / NS_PER_S) for name in frame.columns[2:]
    )
    assert joules == pytest.approx(total, rel=1e-9)


def test_a_longer_prompt_and_a_longer_answer_take_more() -> None:
    short = simulate(config(), "workloads/example_trace.jsonl", num_reqs=1).requests
    assert short["energy_j"][0] > 0
    result = simulate(config(), "workloads/example_trace.jsonl", num_reqs=60)
    frame = result.requests.select("output_tokens", "energy_j").sort("output_tokens")
    few, many = frame.head(15), frame.tail(15)
    assert many["energy_j"].mean() > few["energy_j"].mean()  # pyright: ignore[reportOptionalOperand, reportOperatorIssue]


def test_cuts_into_chunks_change_nothing() -> None:
    cluster = load_cluster(config())
    spans = [(k * 5_000_000, k * 5_000_000 + 3_000_000 + 1000 * k) for k in range(200)]
    chunk, record = turns(spans)
    whole = EnergyMeter(cluster, 0)
    whole.accept(chunk)
    parts = EnergyMeter(cluster, 0)
    for first in range(0, 200, 7):
        parts.accept(TurnChunk(0, 1, first, chunk.values[first : first + 7]))
    one, other = whole.finish(record), parts.finish(record)
    assert one.total_j == pytest.approx(other.total_j, rel=1e-12)
    assert one.instances == other.instances


def test_the_power_of_an_interval_is_that_of_its_spans() -> None:
    cluster = load_cluster(config())
    chunk, _ = turns([(0, 250_000_000), (750_000_000, 1_250_000_000)])
    meter = EnergyMeter(cluster, 0)
    meter.follow(NS_PER_S)
    meter.accept(chunk)
    assert meter.npu_power_w(0, 0, NS_PER_S) == pytest.approx((600 + 300) / 2)
    assert meter.npu_power_w(0, NS_PER_S, 2 * NS_PER_S) == pytest.approx(600 / 4 + 300 * 3 / 4)
    assert meter.npu_power_w(0, 30 * NS_PER_S, 31 * NS_PER_S) == pytest.approx(35)


def test_without_power_of_a_chip_nothing_is_measured() -> None:
    assert estimated_npu_power("TPUv5e") is None
    cluster = config(power=None, hardware="TPUv6e", npu_mem={"mem_size": 32, "mem_bw": 1640})
    run = Run(load_scenario(cluster, "workloads/example_trace.jsonl", {"num_reqs": 2}))
    assert run.energy is None
    assert run.run().summary.energy is None


def test_a_data_sheet_is_called_an_estimate() -> None:
    energy = simulate(config(power=None), "workloads/example_trace.jsonl", num_reqs=2).energy
    assert energy is not None
    assert energy.components_j.keys() == {"npu"}
    assert any("estimate" in line and "700 W" in line for line in energy.basis)


def test_every_missing_key_is_named() -> None:
    power = {**POWER, "npu": {"A100": POWER["npu"]["H100"]}, "dram": {"dimm_size": 32}}  # type: ignore[index]
    del power["nic"]
    with pytest.raises(UserError) as raised:
        load_cluster(config(power=power))
    told = [str(problem) for problem in raised.value.problems]
    assert len(told) == 4
    assert any("missing key 'nic'" in line for line in told)
    assert any("power.npu" in line and "H100" in line for line in told)
    assert sum("power.dram" in line for line in told) == 2


def test_unions_of_spans() -> None:
    begin, end = merged([(np.array([0, 10]), np.array([5, 20])), (np.array([3, 30]), np.array([10, 40]))])
    assert begin.tolist() == [0, 30]
    assert end.tolist() == [20, 40]


def test_intervals_double_and_keep_their_sums() -> None:
    sums = IntervalSums(100, 1, 10, intervals=4)
    sums.spread(0, np.array([100, 135]), np.array([125, 140]), 2.0)
    sums.put(0, np.array([500]), np.array([7.0]))
    assert sums.table(501).sum() == pytest.approx(2 * 30 + 7)
    assert sums.interval_ns == 160


def test_weights_read_from_the_host_cost_their_bytes() -> None:
    placed = load_cluster(config(placement={"default": {"weights": "cpu"}}))
    (instance,) = placed.instances
    # All weights of Llama-3.1-8B but the embedding table, of which a step reads single rows.
    assert host_bytes_per_step(instance) == pytest.approx(16_060_522_496 - 1_050_673_152, rel=1e-4)
    meter = EnergyMeter(placed, 0)
    chunk, record = turns([(0, 1_000_000), (1_000_000, 2_000_000)])
    meter.accept(chunk)
    memory_j = meter.finish(record).components_j["memory"]
    assert memory_j == pytest.approx(32 * 0.002 + 2 * host_bytes_per_step(instance) * 48e-12)
