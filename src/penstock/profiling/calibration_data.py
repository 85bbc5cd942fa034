"""Measured kernels as samples for the calibration of the roofline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from penstock.cost.bundle import BundleAddress, read_attention_rows, read_bundle, tp_degrees
from penstock.cost.efficiency import (
    Rates,
    decode_roofline,
    gemm_roofline,
    prefill_roofline,
    stream_roofline,
)
from penstock.cost.kernels import AttentionShape, Gemm, KernelSet, Stream, kernel_set
from penstock.cost.roofline import hardware_rates
from penstock.cost.tables import Curve, FloatArray
from penstock.files.csv_text import measured_above_zero, named_rows
from penstock.profiling.attention_fit import regimes
from penstock.profiling.calibrate import MixedSample, Sample
from penstock.profiling.vidur import KERNELS
from penstock.spec.hardware import HardwareSpec, find_hardware
from penstock.spec.model import ModelSpec

_EVERY_MIXED = 7
_OLD_GEMMS = ("q_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head")


def bundle_samples(
    directory: Path, hardware: HardwareSpec, model: ModelSpec
) -> tuple[list[Sample], list[MixedSample]]:
    """Every tp degree of a bundle."""
    samples: list[Sample] = []
    mixes: list[MixedSample] = []
    rates = hardware_rates(hardware, "bfloat16")
    for degree in tp_degrees(directory):
        address = BundleAddress(directory, degree)
        tables = read_bundle(address, hardware=hardware.label, model=model.name)
        kernels = kernel_set(model, model.kinds[0], degree, "bfloat16", "auto")
        samples += _curve_samples(
            {**tables.dense, **tables.per_sequence}, kernels, rates, (hardware.label, model.name)
        )
        rows = read_attention_rows(address.tables / "attention.csv")
        own, mixed = _attention_samples(rows, kernels.attention, rates, (hardware.label, model.name))
        samples += own
        mixes.append(mixed)
    return samples, mixes


def _curve_samples(
    curves: Mapping[str, Curve], kernels: KernelSet, rates: Rates, of: tuple[str, str]
) -> Iterator[Sample]:
    for name, curve in curves.items():
        keep = (curve.us > 0) & (curve.sizes > 0)
        sizes, us = curve.sizes[keep], curve.us[keep]
        if name in kernels.gemms:
            yield _gemm_sample(kernels.gemms[name], sizes, us, rates, of)
        elif name in kernels.streams:
            family = "sampler" if name == "sampler" else "stream"
            yield _stream_sample(kernels.streams[name], sizes, us, rates, (family, *of))


def _gemm_sample(gemm: Gemm, sizes: FloatArray, us: FloatArray, rates: Rates, of: tuple[str, str]) -> Sample:
    roof, terms = gemm_roofline(gemm, sizes, rates)
    return Sample("gemm", *of, us, roof, terms)


def _stream_sample(
    stream: Stream, sizes: FloatArray, us: FloatArray, rates: Rates, of: tuple[str, str, str]
) -> Sample:
    roof, terms = stream_roofline(sizes * stream.bytes_per_item, rates)
    return Sample(*of, us, roof, terms)


def _attention_samples(
    rows: FloatArray, shape: AttentionShape, rates: Rates, of: tuple[str, str]
) -> tuple[list[Sample], MixedSample]:
    masks = regimes(rows)
    decode, prefill = rows[masks["decode"]], rows[masks["prefill"]]
    mixed = rows[masks["mixed"]][::_EVERY_MIXED]

    def decode_sample(table: FloatArray) -> Sample:
        roof, terms = decode_roofline(shape, table[:, 2], table[:, 3], rates)
        return Sample("decode", *of, table[:, 4], roof, terms)

    def prefill_sample(table: FloatArray) -> Sample:
        roof, terms = prefill_roofline(shape, table[:, 0], table[:, 1], rates)
        return Sample("prefill", *of, table[:, 4], roof, terms)

    return [decode_sample(decode), prefill_sample(prefill)], MixedSample(
        *of, mixed[:, 4], prefill_sample(mixed), decode_sample(mixed), mixed[:, 2], mixed[:, 3], mixed[:, 0]
    )


def old_layout_samples(directory: Path, hardware: HardwareSpec, model: ModelSpec) -> list[Sample]:
    """Matrix multiplications of LLMServingSim's old layout; its other kernels are unfused ones that engines do
    not run."""
    samples: list[Sample] = []
    rates = hardware_rates(hardware, "bfloat16")
    for path in sorted(directory.glob("tp*/layers.csv")):
        degree = int(path.parent.name[2:])
        kernels = kernel_set(model, model.kinds[0], degree, "bfloat16", "auto").gemms
        query = kernels["o_proj"].inner
        gate = Gemm(model.hidden_size, kernels["down_proj"].inner, 2, 2)
        shapes = {
            "q_proj": Gemm(model.hidden_size, query, 2, 2),
            "gate_proj": gate,
            "up_proj": gate,
            **{name: kernels[name] for name in ("o_proj", "down_proj", "lm_head")},
        }
        points: dict[str, list[tuple[int, float]]] = {name: [] for name in _OLD_GEMMS}
        for _, row in named_rows(path, ("layer_name", "input", "kv_cache", "latency(ns)")):
            if row["layer_name"] in points and int(row["input"]) % 8 in (0, 1):
                points[row["layer_name"]].append(
                    (int(row["input"]), measured_above_zero(row["latency(ns)"]) / 1000)
                )
        for name, own in points.items():
            table = np.array(sorted(own), dtype=np.float64)
            samples.append(
                _gemm_sample(shapes[name], table[:, 0], table[:, 1], rates, (hardware.label, model.name))
            )
    return samples


def vidur_samples(path: Path, hardware: HardwareSpec, model: ModelSpec) -> list[Sample]:
    """Matrix multiplications of Vidur's ``mlp.csv``; its other kernels are not those of present engines."""
    rates = hardware_rates(hardware, "bfloat16")
    points: dict[tuple[int, str], list[tuple[float, float]]] = {}
    for _, row in named_rows(path, ("num_tokens", "num_tensor_parallel_workers")):
        degree = int(row["num_tensor_parallel_workers"])
        for layer, name in KERNELS.items():
            text = row.get(f"time_stats.{name}.median")
            if text:
                points.setdefault((degree, layer), []).append(
                    (measured_above_zero(row["num_tokens"]), measured_above_zero(text) * 1000)
                )
    samples: list[Sample] = []
    for (degree, layer), own in sorted(points.items()):
        if not layer.endswith("_proj"):
            continue
        table = np.array(sorted(own), dtype=np.float64)
        curve = {layer: Curve(table[:, 0], table[:, 1])}
        kernels = kernel_set(model, model.kinds[0], degree, "bfloat16", "auto")
        samples += _curve_samples(curve, kernels, rates, (hardware.label, model.name))
    return samples


def known_hardware(label: str) -> HardwareSpec:
    """The catalogue's entry.

    Raises:
        LookupError: it has none.
    """
    found = find_hardware(label)
    if found is None:
        raise LookupError(f"{label} is not in the catalogue")
    return found
