"""What limits a deployment, in words, from the shares of its stages' time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

NOT_A_BUBBLE = ("busy", "idle")

EXPLANATIONS: Mapping[str, str] = {
    "transfer": "activations were on the links between the stages",
    "fill": "the pipeline was filling after having had no requests",
    "imbalance": "an earlier stage took longer than the one that waited for it",
    "dependency": "every request waited for its own token to come back: too few steps to fill the stages",
    "memory": "requests waited, but there were no KV blocks for them",
    "seqs": "requests waited, but max_num_seqs others were running already",
    "kv_transfer": "nobody ran, and requests waited for KV on its way from another instance or from host memory",
    "engine": "there was work, but the engine was asleep, scheduling, or blocked on its oldest step",
    "blocked": "the stage had finished but was still sending",
    "drain": "the last steps of a busy period were leaving the pipeline",
    "sync": "a data-parallel rank was ready, and waited for the others of its group",
    "dummy": "a data-parallel rank had nothing to run, and ran dummy batches for the others",
}

KNOBS: Mapping[str, str] = {
    "transfer": "a faster link between stages",
    "fill": "steadier arrivals, or fewer stages",
    "imbalance": "another layer partition, or a chunk size that makes steps more alike",
    "dependency": "more requests at once, smaller chunks so that they spread over more steps, or fewer stages",
    "memory": "more KV memory",
    "seqs": "a higher max_num_seqs",
    "kv_transfer": "a faster link for KV, or more requests at once so that some run meanwhile",
    "engine": "a deeper batch queue (max_in_flight), or less time in the engine",
    "blocked": "sends that do not block, or a faster link",
    "drain": "steadier arrivals, or fewer stages",
    "sync": "a balance that gives the ranks equal steps, or fewer ranks",
    "dummy": "more load, or fewer ranks",
}


def active_shares(stages: Sequence[Mapping[str, int]]) -> dict[str, float]:
    """Share of each cause, ``busy`` included, in the stages' time while there were requests. Each stage is ns
    by cause."""
    total: dict[str, int] = {}
    for stage in stages:
        for cause, ns in stage.items():
            total[cause] = total.get(cause, 0) + ns
    active = sum(ns for cause, ns in total.items() if cause != "idle")
    return {cause: ns / active if active else 0.0 for cause, ns in total.items() if cause != "idle"}


KEEPS_UP = 1.0
"""An instance at which fewer requests than this wait on average, for their first step, keeps up with its load."""


def verdict(stages: Sequence[Mapping[str, int]], waiting: float | None = None) -> list[str]:
    """Sentences on one instance, the most important first. Each stage is ns by cause, ``busy`` included;
    ``waiting`` is how many requests wait for their first step on average while they arrive, None where they do not
    arrive one after another."""
    shares = active_shares(stages)
    busy = shares.pop("busy", 0.0)
    if not any(stage["busy"] for stage in stages):
        return ["It served nothing."]
    sentences: list[str] = []
    active = [sum(stage.values()) - stage["idle"] for stage in stages]
    by_stage = [stage["busy"] / max(time, 1) for stage, time in zip(stages, active, strict=True)]
    slowest = max(range(len(stages)), key=lambda stage: by_stage[stage])
    main = max(shares, key=lambda cause: shares[cause])
    if by_stage[slowest] >= 0.9:
        sentences.append(
            f"Compute limits it: stage {slowest} was busy {by_stage[slowest]:.0%} of the time in which there "
            "were requests."
        )
    elif waiting is not None and waiting < KEEPS_UP:
        sentences.append(
            f"It keeps up with its load: {waiting:.2g} requests wait for their first step on average."
        )
        sentences.append(
            f"While there were requests the stages were busy {busy:.0%} of the time, so there is room for more. The "
            f"largest part of the rest, {shares[main]:.0%}, went to {main}: {EXPLANATIONS[main]}."
        )
    else:
        sentences.append(
            f"{main.capitalize()} limits it: while there were requests the stages were busy {busy:.0%} of the "
            f"time, and {shares[main]:.0%} went to {main}: {EXPLANATIONS[main]}."
        )
        sentences.append(f"What may help: {KNOBS[main]}.")
    others = [share for stage, share in enumerate(by_stage) if stage != slowest]
    mean = sum(others) / len(others) if others else by_stage[slowest]
    if mean and by_stage[slowest] >= 1.03 * mean:
        sentences.append(
            f"Stage {slowest} is the slowest: it works {by_stage[slowest] / mean - 1:.0%} longer than the "
            f"others do on average. If it never waited, the same work would take "
            f"{by_stage[slowest]:.0%} of the time it took."
        )
    idle = sum(stage["idle"] for stage in stages) / max(sum(sum(stage.values()) for stage in stages), 1)
    if idle >= 0.05:
        sentences.append(f"For {idle:.0%} of the time there was no request at all.")
    return sentences
