"""docs/combinations.md says which modes go together: every pair is tried, and the page lists what is refused."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from cost.test_pim import config as config_with_pim_file
from penstock.engine.simulation import Simulation
from penstock.errors import UserError
from penstock.rendering.result import RunContext
from penstock.server.session import Session, SessionOptions
from penstock.spec.cluster import ClusterSpec
from penstock.spec.load import load_cluster
from penstock.spec.options import RunOptions
from penstock.workload.lengths import parse_lengths
from penstock.workload.workload import Workload

Config = dict[str, Any]

POWER = {
    "base_node_power": 60,
    "npu": {"H200": {"idle_power": 35, "standby_power": 300, "active_power": 600, "standby_duration": 18}},
    "cpu": {"idle_power": 10, "active_power": 200, "util": 0.15},
    "dram": {"dimm_size": 32, "idle_power": 2.0, "energy_per_bit": 6.0},
    "link": {"num_links": 1, "idle_power": 5, "energy_per_bit": 4.0},
    "nic": {"num_nics": 1, "idle_power": 20},
    "storage": {"num_devices": 2, "idle_power": 5},
}


def two_nodes() -> Config:
    """An instance on each, of a mixture of experts, so that its ranks go in lock-step."""
    nodes = [
        {
            "num_instances": 1,
            "cpu_mem": {"mem_size": 512, "mem_bw": 100, "mem_latency": 0},
            "instances": [
                {
                    "model_name": "Qwen/Qwen3-30B-A3B-Instruct-2507",
                    "hardware": "H200",
                    "npu_mem": {"mem_size": 140, "mem_bw": 4800, "mem_latency": 0},
                    "tp_size": 1,
                }
            ],
        }
        for _ in range(2)
    ]
    return {"num_nodes": 2, "link_bw": [64, 16], "link_latency": [1000, 5000], "nodes": nodes}


def of_instances(**members: Any) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        for node in config["nodes"]:
            node["instances"][0].update(members)

    return change


def apart(kind: str) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        for node, role in zip(config["nodes"], ("prefill", "decode"), strict=True):
            node["instances"][0]["pd_type"] = role
        config["kv_transfer"] = {"kind": kind}

    return change


def shared_links(config: Config) -> None:
    config["shared_node_links"] = True
    for place, node in enumerate(config["nodes"]):
        node["instances"][0].update(pp_size=2, placement_nodes=[place, 1 - place])


def attention_in_memory(config: Config) -> None:
    for node in config["nodes"]:
        node["cpu_mem"]["pim_config"] = "HBM2_1GB_2000_pim"
    of_instances(enable_attn_offloading=True)(config)


def power(config: Config) -> None:
    for node in config["nodes"]:
        node["power"] = POWER


MODES: Mapping[str, Callable[[Config], None]] = {
    "prefill apart, pulled": apart("pull"),
    "prefill apart, pushed": apart("push"),
    "tier of KV": of_instances(kv_offloading={}),
    "lock-step": of_instances(data_parallel_size=2),
    "placement": of_instances(placement={"default": {"weights": "cpu"}}),
    "attention in memory": attention_in_memory,
    "topology": lambda config: config.update(
        topology=["Switch", "Ring"], collective_algorithm=["direct", "ring"]
    ),
    "power": power,
    "autoscaling": lambda config: config.update(autoscaling={"target": 4}),
    "serve": lambda config: None,
}
SCHEDULES: Mapping[str, Callable[[Config], None]] = {
    "priority": of_instances(scheduling_policy="priority"),
    "policy": of_instances(policy="decode-cap"),
    "async scheduling": of_instances(async_scheduling=True),
    "blocking sends": of_instances(blocking_sends=True, pp_size=2),
    "shared links": shared_links,
    "prefix caching": of_instances(enable_prefix_caching=True),
    "pipeline": of_instances(pp_size=2),
}
PAIRS = [*itertools.combinations(MODES, 2), *itertools.product(MODES, SCHEDULES)]
"""The schedules among each other are what the fuzz draws (``reference/combinations.py``)."""


def outcome(names: Iterable[str], folder: Path) -> str | None:
    """Why the program refuses them together, or None after it has served requests."""
    config = two_nodes()
    for name in names:
        (MODES | SCHEDULES)[name](config)
    path = folder / "configs" / "cluster.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    try:
        cluster = load_cluster(str(path))
        serve(cluster) if "serve" in names else simulate(cluster)
    except UserError as error:
        return "; ".join(map(str, error.problems))
    return None


def simulate(cluster: ClusterSpec) -> None:
    load = Workload.from_columns([n * 10_000_000 for n in range(3)], [100] * 3, [4] * 3, "three")
    assert len(Simulation(cluster, load).run().requests) == 3


def serve(cluster: ClusterSpec) -> None:
    """What is built and checked before the server listens."""
    options = SessionOptions(answer_lengths=parse_lengths("fixed:4", "--answer-lengths"))
    Session(cluster, RunOptions(), options, RunContext())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a file of a PIM beside the config."""
    made = tmp_path_factory.mktemp("combinations")
    config_with_pim_file(made)
    return made


def test_the_page_lists_what_is_refused(repository: Path, folder: Path) -> None:
    page = (repository / "docs/combinations.md").read_text("utf-8")
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \|", page.split("## What is refused")[1], re.MULTILINE)
    rows = [row for row in rows if row[0] not in ("one", "---")]
    listed = {frozenset(row) for row in rows}
    assert len(listed) == len(rows)
    assert len(listed) > 3
    refused = {frozenset(pair) for pair in PAIRS if outcome(pair, folder) is not None}
    assert refused == listed


def test_the_page_has_every_mode_with_its_option(repository: Path, folder: Path) -> None:
    page = (repository / "docs/combinations.md").read_text("utf-8")
    modes = page.split("## Modes")[1].split("## What is refused")[0]
    assert re.findall(r"^\| ([^|]+) \| `", modes, re.MULTILINE) == list(MODES)
    assert [name for name in (*MODES, *SCHEDULES) if outcome([name], folder) is not None] == []
