"""The clusters, workloads and profiles that are measured. Standard library only where the parent needs it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penstock.workload.workload import Workload

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared"
PROFILE_ROOT = SHARED / "data" / "llmservingsim" / "perf"
SHAREGPT_300 = SHARED / "data" / "llmservingsim" / "workloads" / "sharegpt-llama-3.1-8b-300-sps10.jsonl"
EXAMPLE_TRACE = REPOSITORY / "workloads" / "example_trace.jsonl"
RATE_PER_GPU = 10.0
SEED = 1
PREFIX_GROUPS = 16
PREFIX_TOKENS = 512
MEAN_INPUT_TOKENS = 860


@dataclass(frozen=True, slots=True)
class DeploymentShape:
    """So many equal instances of Llama-3.1-8B on RTXPRO6000, eight to a node."""

    name: str
    tp_size: int = 1
    pp_size: int = 1
    instances: int = 1

    @property
    def gpus(self) -> int:
        """Devices of all instances."""
        return self.tp_size * self.pp_size * self.instances


SHAPES = {
    shape.name: shape
    for shape in (
        DeploymentShape("tp1"),
        DeploymentShape("pp4", pp_size=4),
        DeploymentShape("tp2 x pp4", tp_size=2, pp_size=4),
        DeploymentShape("8 x pp4", pp_size=4, instances=8),
        DeploymentShape("128 x pp4", pp_size=4, instances=128),
    )
}


MODES: dict[str, dict[str, Any]] = {
    "synchronous": {},
    "async scheduling": {"async_scheduling": True},
    "decode-cap": {"policy": "decode-cap"},
    "gllm": {"policy": "gllm"},
    "sglang": {"policy": "sglang"},
}
"""Ways of scheduling, as members of an instance in the cluster config."""


def cluster_config(shape: DeploymentShape, mode: str = "synchronous") -> dict[str, Any]:
    """A cluster config in LLMServingSim's schema, its instances scheduled by ``mode``, one of ``MODES``."""
    instance: dict[str, Any] = {
        "model_name": "meta-llama/Llama-3.1-8B",
        "hardware": "RTXPRO6000",
        "npu_mem": {"mem_size": 96, "mem_bw": 1597, "mem_latency": 0},
        "num_npus": shape.tp_size * shape.pp_size,
        "tp_size": shape.tp_size,
        "pp_size": shape.pp_size,
        "pd_type": None,
        **MODES[mode],
    }
    per_node = min(shape.instances, 8)
    node: dict[str, Any] = {"num_instances": per_node, "instances": [instance] * per_node}
    nodes = shape.instances // per_node
    return {"num_nodes": nodes, "link_bw": 16, "link_latency": 20000, "nodes": [node] * nodes}


def write_cluster_config(shape: DeploymentShape, path: Path) -> Path:
    """The same as a file."""
    path.write_text(json.dumps(cluster_config(shape)), encoding="utf-8")
    return path


def profile_root() -> Path | None:
    """Measured profiles, or None where only the packaged fits are there."""
    return PROFILE_ROOT if PROFILE_ROOT.is_dir() else None


def cost_basis() -> str:
    """What the costs of all cases rest on."""
    if profile_root() is None:
        return f"the packaged fit (no measured profiles at {PROFILE_ROOT})"
    return "the measured RTXPRO6000 profile of LLMServingSim"


def sharegpt_like(num_requests: int, rate_per_s: float | None, *, prefixes: bool = False) -> Workload:
    """ShareGPT-like lengths, mean 860 in and 650 out. ``rate_per_s`` None: all arrive at 0. ``prefixes``: with
    token ids, the first 512 tokens of a prompt shared by a group."""
    from penstock.workload.generate import PRESETS, Recipe, generate
    from penstock.workload.lengths import Lengths

    preset = PRESETS["sharegpt"]
    own = Lengths("lognormal", {"mean": MEAN_INPUT_TOKENS - PREFIX_TOKENS, "cv": 0.62})
    return generate(
        Recipe(
            num_requests=num_requests,
            arrivals="burst" if rate_per_s is None else "poisson",
            rate_per_s=rate_per_s or 1.0,
            input_tokens=own if prefixes else preset.input_tokens,
            output_tokens=preset.output_tokens,
            prefix_groups=PREFIX_GROUPS if prefixes else 0,
            prefix_tokens=PREFIX_TOKENS if prefixes else 0,
            seed=SEED,
        )
    )
