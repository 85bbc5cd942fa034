"""``/metrics``, read with Prometheus's own parser."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

aiohttp = pytest.importorskip("aiohttp")

LABELS = {"model_name": "meta-llama/Llama-3.1-8B", "engine": "0"}


def scrape(url: str) -> dict[str, list[Any]]:
    """Samples by family."""
    text = httpx.get(f"{url}/metrics").text
    return {family.name: family.samples for family in text_string_to_metric_families(text)}


def value(families: dict[str, list[Any]], name: str, **labels: str) -> float:
    (found,) = [
        sample.value
        for samples in families.values()
        for sample in samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    return found


def post(url: str, **body: Any) -> dict[str, Any]:
    return httpx.post(f"{url}/v1/completions", json={"ignore_eos": True, **body}, timeout=60).json()


def test_metrics_follow_the_requests(server: Any) -> None:
    before = scrape(server.url)
    prompt = list(range(100, 164))
    for _ in range(2):
        post(server.url, prompt=prompt, max_tokens=5, n=2)
    after = scrape(server.url)

    def gained(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    assert gained("vllm:request_success_total", finished_reason="length") == 4
    assert gained("vllm:prompt_tokens_total") == 4 * 64
    assert gained("vllm:generation_tokens_total") == 20
    assert gained("vllm:prefix_cache_queries_total") == 4 * 64
    assert gained("vllm:prefix_cache_hits_total") in (3 * 48, 2 * 48)  # the first two may run side by side
    sources = [
        gained("vllm:prompt_tokens_by_source_total", source=source)
        for source in ("local_compute", "local_cache_hit", "external_kv_transfer")
    ]
    assert sum(sources) == 4 * 64
    assert sources[1] == gained("vllm:prefix_cache_hits_total") == gained("vllm:prompt_tokens_cached_total")
    assert gained("vllm:time_to_first_token_seconds_count") == 4
    assert gained("vllm:inter_token_latency_seconds_count") == 16
    assert gained("vllm:e2e_request_latency_seconds_count") == 4
    assert gained("vllm:request_params_n_sum") == 8
    assert gained("vllm:request_generation_tokens_sum") == 20
    assert gained("penstock_token_lateness_seconds_count") == 2
    assert gained("vllm:e2e_request_latency_seconds_sum") == pytest.approx(
        gained("vllm:request_queue_time_seconds_sum") + gained("vllm:request_inference_time_seconds_sum")
    )
    assert value(after, "vllm:num_requests_running") == 0
    assert value(after, "vllm:kv_cache_usage_perc") == 0


def test_names_labels_and_buckets_are_vllms(server: Any) -> None:
    families = scrape(server.url)
    for family, samples in families.items():
        if family.startswith("vllm:") and family != "vllm:cache_config_info":
            assert all(LABELS.items() <= sample.labels.items() for sample in samples), family
    (config,) = families["vllm:cache_config_info"]
    assert config.value == 1
    assert config.labels["block_size"] == "16"
    bounds = [
        sample.labels["le"]
        for sample in families["vllm:inter_token_latency_seconds"]
        if sample.name.endswith("_bucket")
    ]
    assert bounds[:3] == ["0.01", "0.025", "0.05"]
    assert bounds[-2:] == ["80.0", "+Inf"]
    tokens = [
        sample.labels["le"] for sample in families["vllm:request_prompt_tokens"] if "le" in sample.labels
    ]
    assert tokens[:5] == ["1.0", "2.0", "5.0", "10.0", "20.0"]
    assert tokens[-2:] == ["100000.0", "+Inf"]
    by_reason = {one.labels["reason"] for one in families["vllm:num_requests_waiting_by_reason"]}
    assert by_reason == {"capacity", "deferred"}


def test_gauges_show_what_runs_and_a_client_that_leaves(server: Any) -> None:
    async def run() -> None:
        async with aiohttp.ClientSession(server.url) as session:
            body = {"prompt": [5] * 3000, "max_tokens": 50_000, "ignore_eos": True, "stream": True}
            async with session.post("/v1/completions", json=body) as response:
                await response.content.readline()
                families = await asyncio.to_thread(scrape, server.url)
                assert value(families, "vllm:num_requests_running") == 1
                assert value(families, "vllm:kv_cache_usage_perc") > 0

    before = value(scrape(server.url), "vllm:request_success_total", finished_reason="abort")
    asyncio.run(run())
    deadline = time.monotonic() + 10
    while value(scrape(server.url), "vllm:num_requests_running") and time.monotonic() < deadline:
        time.sleep(0.02)
    families = scrape(server.url)
    assert value(families, "vllm:kv_cache_usage_perc") == 0
    assert value(families, "vllm:request_success_total", finished_reason="abort") == before + 1
