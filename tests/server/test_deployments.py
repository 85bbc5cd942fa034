"""Servers over every kind of deployment: prefill and decode apart, tiers of KV, ranks in lock-step, several models."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest
from prometheus_client.parser import text_string_to_metric_families

from fuzz import clusters
from penstock.api import simulate
from served import serving

aiohttp = pytest.importorskip("aiohttp")

REQUESTS = 16
TOKENS = 6
PROMPT = 96
LEAVING = 2
LONG = 250
LLAMA = "meta-llama/Llama-3.1-8B"


def tiers() -> dict[str, Any]:
    """Two instances, each with so few blocks that prompts come back from the host, or from the store."""
    config = clusters.tiers()
    for instance in config["nodes"][0]["instances"]:
        instance |= {"max_model_len": 400, "num_gpu_blocks": 30}
    return config


DEPLOYMENTS: dict[str, tuple[Callable[[], dict[str, Any]], tuple[str, ...]]] = {
    "prefill and decode apart": (clusters.apart, (LLAMA,)),
    "tiers": (tiers, (LLAMA,)),
    "ranks of a mixture": (clusters.ranks, ("mixture.json",)),
    "latent ranks": (lambda: clusters.ranks("latent.json"), ("latent.json",)),
    "a group of instances": (clusters.grouped, ("mixture.json",)),
    "a pipeline over two nodes": (clusters.two_nodes, (LLAMA,)),
    "two models": (clusters.two_models, (LLAMA, "mixture.json")),
}


def total(url: str, name: str, **labels: str) -> float:
    """A metric's sum over the engines."""
    text = httpx.get(f"{url}/metrics").text
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def body(place: int, models: tuple[str, ...], tokens: int = TOKENS) -> dict[str, Any]:
    """Every third prompt was asked for before, for the caches."""
    first = 1000 * (place % 3 if place % 3 == 0 else place)
    prompt = [token % 999 for token in range(first, first + PROMPT)]
    return {
        "model": models[place % len(models)],
        "prompt": prompt,
        "max_tokens": tokens,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def ask(url: str, models: tuple[str, ...]) -> list[tuple[int, dict[str, Any]]]:
    """Stream them, a few ms apart; each one's messages and usage."""
    async with aiohttp.ClientSession(url) as session:

        async def one(place: int) -> tuple[int, dict[str, Any]]:
            await asyncio.sleep(0.01 * place)
            async with session.post("/v1/completions", json=body(place, models)) as answer:
                assert answer.status == 200, await answer.text()
                lines = [line async for line in answer.content if line.startswith(b"data: {")]
            chunks = [json.loads(line[6:]) for line in lines]
            return sum(bool(chunk["choices"]) for chunk in chunks), chunks[-1]["usage"]

        return await asyncio.gather(*(one(place) for place in range(REQUESTS)))


async def leave(url: str, models: tuple[str, ...]) -> None:
    """Two whose clients leave after their first message."""
    async with aiohttp.ClientSession(url) as session:

        async def one(place: int) -> None:
            async with session.post("/v1/completions", json=body(place, models, LONG)) as answer:
                await answer.content.readline()
                answer.close()

        await asyncio.gather(*(one(place) for place in range(LEAVING)))


def wait_until_idle(url: str) -> None:
    for _ in range(200):
        if not sum(total(url, f"vllm:{name}") for name in ("num_requests_running", "num_requests_waiting")):
            return
        time.sleep(0.05)
    raise AssertionError("the server is still at work")


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_requests_are_answered_counted_and_run_again_alike(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, models = DEPLOYMENTS[name]
    brings = name in ("prefill and decode apart", "tiers")
    config = make()
    monkeypatch.chdir(tmp_path)
    for file, model in (("mixture.json", clusters.MIXTURE), ("latent.json", clusters.LATENT)):
        (tmp_path / file).write_text(json.dumps(model))
    with serving(tmp_path, config, "--record", str(tmp_path / "session"), "--time-scale", "0.5") as server:
        listed = [one["id"] for one in httpx.get(f"{server.url}/v1/models").json()["data"]]
        names = tuple(next(one for one in listed if one.startswith(model[:5])) for model in models)
        answers = asyncio.run(ask(url := server.url, names))
        asyncio.run(leave(url, names))
        wait_until_idle(url)
        usage = {
            "prompt_tokens": PROMPT,
            "completion_tokens": TOKENS,
            "total_tokens": PROMPT + TOKENS,
        }
        for messages, said in answers:
            assert said == usage
            assert 1 <= messages <= TOKENS  # a server that is late sends several tokens in one
        assert total(url, "vllm:request_success_total", finished_reason="length") == REQUESTS
        assert total(url, "vllm:request_success_total", finished_reason="abort") == LEAVING
        assert total(url, "vllm:request_generation_tokens_sum") == REQUESTS * TOKENS
        assert total(url, "vllm:request_prompt_tokens_sum") == REQUESTS * PROMPT
        assert total(url, "vllm:prompt_tokens_total") == total(url, "vllm:prompt_tokens_by_source_total")
        assert total(url, "vllm:kv_cache_usage_perc") == pytest.approx(0, abs=1e-9)
        elsewhere = total(url, "vllm:prompt_tokens_by_source_total", source="external_kv_transfer")
        assert (elsewhere > 0) == (name == "prefill and decode apart")
        assert (total(url, "vllm:external_prefix_cache_hits_total") > 0) == brings
        assert httpx.get(f"{url}/penstock").status_code == 200
    served = pl.read_parquet(tmp_path / "session" / "requests.parquet")
    again = simulate(config, tmp_path / "session" / "workload.jsonl").requests
    assert served["status"].to_list() == ["finished"] * REQUESTS + ["aborted"] * LEAVING
    # A run knows the energy of all requests when it ends; a session keeps the rows without it.
    again = again.head(REQUESTS).drop("energy_j", strict=False)
    assert again.equals(served.head(REQUESTS).drop("energy_j", strict=False))
