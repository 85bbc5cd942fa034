"""What is fitted: few parameters, each with what is known of it beforehand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from penstock.calibration.benchmark import Benchmark, BoolArray, FloatArray
from penstock.spec.calibration import model_shape
from penstock.spec.cluster import Calibration, InstanceSpec, StepTerms
from penstock.units import NS_PER_MS, NS_PER_S

KERNELS = "kernels"
FITTED = "fitted"
UNIDENTIFIED = 0.8
"""A parameter whose interval is still this share of its prior's has learnt next to nothing from the file."""

MEANINGS: Mapping[str, str] = {
    "host_step_ns": "the engine's own time per step",
    "host_to_stage_ns": "the way of a step to its first stage",
    "request_ns": "client and network, before the engine has a request",
    "prefill_step_ns": "more in a step with a prefill chunk, beyond its kernels",
    "prefill_factor": "factor on what prefill chunks take",
    "decode_factor": "factor on what decodes take",
    "base_ns": "a step, whatever is in it",
    "prefill_base_ns": "more in a step with a prefill chunk",
    "prefill_token_ns": "per prefill token",
    "prefill_context_ns": "per prefill token and token of its context",
    "decode_ns": "per decode",
    "decode_context_ns": "per token of a decode's context",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """What is known of a parameter before the fit: its likely value and the standard deviation of that.

    ``sigma`` infinite means nothing is known, 0 that it is not fitted. ``scale`` is a typical size, for the
    optimiser.
    """

    name: str
    value: float
    sigma: float
    scale: float

    @property
    def free(self) -> bool:
        """Whether it is fitted."""
        return self.sigma > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A parameter after the fit, with its 95% interval. ``identified`` is false where the files say next to
    nothing about it: it then keeps its prior, and the interval is the prior's."""

    name: str
    value: float
    low: float
    high: float
    prior: float
    identified: bool


def kernel_priors(
    instance: InstanceSpec, benchmarks: Sequence[Benchmark], basis: Sequence[str]
) -> list[Prior]:
    """Priors where kernel times are known: factors of 1, as wide as the source is unsure."""
    doubt, seen = kernel_doubt(basis), _seen(benchmarks)
    return [
        *_host_priors(instance, seen, host_ns=0.5 * NS_PER_MS),
        Prior(name="prefill_factor", value=1.0, sigma=doubt, scale=1.0),
        Prior(name="decode_factor", value=1.0, sigma=doubt, scale=1.0),
        Prior(name="prefill_step_ns", value=1.0 * NS_PER_MS, sigma=4.0 * NS_PER_MS, scale=seen.step_ns),
    ]


def kernel_doubt(basis: Sequence[str]) -> float:
    """How unsure the source of kernel times is, as a standard deviation of a factor: measured on the card, fitted
    to such measurements, or estimated."""
    text = " ".join(basis)
    if "measured profile" in text:
        return 0.05
    return 0.08 if "packaged fit" in text else 0.30


def fitted_priors(instance: InstanceSpec, benchmarks: Sequence[Benchmark]) -> list[Prior]:
    """Priors where nothing is known but the benchmarks: sizes from their fastest tokens and first tokens."""
    seen = _seen(benchmarks)
    step, token = seen.step_ns, seen.prefill_token_ns
    per_context = token / seen.prompt
    unknown = float("inf")
    return [
        *_host_priors(instance, seen, host_ns=1.0 * NS_PER_MS),
        Prior(name="base_ns", value=0.5 * step, sigma=unknown, scale=step),
        Prior(name="prefill_base_ns", value=0.0, sigma=0.5 * step, scale=step),
        Prior(name="prefill_token_ns", value=0.7 * token, sigma=unknown, scale=token),
        Prior(
            name="prefill_context_ns",
            value=0.25 * per_context,
            sigma=0.5 * per_context,
            scale=2 * per_context,
        ),
        Prior(name="decode_ns", value=0.25 * token, sigma=0.5 * token, scale=step / seen.running),
        Prior(
            name="decode_context_ns",
            value=0.1 * step / seen.running / seen.prompt,
            sigma=unknown,
            scale=step / seen.running / seen.prompt,
        ),
    ]


@dataclass(frozen=True, slots=True)
class _Seen:
    """Sizes read off benchmarks: a quick decode step, a prefill token, a prompt, a TTFT, how many requests ran."""

    step_ns: float
    prefill_token_ns: float
    prompt: float
    ttft_ns: float
    running: float


def _seen(benchmarks: Sequence[Benchmark]) -> _Seen:
    """A token after the first at its fastest is a decode alone; a first token at its fastest is a prompt alone."""
    tpots = np.concatenate([one.metrics()["tpot"] for one in benchmarks])
    gaps = [one.metrics()["itl"] for one in benchmarks if one.gaps_s is not None]
    alone = float(np.percentile(np.concatenate(gaps), 25)) if gaps else float(np.percentile(tpots, 5))
    tokens = np.concatenate([one.ttft_s / one.input_tokens for one in benchmarks])
    busy = sum(float(one.latency_s.sum()) for one in benchmarks)
    spans = sum(float((one.start_s + one.latency_s).max()) for one in benchmarks)
    return _Seen(
        step_ns=max(alone, 1e-6) * NS_PER_S,
        prefill_token_ns=float(np.percentile(tokens, 5)) * NS_PER_S,
        prompt=float(np.mean(np.concatenate([one.input_tokens for one in benchmarks]))),
        ttft_ns=float(np.median(np.concatenate([one.ttft_s for one in benchmarks]))) * NS_PER_S,
        running=max(busy / spans, 1.0),
    )


def _host_priors(instance: InstanceSpec, seen: _Seen, *, host_ns: float) -> list[Prior]:
    """Of the terms that stand beside the stages. The way to the first stage shows only where there are several."""
    several = instance.pp_size > 1
    return [
        Prior(name="host_step_ns", value=host_ns, sigma=NS_PER_MS, scale=seen.step_ns),
        Prior(
            name="host_to_stage_ns",
            value=0.2 * NS_PER_MS if several else 0.0,
            sigma=NS_PER_MS if several else 0.0,
            scale=seen.step_ns,
        ),
        Prior(name="request_ns", value=2.0 * NS_PER_MS, sigma=5.0 * NS_PER_MS, scale=seen.ttft_ns),
    ]


def to_calibration(instance: InstanceSpec, cost: str, values: Mapping[str, float]) -> Calibration:
    """A nameless calibration with these values; its ``name`` and source come when it is written."""
    terms = None
    if cost == FITTED:
        terms = StepTerms(**{field.name: values[field.name] for field in fields(StepTerms)})
    return Calibration(
        name="fit",
        source="",
        date="",
        error="",
        hardware=instance.hardware,
        model=instance.model.name,
        model_shape=model_shape(instance.model),
        dtype=instance.dtype,
        tp_size=instance.tp_size,
        host_step_ns=round(values["host_step_ns"]),
        host_to_stage_ns=round(values["host_to_stage_ns"]),
        request_ns=round(values["request_ns"]),
        prefill_step_ns=round(values.get("prefill_step_ns", 0.0)),
        prefill_factor=values.get("prefill_factor", 1.0),
        decode_factor=values.get("decode_factor", 1.0),
        step=terms,
        noise=None,
    )


def estimates(
    priors: Sequence[Prior], values: FloatArray, deviations: FloatArray, known: BoolArray, quantile: float
) -> list[Estimate]:
    """Intervals of ``quantile`` standard deviations. What is not ``known`` from the files has its prior's."""
    found: list[Estimate] = []
    for prior, value, deviation, learnt in zip(priors, values, deviations, known, strict=True):
        own = 1.96 * prior.sigma if np.isfinite(prior.sigma) else 0.0
        spread = quantile * float(deviation) if learnt else own
        found.append(
            Estimate(
                name=prior.name,
                value=float(value),
                low=max(0.0, float(value) - spread),
                high=float(value) + spread,
                prior=prior.value,
                identified=bool(learnt),
            )
        )
    return found


def learnt(priors: Sequence[Prior], deviations: FloatArray) -> BoolArray:
    """Which parameters a fit knows better than before, by their standard deviations after it."""
    sigmas = np.array([prior.sigma for prior in priors])
    return (sigmas > 0) & (deviations < UNIDENTIFIED * sigmas)


def settled(prior: Prior) -> Prior:
    """The same parameter, no longer fitted."""
    return replace(prior, sigma=0.0)
