"""What tools write of a benchmark, a server of its steps, and Penstock of both."""

from __future__ import annotations

from typing import Any


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

SIMULATED_CSV = "request id,input,output,arrival,queuing_delay,TTFT,latency\n" + "".join(
    f"{n},{20 + n},3,{n}000000000,1000,200000000,400000000\n" for n in range(4)
)
TIME_SERIES = "t,prompt_throughput,gen_throughput,running,waiting\n1.0,20.0,3.0,1,0\n2.0,21.0,3.0,1,0\n"
SIMULATED_LOG = (
    "[1.0s] Avg prompt throughput: 20.0 tokens/s, Avg generation throughput: 3.0 tokens/s\n"
    "  Running Instance[0]: 1 reqs, Waiting: 0 reqs\n"
)

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
