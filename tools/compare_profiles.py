"""AIConfigurator's kernels against a measured profile of the same card (docs/costs.md).

    pip install 'penstock[aiconfigurator]'
    python tools/compare_profiles.py $PENSTOCK_DATA/data/llmservingsim/perf --run $PENSTOCK_DATA/data/llmservingsim
    python tools/compare_profiles.py examples/profiles --hardware H100 --tp 1

Models in bf16, at each point of the profile: what Penstock makes of AIConfigurator's tables (vLLM 0.24.0) over what was
measured, less 1; single steps of attention in microseconds; the profiles' own skew of decodes; and LLMServingSim's
measured run of 300 requests, simulated with either.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from sum_of_kernels import AFTER, BEFORE
from sum_of_kernels import STEPS as LAYER_STEPS

from penstock.cost.attention import AttentionLookup
from penstock.cost.bundle import BundleAddress, read_attention_rows, read_bundle
from penstock.cost.tables import FloatArray, KernelTables
from penstock.profiling.database import database_tables, import_database, wanted_tables
from penstock.units import NS_PER_US
from penstock.validate.measured import validate_measured

RUN_HARDWARE = "RTXPRO6000"
RUN_MODEL = "meta-llama/Llama-3.1-8B"
MODELS = (RUN_MODEL, "Qwen/Qwen3-32B")
STEPS = (
    (0, 0, 16, 1024),
    (0, 0, 64, 1024),
    (0, 0, 64, 4096),
    (0, 0, 256, 4096),
    (1024, 0, 0, 0),
    (8192, 0, 0, 0),
    (1024, 1024, 0, 0),
    (1024, 16384, 0, 0),
    (256, 16384, 0, 0),
    (64, 16384, 0, 0),
    (1024, 0, 64, 1024),
    (1024, 1024, 64, 4096),
)
"""A chunk, the tokens before it, decodes, the tokens before each."""
KINDS = ("decodes", "chunks without history", "chunks after a history", "both in one step")


@dataclass(frozen=True, slots=True)
class Asked:
    """Which profiles: of some models on a chip at some tp degrees, in bf16, under a profile root."""

    perf: Path
    hardware: str
    models: tuple[str, ...]
    degrees: tuple[int, ...]

    def bundle(self, model: str) -> Path:
        """Where one of them lies."""
        return self.perf / self.hardware / model / "bf16"


@cache
def tables_of(asked: Asked, model: str) -> tuple[KernelTables, ...]:
    """AIConfigurator's of the same, by tp degree."""
    degrees = ",".join(map(str, asked.degrees))
    return tuple(database_tables(wanted_tables(asked.hardware, model, degrees, ("bfloat16", "auto"), "vllm")))


def errors(asked: Asked, model: str) -> Iterator[tuple[str, FloatArray]]:
    """(kernel, relative errors) of every kernel and kind of attention at every tp degree."""
    for ours in tables_of(asked, model):
        address = BundleAddress(asked.bundle(model), ours.tp_size)
        theirs = read_bundle(address, hardware=asked.hardware, model=model)
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
        ns = attention_ns(lookup, chunk, history, decodes, context)
        kind = KINDS[0] if not chunk else KINDS[3] if decodes else KINDS[2] if history else KINDS[1]
        found[kind].append(ns / NS_PER_US / row[4] - 1)
    for kind, values in found.items():
        yield kind, np.array(values)


def attention_ns(lookup: AttentionLookup, chunk: int, history: int, decodes: int, context: int) -> float:
    """Of one step, in nanoseconds."""
    contexts = (decodes * context, context, context)
    return (
        lookup.mixed_ns(chunk, history, decodes, *contexts) if chunk else lookup.decode_ns(decodes, *contexts)
    )


def step_table(asked: Asked) -> None:
    """Print single steps of attention that all profiles have, in microseconds: measured and from the tables."""
    columns: list[dict[tuple[int, ...], str]] = []
    names: list[str] = []
    for model in asked.models:
        for ours in tables_of(asked, model):
            lookup = AttentionLookup(ours.attention, None)
            rows = read_attention_rows(
                BundleAddress(asked.bundle(model), ours.tp_size).tables / "attention.csv"
            )
            measured = {tuple(int(value) for value in row[:4]): float(row[4]) for row in rows}
            names.append(f"{model.split('/')[-1]}, tp {ours.tp_size}: measured | tables")
            columns.append(
                {
                    step: f"{measured[step]:,.1f} | {attention_ns(lookup, *step) / NS_PER_US:,.1f}"
                    for step in STEPS
                    if step in measured
                }
            )
    steps = [step for step in STEPS if all(step in column for column in columns)]
    if not steps:
        return
    print("\n| chunk | after | decodes | after | " + " | ".join(names) + " |")
    print("|---" * (4 + 2 * len(names)) + "|")
    for step in steps:
        print("| " + " | ".join(f"{value:,}" for value in step), end=" | ")
        print(" | ".join(column[step] for column in columns) + " |")


