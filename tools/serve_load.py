"""Open many streams against `penstock serve` and say what came: python tools/serve_load.py URL --streams 500.

Each stream asks for tokens with `ignore_eos`, sent over a ramp; figures are of the time when all are open. Gaps are
between the messages of a stream as this client reads them; lateness is what the server measured (its `/metrics`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from array import array

import aiohttp
import numpy as np
from prometheus_client.parser import text_string_to_metric_families


async def main() -> None:
    """Run the load and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--streams", type=int, default=500)
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--ramp", type=float, default=5.0, help="seconds over which the streams are opened")
    arguments = parser.parse_args()
    stamps: list[array[float]] = []
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(arguments.url, connector=connector, timeout=timeout) as session:

        async def stream(number: int) -> bool:
            await asyncio.sleep(arguments.ramp * number / arguments.streams)
            body = {
                "prompt": list(range(number, number + arguments.prompt)),
                "max_tokens": arguments.tokens,
                "ignore_eos": True,
                "stream": True,
            }
            times: array[float] = array("d")
            stamps.append(times)
            finished = False
            async with session.post("/v1/completions", json=body) as answer:
                async for chunk in answer.content.iter_any():
                    now = time.perf_counter()
                    for _ in range(chunk.count(b'"text":')):
                        times.append(now)
                    finished = finished or b"[DONE]" in chunk
            return finished

        began = time.perf_counter()
        done = await asyncio.gather(*(stream(number) for number in range(arguments.streams)))
        wall_s = time.perf_counter() - began
        async with session.get("/metrics") as answer:
            families = {family.name: family for family in text_string_to_metric_families(await answer.text())}
    first = max(times[0] for times in stamps)
    last = min(times[-1] for times in stamps)
    gaps = np.concatenate([np.diff(times) for times in stamps]) * 1e3
    inside = sum(first <= one <= last for times in stamps for one in times)
    result = {
        "streams": arguments.streams,
        "finished": sum(done),
        "messages": sum(map(len, stamps)),
        "wall_s": round(wall_s, 2),
        "all_open_s": round(last - first, 2),
        "tokens_per_s_all_open": round(inside / max(last - first, 1e-9)),
        "gap_ms": {f"p{q}": round(float(np.percentile(gaps, q)), 2) for q in (50, 90, 99)},
        "server_lateness_ms": {
            name: round(families[f"penstock_token_lateness_{name}_seconds"].samples[0].value * 1e3, 2)
            for name in ("p50", "p99", "max")
        },
    }
    print(json.dumps(result, indent=2))


asyncio.run(main())
