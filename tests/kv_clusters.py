"""Small clusters in which KV moves."""

from __future__ import annotations

from typing import Any


def instance(**more: Any) -> dict[str, Any]:
    return {
        "model_name": "meta-llama/Llama-3.1-8B",
        "hardware": "H100",
        "npu_mem": {"mem_size": 80, "mem_bw": 3350, "mem_latency": 0},
        "tp_size": 1,
        **more,
    }


def cluster(*instances: dict[str, Any], **more: Any) -> dict[str, Any]:
    node = {
        "num_instances": len(instances),
        "cpu_mem": {"mem_size": 512, "mem_bw": 25, "mem_latency": 10},
        "instances": list(instances),
    }
    return {"num_nodes": 1, "link_bw": 16, "link_latency": 20000, "nodes": [node], **more}
