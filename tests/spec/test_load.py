from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import UserError
from penstock.spec.cluster import ClusterSpec, InstanceSpec
from penstock.spec.instance_rules import UNLIMITED_SEQS
from penstock.spec.load import load_cluster

LLAMA = "meta-llama/Llama-3.1-8B"


def config(*instances: Mapping[str, Any], **top: Any) -> dict[str, Any]:
    """A valid cluster of one node; each mapping overrides members of an instance (``...`` removes one)."""
    entries = []
    for overrides in instances or ({},):
        entry: dict[str, Any] = {
            "model_name": LLAMA,
            "hardware": "RTXPRO6000",
            "npu_mem": {"mem_size": 96, "mem_bw": 1597, "mem_latency": 0},
            "num_npus": 2,
            "tp_size": 1,
            "pp_size": 2,
            "pd_type": None,
        }
        entry.update(overrides)
        entries.append({key: value for key, value in entry.items() if value is not ...})
    node = {
        "num_instances": len(entries),
        "cpu_mem": {"mem_size": 512, "mem_bw": 256, "mem_latency": 0},
        "instances": entries,
    }
    return {"num_nodes": 1, "link_bw": 16, "link_latency": 20000, "nodes": [node]} | top


def instance(overrides: Mapping[str, Any] | None = None, **flags: Any) -> InstanceSpec:
    return load_cluster(config(overrides or {}), flags).instances[0]


def problems(data: Any, **flags: Any) -> list[str]:
    with pytest.raises(UserError) as caught:
        load_cluster(data, flags)
    return [str(problem) for problem in caught.value.problems]


def only_problem(overrides: Mapping[str, Any], **flags: Any) -> str:
    found = problems(config(overrides), **flags)
    assert len(found) == 1, found
    return found[0].removeprefix("cluster: nodes[0].instances[0]")


# --- what comes out -----------------------------------------------------------------------------------------


def test_every_cluster_config_of_the_repository_loads(repository: Path) -> None:
    found = {path.stem: load_cluster(path) for path in (repository / "configs" / "cluster").glob("*.json")}
    assert len(found) >= 7
    example = found["single_node_pp_instance"]
    assert isinstance(example, ClusterSpec)
    assert example.link.bandwidth_gb_per_s == (16.0,)
    assert example.link.latency_ns == (20000.0,)
    (one,) = example.instances
    assert (one.tp_size, one.pp_size, one.model.name, one.hardware) == (1, 2, LLAMA, "RTXPRO6000")
    assert one.memory_bytes == 96 << 30
    assert one.memory_bandwidth_gb_per_s == 1597
    assert found["two_node_pp4_instance"].instances[0].placement_nodes == (0, 0, 1, 1)
    assert len(found["single_node_two_instances_tp2_pp2"].instances) == 2


def test_the_measured_run_s_config_loads(shared_dir: Path) -> None:
    path = shared_dir / "data/llmservingsim/measured/RTXPRO6000-Llama-3.1-8B/cluster.json"
    (one,) = load_cluster(path).instances
    assert one.memory_utilization == 0.9
    assert one.dtype == "bfloat16"


@pytest.mark.parametrize(
    ("given_sizes", "expected"),
    [
        ({"num_npus": ..., "tp_size": 2, "pp_size": 2}, (2, 2)),
        ({"num_npus": 8, "tp_size": ..., "pp_size": 2}, (4, 2)),
        ({"num_npus": 4, "tp_size": ..., "pp_size": ...}, (4, 1)),
        ({"num_npus": ..., "tp_size": 4, "pp_size": ...}, (4, 1)),
        ({"num_npus": None, "tp_size": 1, "pp_size": 4}, (1, 4)),
    ],
)
def test_missing_sizes_are_inferred(given_sizes: dict[str, Any], expected: tuple[int, int]) -> None:
    one = instance(given_sizes)
    assert (one.tp_size, one.pp_size) == expected


