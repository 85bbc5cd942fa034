"""Penstock and beside it AIConfigurator itself against measured servers: docs/accuracy.md.

    pip install 'penstock[aiconfigurator]' aiconfigurator==0.12.0
    python tools/accuracy.py -o docs/accuracy.md

The measurements are the aggregated runs of dense models with vLLM in ``silicon_sample.csv`` of the wheel
aiconfigurator-core 0.12.0: mean time to first token and per output token of a closed loop. Each is simulated once.
"""

from __future__ import annotations

import argparse
import sys
from array import array
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from penstock import simulate
from penstock.cost.aiconfigurator.wheel import find_wheel
from penstock.spec.hardware import find_hardware
from penstock.units import GIB, NS_PER_MS
from penstock.workload.workload import Workload

HARDWARE = {"h100_sxm": "H100", "h200_sxm": "H200", "b200_sxm": "B200"}
MODELS = {
    "meta-llama/Llama-3.1-70B": "meta-llama/Llama-3.1-70B",
    "Qwen/Qwen3-32B": "Qwen/Qwen3-32B",
    "nvidia/Llama-3.1-8B-Instruct-FP8": "meta-llama/Llama-3.1-8B-Instruct",
}
THEIR_NAMES = {
    "meta-llama/Llama-3.1-70B": "meta-llama/Meta-Llama-3.1-70B",
    "nvidia/Llama-3.1-8B-Instruct-FP8": "meta-llama/Meta-Llama-3.1-8B",
}
"""Of models whose config AIConfigurator brings along."""

DTYPES = {"fp8": ("fp8", "fp8"), "fp4": ("nvfp4", "fp8"), None: ("bfloat16", "auto")}
"""By precision: of weights and KV cache."""

VLLM = "0.24.0"
CALIBRATED = ("h200_sxm", "meta-llama/Llama-3.1-70B", "fp8")
WIDE_CACHE_TOO = ("h100_sxm", "meta-llama/Llama-3.1-70B", "fp8")
"""Simulated a second time with 16 bits a KV value, as its queues look."""

SPREAD = {"meta-llama/Llama-3.1-70B": 0.8}
"""InferenceX draws lengths evenly from 0.8 of the nominal length to all of it; the other runs have one length."""

REQUESTS_PER_CLIENT = 10
Point = tuple[float, float]
"""Mean time to first token and mean time per output token, ms."""

ABOUT = """# Accuracy against measured servers

Made by

    pip install 'penstock[aiconfigurator]' aiconfigurator==0.12.0
    python tools/accuracy.py -o docs/accuracy.md

from the runs of dense models with vLLM in `silicon_sample.csv` of aiconfigurator-core 0.12.0 (Apache-2.0, NVIDIA;
those of Llama-3.1-70B come from InferenceX, Apache-2.0): means of the time to first token (TTFT) and per output
token (TPOT) of a closed loop, one instance, pp 1. Errors are the size of simulated / measured - 1: median / 90th
percentile over the runs of a group. Beside Penstock stands what AIConfigurator itself says of the same runs: its
`cli_estimate` (one number for a steady state), with the same dtypes of weights and KV cache; where it finds too little
memory for the clients, it has no answer.

"""

NOTES = """
**What was fitted, and what was looked at.** The constants for the host, for clocks under load (arithmetic x 1.25)
and for unequal contexts (skew 0.7, [costs](costs.md#aiconfigurators-measurements)) were fitted to the rows called
calibration, and to no other. The test rows were not predicted blind: they were simulated many times while the form of
the source was settled. No row has a constant of its own.

**Assumptions.** The file does not give them: 10 requests a client, all clients start at once and their first
prompts count; lengths drawn evenly from 80 to 100% of the nominal for Llama-3.1-70B, exactly the nominal for the
others; a token budget of 8,192, 512 running requests, 90% of memory, a KV cache in fp8 where the weights are fp8 or
fp4; no prefix caching, no async scheduling.

**What the file does not explain.** Clients whose answers are equally long stay in step for a whole simulated run, and
all prompts come at once; real clients drift apart. With lengths from 80% of the nominal, the TTFT of H100, Qwen3-32B
with 1,024 tokens comes out too low instead of too high: it tests this assumption rather than the costs. The runs of
H100, Llama-3.1-70B queue as if their KV cache held 16 bits: at tp 2, 8,192/1,024 tokens and 64 clients 29 sequences
run at a time by Little's law, about what memory holds in 16 bits. The file does not say; the table has both, and the
second was chosen after these runs were seen. Some runs of Llama-3.1-8B on H200 can hardly be what the file says: with
112 clients, 1,000 tokens in and 100 out, a TTFT of 72 ms and a TPOT of 11.3 ms are 1.4 PFLOP/s of prefill on a chip
whose fp8 peak is 1.98, beside the decodes. Prompts were probably cached, or fewer clients at work.
"""


@dataclass(frozen=True, slots=True)
class Group:
    """Runs of one chip, model and precision; ``dtypes`` of weights and KV cache they are taken to have."""

    key: tuple[str, str, str | None]
    rows: list[dict[str, Any]]
    dtypes: tuple[str, str]

    @property
    def name(self) -> str:
        """For the table."""
        system, model, precision = self.key
        wide = ", KV cache in 16 bits" if self.dtypes != DTYPES[precision] else ""
        return f"{HARDWARE[system]}, {model.split('/')[-1]}, {precision or 'bf16'}{wide}"

    @property
    def role(self) -> str:
        """Calibration or test."""
        return "calibration" if self.key == CALIBRATED else "test"


