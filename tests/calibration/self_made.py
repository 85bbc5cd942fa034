"""Benchmarks and logs that Penstock makes itself, with overheads that are known."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from penstock.calibration.benchmark import Benchmark
from penstock.calibration.parameters import FITTED, KERNELS, to_calibration
from penstock.calibration.replay import Replay
from penstock.recording.records import TurnChunk
from penstock.spec.calibration import calibrated
from penstock.spec.cluster import ClusterSpec, StepNoise
from penstock.spec.load import load_cluster

MODEL = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "vocab_size": 8192,
    "max_position_embeddings": 4096,
    "torch_dtype": "bfloat16",
}
BENCH_END = "20261125-103000"


def cluster_config(hardware: str, pp_size: int = 1, **instance: Any) -> dict[str, Any]:
    """One instance; ``model`` beside it unless another is named."""
    entry = {
        "model_name": "config.json",
        "hardware": hardware,
        "npu_mem": {"mem_size": 90, "mem_bw": 1000},
        "tp_size": 1,
        "pp_size": pp_size,
        "dtype": "bfloat16",
        "max_num_batched_tokens": 4096,
        "num_gpu_blocks": 8000,
        "enable_prefix_caching": False,
        **instance,
    }
    nodes = [{"num_instances": 1, "instances": [entry]}]
    return {"num_nodes": 1, "link_bw": 16, "link_latency": 20000, "nodes": nodes}


def write_cluster(directory: Path, hardware: str, pp_size: int = 1, **instance: Any) -> Path:
    """The config and its model; returns the config's path."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(MODEL), encoding="utf-8")
    path = directory / "cluster.json"
    path.write_text(json.dumps(cluster_config(hardware, pp_size, **instance)), encoding="utf-8")
    return path


@dataclass
class LogOfRun:
    """A sink that writes vLLM's iteration lines of a run at pp 1."""

    lines: list[str] = field(default_factory=list)

    def accept(self, chunk: TurnChunk) -> None:
        """Take a chunk of turns; prompts must not leave chunks of one token."""
        elapsed = (chunk.stage(0, "end") - chunk.stage(0, "start")) / 1e6
        for place in np.flatnonzero(chunk.column("tokens")):
            prefills, tokens = (
                int(chunk.column("prefills")[place]),
                int(chunk.column("prefill_tokens")[place]),
            )
            decodes = int(chunk.column("decodes")[place])
            self.lines.append(
                f"(APIServer pid=1) INFO 11-25 10:29:40 [loggers.py:199] Engine 000: Iteration({len(self.lines)}): "
                f"{prefills} context requests, {tokens} context tokens, {decodes} generation requests, "
                f"{decodes} generation tokens, iteration elapsed time: {elapsed[place]:.2f} ms, "
                "GPU KV cache usage: 1.0%"
            )


@dataclass(frozen=True)
class SelfMade:
    """A benchmark file, its log, and the truth behind both (ns, and factors)."""

    cluster: Path
    bench: Path
    log: Path
    truth: dict[str, float]


def random_requests(seed: int, count: int, rate: float) -> Benchmark:
    """What will be sent: Poisson arrivals, prompts and answers of many lengths."""
    rng = np.random.default_rng(seed)
    zeros = np.zeros(count)
    return Benchmark(
        source="to be sent",
        kind="",
        start_s=np.concatenate([[0.0], np.cumsum(rng.exponential(1 / rate, count - 1))]),
        input_tokens=rng.integers(64, 1200, count),
        output_tokens=rng.integers(16, 120, count),
        ttft_s=zeros,
        latency_s=zeros,
        gaps_s=None,
    )


def kernel_truth(rng: random.Random) -> dict[str, float]:
    """Overheads as a real host might have them, on known kernels."""
    return {
        "host_step_ns": rng.uniform(0.1e6, 2.0e6),
        "host_to_stage_ns": 0.0,
        "request_ns": rng.uniform(1e6, 9e6),
        "prefill_step_ns": rng.uniform(0.5e6, 7e6),
        "prefill_factor": rng.uniform(0.9, 1.12),
        "decode_factor": rng.uniform(0.9, 1.12),
    }


def fitted_truth(rng: random.Random) -> dict[str, float]:
    """An engine on a machine that nobody knows."""
    return {
        "host_step_ns": rng.uniform(0.5e6, 1.5e6),
        "host_to_stage_ns": 0.0,
        "request_ns": rng.uniform(1e6, 9e6),
        "base_ns": rng.uniform(4e6, 8e6),
        "prefill_base_ns": rng.uniform(0.5e6, 3e6),
        "prefill_token_ns": rng.uniform(0.02e6, 0.06e6),
        "prefill_context_ns": rng.uniform(5.0, 20.0),
        "decode_ns": rng.uniform(0.05e6, 0.15e6),
        "decode_context_ns": rng.uniform(200.0, 800.0),
    }


def make(
    directory: Path,
    seed: int,
    truth: dict[str, float],
    *,
    hardware: str = "THATCPU",
    count: int = 60,
    rate: float = 6.0,
    noise: float = 0.05,
    **instance: Any,
) -> SelfMade:
    """Serve random requests with ``truth`` and noisy steps, and write what a client and a log would show."""
    path = write_cluster(directory, hardware, **instance)
    cluster = load_cluster(path, any_hardware=True)
    cost = KERNELS if "decode_factor" in truth else FITTED
    asked = random_requests(seed, count, rate)
    log = LogOfRun()
    seen = serve(cluster, truth, cost, asked, noise, log)
    bench = directory / "bench.json"
    bench.write_text(json.dumps(as_vllm_bench(seen)), encoding="utf-8")
    log_path = directory / "server.log"
    log_path.write_text("\n".join(log.lines) + "\n", encoding="utf-8")
    return SelfMade(path, bench, log_path, truth)


def serve(
    cluster: ClusterSpec, truth: dict[str, float], cost: str, asked: Benchmark, noise: float, log: LogOfRun
) -> Benchmark:
    """What a client would see of a server that is as ``truth`` says."""
    calibration = to_calibration(cluster.instances[0], cost, truth)
    if noise:
        object.__setattr__(calibration, "noise", StepNoise(sigma=noise, correlation=0.4))
    return Replay(cluster, asked).serve(calibrated(cluster, calibration), sinks=[log])


def as_vllm_bench(seen: Benchmark) -> dict[str, Any]:
    """In the form of ``vllm bench serve --save-detailed``."""
    assert seen.gaps_s is not None
    span = float((seen.start_s + seen.latency_s).max())
    return {
        "date": BENCH_END,
        "duration": max(span, 60.0),
        "completed": len(seen),
        "failed": 0,
        "total_input_tokens": int(seen.input_tokens.sum()),
        "total_output_tokens": int(seen.output_tokens.sum()),
        "request_rate": 6.0,
        "max_concurrency": None,
        "input_lens": seen.input_tokens.tolist(),
        "output_lens": seen.output_tokens.tolist(),
        "ttfts": seen.ttft_s.tolist(),
        "itls": [gaps.tolist() for gaps in seen.gaps_s],
        "latencies": seen.latency_s.tolist(),
        "start_times": (seen.start_s + 7000.0).tolist(),
        "errors": [""] * len(seen),
        "generated_texts": [""] * len(seen),
    }