@pytest.mark.parametrize(
    ("name", "field", "flag", "default"),
    [
        ("max_num_seqs", 7, 9, 128),
        ("max_num_batched_tokens", 512, 1024, 2048),
        ("block_size", 32, 64, 16),
        ("long_prefill_token_threshold", 3, 5, 0),
        ("enable_chunked_prefill", True, False, True),
        ("enable_prefix_caching", True, False, True),
        ("reserve_full_isl", True, False, True),
        ("engine_idle_sleep_ns", 0, 5, 1_000_000),
        ("async_scheduling", False, True, False),
    ],
)
def test_field_beats_flag_beats_default(name: str, field: Any, flag: Any, default: Any) -> None:
    assert getattr(instance({name: field}, **{name: flag}).scheduler, name) == field
    assert getattr(instance({}, **{name: flag}).scheduler, name) == flag
    assert getattr(instance({}, **{name: None}).scheduler, name) == default


def test_dtype_and_memory_share_follow_the_same_order() -> None:
    memory = {"mem_size": 96, "mem_bw": 1597, "mem_util": 0.5}
    assert instance({"dtype": "fp8"}, dtype="float16").dtype == "fp8"
    assert instance(dtype="float16").dtype == "float16"
    assert instance().dtype == "bfloat16"
    assert instance({"npu_mem": memory}, npu_memory_utilization=0.7).memory_utilization == 0.5
    assert instance(npu_memory_utilization=0.7).memory_utilization == 0.7
    assert instance().memory_utilization == 0.9


def test_zero_means_unlimited_sequences_and_the_longest_context() -> None:
    scheduler = instance({"max_num_seqs": 0, "max_num_batched_tokens": 0}).scheduler
    assert scheduler.max_num_seqs == UNLIMITED_SEQS
    assert scheduler.max_num_batched_tokens == 131_072


def test_the_longest_context_clamps_the_token_budget() -> None:
    scheduler = instance(
        {"model_name": "meta-llama/Llama-2-7b-hf", "max_num_batched_tokens": 10_000}
    ).scheduler
    assert scheduler.max_num_batched_tokens == 4096
    assert scheduler.max_model_len == 4096


@pytest.mark.parametrize(
    ("pp_size", "overrides", "depth", "v2"),
    [
        (1, {}, 1, False),
        (4, {}, 4, False),
        (1, {"async_scheduling": True}, 2, False),
        (4, {"async_scheduling": True}, 5, True),
        (4, {"max_in_flight": 2}, 2, False),
    ],
)
def test_depth_of_the_batch_queue(pp_size: int, overrides: dict[str, Any], depth: int, v2: bool) -> None:
    scheduler = instance({"num_npus": pp_size, "pp_size": pp_size} | overrides).scheduler
    assert (scheduler.max_in_flight, scheduler.v2_model_runner) == (depth, v2)


def test_own_additions_arrive() -> None:
    one = instance(
        {
            "pp_layer_partition": [20, 12],
            "num_gpu_blocks": 1000,
            "stage_hardware": ["RTXPRO6000", "H100"],
            "placement_nodes": [0, 0],
            "activation_tensors": 1,
            "blocking_sends": True,
            "watermark": 0.01,
            "max_model_len": 8192,
            "policy": "mine:Policy",
            "engine_overhead": {"schedule_ns": 100, "update_ns": 50, "source": "a test"},
        }
    )
    assert one.layer_partition == (20, 12)
    assert one.num_gpu_blocks == 1000
    assert one.stage_hardware == ("RTXPRO6000", "H100")
    assert one.placement_nodes == (0, 0)
    assert (one.activation_tensors, one.blocking_sends) == (1, True)
    assert (one.scheduler.watermark, one.scheduler.max_model_len) == (0.01, 8192)
    assert one.scheduler.policy == "mine:Policy"
    assert (one.overhead.schedule_ns, one.overhead.update_ns, one.overhead.source) == (100, 50, "a test")
    assert instance({"pp_layer_partition": "auto"}).layer_partition == "auto"


