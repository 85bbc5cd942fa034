"""A small valid input of every kind that a command reads, and the command that reads it."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

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
FLAT = [{"input_toks": 20 + n, "output_toks": 3, "arrival_time_ns": n * 10**6} for n in range(4)]
SESSION = {
    "session_id": "a",
    "arrival_time_ns": 5,
    "sub_requests": [
        {"input_toks": 3, "output_toks": 2, "tool_duration_ns": 10, "input_tok_ids": [1, 2, 3]},
        {"input_toks": 6, "output_toks": 2, "priority": 1},
    ],
}
MOONCAKE = {"timestamp": 1, "input_length": 600, "output_length": 2, "hash_ids": [0, 1]}
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(
    f"2023-11-16 18:17:0{n}.9799600,{100 + n},{5 + n}\n" for n in range(4)
)
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
BENCH = {
    "date": "20260101-101010",
    "backend": "vllm",
    "model_id": "m",
    "num_prompts": 3,
    "completed": 3,
    "duration": 1.0,
    "total_input_tokens": 63,
    "request_rate": 2.0,
    "input_lens": [20, 21, 22],
    "output_lens": [3, 3, 3],
    "ttfts": [0.1, 0.1, 0.1],
    "itls": [[0.01, 0.01]] * 3,
    "start_times": [0.0, 0.1, 0.2],
    "errors": ["", "", ""],
    "generated_texts": ["", "", ""],
}
GUIDELLM = {
    "benchmarks": [
        {
            "requests": {
                "successful": [
                    {
                        "request_start_time": 0.1 * n,
                        "prompt_tokens": 20,
                        "output_tokens": 3,
                        "time_to_first_token_ms": 10.0,
                        "request_latency": 0.1,
                    }
                    for n in range(3)
                ]
            }
        }
    ]
}
SERVING_CSV = "input,output,arrival,TTFT,latency,ITL\n" + "".join(
    f'20,3,{n}000,1000,3000,"[1000, 1000]"\n' for n in range(3)
)
MEASURED = [
    {
        "request_id": f"req-{n}",
        "input_toks": 20 + n,
        "output_toks": 3,
        "queued_ts": 1.0 + n,
        "scheduled_ts": 1.1 + n,
        "first_token_ts": 1.2 + n,
        "last_token_ts": 1.4 + n,
    }
    for n in range(4)
]
META = {
    "vllm_version": "0.19.0",
    "engine_kwargs": {"max_num_seqs": 8, "tensor_parallel_size": 1},
    "kv_cache": {"num_gpu_blocks": 100},
}
REAL_STAGE = {"start_ns": 10, "end_ns": 30, "recv_wait_ns": 1, "sample_end_ns": None}
REAL_RUN = {
    "requests": [
        {"req_id": f"r{n}", "arrival_time_ns": n, "input_toks": 4, "output_toks": 2} for n in range(3)
    ],
    "client": [{"req_id": f"r{n}", "sent_ns": n, "token_times_ns": [100, 200]} for n in range(3)],
    "iterations": [
        {
            "t_schedule_ns": n * 10,
            "t_update_ns": n * 10 + 9,
            "schedule_cpu_ns": 1,
            "scheduled": [[f"r{n % 3}", 4 if n < 3 else 1, 0 if n < 3 else 4]],
            "preempted": [],
            "stages": [REAL_STAGE] * 2,
        }
        for n in range(6)
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
LAYERS = ("layernorm", "qkv_proj", "rotary_emb", "o_proj", "gate_up_proj", "act_fn", "down_proj", "embedding")
DENSE = "layer,tokens,time_us\n" + "".join(
    f"{layer},{size},{3 + size / 100}\n" for layer in (*LAYERS, "final_layernorm") for size in (1, 64, 512)
)
HEADS = "layer,sequences,time_us\n" + "".join(f"lm_head,{size},{5 + size}\n" for size in (1, 8, 64))
ATTENTION = "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us\n" + "".join(
    f"{chunk},{history},{decodes},{context},{4 + chunk / 9 + decodes}\n"
    for chunk, history, decodes, context in (
        (16, 0, 0, 0),
        (64, 0, 0, 0),
        (64, 64, 0, 0),
        (0, 0, 1, 16),
        (0, 0, 1, 64),
        (0, 0, 4, 16),
        (0, 0, 4, 64),
        (64, 0, 4, 16),
        (64, 0, 4, 64),
    )
)
BUNDLE_META = "hardware: H100\nmodel: meta-llama/Llama-3.1-8B\nvariant: bf16\n"
SERVER_LOG = "".join(
    f"INFO 01-01 10:10:1{n} [loggers.py] Engine 000: Iteration({n}): 1 context requests, 20 context tokens, "
    f"2 generation requests, 2 generation tokens, iteration elapsed time: 9.{n}0 ms\n"
    for n in range(3)
)


@dataclass(frozen=True, slots=True)
class Kind:
    """``files`` by name, of which those in ``mutated`` are changed; ``line`` is the command, in their directory."""

    name: str
    line: str
    files: dict[str, bytes]
    mutated: tuple[str, ...]
    differs: bool = False
    """Whether exit code 1, a difference found, is an answer."""


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1).encode()


def _lines(values: Sequence[Any]) -> bytes:
    return "".join(json.dumps(value) + "\n" for value in values).encode()


@cache
def kinds() -> tuple[Kind, ...]:
    """All of them."""
    import yaml

    base = {"c.json": _json(CLUSTER), "w.jsonl": _lines(FLAT)}
    run = "run --cluster-config c.json --dataset w.jsonl --log-interval 0 --output o.csv"
    found: list[Kind] = []

    def add(
        name: str, line: str, files: dict[str, bytes], mutated: Sequence[str], *, differs: bool = False
    ) -> None:
        found.append(Kind(name, line, {**base, **files}, tuple(mutated), differs))

    add("cluster", run, {}, ["c.json"])
    add("workload", "workload info w.jsonl", {"w.jsonl": _lines([*FLAT, SESSION, MOONCAKE])}, ["w.jsonl"])
    add(
        "packed workload", "workload convert w.gz -o o.jsonl", {"w.gz": gzip.compress(_lines(FLAT))}, ["w.gz"]
    )
    add("azure", "workload info a.csv", {"a.csv": AZURE.encode()}, ["a.csv"])
    add("study", "explore s.yaml -o r --workers 1", {"s.yaml": yaml.safe_dump(STUDY).encode()}, ["s.yaml"])
    for name, recording in (("recording", RECORDING), ("group", GROUP), ("apart", APART), ("tier", TIER)):
        line = "validate schedule r.json --dump o.jsonl"
        add(name, line, {"r.json": _json(recording)}, ["r.json"], differs=True)
    own = json.loads(_json(CLUSTER).replace(b"meta-llama/Llama-3.1-8B", b"m.json"))
    own["nodes"][0]["instances"][0]["pp_layer_partition"] = [2, 2]
    add("model", run, {"m.json": _json(MODEL), "c.json": _json(own)}, ["m.json"])
    bench = "validate bench c.json --bench b.json --json o.json"
    add("vllm bench", bench, {"b.json": _json(BENCH)}, ["b.json"])
    add("guidellm", bench, {"b.json": _json(GUIDELLM)}, ["b.json"])
    add("serving csv", bench, {"b.json": SERVING_CSV.encode()}, ["b.json"])
    add("request times", bench, {"b.json": _lines(MEASURED)}, ["b.json"])
    add(
        "server log",
        f"{bench} --log l.log",
        {"b.json": _json(BENCH), "l.log": SERVER_LOG.encode()},
        ["l.log"],
    )
    add(
        "measured run",
        "validate measured m --dataset w.jsonl --plot o.html",
        {"m/cluster.json": _json(CLUSTER), "m/meta.json": _json(META), "m/requests.jsonl": _lines(MEASURED)},
        ["m/meta.json", "m/requests.jsonl"],
    )
    real = {f"real/{name}.jsonl.gz": gzip.compress(_lines(rows)) for name, rows in REAL_RUN.items()}
    real["real/summary.json"] = _json(REAL_SUMMARY)
    add("real run", "validate pipeline real", real, sorted(real), differs=True)
    bundle = {
        f"p/H100/meta-llama/Llama-3.1-8B/bf16/{name}": text.encode()
        for name, text in (
            ("meta.yaml", BUNDLE_META),
            ("tp1/dense.csv", DENSE),
            ("tp1/per_sequence.csv", HEADS),
            ("tp1/attention.csv", ATTENTION),
        )
    }
    add("bundle", f"{run} --profile-root p", bundle, sorted(bundle))
    add("bundle to fit", "profile fit p/H100/meta-llama/Llama-3.1-8B/bf16 -o o.json", bundle, sorted(bundle))
    return tuple(found)


OPTIONS = (
    "workload generate -n 5 --input-toks fixed:3 --output-toks uniform:1,4 --rate 2 --seed 3 -o o.jsonl",
    "workload generate -n 5 --preset sharegpt --arrivals mmpp --bursts 4,0.1,30 --rate-curve day:60 -o o.jsonl",
    "workload generate -n 5 --preset sharegpt --turns 2 --tool-duration-ms 3 --prefix-groups 2 --prefix-tokens 9",
    "workload generate -n 5 --preset sharegpt --priorities 0:20,5:80 --max-input 100 --max-output 9 --burstiness 2",
    "run --cluster-config c.json --dataset w.jsonl --log-interval 0 --router LOAD --max-num-seqs 4 --seed 1 --output o",
    "run --cluster-config c.json --dataset w.jsonl --log-interval 1 --request-rate 3 --trace o --trace-window 0s:1s",
    "advise c.json --dataset w.jsonl --option x=3",
    "size --model meta-llama/Llama-3.1-8B --rate 1 --slo ttft_p99<2s --hardware H1:1 --workload w.jsonl -o r",
)
"""Command lines whose words are mutated."""


def write(kind_files: dict[str, bytes], directory: Path) -> None:
    """Write the files of a case."""
    for name, data in kind_files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def state(directory: Path) -> dict[str, bytes]:
    """All files below a directory."""
    found: dict[str, bytes] = {}
    for root, _, names in os.walk(directory):
        for name in names:
            path = Path(root) / name
            found[str(path.relative_to(directory))] = path.read_bytes()
    return found


Mutate = Callable[[bytes], bytes]
