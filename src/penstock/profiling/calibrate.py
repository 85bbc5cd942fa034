"""``penstock profile calibrate``: the roofline's efficiency curves over all measured data at hand.

Each family of kernels is one linear least-squares problem: log(time / roofline) as a sum of piecewise-linear
functions. Every hardware, and every model, weighs the same. Leaving each of them out in turn gives the
error of the transfer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from penstock.cost.efficiency import Efficiency, Terms, efficiency_from_json, mixed_terms
from penstock.cost.fitted import hat_basis
from penstock.cost.tables import FloatArray

_KNOTS: Mapping[str, Mapping[str, FloatArray]] = {
    "gemm": {"balance": np.arange(-8.0, 3.1, 1.0), "size": np.arange(1.0, 13.1, 2.0)},
    "stream": {"size": np.arange(1.0, 10.1, 1.0)},
    "sampler": {"size": np.arange(1.0, 10.1, 1.5)},
    "decode": {
        "size": np.arange(1.0, 14.1, 2.0),
        "parallel": np.arange(0.0, 11.1, 1.0),
        "length": np.arange(4.0, 14.1, 2.0),
    },
    "prefill": {
        "size": np.arange(1.0, 13.1, 2.0),
        "parallel": np.arange(8.0, 17.1, 1.0),
        "length": np.arange(4.0, 15.1, 1.0),
    },
    "mixed": {
        "share": np.arange(-6.0, 8.1, 1.0),
        "decodes": np.arange(0.0, 8.1, 1.0),
        "context": np.arange(4.0, 14.1, 1.0),
        "chunk": np.arange(4.0, 11.1, 1.0),
        "size": np.arange(3.0, 14.1, 1.0),
    },
}
_RIDGE = 1e-3


@dataclass(frozen=True, slots=True)
class Sample:
    """Points of one kernel family on one hardware and model: measured and roofline microseconds (n,)."""

    family: str
    hardware: str
    model: str
    us: FloatArray
    roof: FloatArray
    terms: Terms


@dataclass(frozen=True, slots=True)
class MixedSample:
    """Points with chunks and decodes: their parts' terms, to be combined once those are fitted."""

    hardware: str
    model: str
    us: FloatArray
    prefill: Sample
    decode: Sample
    decodes: FloatArray
    context: FloatArray
    chunk: FloatArray


@dataclass(frozen=True, slots=True)
class TransferLine:
    """Relative error over a family's points on what was left out of the calibration."""

    kind: str
    left_out: str
    family: str
    points: int
    p50: float
    p90: float
    bias: float


def calibrate(samples: Sequence[Sample], mixes: Sequence[MixedSample], source: str) -> dict[str, Any]:
    """The JSON of ``cost.efficiency`` from all samples, with an empty table of errors."""
    families = {
        family: _fit(family, [sample for sample in samples if sample.family == family])
        for family in _KNOTS
        if family != "mixed"
    }
    data: dict[str, Any] = {"format": 1, "source": source, "families": families, "errors": {}}
    efficiency = efficiency_from_json(data)
    families["mixed"] = _fit("mixed", [_as_sample(mix, efficiency) for mix in mixes])
    return data


def missing_families(samples: Iterable[Sample]) -> list[str]:
    """The families of kernels that nothing was measured of; those of mixed steps come from their parts."""
    measured = {sample.family for sample in samples if len(sample.us)}
    return [family for family in _KNOTS if family != "mixed" and family not in measured]


def leave_one_out(samples: Sequence[Sample], mixes: Sequence[MixedSample]) -> list[TransferLine]:
    """Each hardware, then each model, predicted from the others."""
    lines: list[TransferLine] = []
    for kind in ("hardware", "model"):
        names = sorted({str(getattr(sample, kind)) for sample in samples})
        for name in names:
            rest = [sample for sample in samples if getattr(sample, kind) != name]
            rest_mixes = [mix for mix in mixes if getattr(mix, kind) != name]
            if rest_mixes and not missing_families(rest):
                efficiency = efficiency_from_json(calibrate(rest, rest_mixes, ""))
                own = [sample for sample in samples if getattr(sample, kind) == name]
                own += [_as_sample(mix, efficiency) for mix in mixes if getattr(mix, kind) == name]
                lines += _transfer(kind, name, own, efficiency)
    return lines


