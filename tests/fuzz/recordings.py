"""Recordings of schedulers, and real runs, as small as they can be."""

from __future__ import annotations

CONFIG = {
    "max_num_seqs": 4,
    "max_num_batched_tokens": 64,
    "block_size": 16,
    "num_gpu_blocks": 40,
    "pp_size": 2,
    "stages": [{"a": 1000, "b": 10, "c": 1}] * 2,
    "hop": {"d": 100, "e": 1},
    "worker_poll": "start",
}

REQUESTS = [
    {"req_id": f"r{n}", "arrival_time_ns": n * 500, "input_toks": 20, "output_toks": 3} for n in range(3)
]

ROW = {
    "iter": 0,
    "t_schedule_ns": 0,
    "scheduled": [["r0", 20, 0]],
    "preempted": [],
    "stage_ns": [[0, 5], [6, 9]],
}

RECORDING = {
    "case": "one",
    "config": CONFIG,
    "requests": REQUESTS,
    "iterations": [ROW],
    "per_request": [{"req_id": "r0", "finish_ns": 9}],
    "end_ns": 100,
}

GROUP = {
    **RECORDING,
    "config": {
        **CONFIG,
        "dp_size": 2,
        "dp_sync_interval": 16,
        "sync_ns": 100,
        "prefill_schedule_interval": 1,
        "lb": "internal",
        "client_count": 1,
        "hybrid_nodes": 1,
        "stats_interval_ms": 100,
        "latency": dict.fromkeys(
            (
                "client_engine",
                "engine_client",
                "client_coord",
                "coord_client",
                "engine_coord",
                "coord_engine",
            ),
            10,
        ),
    },
    **{
        name: []
        for name in (
            "iterations",
            "per_request",
            "routing",
            "dummies",
            "forwards",
            "syncs",
            "engine_messages",
            "start_waves",
            "publishes",
            "unfinished",
        )
    },
    **dict.fromkeys(
        (
            "num_iterations",
            "num_forwards",
            "num_dummies",
            "final_wave",
        ),
        0,
    ),
    "num_empty_schedules": [0, 0],
    "num_idle_sleeps": [0, 0],
    "free_blocks_end": [0],
}

APART = {
    "case": "apart",
    "requests": REQUESTS,
    "proxy": {"proxy_ns": 100},
    "transfer": {
        "latency_ns": 100,
        "bandwidth_Bps": 10**9,
        "kv_bytes_per_token": 100,
        "serialise": "pair",
        "notify_ns": 10,
        "handshake_ns": 0,
        "fail": [],
    },
    "aborts": [],
    "transfers": [],
    "pd_requests": [],
    "instances": [
        {
            "name": name,
            "role": role,
            "kv_role": kv,
            "config": {**CONFIG, "kv_load_failure_policy": "recompute", "kv_lease_duration": 30},
            "iterations": [],
            "per_request": [],
            "end_ns": 0,
        }
        for name, role, kv in (("P", "prefill", "kv_producer"), ("D", "decode", "kv_consumer"))
    ],
}

TIER = {
    **RECORDING,
    "jobs": [],
    "offload": {
        "cpu_chunks": 20,
        "blocks_per_chunk": 1,
        "eviction_policy": "lru",
        "offload_prompt_only": True,
        "store_threshold": 0,
        "kv_bytes_per_token": 100,
        "d2h_latency_ns": 10,
        "d2h_bandwidth_Bps": 10**9,
        "h2d_latency_ns": 10,
        "h2d_bandwidth_Bps": 10**9,
    },
}

META = {
    "vllm_version": "0.19.0",
    "engine_kwargs": {"max_num_seqs": 8, "tensor_parallel_size": 1},
    "kv_cache": {"num_gpu_blocks": 100},
}

REAL_RUN = {
    "requests": [
        {"req_id": f"r{n}", "arrival_time_ns": n, "input_toks": 4 + n % 5, "output_toks": 2}
        for n in range(12)
    ],
    "client": [{"req_id": f"r{n}", "sent_ns": n, "token_times_ns": [100, 200]} for n in range(12)],
    "iterations": [
        {
            "t_schedule_ns": n * 100,
            "t_update_ns": n * 100 + 90,
            "schedule_cpu_ns": 1,
            "scheduled": [[f"r{n % 12}", 4 + n % 5 if n < 12 else 1, 0 if n < 12 else 4 + n % 12 % 5]],
            "preempted": [],
            "stages": [
                {
                    "start_ns": n * 100 + 10,
                    "end_ns": n * 100 + 30 + n % 7,
                    "recv_wait_ns": 1,
                    "sample_end_ns": None,
                }
            ]
            * 2,
        }
        for n in range(24)
    ],
}

REAL_SUMMARY = {
    "engine_args": {
        "max_num_seqs": 4,
        "max_num_batched_tokens": 64,
        "max_model_len": 100,
        "block_size": 16,
        "enable_prefix_caching": False,
    },
    "batch_queue_size": 2,
    "async_scheduling": False,
    "v2_model_runner": False,
    "args": {},
    "num_gpu_blocks": 40,
}
