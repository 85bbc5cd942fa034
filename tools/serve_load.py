"""Open many streams against `penstock serve` and say what came: python tools/serve_load.py URL --streams 500.

Each stream asks for tokens with `ignore_eos`, sent over a ramp; figures are of the time when all are open. Gaps are
between the messages of a stream as this client reads them; lateness is what the server measured between two
scrapes of its `/metrics`: once all had begun, and once the first had ended.
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
                    if not times_of_all and len(stamps) == arguments.streams and all(stamps):
                        times_of_all.append(asyncio.create_task(scraped()))
                    finished = finished or b"[DONE]" in chunk
            if not times_of_some:
                times_of_some.append(asyncio.create_task(scraped()))
            return finished

        async def scraped() -> dict[float, float]:
            """Tokens by how late they were at most."""
            async with session.get("/metrics") as answer:
                text = await answer.text()
            found = {family.name: family.samples for family in text_string_to_metric_families(text)}
            samples = found["penstock_token_lateness_seconds"]
            return {float(one.labels["le"]): one.value for one in samples if "le" in one.labels}

        times_of_all: list[asyncio.Task[dict[float, float]]] = []
        times_of_some: list[asyncio.Task[dict[float, float]]] = []
        began = time.perf_counter()
        done = await asyncio.gather(*(stream(number) for number in range(arguments.streams)))
        wall_s = time.perf_counter() - began
        before, after = [await one[0] for one in (times_of_all, times_of_some)]
    late = {bound: after[bound] - before[bound] for bound in after}
    tokens = late[float("inf")]
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
        "tokens_measured": round(tokens),
        "lateness_ms_at_most": {
            f"p{q}": 1e3 * min(bound for bound, count in late.items() if count >= tokens * q / 100)
            for q in (50, 90, 99, 99.9)
        },
        "later_than_10_ms": round(1 - late[0.01] / tokens, 5),
    }
    print(json.dumps(result, indent=2))


asyncio.run(main())
