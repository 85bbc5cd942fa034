"""How well expert times are met: the roofline against measured ones, and other shapes against a shape left out.

    python tools/expert_times.py ../shared/data/aiconfigurator/moe ../shared/data/llmservingsim/perf

Prints, per chip and dtype of AIConfigurator's tables (``<system>.vllm-<version>.csv``, balanced rows), the median error
and the median and 90th percentile of its size; then the roofline's against the ``moe.csv`` of RTX PRO 6000.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from penstock.cost.efficiency import packaged_efficiency
from penstock.cost.experts.measured import measured_experts
from penstock.cost.experts.times import ExpertShape, RooflineExperts
from penstock.cost.roofline import hardware_rates
from penstock.cost.tables import FloatArray
from penstock.cost.weights import weight_bytes
from penstock.spec.hardware import find_hardware
from penstock.spec.layers import MoeMlp

CHIPS = {
    "h100_sxm": "H100",
    "h200_sxm": "H200",
    "b200_sxm": "B200",
    "l40s": "L40S",
    "rtx_pro_6000_server": "RTXPRO6000",
}
DTYPES = {
    "bfloat16": "bfloat16",
    "fp8": "fp8",
    "fp8_block": "fp8_block",
    "nvfp4": "nvfp4",
    "w4a16_mxfp4": "fp4",
}
SHAPE = ["hidden_size", "inter_size", "topk", "num_experts"]
CUT = ["moe_tp_size", "moe_ep_size"]
QWEN3_30B = "RTXPRO6000/Qwen/Qwen3-30B-A3B-Instruct-2507/bf16/tp1/moe.csv"


def errors(rows: pl.DataFrame, label: str, dtype: str) -> Iterator[tuple[str, FloatArray]]:
    """("roofline" | "other shapes", relative errors) of every shape and cut of one chip and dtype."""
    chip = find_hardware(label)
    assert chip is not None
    rates = hardware_rates(chip, dtype)
    with tempfile.TemporaryDirectory() as folder:
        for number, (shape, own) in enumerate(rows.partition_by(SHAPE, as_dict=True).items()):
            hidden, width, picks, count = (int(value) for value in shape)
            others = Path(folder) / f"moe_perf{number}.csv"
            rows.join(own.select(SHAPE).unique(), on=SHAPE, how="anti").write_csv(others)
            moe = MoeMlp(num_experts=count, experts_per_token=picks, intermediate_size=width)
            for cut, points in own.partition_by(CUT, as_dict=True).items():
                split, ranks = (int(value) for value in cut)
                one = ExpertShape(
                    hidden=hidden, width=width // split, weight_bytes=weight_bytes(dtype), activation_bytes=2
                )
                pairs = points["num_tokens"].to_numpy() * picks / ranks
                used = np.minimum(pairs, count / ranks)
                measured = points["latency_ms"].to_numpy() * 1000.0
                roofline = RooflineExperts(one, rates, packaged_efficiency())
                yield "roofline", roofline.rank_us(pairs, used) / measured - 1
                found = measured_experts(others, moe, dtype, (one, split, ranks), rates)
                if found is not None:
                    yield "other shapes", found[0].rank_us(pairs, used) / measured - 1


def told(error: FloatArray) -> str:
    """Median, and how large at the median and the 90th percentile."""
    size = np.abs(error)
    return f"{np.median(error):+5.0%} {np.percentile(size, 50):5.0%} {np.percentile(size, 90):5.0%}"


def main() -> None:
    """Print both tables."""
    tables, profiles = map(Path, sys.argv[1:3])
    print(f"{'chip':<12}{'dtype':<10}{'rows':>6}  {'roofline':<18} other shapes   (median, |p50|, |p90|)")
    for path in sorted(tables.glob("*.vllm-*.csv")):
        label = CHIPS.get(path.name.partition(".")[0])
        rows = pl.read_csv(path, infer_schema_length=None).filter(pl.col("distribution") == "balanced")
        for name, dtype in DTYPES.items() if label else ():
            part = rows.filter(pl.col("moe_dtype") == name)
            if not len(part) or label is None:
                continue
            found: dict[str, list[FloatArray]] = {"roofline": [], "other shapes": []}
            for source, error in errors(part, label, dtype):
                found[source].append(error)
            line = "  ".join(told(np.concatenate(parts)) for parts in found.values() if parts)
            print(f"{label:<12}{dtype:<10}{len(part):>6}  {line}")
    grid = np.loadtxt(profiles / QWEN3_30B, delimiter=",", skiprows=1)
    chip = find_hardware("RTXPRO6000")
    assert chip is not None
    shape = ExpertShape(hidden=2048, width=768, weight_bytes=2, activation_bytes=2)
    experts = RooflineExperts(shape, hardware_rates(chip, "bfloat16"), packaged_efficiency())
    error = experts.rank_us(grid[:, 0] * 8, grid[:, 1]) / grid[:, 2] - 1
    print(f"{'RTXPRO6000':<12}{'moe.csv':<10}{len(grid):>6}  {told(error)}")


if __name__ == "__main__":
    main()
