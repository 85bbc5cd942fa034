"""Shared by the examples beside it: clusters, workloads and models made in place."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import penstock
from penstock.units import NS_PER_S
from penstock.workload.workload import Workload

DENSE = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16"}


def cluster(model: str, hardware: str, memory_gb: float, **instance: Any) -> dict[str, Any]:
    """One instance in one node; ``link`` = (GB/s, ns) between its NPUs, the rest are fields of the instance."""
    bandwidth, latency = instance.pop("link", (50, 10_000))
    npu = {"mem_size": memory_gb, "mem_bw": 1000, "mem_latency": 0, "mem_util": instance.pop("mem_util", 0.9)}
    given = {"model_name": model, "hardware": hardware, "npu_mem": npu, "pd_type": None} | instance
    given.setdefault("engine_overhead", "none")  # shapes of the pipeline: a host's time is not what they show
    return {
        "num_nodes": 1,
        "link_bw": bandwidth,
        "link_latency": latency,
        "nodes": [
            {
                "num_instances": 1,
                "cpu_mem": {"mem_size": 512, "mem_bw": 256, "mem_latency": 0},
                "instances": [given],
            }
        ],
    }


def offline(count: int, prompt: int, answer: int) -> Workload:
    """All requests at once, all alike."""
    return Workload.from_columns(
        [0] * count, [prompt] * count, [answer] * count, f"{count} x {prompt}/{answer}"
    )


def dense_model(name: str, **sizes: Any) -> str:
    """A dense model's config of given sizes; returns its path."""
    return model_file(name, {**DENSE, **sizes})


def model_file(name: str, config: Mapping[str, Any]) -> str:
    """A model config in a temporary directory; returns its path."""
    path = Path(tempfile.mkdtemp()) / f"{name}.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    return str(path)


def run(cluster_config: dict[str, Any], workload: Workload, **options: Any) -> penstock.SimulationResult:
    """Simulate and keep no more than the requests."""
    return penstock.simulate(cluster_config, workload, record="requests", keep_token_times=False, **options)


def seconds_taken(result: penstock.SimulationResult) -> float:
    """From the first arrival to the last completion."""
    return result.summary.simulated_ns / NS_PER_S
