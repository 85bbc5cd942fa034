"""The examples that come with Penstock: a cluster, a workload, a search."""

from __future__ import annotations

from pathlib import Path

CLUSTER, WORKLOAD, STUDY = "cluster.json", "workload.jsonl", "study.yaml"

_PACKAGED = Path(__file__).resolve().parents[1] / "data" / "examples"
_IN_CHECKOUT = {
    CLUSTER: "configs/cluster/single_node_pp_instance.json",
    WORKLOAD: "workloads/example_trace.jsonl",
    STUDY: "examples/first_study.yaml",
}


def example(name: str) -> Path:
    """The file behind one of the names above: in the package, or where a checkout has it."""
    packaged = _PACKAGED / name
    return packaged if packaged.exists() else Path(__file__).resolve().parents[3] / _IN_CHECKOUT[name]