def read_groups(path: Path) -> list[Group]:
    """The aggregated dense vLLM runs, by chip, model and precision."""
    table = pl.read_csv(path, infer_schema_length=None).filter(
        (pl.col("mode") == "agg") & (pl.col("backend") == "vllm") & pl.col("model_path").is_in(list(MODELS))
    )
    table = table.sort("system", "model_path", "precision", "isl", "osl", "tp_size", "batch_size")
    groups: dict[tuple[str, str, str | None], list[dict[str, Any]]] = {}
    for row in table.iter_rows(named=True):
        groups.setdefault((row["system"], row["model_path"], row["precision"]), []).append(row)
    found = [
        Group(key, rows, DTYPES[key[2]])
        for key, rows in sorted(groups.items(), key=lambda item: item[0] != CALIBRATED)
    ]
    wide = [
        replace(group, dtypes=(group.dtypes[0], "auto")) for group in found if group.key == WIDE_CACHE_TOO
    ]
    return found + wide


def simulated(row: Mapping[str, Any], dtypes: tuple[str, str]) -> Point | None:
    """What Penstock says of a run."""
    hardware = find_hardware(HARDWARE[row["system"]])
    assert hardware is not None
    instance = {
        "model_name": MODELS[row["model_path"]],
        "hardware": hardware.label,
        "npu_mem": {
            "mem_size": hardware.capacity_bytes / GIB,
            "mem_bw": hardware.memory_bytes_per_s / 1e9,
            "mem_latency": 0,
        },
        "num_npus": row["tp_size"],
        "tp_size": row["tp_size"],
        "dtype": dtypes[0],
        "kv_cache_dtype": dtypes[1],
    }
    cluster = {
        "num_nodes": 1,
        "link_bw": hardware.link.bytes_per_s / 1e9,
        "link_latency": 3000,
        "link_class": f"vllm-{hardware.label.lower()}",
        "nodes": [{"num_instances": 1, "instances": [instance]}],
    }
    result = simulate(
        cluster,
        workload(row),
        max_concurrency=row["batch_size"],
        max_num_batched_tokens=8192,
        max_num_seqs=512,
        enable_prefix_caching=False,
        record="requests",
        keep_token_times=False,
    )
    latency = result.summary.latency
    if latency.ttft is None or latency.tpot is None:
        return None
    return latency.ttft.mean_ns / NS_PER_MS, latency.tpot.mean_ns / NS_PER_MS


def workload(row: Mapping[str, Any]) -> Workload:
    """The requests of a run, all there from the start."""
    spread = SPREAD.get(row["model_path"], 1.0)
    count = REQUESTS_PER_CLIENT * row["batch_size"]
    random = np.random.default_rng(1)
    prompts, answers = (
        array("q", random.integers(int(spread * row[name]), row[name] + 1, count).tolist())
        for name in ("isl", "osl")
    )
    return Workload.from_columns(array("q", [0]) * count, prompts, answers, "closed loop")


def aiconfigurator_estimate(row: Mapping[str, Any], dtypes: tuple[str, str]) -> Point | None:
    """What AIConfigurator says of a run, None where it has no answer."""
    cli_estimate = import_module("aiconfigurator.cli.api").cli_estimate
    model = THEIR_NAMES.get(row["model_path"], str(row["model_path"]))
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            found = cli_estimate(
                model,
                row["system"],
                backend_name="vllm",
                backend_version=VLLM,  # its newest, which it takes seconds to find
                isl=row["isl"],
                osl=row["osl"],
                batch_size=row["batch_size"],
                tp_size=row["tp_size"],
                gemm_quant_mode=dtypes[0],
                kvcache_quant_mode="bfloat16" if dtypes[1] == "auto" else dtypes[1],
            )
    except RuntimeError as error:
        print(f"\nno answer: {row['id']}: {error}", file=sys.stderr)
        return None
    return (found.ttft, found.tpot) if found.ttft and found.tpot else None


def errors(group: Group, tool: Callable[[Mapping[str, Any], tuple[str, str]], Point | None]) -> list[Point]:
    """Relative errors of TTFT and TPOT for the rows that a tool has an answer for."""
    found: list[Point] = []
    for row in group.rows:
        print(".", end="", file=sys.stderr, flush=True)
        point = tool(row, group.dtypes)
        if point is not None:
            found.append((point[0] / row["silicon_ttft_ms"] - 1, point[1] / row["silicon_tpot_ms"] - 1))
    return found


def cells(found: Sequence[Point]) -> str:
    """Runs, and median and p90 of the errors' size, as cells of a table."""
    if not found:
        return "0 | | "
    sizes = np.abs(np.array(found))
    parts = [f"{np.median(one):.1%} / {np.percentile(one, 90):.1%}" for one in sizes.T]
    return f"{len(found)} | {parts[0]} | {parts[1]}"


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True)
    output: Path = parser.parse_args().output
    wheel = find_wheel()
    if wheel is None or find_spec("aiconfigurator") is None:
        raise SystemExit("needs: pip install 'penstock[aiconfigurator]' aiconfigurator==0.12.0")
    lines = [
        "| runs of | role | runs | Penstock: TTFT | TPOT | runs | AIConfigurator: TTFT | TPOT |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for group in read_groups(wheel.systems / "silicon_sample.csv"):
        both = " | ".join(cells(errors(group, tool)) for tool in (simulated, aiconfigurator_estimate))
        lines.append(f"| {group.name} | {group.role} | {both} |")
        print(f"\n{lines[-1]}", file=sys.stderr)
    output.write_text(ABOUT + "\n".join(lines) + "\n" + NOTES, encoding="utf-8")


if __name__ == "__main__":
    main()