def test_scalars_are_spread_over_the_dimensions_of_the_other_list() -> None:
    link = load_cluster(config(link_bw=[16, 3], link_latency=5)).link
    assert link.bandwidth_gb_per_s == (16.0, 3.0)
    assert link.latency_ns == (5.0, 5.0)


def test_indices_count_over_all_nodes() -> None:
    data = config({}, {})
    data["nodes"].append(copy.deepcopy(data["nodes"][0]))
    data["num_nodes"] = 2
    assert [(one.index, one.node) for one in load_cluster(data).instances] == [(0, 0), (1, 0), (2, 1), (3, 1)]


def test_what_changes_nothing_is_accepted_with_a_notice() -> None:
    data = config(
        {
            "placement": {"default": {"weights": "npu", "kv_loc": "npu", "kv_evict_loc": "cxl:0"}},
            "enable_local_offloading": True,
            "enable_block_copy": True,
            "dp_group": None,
            "ep_size": 1,
        },
        cxl_mem={"mem_size": 10, "mem_bw": 60, "mem_latency": 250},
    )
    data["nodes"][0]["instances"][0]["npu_mem"]["mem_latency"] = 5
    cluster = load_cluster(data)
    for word in ("enable_local_offloading", "cxl_mem", "kv_evict_loc", "enable_block_copy"):
        assert any(word in notice for notice in cluster.notices), word


def test_members_that_any_config_has_are_no_more_than_a_remark() -> None:
    cluster = load_cluster(config({}, {}))
    assert not cluster.notices
    assert len(cluster.remarks) == 2
    for word in ("cpu_mem", "mem_latency", "mem_bw"):
        assert any(word in remark for remark in cluster.remarks), word


def test_more_memory_than_the_hardware_has_is_noticed() -> None:
    memory = {"mem_size": 141, "mem_bw": 4800}
    assert not any(
        "mem_size" in notice
        for notice in load_cluster(config({"hardware": "H200", "npu_mem": memory})).notices
    )
    (notice,) = (
        one
        for one in load_cluster(config({"hardware": "H100", "npu_mem": memory})).notices
        if "mem_size" in one
    )
    assert notice.endswith("mem_size: 141 GB, where NVIDIA H100 SXM5 80GB has 80")


