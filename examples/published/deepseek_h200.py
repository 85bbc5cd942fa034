"""DeepSeek-R1 on eight H200 at TP8 under three loads, real SGLang and TensorRT-LLM servers beside Penstock.

    pip download --no-deps aiconfigurator-core==0.12.0 && unzip -q aiconfigurator_core-*.whl -d wheel
    python examples/published/deepseek_h200.py wheel/aiconfigurator_core

``systems/silicon_sample.csv`` of the wheel has no vLLM rows of this model. The loads are 4, 16 and 64 users with
1,024 tokens in and out. A check of direction: does the time per token grow with the users as it does there, and who
is faster? What the table does not give is assumed as in ``moe_silicon.py``.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from moe_silicon import Row, simulated

USERS = (4, 16, 64)
ENGINES = {"sglang": "sglang", "trtllm": "vllm-0.32.0"}


def rows_of(wheel: Path, backend: str) -> list[Row]:
    """One row for each number of users: the first of that load in the table."""
    found: dict[int, Row] = {}
    with (wheel / "systems" / "silicon_sample.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            wanted = row["backend"], row["mode"], row["model_path"], row["system"], row["isl"], row["osl"]
            if wanted == (backend, "agg", "deepseek-ai/DeepSeek-R1", "h200_sxm", "1024", "1024") and (
                (row["tp_size"], row["moe_ep_size"]) == ("8", "1")
            ):
                found.setdefault(int(float(row["batch_size"])), row)
    return [found[users] for users in USERS]


def main(wheel: Path) -> None:
    """A line for each load and engine, and how much the time per token grows."""
    print(f"{'engine':<8} {'users':>5} {'TTFT ms':>9} {'simulated':>9} {'TPOT ms':>8} {'simulated':>9}")
    for backend, engine in ENGINES.items():
        tpots: list[tuple[float, float]] = []
        for row in rows_of(wheel, backend):
            ttft_ms, tpot_ms = simulated(wheel, row, engine)
            real_ttft_ms, real_tpot_ms = float(row["silicon_ttft_ms"]), float(row["silicon_tpot_ms"])
            tpots.append((real_tpot_ms, tpot_ms))
            print(
                f"{backend:<8} {int(float(row['batch_size'])):>5} {real_ttft_ms:>9.0f} {ttft_ms:>9.0f} "
                f"{real_tpot_ms:>8.1f} {tpot_ms:>9.1f}"
            )
        (real_first, first), (real_last, last) = tpots[0], tpots[-1]
        print(
            f"{backend:<8} time per token from {USERS[0]} to {USERS[-1]} users: "
            f"x{real_last / real_first:.2f}, simulated x{last / first:.2f}"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
