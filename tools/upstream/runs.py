"""The runs that LLMServingSim ships results of: its config and options, and why ours differ."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Rows = dict[int, dict[str, str]]
_MANY_TOKENS = "experts see the tokens of all members, dummies too (there: the largest member's)"
_TURNS = "from the first token of a second member on, members there take turns beside each other's dummies"


@dataclass(frozen=True, slots=True)
class Shipped:
    """One of its CSVs, ``outputs/example_<name>_run.csv``. ``why``: the reasons for what differs, most of it first."""

    name: str
    config: str
    why: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    workload: str = "example_trace"
    requests: int = 10

    def rows(self, data: Path) -> Rows:
        """Of its CSV, by request."""
        path = data / "outputs" / f"example_{self.name}_run.csv"
        with path.open(encoding="utf-8") as file:
            return {int(row["request id"]): row for row in csv.DictReader(file)}

    def theirs(self, data: Path) -> dict[int, list[int]]:
        """Its TTFT and ITLs by request, in ns."""
        rows = self.rows(data)
        return {request: [int(row["TTFT"]), *json.loads(row["ITL"])] for request, row in rows.items()}


_SHARED = {"prefix_storage": "CPU", "enable_prefix_sharing": True}
_PIM = {"enable_attn_offloading": True}
_HALVES = {**_PIM, "enable_sub_batch_interleaving": True}
_IDLE = "an idle instance there sees an arrival when another's kernel ends, here at once"
_ROUNDED = "kernel times in whole ns there"
_BATCHES = (
    "each request there keeps a batch of its own while there are fewer than stages, vLLM waits for the oldest"
)
_SENDS = "a stage is busy there until its message has arrived"
_ENGINE = "vLLM's sleep of 1 ms after an empty schedule, the token's way back, two tensors a hop"
_EXPERTS = "fewer than 8 experts cost as much as 8 there, and a rank's luck with its experts is counted here"
_REDUCES = "all-reduce after the experts here, all-gather and reduce-scatter there"
_SPANS = "experts over all tensor- and data-parallel ranks here"
_PADDED = "no rounds of all members for a dense model here, no padding to the largest"
_SECOND = "a dummy forward goes before each real one through the pipeline, as in vLLM"

RUNS = (
    Shipped("single", "single_node_single_instance", (_ROUNDED,)),
    Shipped("power", "single_node_power_instance", (_ROUNDED,)),
    Shipped("multi", "single_node_multi_instance", (_IDLE, _ROUNDED)),
    Shipped("prefix_cpu_mem_pool", "single_node_multi_instance", (_IDLE, _ROUNDED), _SHARED),
    Shipped(
        "dual_prefix_cpu_mem_pool",
        "dual_node_multi_instance",
        (_IDLE + ", which once sends a request to another instance", _ROUNDED),
        _SHARED,
    ),
    Shipped(
        "cxl",
        "single_node_cxl_instance",
        (
            "the final norm waits for lm_head's weights here",
            "only the rows of the tokens of the embedding are read here",
        ),
    ),
    Shipped(
        "pim",
        "single_node_pim_instance",
        ("contexts grow here, and stay at the prompt's length there", "ids over the PIM (26 ns)"),
        _PIM,
    ),
    Shipped(
        "pim_sub_batch",
        "single_node_pim_instance",
        ("contexts grow here", "halves meet in every layer here, and there only where both want the NPU"),
        _HALVES,
    ),
    Shipped("pp", "single_node_pp_instance", (_BATCHES, _ENGINE)),
    Shipped(
        "tp_pp", "single_node_tp_pp_instance", (_BATCHES, _ENGINE, "slices and a gather a hop here", _SENDS)
    ),
    Shipped("dp", "single_node_dp_instance", (_PADDED, "the ring's small terms")),
    Shipped(
        "pd",
        "single_node_pd_instance",
        (
            "the first token is the decode instance's here, behind the KV over a link that it never takes there",
        ),
    ),
    Shipped("moe", "single_node_moe_single_instance", (_EXPERTS, _REDUCES)),
    Shipped("moe_pp", "single_node_moe_pp_instance", (_BATCHES, _EXPERTS, _ENGINE, _SENDS)),
    Shipped("moe_dp_tp", "single_node_moe_dp_tp_instance", (_TURNS, _SPANS, _MANY_TOKENS, _EXPERTS)),
    Shipped("moe_dp_pp", "single_node_moe_dp_pp_instance", (_SECOND, _MANY_TOKENS, _ENGINE)),
    Shipped("moe_dp_tp_pp", "single_node_moe_dp_tp_pp_instance", (_SECOND, _SPANS, _MANY_TOKENS, _ENGINE)),
    Shipped("dual_moe_dp_ep", "dual_node_moe_dp_ep_intra_inter_instance", (_TURNS, _MANY_TOKENS, _EXPERTS)),
    Shipped(
        "moe_dp_ep",
        "single_node_moe_dp_ep_instance",
        (
            _MANY_TOKENS,
            "waves and count exchanges here",
            "token ids made up, so hits of the prefix cache differ",
        ),
        workload="swe-bench-standin-1",
        requests=1,
    ),
)


def with_members(config: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A config of its own with every member that makes our models its."""
    bandwidth = config["nodes"][-1]["instances"][0]["npu_mem"]["mem_bw"]
    config |= {"endpoint_delay_ns": 10, "local_mem_bw": bandwidth}
    for node in config["nodes"]:
        for instance in node["instances"]:
            instance |= {
                "profile_lookup": "llmservingsim",
                "activation_tensors": 1,
                "token_return": False,
                "engine_idle_sleep_ns": 0,
                "engine_overhead": "none",
                **more,
            }
    return config


def made_the_same(config: str, data: Path, folder: Path) -> Path:
    """A config of its own with those members as a file in ``folder``, its PIM files beside it."""
    whole = json.loads((data / "configs" / "cluster" / f"{config}.json").read_text(encoding="utf-8"))
    shutil.copytree(data / "configs" / "pim", folder / "configs" / "pim", dirs_exist_ok=True)
    path = folder / "configs" / "cluster" / f"{config}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(with_members(whole)), encoding="utf-8")
    return path
