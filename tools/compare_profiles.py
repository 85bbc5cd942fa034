"""AIConfigurator's kernels of RTX PRO 6000 against LLMServingSim's profile of the same card (docs/costs.md).

    pip install 'penstock[aiconfigurator]'
    python tools/compare_profiles.py $PENSTOCK_DATA/data/llmservingsim

Llama-3.1-8B and Qwen3-32B in bf16 at tp 1 and 2, at each point of the profile: what Penstock makes of AIConfigurator's
tables (vLLM 0.24.0) over what LLMServingSim measured (vLLM 0.19.0), less 1; the profiles' own skew of decodes; and the
measured run of 300 requests, simulated with either.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from penstock.cost.attention import AttentionLookup
from penstock.cost.bundle import BundleAddress, read_attention_rows, read_bundle
from penstock.cost.tables import FloatArray, KernelTables
from penstock.profiling.database import database_tables, import_database, wanted_tables
from penstock.units import NS_PER_US
from penstock.validate.measured import validate_measured

HARDWARE = "RTXPRO6000"
MODELS = ("meta-llama/Llama-3.1-8B", "Qwen/Qwen3-32B")
DEGREES = (1, 2)
KINDS = ("decodes", "chunks without history", "chunks after a history", "both in one step")


def errors(profile: Path, model: str) -> Iterator[tuple[str, FloatArray]]:
    """(kernel, relative errors) of every kernel and kind of attention at every tp degree."""
    degrees = ",".join(map(str, DEGREES))
    tables = database_tables(wanted_tables(HARDWARE, model, degrees, ("bfloat16", "auto"), "vllm"))
    for ours in tables:
        address = BundleAddress(profile, ours.tp_size)
        theirs = read_bundle(address, hardware=HARDWARE, model=model)
        yield from dense_errors(ours, theirs)
        yield from attention_errors(ours, read_attention_rows(address.tables / "attention.csv"))


def dense_errors(ours: KernelTables, theirs: KernelTables) -> Iterator[tuple[str, FloatArray]]:
    """Of the kernels but attention."""
    curves = {**ours.dense, **ours.per_sequence}
    for kernel, measured in {**theirs.dense, **theirs.per_sequence}.items():
        if kernel in curves:
            yield kernel, curves[kernel].at(measured.sizes) / measured.us - 1


def attention_errors(ours: KernelTables, rows: FloatArray) -> Iterator[tuple[str, FloatArray]]:
    """Of each kind of step."""
    lookup = AttentionLookup(ours.attention, None)
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for row in rows:
        chunk, history, decodes, context = (int(value) for value in row[:4])
        if not chunk and not decodes:
            continue
        contexts = (decodes * context, context, context)
        ns = (
            lookup.mixed_ns(chunk, history, decodes, *contexts)
            if chunk
            else lookup.decode_ns(decodes, *contexts)
        )
        kind = KINDS[0] if not chunk else KINDS[3] if decodes else KINDS[2] if history else KINDS[1]
        found[kind].append(ns / NS_PER_US / row[4] - 1)
    for kind, values in found.items():
        yield kind, np.array(values)


def kernel_table(perf: Path) -> None:
    """Print the errors by kernel, both degrees together."""
    print("| kernel | " + " | ".join(f"{model.split('/')[-1]}: p50 | p10 to p90" for model in MODELS) + " |")
    print("|---" + "|---|---" * len(MODELS) + "|")
    cells: dict[str, list[str]] = {}
    for number, model in enumerate(MODELS):
        gathered: dict[str, list[FloatArray]] = {}
        for kernel, values in errors(perf / HARDWARE / model / "bf16", model):
            gathered.setdefault(kernel, []).append(values)
        for kernel, parts in gathered.items():
            low, middle, high = np.percentile(np.concatenate(parts), (10, 50, 90))
            own = cells.setdefault(kernel, [" | "] * len(MODELS))
            own[number] = f"{middle:+.0%} | {low:+.0%} to {high:+.0%}"
    for kernel, own in cells.items():
        print(f"| {kernel} | {' | '.join(own)} |")


def skews(perf: Path) -> list[float]:
    """Of decodes alone, at the median of each profile's bins."""
    found: list[float] = []
    for model in MODELS:
        for degree in DEGREES:
            address = BundleAddress(perf / HARDWARE / model / "bf16", degree)
            skew = read_bundle(address, hardware=HARDWARE, model=model).skew
            assert skew is not None
            found.append(float(np.median(skew.alpha[0])))
    return found


def run_table(data: Path) -> None:
    """Print the errors of the measured run's means with either profile."""
    measured = data / "measured" / "RTXPRO6000-Llama-3.1-8B"
    dataset = data / "workloads" / "sharegpt-llama-3.1-8b-300-sps10.jsonl"
    print("| run of 300 requests, mean | LLMServingSim's profile | AIConfigurator's tables |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        import_database(wanted_tables(HARDWARE, MODELS[0], "1", ("bfloat16", "auto"), "vllm"), root)
        runs = [validate_measured(measured, dataset, profile_root=one) for one in (data / "perf", root)]
    for lines in zip(*(run.lines for run in runs), strict=True):
        if lines[0].statistic == "mean":
            print(f"| {lines[0].metric} | " + " | ".join(f"{line.error:+.1%}" for line in lines) + " |")


def main() -> None:
    """Print both tables."""
    data = Path(sys.argv[1])
    kernel_table(data / "perf")
    print(f"\nskew of decodes: {', '.join(f'{value:.3f}' for value in skews(data / 'perf'))}\n")
    run_table(data)


if __name__ == "__main__":
    main()