def summary(lines: Iterable[TransferLine]) -> dict[str, dict[str, list[float]]]:
    """Per kind and family: median over what was left out of the p50 and p90 errors."""
    found: dict[str, dict[str, list[TransferLine]]] = {}
    for line in lines:
        found.setdefault(line.kind, {}).setdefault(line.family, []).append(line)
    return {
        kind: {
            family: [
                round(float(np.median([line.p50 for line in own])), 3),
                round(float(np.median([line.p90 for line in own])), 3),
            ]
            for family, own in families.items()
        }
        for kind, families in found.items()
    }


def _transfer(kind: str, name: str, own: Sequence[Sample], efficiency: Efficiency) -> list[TransferLine]:
    lines: list[TransferLine] = []
    for family in _KNOTS:
        ratios = [
            sample.roof * _factor(efficiency, family, sample.terms) / sample.us
            for sample in own
            if sample.family == family
        ]
        if ratios:
            ratio = np.concatenate(ratios)
            p50, p90 = np.percentile(np.abs(ratio - 1), [50, 90])
            bias = float(np.exp(np.log(ratio).mean()) - 1)
            lines.append(TransferLine(kind, name, family, len(ratio), float(p50), float(p90), bias))
    return lines


def _factor(efficiency: Efficiency, family: str, terms: Terms) -> FloatArray:
    """As the roofline takes it, bounded for mixed steps."""
    return efficiency.mixed_factor(terms) if family == "mixed" else efficiency.factor(family, terms)


def _as_sample(mix: MixedSample, efficiency: Efficiency) -> Sample:
    prefill = mix.prefill.roof * efficiency.factor("prefill", mix.prefill.terms)
    decode = mix.decode.roof * efficiency.factor("decode", mix.decode.terms)
    terms = mixed_terms(prefill, decode, mix.decodes, mix.context, mix.chunk)
    return Sample("mixed", mix.hardware, mix.model, mix.us, prefill + decode, terms)


def _fit(family: str, samples: Sequence[Sample]) -> dict[str, dict[str, list[float]]]:
    knots = _KNOTS[family]
    blocks: list[FloatArray] = []
    targets: list[FloatArray] = []
    for sample in samples:
        weight = 1.0 / np.sqrt(len(sample.us))
        design = np.concatenate([hat_basis(sample.terms[term], own) for term, own in knots.items()], axis=1)
        blocks.append(design * weight)
        targets.append(np.log(sample.us / sample.roof) * weight)
    design, target = np.concatenate(blocks), np.concatenate(targets)
    gram = design.T @ design + _smoothness(knots) * len(samples)
    solution = np.linalg.solve(gram, design.T @ target)
    curves: dict[str, dict[str, list[float]]] = {}
    first = 0
    for term, own in knots.items():
        values = solution[first : first + len(own)]
        first += len(own)
        curves[term] = {"knots": own.tolist(), "values": [round(float(value), 4) for value in values]}
    return curves


def _smoothness(knots: Mapping[str, FloatArray]) -> FloatArray:
    """Small penalties on the size and on the bending of each function: knots without data follow their
    neighbours."""
    total = sum(len(own) for own in knots.values())
    penalty = np.eye(total) * _RIDGE * 1e-2
    first = 0
    for own in knots.values():
        bends = np.diff(np.eye(len(own)), n=2, axis=0)
        last = first + len(own)
        penalty[first:last, first:last] += _RIDGE * bends.T @ bends
        first = last
    return penalty
