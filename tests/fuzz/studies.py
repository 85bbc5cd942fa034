"""Searches."""

from __future__ import annotations

STUDY = {
    "model": "meta-llama/Llama-3.1-8B",
    "dataset": "w.jsonl",
    "rate": "trace",
    "slo": "ttft_p99<2s",
    "objectives": ["goodput_per_gpu", "cost_per_million_tokens"],
    "prices": {"H100": 2.5},
    "npu_mem": {"H100": {"mem_size": 80, "mem_bw": 3350, "mem_latency": 0}},
    "instance": {"block_size": 16},
    "networks": {"fast": {"inside_gb_per_s": 100, "between_gb_per_s": 10}},
    "constraints": ["gpus<=2"],
    "space": {"hardware": "H100", "tp": [1], "pp": 1, "policy": "vllm", "network": "fast"},
}

CHAT_STUDY = {
    "model": "mixture.json",
    "generate": {
        "num_requests": 100,
        "input_toks": "fixed:20",
        "output_toks": "uniform:1,4",
        "prefix_groups": 1,
        "prefix_tokens": 8,
        "seed": 1,
    },
    "arrivals": "gamma",
    "burstiness": 2,
    "rate": 400,
    "slo": ["ttft_p99 < 2 s", "tpot_p50 < 200 ms"],
    "seeds": 1,
    "max_requests": 100,
    "tolerance": 0.5,
    "gpus_per_node": 2,
    "memory_utilization": 0.8,
    "instance": {"block_size": 16, "engine_overhead": "none"},
    "search": {
        "method": "optuna",
        "trials": 2,
        "seed": 1,
        "exhaustive_up_to": 1,
        "early_stop": 1.5,
        "pilot_requests": 50,
    },
    "space": [
        {
            "hardware": ["H100"],
            "gpus": [1],
            "tp": [1],
            "pp": [1],
            "partition": ["even"],
            "replicas": "fill",
            "max_num_seqs": [8],
            "max_num_batched_tokens": 256,
            "max_in_flight": "pp+1",
            "policy": "vllm",
            "dtype": "bfloat16",
            "kv_cache_dtype": "auto",
            "async_scheduling": False,
            "router": "LOAD",
        }
    ],
}
