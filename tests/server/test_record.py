"""A recorded session, run again."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import polars as pl

from penstock.api import simulate
from penstock.calibration.server_log import read_server_log
from served import cluster_config, serving


async def ask(url: str, bodies: list[dict[str, Any]]) -> list[int]:
    """Stream them, a few ms apart; returns how many messages each had."""

    async def one(session: Any, place: int, body: dict[str, Any]) -> int:
        await asyncio.sleep(0.004 * place)
        messages = 0
        async with session.post(
            "/v1/completions", json={"stream": True, "ignore_eos": True, **body}
        ) as answer:
            async for line in answer.content:
                messages += line.startswith(b"data: {")
        return messages

    async with aiohttp.ClientSession(url) as session:
        return await asyncio.gather(*(one(session, place, body) for place, body in enumerate(bodies)))


def test_a_run_of_the_recorded_workload_gives_the_same_schedule(tmp_path: Path) -> None:
    config = cluster_config(2, max_num_seqs=4)
    bodies = [
        {"prompt": list(range(7 * i % 40, 60 + 31 * i % 200)), "max_tokens": 2 + 5 * i % 30, "n": 1 + i % 2}
        for i in range(24)
    ]
    with serving(tmp_path, config, "--record", str(tmp_path / "session")) as server:
        counts = asyncio.run(ask(server.url, bodies))
        assert sum(counts) > 0
    served = pl.read_parquet(tmp_path / "session" / "requests.parquet")
    assert len(served) == sum(body["n"] for body in bodies)
    again = simulate(config, tmp_path / "session" / "workload.jsonl").requests
    # A run knows the energy of all requests when it ends; a session keeps the rows without it.
    assert again.drop("energy_j", strict=False).equals(served)


def test_log_lines_are_those_that_calibrate_reads(tmp_path: Path) -> None:
    with serving(tmp_path, cluster_config(pp_size=1), "--enable-logging-iteration-details") as server:
        httpx.post(
            f"{server.url}/v1/completions",
            json={"prompt": list(range(3000)), "max_tokens": 4, "ignore_eos": True},
        )
        assert server.end() == 0
        log = tmp_path / "server.log"
        log.write_text(server.output)
    lines = read_server_log(str(log)).lines
    assert [(one.context_requests, one.context_tokens, one.decodes) for one in lines] == [
        (1, 2048, 0),
        (1, 952, 0),
        (0, 0, 1),
        (0, 0, 1),
        (0, 0, 1),
    ]
    assert all(one.elapsed_ms > 0 for one in lines)
    assert re.search(r"\(APIServer pid=\d+\) INFO \d\d-\d\d \d\d:\d\d:\d\d \[loggers.py:", server.output)


def test_each_instance_has_an_address_of_its_own(tmp_path: Path) -> None:
    config = cluster_config(2)
    with serving(tmp_path, config, "--each", "--served-model-name", "mine", addresses=2) as server:
        assert len(set(server.addresses)) == 2
        for url in server.addresses:
            answer = httpx.post(
                f"{url}/v1/completions", json={"model": "mine", "prompt": "x", "max_tokens": 2}
            )
            assert answer.status_code == 200
            assert answer.json()["model"] == "mine"
            assert (
                'vllm:prompt_tokens_total{engine="0",model_name="mine"} 1.0'
                in httpx.get(f"{url}/metrics").text
            )
