"""MLPerf Inference v5.0, NVIDIA: Llama-2-70B on 8 H100 as four pipelines of two, and on 8 H200 as eight single GPUs.

    pip install 'penstock[aiconfigurator]'
    python examples/published/mlperf_llama2_70b.py

Published: TensorRT-LLM, fp8 weights and KV cache, 1,024 tokens a step (H200: 1,536), prompts of OpenOrca, offline
and with Poisson arrivals. Here: the kernels of TensorRT-LLM from AIConfigurator's tables, vLLM's rules for filling a
step, prompts and answers drawn from log-normals to the published or derived means (275 and 292 tokens, at most 1,024),
requests to the instance with the least load, as many running as fit, no time of the host. The real lengths come with
the dataset.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from shapes import run, seconds_taken

import penstock
from penstock.profiling.database import import_database, wanted_tables
from penstock.units import NS_PER_MS, NS_PER_S
from penstock.workload.workload import Workload

MODEL = "meta-llama/Llama-2-70b-hf"
REQUESTS = 24_576
MEAN_PROMPT, MEAN_ANSWER, LONGEST = 275, 292, 1024


@dataclass(frozen=True)
class System:
    """One submission: ``server`` = TTFT mean, p50, p99 and TPOT mean, p50, p99, ms, at ``rate`` requests a second."""

    hardware: str
    memory_gib: float
    replicas: int
    pp_size: int
    budget: int
    offline_tokens_per_s: float
    rate: float
    server_tokens_per_s: float
    server: tuple[float, ...]


SYSTEMS = (
    System("H100", 80, 4, 2, 1024, 31306.8, 107.19, 31106, (517, 443, 1451, 139.3, 140.0, 141.4)),
    System("H200", 140.4, 8, 1, 1536, 34988.2, 114.56, 33071, (398, 359, 938, 170.0, 173.3, 181.9)),
)


def cluster(system: System) -> dict[str, Any]:
    """All replicas of a submission in one node."""
    instance = {
        "model_name": MODEL,
        "hardware": system.hardware,
        "npu_mem": {"mem_size": system.memory_gib, "mem_bw": 3350, "mem_latency": 0, "mem_util": 0.95},
        "num_npus": system.pp_size,
        "tp_size": 1,
        "pp_size": system.pp_size,
        "engine_overhead": "none",
    }
    node = {"num_instances": system.replicas, "instances": [instance] * system.replicas}
    return {"num_nodes": 1, "link_bw": 400, "link_latency": 5000, "link_class": "nvlink4", "nodes": [node]}


def requests(rate: float | None) -> Workload:
    """The prompts of a run, at once or at ``rate`` a second."""
    random = np.random.default_rng(5)
    prompts, answers = (
        lengths(random, mean, spread) for mean, spread in ((MEAN_PROMPT, 0.8), (MEAN_ANSWER, 0.7))
    )
    gaps = np.zeros(REQUESTS) if rate is None else random.exponential(NS_PER_S / rate, REQUESTS)
    arrivals = np.cumsum(gaps).astype(np.int64)
    return Workload.from_columns(arrivals.tolist(), prompts.tolist(), answers.tolist(), "drawn")


def lengths(random: np.random.Generator, mean: float, spread: float) -> np.ndarray:
    """Log-normal, cut at the longest, scaled to the mean."""
    drawn = np.minimum(random.lognormal(np.log(mean) - spread**2 / 2, spread, REQUESTS), LONGEST)
    return np.clip(np.rint(drawn * mean / drawn.mean()), 1, LONGEST).astype(np.int64)


def serve(system: System, rate: float | None, root: Path | None) -> tuple[float, penstock.SimulationResult]:
    """Output tokens a second, and the run."""
    result = run(
        cluster(system),
        requests(rate),
        dtype="fp8",
        kv_cache_dtype="fp8",
        max_num_seqs=0,  # as many as the tokens of a step and the memory let
        max_num_batched_tokens=system.budget,
        profile_root=root,
        enable_prefix_caching=False,
    )
    return steady_rate(result), result


def steady_rate(result: penstock.SimulationResult) -> float:
    """Output tokens a second between 30 and 60% of the time to the last arrival or, offline, to the last completion; a
    request's tokens lie evenly between its first and its last."""
    columns = (
        result.requests[name].to_numpy()
        for name in ("arrival_ns", "first_token_ns", "finish_ns", "output_tokens")
    )
    arrivals, starts, ends, tokens = columns
    whole = arrivals.max() or ends.max()
    low, high = 0.3 * whole, 0.6 * whole
    shared = np.clip(np.minimum(ends, high) - np.maximum(starts, low), 0, None) / np.maximum(ends - starts, 1)
    return float((tokens * shared).sum() / (high - low) * NS_PER_S)


def main() -> None:
    """A table of each submission."""
    root = Path(tempfile.mkdtemp())
    for system in SYSTEMS:
        import_database(wanted_tables(system.hardware, MODEL, "1", ("fp8", "fp8"), "trtllm"), root)
        offline, whole = serve(system, None, root)
        online, served = serve(system, system.rate, root)
        print(f"{system.hardware}, {system.replicas} x (TP1 PP{system.pp_size})")
        print(
            line("offline tokens/s", offline, system.offline_tokens_per_s), f"({seconds_taken(whole):.0f} s)"
        )
        print(line("server tokens/s", online, system.server_tokens_per_s))
        latency = served.summary.latency
        assert latency.ttft is not None
        assert latency.tpot is not None
        found = [
            value / NS_PER_MS
            for one in (latency.ttft, latency.tpot)
            for value in (one.mean_ns, one.p50_ns, one.p99_ns)
        ]
        names = [f"{name} {part} ms" for name in ("TTFT", "TPOT") for part in ("mean", "p50", "p99")]
        for name, value, published in zip(names, found, system.server, strict=True):
            print(line(name, value, published))


def line(name: str, simulated: float, published: float) -> str:
    """Both numbers and their difference."""
    return f"  {name:<18}{simulated:>10,.1f}{published:>10,.1f}{simulated / published - 1:>+8.1%}"


if __name__ == "__main__":
    main()