# --- mistakes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"num_npus": 3}, ".num_npus: must be tp_size x pp_size = 1 x 2 = 2, not 3"),
        ({"num_npus": 3, "tp_size": ...}, ".num_npus: must be a multiple of pp_size = 2, not 3"),
        ({"num_npus": ..., "tp_size": ...}, ": missing key 'num_npus' or 'tp_size'"),
        ({"num_npus": 64, "pp_size": 64}, ".pp_size: 64 stages are more than the 32 layers"),
        ({"num_npus": 6, "tp_size": 3}, ".tp_size: tp 3 must divide the 32 attention heads"),
        ({"pp_layer_partition": [16, 17]}, ".pp_layer_partition: must sum to the 32 layers"),
        ({"pp_layer_partition": [10, 10, 12]}, ".pp_layer_partition: must have one entry per stage"),
        ({"pp_layer_partition": "even"}, '.pp_layer_partition: must be "auto" or a list'),
        (
            {"pp_layer_partition": [32, 0]},
            '.pp_layer_partition: must be "auto" or a list of layer counts >= 1',
        ),
        ({"max_in_flight": 2000}, ".max_in_flight: must be <= 1024, not 2000"),
        ({"pp_layer_partition": [16.0, 16]}, '.pp_layer_partition: must be "auto" or a list'),
        ({"stage_hardware": ["H100"]}, ".stage_hardware: must have one entry per stage"),
        (
            {"stage_hardware": ["H100", "H1OO"]},
            ".stage_hardware[1]: unknown hardware 'H1OO'; did you mean 'H100'?",
        ),
        ({"placement_nodes": [0, 3]}, ".placement_nodes[1]: there is no node 3"),
        ({"pp_sice": 2}, ": unknown key 'pp_sice'; did you mean 'pp_size'?"),
        ({"model_name": "meta-llama/Llama-3.1-9B"}, "did you mean 'meta-llama/Llama-3.1-8B'?"),
        ({"model_name": ...}, ": missing key 'model_name'"),
        ({"hardware": "RTXPRO600"}, ".hardware: unknown hardware 'RTXPRO600'; did you mean 'RTXPRO6000'?"),
        ({"npu_mem": {"mem_size": 96}}, ".npu_mem: missing key 'mem_bw'"),
        ({"npu_mem": {"mem_size": 0, "mem_bw": 1}}, ".npu_mem.mem_size: must be > 0, not 0"),
        ({"npu_mem": {"mem_size": float("nan"), "mem_bw": 1}}, ".npu_mem.mem_size: must be a finite number"),
        ({"npu_mem": {"mem_size": 96, "mem_bw": 1, "mem_util": 1.1}}, ".npu_mem.mem_util: must be <= 1"),
        ({"npu_mem": 96}, ".npu_mem: must be an object, not 96"),
        ({"pp_size": "2"}, ".pp_size: must be an integer, not '2'"),
        ({"pp_size": 2.0}, ".pp_size: must be an integer, not 2.0"),
        ({"pp_size": True}, ".pp_size: must be an integer, not true"),
        ({"pp_size": -1}, ".pp_size: must be >= 1, not -1"),
        ({"dtype": "fp16"}, "did you mean 'float16'?"),
        ({"block_size": 0}, ".block_size: must be >= 1"),
        ({"enable_chunked_prefill": 1}, ".enable_chunked_prefill: must be true or false, not 1"),
        ({"activation_tensors": 3}, ".activation_tensors: must be 1 or 2, not 3"),
        ({"activation_tensors": True}, ".activation_tensors: must be 1 or 2, not true"),
        ({"max_num_seqs": 1 << 41}, ".max_num_seqs: must be <= 1099511627776, not 2199023255552"),
        ({"hardware": "??"}, ".hardware: unknown hardware '??' (not in the catalogue: A100"),
        (
            {"placement": {"blocks": [{"blocks": "all"}]}},
            'blocks[0].blocks: must be ranges of layers such as "0-3"',
        ),
        ({"model_name": "x" * 5000}, ".model_name: unknown model 'xxx"),
        ({"watermark": 1.0}, ".watermark: must be < 1"),
        ({"max_model_len": 200_000}, ".max_model_len: must be <= max_position_embeddings = 131072"),
        ({"engine_overhead": {"schedul_ns": 1}}, "unknown key 'schedul_ns'; did you mean 'schedule_ns'?"),
    ],
)
def test_a_mistake_is_named_with_its_place(overrides: dict[str, Any], message: str) -> None:
    assert message in only_problem(overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        {"placement": {"blocks": [{"blocks": "0-3", "kv_loc": "cxl:0"}]}},
        {"placement": {"layers": {"lm_head": {"kv_evict_loc": "cxl:1"}}}},
    ],
)
def test_devices_that_are_not_there_are_named(overrides: dict[str, Any]) -> None:
    assert "there is no cxl:" in only_problem(overrides)


def test_a_pim_without_times_of_attention_is_refused() -> None:
    data = config()
    data["nodes"][0]["cpu_mem"]["pim_config"] = "DDR4"
    (problem,) = problems(data)
    assert problem.startswith("cluster: nodes[0].cpu_mem.pim_config: no attention times for 'DDR4'")


def test_all_mistakes_are_reported_at_once() -> None:
    data = config(
        {"num_npus": 5, "colour": 1}, {"pp_size": 0, "hardware": "X"}, num_nodes=2, link_bw=[16, -1]
    )
    found = problems(data, block_size=0, dtype="fp16")
    for part in (
        "block_size: ",
        "dtype: ",
        "link_bw[1]",
        "num_nodes: says 2, but nodes has 1",
        "instances[0]: unknown key 'colour'",
        "instances[0].num_npus",
        "instances[1].pp_size",
        "instances[1].hardware",
    ):
        assert any(part in problem for problem in found), (part, found)
    assert len(found) == 8


