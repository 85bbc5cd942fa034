"""Cluster configs that between them say every member a config can have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MEMORY = {"mem_size": 80, "mem_bw": 3350, "mem_latency": 0}
POWER = {
    "base_node_power": 60,
    "npu": {"H100": {"idle_power": 35, "standby_power": 300, "active_power": 600, "standby_duration": 18}},
    "cpu": {"idle_power": 10, "active_power": 200, "util": 0.15},
    "dram": {"dimm_size": 32, "idle_power": 2.0, "energy_per_bit": 6.0},
    "link": {"num_links": 1, "idle_power": 5, "energy_per_bit": 4.0},
    "nic": {"num_nics": 1, "idle_power": 20},
    "storage": {"num_devices": 2, "idle_power": 5},
}
PIM = (
    "[dram]\nbankgroups = 4\nbanks_per_group = 4\nrows = 16384\ncolumns = 64\ndevice_width = 128\n"
    "; a comment = 1\nCL = 14\ntCK = 1.0\nbus_width = 128\nchannel_size = 1024\ndata_rate = 2000 # MT/s\n"
    "idle_power = 160\npeak_power = 760\n"
)
PIM_FILE = "configs/pim/HBM2_1GB_2000_pim.ini"
MODEL = {
    "model_type": "llama",
    "hidden_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "intermediate_size": 1024,
    "vocab_size": 1000,
    "max_position_embeddings": 4096,
    "torch_dtype": "bfloat16",
}
MIXTURE = {
    "model_type": "mixtral",
    "hidden_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "intermediate_size": 1024,
    "vocab_size": 1000,
    "max_position_embeddings": 4096,
    "torch_dtype": "bfloat16",
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
}
LATENT = {
    "model_type": "deepseek_v3",
    "hidden_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "intermediate_size": 1024,
    "moe_intermediate_size": 256,
    "vocab_size": 1000,
    "max_position_embeddings": 4096,
    "torch_dtype": "bfloat16",
    "q_lora_rank": 128,
    "kv_lora_rank": 64,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 32,
    "v_head_dim": 32,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
}


CLUSTER = {
    "num_nodes": 1,
    "link_bw": 16,
    "link_latency": 20000,
    "nodes": [
        {
            "num_instances": 1,
            "cpu_mem": {"mem_size": 512, "mem_bw": 256, "mem_latency": 0},
            "instances": [
                {
                    "model_name": "meta-llama/Llama-3.1-8B",
                    "hardware": "H100",
                    "npu_mem": {"mem_size": 80, "mem_bw": 3350, "mem_latency": 0},
                    "num_npus": 2,
                    "tp_size": 1,
                    "pp_size": 2,
                    "max_num_seqs": 8,
                    "pp_layer_partition": [16, 16],
                }
            ],
        }
    ],
}
"""Two stages on one node."""


def instance(**more: Any) -> dict[str, Any]:
    """An instance on an H100."""
    return {
        "model_name": "meta-llama/Llama-3.1-8B",
        "hardware": "H100",
        "npu_mem": MEMORY,
        "tp_size": 1,
        **more,
    }


def cluster(
    *instances: Mapping[str, Any], node: Mapping[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    """One node of these instances."""
    whole = {
        "num_instances": len(instances),
        "cpu_mem": {"mem_size": 512, "mem_bw": 25, "mem_latency": 10},
        "instances": list(instances),
        **(node or {}),
    }
    return {"num_nodes": 1, "link_bw": 16, "link_latency": 20000, "nodes": [whole], **more}


def two_nodes() -> dict[str, Any]:
    """A pipeline over two nodes of unlike hardware, with power and a host."""
    across = instance(
        tp_size=2,
        pp_size=2,
        num_npus=4,
        placement_nodes=[0, 1],
        stage_hardware=["H100", "A100"],
        pp_layer_partition="auto",
        max_in_flight=2,
        max_model_len=2000,
        watermark=0.01,
        engine_overhead={"schedule_ns": 1000, "update_ns": 10, "prefill_step_ns": 5, "source": "mine"},
        block_size=16,
        max_num_seqs=8,
        max_num_batched_tokens=64,
        long_prefill_token_threshold=32,
        enable_prefix_caching=True,
        scheduling_policy="priority",
        policy="decode-cap(cap=2)",
        token_return=True,
        activation_tensors=2,
        dtype="bfloat16",
        kv_cache_dtype="fp8",
    )
    first, second = (
        {
            "num_instances": 1,
            "cpu_mem": {"mem_size": 512, "mem_bw": 256, "mem_latency": 0},
            "power": {**POWER, "npu": {**POWER["npu"], "A100": POWER["npu"]["H100"]}},
            "instances": [across],
        },
        {"num_instances": 0, "cpu_mem": {"mem_size": 512, "mem_bw": 256}, "instances": []},
    )
    return {
        "num_nodes": 2,
        "link_bw": [16, 3],
        "link_latency": [20000, 50000],
        "topology": ["Ring", "Switch"],
        "collective_algorithm": ["ring", "direct"],
        "npus_per_dimension": [2, 2],
        "shared_node_links": True,
        "nodes": [first, second],
    }


def apart() -> dict[str, Any]:
    """Prefill and decode apart."""
    return cluster(
        instance(pd_type="prefill", num_npus=1),
        instance(pd_type="decode", num_npus=1, num_gpu_blocks=500),
        kv_transfer={
            "kind": "pull",
            "proxy_ns": 100,
            "notify_ns": 10,
            "handshake_ns": 5,
            "kv_lease_duration": 30,
            "worker_poll": "start",
            "decode_router": "RR",
        },
    )


def tiers() -> dict[str, Any]:
    """A tier of KV in host memory, with a store behind it in CXL memory."""
    tier = {
        "cpu_gb": 4,
        "d2h_gb_per_s": 20,
        "h2d_gb_per_s": 20,
        "d2h_latency_ns": 10,
        "h2d_latency_ns": 10,
        "blocks_per_chunk": 2,
        "eviction_policy": "arc",
        "offload_prompt_only": False,
        "store_threshold": 0,
        "load": "sync",
        "shared": "node",
        "store": "cxl",
        "store_gb": 20,
        "store_gb_per_s": 10,
        "store_latency_ns": 100,
    }
    return cluster(
        instance(kv_offloading=tier, num_gpu_blocks=60),
        instance(kv_offloading=tier, num_gpu_blocks=60),
        cxl_mem={"mem_size": 64, "mem_bw": 100, "mem_latency": 0, "num_devices": 2},
    )


def placed() -> dict[str, Any]:
    """Weights and KV outside the NPUs."""
    placement = {
        "default": {"weights": "npu", "kv_loc": "npu", "kv_evict_loc": "cpu"},
        "blocks": [{"blocks": "0-3", "weights": "cpu"}, {"blocks": "8,9", "weights": "cxl:0"}],
        "layers": {"lm_head": {"weights": "cxl:1"}},
        "prefetch_layers": 2,
    }
    return cluster(
        instance(placement=placement),
        cxl_mem={"mem_size": 64, "mem_bw": 100, "mem_latency": 0, "num_devices": 2},
    )


def in_memory() -> dict[str, Any]:
    """Decodes that attend in the node's memory."""
    host = {"mem_size": 256, "mem_bw": 100, "mem_latency": 0, "pim_config": "HBM2_1GB_2000_pim"}
    one = instance(enable_attn_offloading=True, enable_sub_batch_interleaving=True)
    return cluster(one, node={"cpu_mem": host, "power": POWER})


