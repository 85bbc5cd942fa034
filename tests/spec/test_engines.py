"""Engine presets: an engine's own defaults by hardware, between what the user says and Penstock's."""

from __future__ import annotations

from typing import Any

import pytest

import penstock
from penstock.errors import UserError
from penstock.spec.engines import engine_names, engine_preset, engine_router
from penstock.spec.load import load_cluster
from penstock.spec.option_table import RawEngine, RawFlags, run_options
from penstock.spec.options import SchedulerOptions
from penstock.units import GIB

TOKENS_AND_SEQS = {
    "vllm-0.32.0": {192: (16384, 1024), 80: (8192, 1024), 70: (8192, 1024), 48: (2048, 256)},
    "vllm-0.19.0": {192: (8192, 1024), 80: (8192, 1024), 48: (2048, 256)},
    "sglang": {192: (16384, 2048), 80: (8192, 2048), 48: (4096, 2048), 16: (2048, 2048)},
    "llmservingsim": {192: (2048, 128), 16: (2048, 128)},
}


def cluster(pp_size: int = 2, **members: Any) -> dict[str, Any]:
    instance = {
        "model_name": "meta-llama/Llama-3.1-8B",
        "hardware": "H100",
        "npu_mem": {"mem_size": 80, "mem_bw": 3350},
        "num_npus": pp_size,
        "pp_size": pp_size,
        **members,
    }
    nodes = [{"num_instances": 1, "instances": [instance]}]
    return {"num_nodes": 1, "link_bw": 300, "link_latency": 0, "nodes": nodes}


def scheduler(pp_size: int = 2, flags: dict[str, Any] | None = None, **members: Any) -> SchedulerOptions:
    return load_cluster(cluster(pp_size, **members), flags).instances[0].scheduler


def refused(flags: dict[str, Any] | None = None, **members: Any) -> str:
    with pytest.raises(UserError) as caught:
        load_cluster(cluster(**members), flags)
    (problem,) = caught.value.problems
    return str(problem)


def test_the_help_names_all_presets() -> None:
    (option,) = (one for one in run_options() if one.name == "engine")
    assert option.about.text.partition(": ")[2].split(", ") == list(engine_names())


@pytest.mark.parametrize("name", engine_names())
def test_presets_set_options_that_there_are(name: str) -> None:
    for pp_size in (1, 4):
        preset = engine_preset(name, hardware="H100", memory_bytes=80 * GIB, pp_size=pp_size)
        known = set(RawFlags.model_fields) | {"policy"}
        assert set(preset.options) <= known
        checked = {name: value for name, value in preset.options.items() if name in RawEngine.model_fields}
        RawEngine.model_validate(checked)


@pytest.mark.parametrize(
    ("name", "gib", "wanted"),
    [(name, gib, pair) for name, classes in TOKENS_AND_SEQS.items() for gib, pair in classes.items()],
)
def test_limits_by_the_memory_of_the_hardware(name: str, gib: int, wanted: tuple[int, int]) -> None:
    options = scheduler(1, {"engine": name}, npu_mem={"mem_size": gib, "mem_bw": 3350})
    assert (options.max_num_batched_tokens, options.max_num_seqs) == wanted


@pytest.mark.parametrize("label", ["A100-80GB", "NVIDIA A100 80GB"])
def test_vllm_keeps_small_batches_on_an_a100(label: str) -> None:
    options = scheduler(1, {"engine": "vllm-0.32.0"}, hardware=label)
    assert (options.max_num_batched_tokens, options.max_num_seqs) == (2048, 256)


@pytest.mark.parametrize(
    ("name", "pp_size", "asynchronous", "depth", "second_runner"),
    [
        ("vllm-0.32.0", 1, True, 2, False),
        ("vllm-0.32.0", 4, True, 5, True),
        ("vllm-0.19.0", 1, True, 2, False),
        ("vllm-0.19.0", 4, True, 4, False),
        ("sglang", 1, True, 2, False),
        ("sglang", 4, False, 4, False),
        ("llmservingsim", 4, False, 4, False),
    ],
)
def test_async_scheduling_and_the_batch_queue(
    name: str, pp_size: int, asynchronous: bool, depth: int, second_runner: bool
) -> None:
    options = scheduler(pp_size, engine=name)
    assert options.async_scheduling is asynchronous
    assert options.max_in_flight == depth
    assert options.v2_model_runner is second_runner


def test_llmservingsim_is_the_default() -> None:
    assert scheduler(4, engine="llmservingsim") == scheduler(4)
    preset = engine_preset("llmservingsim", hardware="H100", memory_bytes=80 * GIB, pp_size=4)
    assert set(RawFlags.model_fields) - set(preset.options) == {
        "engine",
        "dtype",
        "kv_cache_dtype",
        "v2_model_runner",
        "policy",
        "prefix_storage",
        "enable_prefix_sharing",
        "enable_attn_offloading",
        "enable_sub_batch_interleaving",
    }


def test_what_is_given_holds_in_its_order() -> None:
    flags = {
        "engine": "vllm-0.32.0",
        "max_num_seqs": 7,
        "max_num_batched_tokens": 300,
        "async_scheduling": False,
    }
    options = scheduler(4, flags, max_num_seqs=9)
    assert (options.max_num_seqs, options.max_num_batched_tokens) == (9, 300)
    assert (options.async_scheduling, options.max_in_flight) == (False, 4)
    assert scheduler(4, flags, engine="sglang").policy == "sglang"
    assert scheduler(4, {"engine": "sglang"}, policy="gllm").policy == "gllm"


def test_memory_utilization_too() -> None:
    def of(flags: dict[str, Any], **memory: Any) -> float:
        members = {"npu_mem": {"mem_size": 80, "mem_bw": 3350, **memory}}
        return load_cluster(cluster(**members), flags).instances[0].memory_utilization

    assert of({}) == 0.9
    assert of({"engine": "vllm-0.32.0"}) == 0.92
    assert of({"engine": "vllm-0.32.0", "npu_memory_utilization": 0.8}) == 0.8
    assert of({"engine": "vllm-0.32.0"}, mem_util=0.7) == 0.7


def test_the_basis_says_it_once_with_what_was_changed() -> None:
    result = penstock.simulate(
        cluster(2), "workloads/example_trace.jsonl", engine="vllm-0.32.0", max_num_seqs=64, num_reqs=3
    )
    (line,) = (one for one in result.summary.instances[0].basis if "vllm-0.32.0" in one)
    assert line.startswith("defaults of vllm-0.32.0 (vLLM 0.32.0, vllm serve): async_scheduling on, ")
    assert "; as given: max_num_seqs 64 instead of 1024; read in vllm 0.32.0, engine/arg_utils.py" in line
    assert "max_num_batched_tokens 8192" in line


def test_the_router_comes_with_the_option_and_yields() -> None:
    from penstock.api import load_scenario

    def router(**options: Any) -> str:
        return load_scenario(cluster(2), "workloads/example_trace.jsonl", options).options.router

    assert engine_router("vllm-0.19.0") == "LOAD"
    assert router(engine="vllm-0.19.0") == "LOAD"
    assert router(engine="vllm-0.19.0", router="RR") == "RR"


def test_an_unknown_engine_is_refused_with_the_nearest() -> None:
    assert refused({"engine": "vllm-0.32"}).startswith(
        "engine: no preset for 'vllm-0.32'; did you mean 'vllm-0.3"
    )
    message = refused(engine="sglan")
    assert message.startswith(
        "cluster: nodes[0].instances[0].engine: no preset for 'sglan'; did you mean 'sglang'"
    )
