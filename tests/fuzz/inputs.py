"""A small valid input of every kind that a command reads, and the command that reads it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from fuzz import clusters
from fuzz.kind import Kind, document, lines
from fuzz.made import TOKENIZER, TOKENIZER_CONFIG, made
from fuzz.profiles import BUNDLE, EXPERTS, OLD_ATTENTION, OLD_LAYERS, VIDUR, bundle, network, real_turns

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


def vllm_bench(count: int) -> dict[str, Any]:
    """What ``vllm bench serve`` saves."""
    return {
        "date": "20260101-101010",
        "backend": "vllm",
        "model_id": "m",
        "num_prompts": count,
        "completed": count,
        "duration": 1.0 + 0.1 * count,
        "total_input_tokens": sum(20 + n for n in range(count)),
        "request_rate": 2.0,
        "input_lens": [20 + n for n in range(count)],
        "output_lens": [3] * count,
        "ttfts": [0.1 + 0.001 * n for n in range(count)],
        "itls": [[0.01, 0.011]] * count,
        "start_times": [0.1 * n for n in range(count)],
        "errors": [""] * count,
        "generated_texts": [""] * count,
    }


def server_log(count: int) -> str:
    """What vLLM logs of those requests, one after the other."""
    return "".join(
        f"INFO 01-01 10:10:10 [loggers.py] Engine 000: Iteration({3 * n + step}): "
        f"{int(not step)} context requests, {0 if step else 20 + n} context tokens, "
        f"{int(step > 0)} generation requests, {int(step > 0)} generation tokens, iteration elapsed time: 9.{n}0 ms\n"
        for n in range(count)
        for step in range(3)
    )


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


RUN = "run --cluster-config c.json --dataset w.jsonl --log-interval 0 --output o.csv"
AIPERF = {
    "metadata": {"request_start_ns": 5, "benchmark_phase": "profiling", "was_cancelled": False},
    "metrics": {
        "input_sequence_length": {"value": 10, "unit": "tokens"},
        "output_sequence_length": {"value": 3, "unit": "tokens"},
        "time_to_first_token": {"value": 100.0, "unit": "ms"},
        "request_latency": {"value": 140.0, "unit": "ms"},
        "inter_chunk_latency": {"value": [15.0, 25.0], "unit": "ms"},
    },
    "error": None,
}
CALIBRATION = {
    "format": 1,
    "penstock": "",
    "source": "bench.json",
    "date": "",
    "method": "",
    "cost": "kernels",
    "cost_basis": ["a"],
    "deployment": {
        "hardware": "H100",
        "model": "meta-llama/Llama-3.1-8B",
        "model_shape": "hidden 4096, vocabulary 128256, 32 layers of 32 heads (8 KV) x 128, MLP 14336",
        "dtype": "bfloat16",
        "tp_size": 1,
        "pp_size": 1,
    },
    "parameters": {
        name: {"value": 1.5, "low": 1, "high": 2, "prior": 1, "identified": True}
        for name in (
            "host_step_ns",
            "host_to_stage_ns",
            "request_ns",
            "prefill_factor",
            "decode_factor",
            "prefill_step_ns",
        )
    },
    "noise": {"sigma": 0.1, "correlation": 0.5},
    "error": "",
    "held_out": {"a": 1},
    "notes": ["b"],
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


@cache
def kinds() -> tuple[Kind, ...]:
    """All of them."""
    import yaml

    base = {"c.json": document(CLUSTER), "w.jsonl": lines(FLAT)}
    run = RUN
    found: list[Kind] = []

    def add(name: str, line: str, files: Mapping[str, bytes], mutated: Sequence[str], **more: Any) -> None:
        found.append(Kind(name, line, {**base, **files}, tuple(mutated), **more))

    add("cluster", run, {}, ["c.json"])
    add("workload", "workload info w.jsonl", {"w.jsonl": lines([*FLAT, SESSION, MOONCAKE])}, ["w.jsonl"])
    add("packed workload", "workload convert w.gz -o o.jsonl", {"w.gz": gzip.compress(lines(FLAT))}, ["w.gz"])
    add("azure", "workload info a.csv", {"a.csv": AZURE.encode()}, ["a.csv"])
    add("study", "explore s.yaml -o r --workers 1", {"s.yaml": yaml.safe_dump(STUDY).encode()}, ["s.yaml"])
    for name, recording in (("recording", RECORDING), ("group", GROUP), ("apart", APART), ("tier", TIER)):
        line = "validate schedule r.json --dump o.jsonl"
        add(name, line, {"r.json": document(recording)}, ["r.json"], differs=True)
    own = json.loads(document(CLUSTER).replace(b"meta-llama/Llama-3.1-8B", b"m.json"))
    own["nodes"][0]["instances"][0]["pp_layer_partition"] = [2, 2]
    add("model", run, {"m.json": document(MODEL), "c.json": document(own)}, ["m.json"])
    bench = "validate bench c.json --bench b.json --json o.json"
    add("vllm bench", bench, {"b.json": document(vllm_bench(3))}, ["b.json"])
    add("guidellm", bench, {"b.json": document(GUIDELLM)}, ["b.json"])
    add("serving csv", bench, {"b.json": SERVING_CSV.encode()}, ["b.json"])
    add("request times", bench, {"b.json": lines(MEASURED)}, ["b.json"])
    add(
        "server log",
        f"{bench} --log l.log",
        {"b.json": document(vllm_bench(3)), "l.log": server_log(3).encode()},
        ["l.log"],
    )
    add(
        "measured run",
        "validate measured m --dataset w.jsonl --plot o.html",
        {
            "m/cluster.json": document(CLUSTER),
            "m/meta.json": document(META),
            "m/requests.jsonl": lines(MEASURED),
        },
        ["m/meta.json", "m/requests.jsonl"],
    )
    real = {f"real/{name}.jsonl.gz": gzip.compress(lines(rows)) for name, rows in REAL_RUN.items()}
    real["real/summary.json"] = document(REAL_SUMMARY)
    add("real run", "validate pipeline real", real, sorted(real), differs=True)
    add("bundle", f"{run} --profile-root p", bundle(), sorted(bundle()))
    add("bundle to fit", f"profile fit {BUNDLE} -o o.json", bundle(), sorted(bundle()))
    for further in (_clusters, _other_profiles, _made, _commands):
        further(add)
    return tuple(found)


def _clusters(add: Any) -> None:
    """Every member of a cluster config, each in its way."""
    models = {
        "mixture.json": document(clusters.MIXTURE),
        "latent.json": document(clusters.LATENT),
        clusters.PIM_FILE: clusters.PIM.encode(),
    }
    for name, config in (
        ("two nodes", clusters.two_nodes()),
        ("apart cluster", clusters.apart()),
        ("tiers", clusters.tiers()),
        ("placed", clusters.placed()),
        ("in memory", clusters.in_memory()),
        ("ranks", clusters.ranks()),
        ("grouped", clusters.grouped()),
    ):
        add(name, f"{RUN} --report o.html", {**models, "c.json": document(config)}, ["c.json"])
    latent = {**models, "c.json": document(clusters.ranks("latent.json"))}
    add("latent model", RUN, latent, ["latent.json"])
    add("mixture", RUN, {**models, "c.json": document(clusters.grouped())}, ["mixture.json"])
    experts = {
        **models,
        **bundle(),
        "p/H100/moe_perf.csv": EXPERTS.encode(),
        "c.json": document(clusters.grouped()),
    }
    add("experts", f"{RUN} --profile-root p", experts, ["p/H100/moe_perf.csv"])
    in_memory = {**models, "c.json": document(clusters.in_memory())}
    add("pim file", RUN, in_memory, [clusters.PIM_FILE])


def _other_profiles(add: Any) -> None:
    """Layouts that ``penstock profile`` reads."""
    old = {"old/tp1/layers.csv": OLD_LAYERS.encode(), "old/tp1/attention.csv": OLD_ATTENTION.encode()}
    add("old profile", "profile import old -o q --hardware H100 --model a/b", old, sorted(old))
    vidur = {"mlp.csv": VIDUR.encode()}
    add("vidur profile", "profile import mlp.csv -o q --hardware H100 --model a/b", vidur, sorted(vidur))
    add("links", "profile network net -o o.json", network(), sorted(network()))
    add("real turns", "validate schedule t", real_turns(), sorted(real_turns()), differs=True)
    one = {**bundle(), **{name.replace("p/", "perf/perf/", 1): data for name, data in bundle().items()}}
    add("profiles to calibrate", "profile calibrate perf -o o.json", one, sorted(one)[-4:])


def _made(add: Any) -> None:
    """What Penstock writes, read again."""
    base = {"c.json": document(CLUSTER), "w.jsonl": lines(FLAT)}
    results = made(base, "run --cluster-config c.json --dataset w.jsonl --log-interval 0 --results A", "A/")
    results |= {name.replace("A/", "B/", 1): data for name, data in results.items()}
    add(
        "results",
        "compare A B --report o.html",
        results,
        [name for name in sorted(results) if name[0] == "A"],
    )
    study = {"s.yaml": json.dumps(STUDY).encode()}
    journal = made({**base, **study}, "explore s.yaml -o r --workers 1", "r/results.jsonl")
    explore = "explore s.yaml -o r --workers 1"
    add("journal", explore, {**study, **journal}, sorted(journal), goes_on_in="r/results.jsonl")
    calibration = {"cal.json": document(CALIBRATION)}
    add("calibration", f"{RUN} --calibration cal.json", calibration, ["cal.json"])


def _commands(add: Any) -> None:
    """The commands that read a cluster, a workload or a search in ways of their own."""
    mixture = {"mixture.json": document(clusters.MIXTURE)}
    add(
        "aiperf",
        "validate bench c.json --bench b.json --json o.json",
        {"b.json": lines([AIPERF] * 3)},
        ["b.json"],
    )
    bench = {"b.json": document(vllm_bench(24)), "l.log": server_log(24).encode()}
    add("calibrate", "calibrate c.json --bench b.json --log l.log -o o.json", bench, ["b.json", "l.log"])
    chat = {"s.yaml": json.dumps(CHAT_STUDY).encode(), **mixture}
    add("chat study", "explore s.yaml -o r --workers 1", chat, ["s.yaml"])
    slo = "--slo ttft_p99<9s --max-requests 100"
    add("capacity", f"capacity c.json --dataset w.jsonl {slo} --output o.json", {}, ["c.json", "w.jsonl"])
    add("advise", "advise c.json --dataset w.jsonl --report o.html", {}, ["c.json", "w.jsonl"])
    add("chakra", "export chakra c.json --dataset w.jsonl --output et", {}, ["c.json", "w.jsonl"])
    add(
        "mix",
        "workload mix --part w.jsonl:1 --part a.csv:2:1 -n 5 -o o.jsonl",
        {"a.csv": AZURE.encode()},
        ["w.jsonl", "a.csv"],
    )
    sampled = "workload generate -n 5 --lengths-from w.jsonl -o o.jsonl"
    add("lengths", sampled, {"w.jsonl": lines([*FLAT, SESSION, MOONCAKE])}, ["w.jsonl"])
    tokenizer = {
        "tok/tokenizer.json": TOKENIZER.encode(),
        "tok/tokenizer_config.json": TOKENIZER_CONFIG.encode(),
    }
    served = "serve c.json --port 0 --tokenizer tok --record rec"
    add("served", served, tokenizer, ["c.json", *sorted(tokenizer)])


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