def ranks(model: str = "mixture.json") -> dict[str, Any]:
    """Data-parallel ranks that share their experts."""
    return cluster(
        instance(
            model_name=model,
            num_npus=1,
            data_parallel_size=2,
            data_parallel_lb="internal",
            api_server_count=1,
            dp_sync_interval=16,
            prefill_schedule_interval=1,
            enable_expert_parallel=True,
            enable_eplb=True,
            num_redundant_experts=0,
            expert_placement_strategy="linear",
            all2all_backend="allgather_reducescatter",
            expert_popularity="power_law(1.2)",
            dp_count_exchange_ns=100,
            cudagraph_max_tokens=64,
        )
    )


def grouped() -> dict[str, Any]:
    """LLMServingSim's way to say ranks: instances of one ``dp_group``."""
    one = instance(model_name="mixture.json", num_npus=1, ep_size=2, dp_group="a")
    return cluster(one, one, link_class="nvlink4", endpoint_delay_ns=10)


def two_models() -> dict[str, Any]:
    """Each on an instance of its own."""
    return cluster(instance(), instance(model_name="mixture.json", num_npus=1))


NAMED = [
    {"input_toks": 9, "output_toks": 2, "arrival_time_ns": n, "model": name}
    for n, name in enumerate(("meta-llama/Llama-3.1-8B", "mixture"))
]
"""Requests that say which of them they are for."""