@pytest.mark.parametrize("data", [[], 3, "x", {"nodes": {}}, {"nodes": [3]}])
def test_wrong_shapes_are_mistakes(data: Any, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps(data))
    with pytest.raises(UserError):
        load_cluster(path)


def test_a_cluster_needs_an_instance() -> None:
    empty = {"num_nodes": 0, "link_bw": 1, "link_latency": 0, "nodes": []}
    assert problems(empty) == ["cluster: the cluster has no instances"]


def test_network_dimensions_must_match() -> None:
    (found,) = problems(config(link_bw=[1, 2], link_latency=[1, 2, 3]))
    assert found == "cluster: link_latency: has 3 network dimensions where link_bw has 2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{\n  "num_nodes": 1,,\n}', ":2:18: broken JSON"),
        ("", ":1:1: broken JSON"),
        ("null", "must be a JSON object, not null"),
        ('{"num_nodes": 1, "num_nodes": 2}', "key 'num_nodes' stands here twice"),
        ("[" * 100_000, "is nested more than 64 deep"),
    ],
)
def test_broken_json_is_placed(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(text)
    assert any(message in problem and str(path) in problem for problem in problems(path))


def test_unreadable_files_are_mistakes(tmp_path: Path) -> None:
    assert "No such file" in problems(tmp_path / "none.json")[0]
    assert "cannot be read" in problems(tmp_path)[0]
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in problems(tmp_path / "binary.json")[0]


def test_a_folder_of_profiles_makes_hardware_known(tmp_path: Path) -> None:
    (tmp_path / "MyChip").mkdir()
    data = config({"hardware": "MyChip"})
    assert load_cluster(data, profile_root=tmp_path).instances[0].hardware == "MyChip"
    with pytest.raises(UserError, match="did you mean 'MyChip'"):
        load_cluster(config({"hardware": "MyChop"}), profile_root=tmp_path)


def spec_or_problems(data: Any) -> object:
    try:
        return load_cluster(data)
    except UserError as error:
        return error.problems


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(sorted(config()["nodes"][0]["instances"][0])), json_values)
def test_no_value_of_a_member_gives_anything_but_a_spec_or_a_user_error(name: str, value: Any) -> None:
    assert spec_or_problems(config({name: value}))


@given(st.sampled_from(["num_nodes", "link_bw", "link_latency", "nodes", "cxl_mem"]), json_values)
def test_the_same_at_the_top(name: str, value: Any) -> None:
    assert spec_or_problems(config(**{name: value}))


def test_a_partition_of_the_wrong_length_is_one_mistake() -> None:
    with pytest.raises(UserError) as caught:
        load_cluster(config({"pp_layer_partition": [1]}))
    assert [problem.message for problem in caught.value.problems] == [
        "must have one entry per stage, pp_size = 2, not 1"
    ]


@pytest.mark.parametrize(
    ("power", "message"),
    [
        ({"base_node_power": float("nan")}, "power.base_node_power: must be a finite number, not NaN"),
        ({"base_power": 60}, "power: unknown key 'base_power'; did you mean 'base_node_power'?"),
        (
            {"npu": {"H100": {"idle_powr": 1}}},
            "power.npu.H100: unknown key 'idle_powr'; did you mean 'idle_power'?",
        ),
        ({"npu": {"H100": {"active_power": -1}}}, "power.npu.H100.active_power: must be >= 0, not -1"),
        ({"cpu": {"util": 2}}, "power.cpu.util: must be <= 1, not 2"),
        ({"storage": []}, "power.storage: must be an object, not a list"),
    ],
)
def test_mistakes_in_power_are_named(power: dict[str, Any], message: str) -> None:
    data = config()
    data["nodes"][0]["power"] = power
    with pytest.raises(UserError) as caught:
        load_cluster(data)
    assert [str(problem) for problem in caught.value.problems] == [f"cluster: nodes[0].{message}"]
