"""Send requests to `penstock serve` with the OpenAI client: python tools/serve_client.py URL bench.json --rate 8.

Arrivals are Poisson and seeded. Writes `ttfts`, `itls` and `output_lens` as `vllm bench serve --save-result
--save-detailed` does, for `tools/serve_fidelity.py`, and prints TTFT, TPOT and ITL.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import openai


async def main() -> None:
    """Send, write and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("bench")
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--rate", type=float, default=8.0)
    parser.add_argument("--prompt", type=int, default=256, help="words of a prompt")
    parser.add_argument("--tokens", type=int, default=64)
    arguments = parser.parse_args()
    generator = np.random.default_rng(0)
    at_s = np.cumsum(generator.exponential(1 / arguments.rate, arguments.requests))
    words = [
        " ".join(f"w{word}" for word in generator.integers(0, 999, arguments.prompt)) for _ in at_s.tolist()
    ]
    async with openai.AsyncOpenAI(base_url=f"{arguments.url}/v1", api_key="none", max_retries=0) as client:
        model = (await client.models.list()).data[0].id
        began = time.perf_counter()

        async def one(place: int) -> tuple[float, list[float]]:
            await asyncio.sleep(began + float(at_s[place]) - time.perf_counter())
            sent = time.perf_counter()
            stream: Any = await client.completions.create(
                model=model,
                prompt=words[place],
                max_tokens=arguments.tokens,
                stream=True,
                extra_body={"ignore_eos": True},
            )
            times = [time.perf_counter() async for _ in stream]
            return times[0] - sent, np.diff(times).tolist()

        rows = await asyncio.gather(*map(one, range(arguments.requests)))
    ttfts, itls = [row[0] for row in rows], [row[1] for row in rows]
    result = {"ttfts": ttfts, "itls": itls, "output_lens": [arguments.tokens] * len(rows)}
    Path(arguments.bench).write_text(json.dumps(result))
    tpots = [sum(gaps) / (arguments.tokens - 1) for gaps in itls]
    for name, values in (("TTFT", ttfts), ("TPOT", tpots), ("ITL", np.concatenate(itls))):
        p50, p99 = np.percentile(values, (50, 99)) * 1e3
        print(f"{name:5} p50 {p50:8.2f} ms   p99 {p99:8.2f} ms")


asyncio.run(main())
