"""Disturbed matrix multiplications in AIConfigurator's tables: the table of docs/costs.md.

    pip install 'penstock[aiconfigurator]'
    python tools/disturbed_times.py

Of each chip that has two others of its kind: the share of measured points that take longer than 1.5 times what the
slowest of the others takes, each by its own roofline, and the most they are too slow by.
"""

from __future__ import annotations

import numpy as np

from penstock.cost.aiconfigurator.gemm import WITNESSES, GemmTable, read_gemms, undisturbed
from penstock.cost.aiconfigurator.systems import SYSTEMS, like
from penstock.cost.aiconfigurator.wheel import find_wheel
from penstock.cost.kernels import Gemm
from penstock.cost.roofline import hardware_rates
from penstock.cost.tables import FloatArray
from penstock.cost.weights import weight_bytes
from penstock.spec.hardware import find_hardware

DTYPES = ("bfloat16", "fp8", "fp8_block", "nvfp4")


def log_shares(table: GemmTable, label: str, dtype: str, places: list[tuple[int, int]]) -> list[FloatArray]:
    """Log of time over roofline of the weights at ``places`` = (inner, outer), over the table's tokens."""
    hardware = find_hardware(label)
    assert hardware is not None, label
    rates = hardware_rates(hardware, dtype)
    gemms = [Gemm(inner, outer, weight_bytes(dtype), 2) for inner, outer in places]
    return [table.log_shares(gemm, table.rows, rates) for gemm in gemms]


def main() -> None:
    """Print the table."""
    wheel = find_wheel()
    if wheel is None:
        raise SystemExit("needs penstock[aiconfigurator]")
    print("| chip | dtype | points | disturbed | the worst takes |\n|---|---|---|---|---|")
    for label, system in SYSTEMS.items():
        others = like(system)
        if len(others) < WITNESSES:
            continue
        for dtype in DTYPES:
            tables = {
                name: read_gemms(wheel.table(one.name, "gemm", "vllm", "gemm"), dtype)
                for name, one in {label: system, **others}.items()
            }
            own = tables[label]
            if own is None:
                continue
            places = [(int(inner), int(outer)) for inner in own.inner for outer in own.outer]
            columns = [
                np.concatenate(log_shares(table, name, dtype, places))
                for name, table in tables.items()
                if table is not None
            ]
            points = int((~np.isnan(columns[0])).sum())
            excess = columns[0] - undisturbed(columns[0], columns[1:])
            cut = excess[excess > 0]
            worst = f"{np.exp(cut.max()):.1f} x" if len(cut) else ""
            print(f"| {label} | {dtype} | {points:,} | {len(cut) / points:.2%} | {worst} |")


if __name__ == "__main__":
    main()
