"""Stage costs that a calibration changes or replaces, and their noise."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from copy import copy

import numpy as np

from penstock.cost.step_cost import StageCost, StepLoad, StepShape
from penstock.spec.cluster import Calibration, StepNoise, StepTerms
from penstock.units import NS_PER_US, Int64Array


def calibrated_stage(stage: StageCost | None, calibration: Calibration, layers: Sequence[int]) -> StageCost:
    """The cost of the stages that hold ``layers``: ``stage`` with the calibration's factors, or the fitted step
    cost where there is no kernel cost (None)."""
    if calibration.step is not None:
        cost: StageCost = FittedStageCost(calibration.step, layers)
    else:
        assert stage is not None
        cost = ScaledStageCost(stage, calibration, layers)
    return cost if calibration.noise is None else NoisyStageCost(cost, calibration.noise)


def calibration_basis(calibration: Calibration) -> list[str]:
    """What a reader of the results must know of the calibration."""
    if calibration.step is None:
        prefill, decode = calibration.prefill_factor, calibration.decode_factor
        terms = f"kernel times x {prefill:.3f} (prefill) and x {decode:.3f} (decode)"
    else:
        terms = "step cost fitted, no kernel times; a stage takes its layers' share"
    lines = [
        f"calibration {calibration.name}: fitted to {calibration.source}"
        + (f" of {calibration.date}" if calibration.date else "")
        + f"; {terms}"
    ]
    if calibration.error:
        lines.append(f"calibration error: {calibration.error}")
    if calibration.request_ns:
        lines.append(
            f"client and network: {calibration.request_ns / NS_PER_US:,.0f} us pass before the engine has a request, "
            "counted in TTFT and latency"
        )
    if calibration.noise is not None:
        lines.append(
            f"step noise: log-normal, sigma {calibration.noise.sigma:.3f}, correlation from step to step "
            f"{calibration.noise.correlation:.2f}, seeded by the instance"
        )
    return lines


def decodes_of(load: StepLoad) -> StepShape:
    """The step without its prefill chunks."""
    return StepShape(
        decodes=load.decodes,
        decode_context=load.decode_context,
        min_context=load.min_context,
        max_context=load.max_context,
        sampled=load.decodes,
    )


class FittedStageCost:
    """:class:`~penstock.spec.cluster.StepTerms` over stages, each taking its layers' share."""

    def __init__(self, terms: StepTerms, layers: Sequence[int]) -> None:
        self._terms = terms
        self._shares = [own / sum(layers) for own in layers]

    def stage_ns(self, load: StepLoad) -> Sequence[int]:
        """See :meth:`penstock.cost.step_cost.StageCost.stage_ns`; rounded to the nanosecond."""
        terms, tokens = self._terms, load.prefill_tokens
        whole = terms.base_ns + terms.decode_ns * load.decodes + terms.decode_context_ns * load.decode_context
        if tokens:
            context = load.prefill_context + tokens / 2
            whole += terms.prefill_base_ns + tokens * (
                terms.prefill_token_ns + terms.prefill_context_ns * context
            )
        return [round(share * whole) for share in self._shares]

    def decode_turns_ns(
        self, decodes: int, context: int, min_context: int, max_context: int, turns: int
    ) -> Int64Array:
        """``stage_ns`` of the same decodes in ``turns`` consecutive steps, shape (stages, turns)."""
        del min_context, max_context
        terms = self._terms
        contexts = context + decodes * np.arange(turns)
        whole = terms.base_ns + terms.decode_ns * decodes + terms.decode_context_ns * contexts
        return np.rint(np.outer(self._shares, whole)).astype(np.int64)

    def notes(self) -> tuple[str, ...]:
        """A formula holds everywhere: nothing to note."""
        return ()


class ScaledStageCost:
    """A cost times the calibration's factors: the decodes of a step by one, what its prefill chunks add by the
    other. ``prefill_step_ns``, which the inner cost must not hold already, is added unscaled."""

    def __init__(self, inner: StageCost, calibration: Calibration, layers: Sequence[int]) -> None:
        self._inner = inner
        self._decode = calibration.decode_factor
        self._prefill = calibration.prefill_factor
        self._extra = [calibration.prefill_step_ns * own / sum(layers) for own in layers]

    def __copy__(self) -> ScaledStageCost:
        """The same factors over a copy of the cost, which counts its own lookups."""
        twin = object.__new__(ScaledStageCost)
        twin.__dict__.update(self.__dict__, _inner=copy(self._inner))
        return twin

    def stage_ns(self, load: StepLoad) -> Sequence[int]:
        """See :meth:`penstock.cost.step_cost.StageCost.stage_ns`; rounded to the nanosecond."""
        whole = self._inner.stage_ns(load)
        if not load.prefill_tokens:
            return [round(self._decode * time) for time in whole]
        part: Sequence[int] = [0] * len(whole)
        if load.decodes:
            part = self._inner.stage_ns(decodes_of(load))
        return [
            round(self._decode * own + self._prefill * (time - own) + extra)
            for time, own, extra in zip(whole, part, self._extra, strict=True)
        ]

    def decode_turns_ns(
        self, decodes: int, context: int, min_context: int, max_context: int, turns: int
    ) -> Int64Array | None:
        """As the inner cost's, scaled; None where that has none."""
        inner = getattr(self._inner, "decode_turns_ns", None)
        times = None if inner is None else inner(decodes, context, min_context, max_context, turns)
        return None if times is None else np.rint(self._decode * times).astype(np.int64)

    def notes(self) -> tuple[str, ...]:
        """The inner cost's."""
        return self._inner.notes()


class NoisyStageCost:
    """A cost times a factor per step, the same on all stages: exp of a first-order autoregression, of mean 1."""

    def __init__(self, inner: StageCost, noise: StepNoise, seed: int = 0) -> None:
        self._inner = inner
        self._noise = noise
        self._seed = seed
        self._copies = 0
        self._random = random.Random(seed)
        self._level = self._random.gauss(0.0, noise.sigma)

    def __copy__(self) -> NoisyStageCost:
        """The same noise, drawn anew: replicas do not stumble together."""
        self._copies += 1
        return NoisyStageCost(copy(self._inner), self._noise, self._seed + self._copies)

    def stage_ns(self, load: StepLoad) -> Sequence[int]:
        """See :meth:`penstock.cost.step_cost.StageCost.stage_ns`."""
        sigma, correlation = self._noise.sigma, self._noise.correlation
        factor = math.exp(self._level - sigma * sigma / 2)
        fresh = self._random.gauss(0.0, sigma * math.sqrt(1 - correlation * correlation))
        self._level = correlation * self._level + fresh
        times = self._inner.stage_ns(load)
        return [round(factor * time) for time in times]

    def notes(self) -> tuple[str, ...]:
        """The inner cost's."""
        return self._inner.notes()
