"""Every aggregated vLLM row of a mixture of experts in AIConfigurator's table of real servers, beside Penstock.

    pip download --no-deps aiconfigurator-core==0.12.0 && unzip -q aiconfigurator_core-*.whl -d wheel
    python examples/published/moe_silicon.py wheel/aiconfigurator_core

``systems/silicon_sample.csv`` of the wheel (Apache-2.0, NVIDIA; most rows come from InferenceX, Apache-2.0) gives the
mean TTFT and TPOT of a model on so many GPUs at a concurrency. What it does not give is assumed: two requests for each
user in a closed loop, lengths between 0.8 and 1.0 of the nominal ones, vLLM 0.32's defaults, no profile and no
calibration. Nothing in Penstock was fitted to these rows. A second argument N takes every Nth row of each kind.
"""

from __future__ import annotations

import csv
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import penstock
from penstock.errors import NoProgressError, UserError
from penstock.units import NS_PER_MS
from penstock.workload.workload import Workload

HARDWARE = {
    "h100_sxm": ("H100", 80),
    "h200_sxm": ("H200", 141),
    "b200_sxm": ("B200", 180),
    "b300_sxm": ("B300", 288),
}
QUANTIZED = {
    ("MiniMaxAI/MiniMax-M2.5", "fp4"): "nvidia--MiniMax-M2.5-NVFP4",
    ("moonshotai/Kimi-K2.5", "fp4"): "nvidia--Kimi-K2.5-NVFP4",
}
DENSE = ("Llama", "Qwen3-32B")
Row = dict[str, str]
Key = tuple[str, str, str]


def rows_of(wheel: Path) -> Iterator[Row]:
    """Aggregated runs of vLLM with a mixture of experts."""
    with (wheel / "systems" / "silicon_sample.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            is_ours = row["backend"] == "vllm" and row["mode"] == "agg"
            if is_ours and not any(word in row["model_path"] for word in DENSE):
                yield row


def number(row: Row, name: str) -> int:
    """A count, 1 where the table has none."""
    return int(float(row[name] or 1))


def cluster(wheel: Path, row: Row) -> dict[str, Any]:
    """The row's server."""
    model = QUANTIZED.get((row["model_path"], row["precision"]), row["model_path"].replace("/", "--"))
    hardware, memory_gb = HARDWARE[row["system"]]
    instance: dict[str, Any] = {
        "model_name": str((wheel / "model_configs" / f"{model}_config.json").resolve()),
        "hardware": hardware,
        "npu_mem": {"mem_size": memory_gb, "mem_bw": 3350, "mem_latency": 0},
        "tp_size": number(row, "tp_size"),
        "enable_expert_parallel": number(row, "moe_ep_size") > 1,
    }
    if number(row, "attention_dp_size") > 1:
        instance["data_parallel_size"] = number(row, "attention_dp_size")
    nodes = [{"num_instances": 1, "instances": [instance]}]
    return {"num_nodes": 1, "link_bw": 400, "link_latency": 2_000, "nodes": nodes}


def simulated(wheel: Path, row: Row, engine: str = "vllm-0.32.0") -> tuple[float, float]:
    """Mean TTFT and TPOT in ms under the defaults of ``engine``."""
    users = number(row, "batch_size")
    spread = np.random.default_rng(3).uniform(0.8, 1.0, (2 * users, 2))
    lengths = np.maximum(spread * (number(row, "isl"), number(row, "osl")), 2).astype(int)
    workload = Workload.from_columns(
        [0] * (2 * users), lengths[:, 0].tolist(), lengths[:, 1].tolist(), "closed loop"
    )
    rows = penstock.simulate(
        cluster(wheel, row),
        workload,
        engine=engine,
        max_concurrency=users,
        record="requests",
        keep_token_times=False,
    ).requests.filter(status="finished")
    ttft_ns, tpot_ns = (float(rows[name].to_numpy().mean()) for name in ("ttft_ns", "tpot_ns"))
    return ttft_ns / NS_PER_MS, tpot_ns / NS_PER_MS


def main(wheel: Path, every: int) -> None:
    """One line for each model, chip and precision."""
    seen: Counter[Key] = Counter()
    errors: defaultdict[Key, list[tuple[float, float]]] = defaultdict(list)
    refused: defaultdict[Key, list[str]] = defaultdict(list)
    for done, row in enumerate(rows_of(wheel), 1):
        key = row["model_path"], row["system"], row["precision"]
        seen[key] += 1
        if (seen[key] - 1) % every:
            continue
        if refused[key] and not errors[key]:
            refused[key].append(refused[key][-1])
            continue
        try:
            ttft_ms, tpot_ms = simulated(wheel, row)
        except (UserError, NoProgressError, KeyError) as error:
            refused[key].append(str(error).splitlines()[0])
            continue
        errors[key].append(
            (ttft_ms / float(row["silicon_ttft_ms"]) - 1, tpot_ms / float(row["silicon_tpot_ms"]) - 1)
        )
        print(f"{done}: {key}, {errors[key][-1]}", file=sys.stderr, flush=True)
    print(f"{'model':<26} {'system':<9} {'as':<5} {'rows':>5} {'TTFT error':>20} {'TPOT error':>20}")
    print(f"{'':<26} {'':<9} {'':<5} {'':>5} {'median  median abs':>20} {'median  median abs':>20}")
    everything = [pair for pairs in errors.values() for pair in pairs]
    for key, pairs in [*errors.items(), (("all", "", ""), everything)]:
        if pairs:
            told = [
                f"{median(column):>+12.0%} {median(map(abs, column)):>7.0%}"
                for column in (list(column) for column in zip(*pairs, strict=True))
            ]
            print(f"{key[0]:<26} {key[1]:<9} {key[2]:<5} {len(pairs):>5} {told[0]} {told[1]}")
    for key, why in refused.items():
        if why:
            print(f"{key[0]:<26} {key[1]:<9} {key[2]:<5} {len(why):>5} refused: {why[0][-110:]}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1)