def layer_table(asked: Asked) -> None:
    """Print what a decoder layer takes from the tables, in microseconds, at the steps of ``sum_of_kernels.py``."""
    columns: list[list[str]] = []
    names: list[str] = []
    for model in asked.models:
        for ours in tables_of(asked, model):
            lookup = AttentionLookup(ours.attention, None)
            names.append(f"{model.split('/')[-1]}, tp {ours.tp_size}")
            columns.append([f"{layer_us(ours, lookup, step):,.1f}" for step in LAYER_STEPS])
    print("\n| chunk | after | decodes | after | " + " | ".join(names) + " |")
    print("|---" * (4 + len(names)) + "|")
    for step, *cells in zip(LAYER_STEPS, *columns, strict=True):
        print("| " + " | ".join([*(f"{value:,}" for value in step), *cells]) + " |")


def layer_us(ours: KernelTables, lookup: AttentionLookup, step: tuple[int, int, int, int]) -> float:
    """The kernels of one decoder layer added up."""
    tokens = np.array([step[0] + step[2]])
    dense = sum(float(ours.dense[name].at(tokens)[0]) for name in (*BEFORE, *AFTER) if name in ours.dense)
    return dense + attention_ns(lookup, *step) / NS_PER_US


def kernel_table(asked: Asked) -> None:
    """Print the errors by kernel, all degrees together."""
    models = asked.models
    print("| kernel | " + " | ".join(f"{model.split('/')[-1]}: p50 | p10 to p90" for model in models) + " |")
    print("|---" + "|---|---" * len(models) + "|")
    cells: dict[str, list[str]] = {}
    for number, model in enumerate(models):
        gathered: dict[str, list[FloatArray]] = {}
        for kernel, values in errors(asked, model):
            gathered.setdefault(kernel, []).append(values)
        for kernel, parts in gathered.items():
            low, middle, high = np.percentile(np.concatenate(parts), (10, 50, 90))
            own = cells.setdefault(kernel, [" | "] * len(models))
            own[number] = f"{middle:+.0%} | {low:+.0%} to {high:+.0%}"
    for kernel, own in cells.items():
        print(f"| {kernel} | {' | '.join(own)} |")


def skews(asked: Asked) -> list[float]:
    """Of decodes alone, at the median of the bins of each profile that has any."""
    found: list[float] = []
    for model in asked.models:
        for degree in asked.degrees:
            address = BundleAddress(asked.bundle(model), degree)
            skew = read_bundle(address, hardware=asked.hardware, model=model).skew
            if skew is not None:
                found.append(float(np.median(skew.alpha[0])))
    return found


def run_table(data: Path) -> None:
    """Print the errors of the measured run's means with either profile."""
    measured = data / "measured" / "RTXPRO6000-Llama-3.1-8B"
    dataset = data / "workloads" / "sharegpt-llama-3.1-8b-300-sps10.jsonl"
    print("| run of 300 requests, mean | LLMServingSim's profile | AIConfigurator's tables |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        import_database(wanted_tables(RUN_HARDWARE, RUN_MODEL, "1", ("bfloat16", "auto"), "vllm"), root)
        runs = [validate_measured(measured, dataset, profile_root=one) for one in (data / "perf", root)]
    for lines in zip(*(run.lines for run in runs), strict=True):
        if lines[0].statistic == "mean":
            print(f"| {lines[0].metric} | " + " | ".join(f"{line.error:+.1%}" for line in lines) + " |")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="AIConfigurator's kernels against a measured profile.")
    parser.add_argument("perf", type=Path, help="profile root")
    parser.add_argument("--hardware", default=RUN_HARDWARE)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--tp", default="1,2")
    parser.add_argument("--run", type=Path, help="folder of LLMServingSim's measured run")
    given = parser.parse_args()
    asked = Asked(
        given.perf, given.hardware, tuple(given.models.split(",")), tuple(map(int, given.tp.split(",")))
    )
    kernel_table(asked)
    step_table(asked)
    layer_table(asked)
    found = skews(asked)
    if found:
        print(f"\nskew of decodes: {', '.join(f'{value:.3f}' for value in found)}")
    if given.run is not None:
        print()
        run_table(given.run)


if __name__ == "__main__":
    main()
