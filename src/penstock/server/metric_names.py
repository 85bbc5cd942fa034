"""vLLM's metrics: names, help, and buckets (``v1/metrics/loggers.py: PrometheusStatLogger``, ``buckets.py``)."""

from __future__ import annotations

from collections.abc import Mapping

REQUEST_LATENCY_S = (
    0.3,
    0.5,
    0.8,
    1,
    1.5,
    2,
    2.5,
    5,
    10,
    15,
    20,
    30,
    40,
    50,
    60,
    120,
    240,
    480,
    960,
    1920,
    7680,
)
FIRST_TOKEN_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5),
    *(10, 20, 40, 80, 160, 640, 2560),
)
TOKEN_GAP_S = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80),
)
ITERATION_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
PREEMPTIONS = (1, 2, 3, 4, 5, 10, 20)
PARAMS_N = (1, 2, 5, 10, 20)

TIMES: Mapping[str, tuple[tuple[float, ...], str]] = {
    "time_to_first_token_seconds": (FIRST_TOKEN_S, "Histogram of time to first token in seconds."),
    "inter_token_latency_seconds": (TOKEN_GAP_S, "Histogram of inter-token latency in seconds."),
    "request_time_per_output_token_seconds": (
        TOKEN_GAP_S,
        "Histogram of time_per_output_token_seconds per request.",
    ),
    "e2e_request_latency_seconds": (REQUEST_LATENCY_S, "Histogram of e2e request latency in seconds."),
    "request_queue_time_seconds": (
        REQUEST_LATENCY_S,
        "Histogram of time spent in WAITING phase for request.",
    ),
    "request_inference_time_seconds": (
        REQUEST_LATENCY_S,
        "Histogram of time spent in RUNNING phase for request.",
    ),
    "request_prefill_time_seconds": (
        REQUEST_LATENCY_S,
        "Histogram of time spent in PREFILL phase for request.",
    ),
    "request_decode_time_seconds": (
        REQUEST_LATENCY_S,
        "Histogram of time spent in DECODE phase for request.",
    ),
}
"""Histograms of simulated seconds, without the prefix ``vllm:``."""

TOKEN_COUNTS: Mapping[str, str] = {
    "request_prompt_tokens": "Number of prefill tokens processed.",
    "request_generation_tokens": "Number of generation tokens processed.",
    "request_max_num_generation_tokens": "Histogram of maximum number of requested generation tokens.",
    "request_params_max_tokens": "Histogram of the max_tokens request parameter.",
    "request_prefill_kv_computed_tokens": (
        "Histogram of new KV tokens computed during prefill (excluding cached tokens)."
    ),
}
"""Histograms of tokens, in buckets up to the model's context."""

COUNTS: Mapping[str, tuple[tuple[float, ...], str]] = {
    "iteration_tokens_total": (ITERATION_TOKENS, "Histogram of number of tokens per engine_step."),
    "request_num_preemptions": (
        PREEMPTIONS,
        "Histogram of the number of times a request was preempted.",
    ),
    "request_params_n": (PARAMS_N, "Histogram of the n request parameter."),
}

COUNTERS: Mapping[str, str] = {
    "prefix_cache_queries": "Prefix cache queries, in terms of number of queried tokens.",
    "prefix_cache_hits": "Prefix cache hits, in terms of number of cached tokens.",
    "external_prefix_cache_queries": (
        "External prefix cache queries from KV connector cross-instance cache sharing, "
        "in terms of number of queried tokens."
    ),
    "external_prefix_cache_hits": (
        "External prefix cache hits from KV connector cross-instance cache sharing, "
        "in terms of number of cached tokens."
    ),
    "num_preemptions": "Cumulative number of preemption from the engine.",
    "prompt_tokens": "Number of prefill tokens processed.",
    "prompt_tokens_cached": "Number of cached prompt tokens (local + external).",
    "generation_tokens": "Number of generation tokens processed.",
}

GAUGES: Mapping[str, str] = {
    "num_requests_running": "Number of requests in model execution batches.",
    "num_requests_waiting": "Number of requests waiting to be processed.",
    "kv_cache_usage_perc": "KV-cache usage. 1 means 100 percent usage.",
}

SOURCES = ("local_compute", "local_cache_hit", "external_kv_transfer")
FINISH_REASONS = ("stop", "length", "abort", "error")
WAITING_REASONS = ("capacity", "deferred")


def token_buckets(max_model_len: int) -> tuple[float, ...]:
    """1, 2, 5, 10, 20, 50, ... up to the context."""
    found: list[float] = []
    scale = 1
    while scale <= max_model_len:
        found += [mantissa * scale for mantissa in (1, 2, 5) if mantissa * scale <= max_model_len]
        scale *= 10
    return tuple(found)
