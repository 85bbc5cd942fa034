"""Four GPUs as a pipeline and as one tensor-parallel group, under the same real client."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import penstock
from served import cluster_config, serving

openai = pytest.importorskip("openai")


async def tpot_ms(url: str) -> float:
    """The median over 16 streams, a few ms apart."""
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:

        async def one(place: int) -> float:
            await asyncio.sleep(0.01 * place)
            stream: Any = await client.completions.create(
                model="meta-llama/Llama-3.1-8B",
                prompt=list(range(100 * place, 100 * place + 64)),
                max_tokens=24,
                stream=True,
                extra_body={"ignore_eos": True},
            )
            times = [time.perf_counter() async for _ in stream]
            return (times[-1] - times[0]) / (len(times) - 1) * 1e3

        return float(np.median(await asyncio.gather(*map(one, range(16)))))


def test_a_client_tells_a_pipeline_from_a_tensor_parallel_group_as_a_run_does(tmp_path: Path) -> None:
    measured: dict[str, float] = {}
    simulated: dict[str, float] = {}
    for name, sizes in (("pp 4", {"pp_size": 4}), ("tp 4", {"tp_size": 4, "pp_size": 1})):
        config, session = cluster_config(**sizes), tmp_path / name
        with serving(tmp_path, config, "--record", str(session), "--time-scale", "0.25") as server:
            measured[name] = asyncio.run(tpot_ms(server.url))
        run = penstock.simulate(config, session / "workload.jsonl")
        times = [run.token_times_ns(row["request"]) / 1e6 for row in run.requests.iter_rows(named=True)]
        simulated[name] = float(np.median([(one[-1] - one[0]) / (len(one) - 1) for one in times]))
    assert simulated["pp 4"] > 1.5 * simulated["tp 4"]
    assert measured["pp 4"] > measured["tp 4"]
