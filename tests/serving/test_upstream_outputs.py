"""LLMServingSim's shipped results beside ours: equal where the models are, else within a named difference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.serving.upstream import DATA, needs_data, ours, theirs

from penstock.api import simulate
from penstock.rendering.result import SimulationResult

pytestmark = needs_data


def mean_ms(rows: dict[int, dict[str, str]], name: str) -> float:
    return sum(int(row[name]) for row in rows.values()) / len(rows) / 1e6


def first_gap_ns(result: SimulationResult, request: int = 0) -> int:
    times = result.token_times_ns(request)
    return int(times[1] - times[0])


def their_first_gap_ns(rows: dict[int, dict[str, str]], request: int = 0) -> int:
    return int(rows[request]["ITL"].strip("[]").split(",")[0])


def test_a_decode_alone_is_equal_to_the_nanosecond() -> None:
    rows = theirs("outputs/example_single_run.csv")
    assert first_gap_ns(ours("single_node_single_instance")) == their_first_gap_ns(rows) == 11_146_817


def test_single_and_power_agree() -> None:
    rows = theirs("outputs/example_power_run.csv")
    latency = ours("single_node_power_instance").summary.latency
    assert latency.ttft is not None
    assert latency.tpot is not None
    assert latency.ttft.mean_ns / 1e6 == pytest.approx(mean_ms(rows, "TTFT"), rel=0.001)
    assert latency.tpot.mean_ns / 1e6 == pytest.approx(mean_ms(rows, "TPOT"), rel=0.001)


def test_energy_of_the_example_but_for_the_time_before_its_first_request() -> None:
    # What LLMServingSim's own code gives for it, from 0 on; ours begins with the first arrival.
    result = ours("single_node_power_instance")
    energy = result.energy
    assert energy is not None
    before_s = energy.begin_ns / 1e9
    assert energy.total_j + 200.5 * before_s == pytest.approx(1416.260, rel=0.001)
    expected = {"npu": 971.884, "cpu": 233.048, "memory": 53.248, "link": 8.320, "nic": 33.280}
    idle = {"npu": 35, "cpu": 38.5, "memory": 32, "link": 5, "nic": 20}
    for name, joules in expected.items():
        assert energy.components_j[name] + idle[name] * before_s == pytest.approx(joules, rel=0.001), name


def test_energy_under_load_but_for_the_time_before_its_first_request() -> None:
    result = ours("single_node_power_instance", "sharegpt-llama-3.1-8b-300-sps10", 60)
    energy = result.energy
    assert energy is not None
    assert energy.total_j + 200.5 * energy.begin_ns / 1e9 == pytest.approx(17_446.080, rel=0.01)


def test_weights_on_cxl() -> None:
    # 2.5 us of 112.8 ms: here the final norm waits for lm_head's weights, there it does not.
    rows = theirs("outputs/example_cxl_run.csv")
    result = ours("single_node_cxl_instance")
    assert first_gap_ns(result) == pytest.approx(their_first_gap_ns(rows), abs=5_000)
    tpot = result.summary.latency.tpot
    assert tpot is not None
    assert tpot.mean_ns / 1e6 == pytest.approx(mean_ms(rows, "TPOT"), rel=0.001)


def test_attention_in_memory() -> None:
    # 26 ns: the token ids that theirs moves over the PIM, in and out. Later steps differ: there a context never grows.
    rows = theirs("outputs/example_pim_run.csv")
    result = ours("single_node_pim_instance", enable_attn_offloading=True)
    assert first_gap_ns(result) + 26 == their_first_gap_ns(rows)
    tpot = result.summary.latency.tpot
    assert tpot is not None
    assert tpot.mean_ns / 1e6 == pytest.approx(mean_ms(rows, "TPOT"), rel=0.02)


def test_interleaving_doubles_the_time_per_token_as_there() -> None:
    rows = theirs("outputs/example_pim_sub_batch_run.csv")
    both: dict[str, Any] = {"enable_attn_offloading": True, "enable_sub_batch_interleaving": True}
    tpot = ours("single_node_pim_instance", **both).summary.latency.tpot
    assert tpot is not None
    assert tpot.mean_ns / 1e6 == pytest.approx(mean_ms(rows, "TPOT"), rel=0.02)


def test_the_pipeline_differs_by_what_is_named() -> None:
    # The sleep after an empty schedule, the sampled token's way back, and the second tensor of three hops.
    rows = theirs("outputs/example_pp_run.csv")
    named = 1_000_000 + 20_000 + 3 * 477
    assert first_gap_ns(ours("single_node_pp_instance")) - named == their_first_gap_ns(rows)


def test_a_session_of_twenty_calls_on_data_parallel_experts() -> None:
    result = ours("single_node_moe_dp_ep_instance", "swe-bench-standin-1", 1)
    assert result.summary.requests.finished == 20


def changed(tmp_path: Path, config: str, cluster: dict[str, Any], instance: dict[str, Any]) -> Path:
    """A config of theirs with members set at the top and in every instance."""
    data = json.loads((DATA / "configs" / "cluster" / f"{config}.json").read_text())
    data.update(cluster)
    for node in data["nodes"]:
        for one in node["instances"]:
            one.update(instance)
    (tmp_path / "c.json").write_text(json.dumps(data))
    return tmp_path / "c.json"


@pytest.mark.parametrize(
    ("config", "run", "gap_ns", "named_ns"),
    [
        ("single_node_pp_instance", "pp", 11_208_245, 0),
        ("single_node_dp_instance", "dp", 8_662_432, 0),
        # vLLM sends a slice from each rank and gathers them: a message of half the size twice, and the gather's small
        # terms, in the place of one whole message.
        ("single_node_tp_pp_instance", "tp_pp", 8_682_908, 20_000 + 2 * 10),
    ],
)
def test_with_its_ring_terms_and_missing_hops_a_decode_is_equal_to_the_nanosecond(
    config: str, run: str, gap_ns: int, named_ns: int, tmp_path: Path
) -> None:
    data = json.loads((DATA / "configs" / "cluster" / f"{config}.json").read_text())
    bandwidth = data["nodes"][-1]["instances"][0]["npu_mem"]["mem_bw"]
    network = {"endpoint_delay_ns": 10, "local_mem_bw": bandwidth}
    hops = {"activation_tensors": 1, "token_return": False, "engine_idle_sleep_ns": 0}
    result = simulate(
        changed(tmp_path, config, network, hops),
        DATA / "workloads" / "example_trace.jsonl",
        num_reqs=10,
        profile_root=DATA / "perf",
    )
    assert their_first_gap_ns(theirs(f"outputs/example_{run}_run.csv")) == gap_ns
    assert first_gap_ns(result) == gap_ns + named_ns
