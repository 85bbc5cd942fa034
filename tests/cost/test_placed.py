"""Weights and KV outside the NPUs: times by hand, capacity where the bytes are."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.api import simulate
from penstock.cost.step_cost import StepShape
from penstock.engine.build import BuiltInstance, build_instances
from penstock.errors import UserError
from penstock.spec.load import load_cluster

EMBEDDING = 1_050_673_152
LAYER = 50_331_648 + 33_554_432 + 234_881_024 + 117_440_512 + 2 * 8_192


def config(placement: Any, memory_gb: float = 80, cxl: Any = None, **fields: Any) -> dict[str, Any]:
    instance = {
        "model_name": "meta-llama/Llama-3.1-8B",
        "hardware": "H100",
        "npu_mem": {"mem_size": memory_gb, "mem_bw": 3350},
        "pd_type": None,
        "tp_size": 1,
        "placement": placement,
        **fields,
    }
    node = {
        "num_instances": 1,
        "cpu_mem": {"mem_size": 256, "mem_bw": 100, "mem_latency": 0},
        "instances": [instance],
    }
    data: dict[str, Any] = {"num_nodes": 1, "link_bw": 64, "link_latency": 1000, "nodes": [node]}
    if cxl is not None:
        data["cxl_mem"] = cxl
    return data


def built(data: dict[str, Any]) -> BuiltInstance:
    return build_instances(load_cluster(data), None)[0]


def step_ns(data: dict[str, Any], decodes: int = 1, context: int = 100) -> int:
    return sum(built(data).cost.stage.stage_ns(StepShape.of_decodes(decodes, context)))


def test_a_step_takes_as_long_as_its_loads_and_the_head_after_them() -> None:
    plain, placed = step_ns(config(None)), step_ns(config({"default": {"weights": "cpu"}}))
    # 32 layers and lm_head with its norm over 100 GB/s; the embedding reads its row alone.
    loads = (32 * LAYER + EMBEDDING + 8_192) / 100
    assert loads < placed < loads + plain
    assert placed - loads < 0.1 * plain


def test_devices_load_beside_each_other() -> None:
    cxl = {"mem_size": 64, "mem_bw": 100, "mem_latency": 0, "num_devices": 2}
    halves = {"blocks": [{"blocks": "0-15", "weights": "cxl:0"}, {"blocks": "31-16", "weights": "cxl:1"}]}
    one = {"blocks": [{"blocks": "0-31", "weights": "cxl:0"}]}
    both, alone = step_ns(config(halves, cxl=cxl)), step_ns(config(one, cxl=cxl))
    assert 16 * LAYER / 100 < both < 16 * LAYER / 100 + step_ns(config(None))
    assert alone > 32 * LAYER / 100


def test_loads_hide_behind_compute_where_there_is_room() -> None:
    # The last layer's weights are there long before it is its turn.
    plain = step_ns(config(None))
    late = {"layers": {}, "blocks": [{"blocks": "31", "weights": "cpu"}]}
    assert step_ns(config(late)) == pytest.approx(max(plain, LAYER / 100), rel=0.2)
    first = {"blocks": [{"blocks": "0", "weights": "cpu"}]}
    assert step_ns(config(first)) > plain + 0.5 * LAYER / 100


def test_less_room_is_slower_and_leaves_more_kv() -> None:
    rooms = [1, 2, 8, 32]
    placed = [built(config({"default": {"weights": "cpu"}, "prefetch_layers": room})) for room in rooms]
    times = [sum(one.cost.stage.stage_ns(StepShape(1024, 0, 1, 100, 100, 100, 2))) for one in placed]
    assert times == sorted(times, reverse=True)
    assert times[0] > times[-1]
    blocks = [one.deployment.memory.num_gpu_blocks for one in placed]
    assert blocks == sorted(blocks, reverse=True)
    assert blocks[0] > blocks[-1]
    # 15 GiB of weights have left the NPU but for the room of one layer.
    inside = built(config(None)).deployment.memory
    gained = (blocks[0] - inside.num_gpu_blocks) * inside.stages[0].kv_bytes_per_block
    assert gained == pytest.approx(32 * LAYER + 2 * EMBEDDING - EMBEDDING, rel=0.02)


def test_a_model_that_does_not_fit_its_npu_runs_from_the_host() -> None:
    with pytest.raises(UserError, match="does not fit"):
        built(config(None, memory_gb=12))
    small = built(config({"default": {"weights": "cpu"}}, memory_gb=12))
    assert small.spec.placement is not None
    assert small.spec.placement.prefetch_layers == 2
    assert any("2 layers" in line for line in small.deployment.basis)
    result = simulate(
        config({"default": {"weights": "cpu"}}, 12), "workloads/example_trace.jsonl", num_reqs=2
    )
    assert result.summary.requests.finished == 2


def test_kv_elsewhere_takes_room_there_and_time_with_its_context() -> None:
    data = config({"default": {"kv_loc": "cpu"}})
    away = built(data)
    host_blocks = 256 * 2**30 // (131_072 * 16)
    assert away.deployment.memory.num_gpu_blocks == host_blocks
    short, long = step_ns(data, 8, 1000), step_ns(data, 8, 9000)
    assert long - short == pytest.approx(8 * 8000 * 131_072 / 100, rel=0.05)


def test_ranks_of_a_stage_and_stages_share_a_device() -> None:
    whole = step_ns(config({"default": {"weights": "cpu"}}))
    ranks = step_ns(config({"default": {"weights": "cpu"}}, tp_size=2))
    assert ranks == pytest.approx(whole, rel=0.02)
    stages = built(config({"default": {"weights": "cpu"}}, pp_size=2)).cost.stage
    times = stages.stage_ns(StepShape.of_decodes(1, 100))
    assert times[0] == pytest.approx(16 * LAYER / 50, rel=0.02)
    assert times[1] == pytest.approx((16 * LAYER + EMBEDDING) / 50, rel=0.02)


def test_rows_go_before_blocks_before_the_default() -> None:
    placement = {
        "default": {"weights": "cpu"},
        "blocks": [{"blocks": "0-3", "weights": "npu"}],
        "layers": {"down_proj": {"weights": "cpu"}, "lm_head": {"weights": "npu"}},
    }
    spec = load_cluster(config(placement)).instances[0].placement
    assert spec is not None
    assert spec.weight_device(0, "qkv_proj") is None
    assert spec.weight_device(0, "down_proj") == "cpu:0"
    assert spec.weight_device(4, "qkv_proj") == "cpu:0"
    assert spec.edge_device("lm_head") is None
    assert spec.edge_device("embedding") == "cpu:0"


@pytest.mark.parametrize(
    ("placement", "message"),
    [
        ({"default": {"weights": "gpu"}}, "placement.default.weights: must be npu, cpu or cxl:N, not 'gpu'"),
        ({"default": {"weights": "cxl:0"}}, "placement.default.weights: there is no cxl:0: see cxl_mem"),
        ({"blocks": [{"blocks": "30-40", "weights": "cpu"}]}, "there is no layer 32: the model has 32"),
        ({"blocks": [{"weights": "cpu"}]}, "placement.blocks[0]: missing key 'blocks'"),
        ({"layers": {"qkv": {"weights": "cpu"}}}, "unknown layer 'qkv'; did you mean 'qkv_proj'?"),
        ({"prefetch_layers": 0}, "placement.prefetch_layers: must be an integer >= 1, not 0"),
        ({"defaults": {}}, "placement: unknown key 'defaults'"),
    ],
)
def test_mistakes(placement: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as raised:
        load_cluster(config(placement))
    (problem,) = raised.value.problems
    assert message in str(problem)


def test_a_device_too_small_for_the_weights() -> None:
    cxl = {"mem_size": 4, "mem_bw": 60}
    with pytest.raises(UserError, match="do not fit cxl:0, which has 4 GiB"):
        built(config({"default": {"weights": "cxl:0"}}, cxl=cxl))


def test_interleaving_needs_offloading() -> None:
    data = config({"default": {"weights": "cpu"}}, enable_sub_batch_interleaving=True)
    with pytest.raises(UserError, match="needs enable_attn_offloading"):
        load_cluster(data)
