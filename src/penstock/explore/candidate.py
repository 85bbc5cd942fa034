"""A change to a deployment that can be tried."""

from __future__ import annotations

from dataclasses import dataclass

from penstock.spec.cluster import ClusterSpec


@dataclass(frozen=True, slots=True)
class Candidate:
    """A cluster that differs from the given one in one thing."""

    knob: str
    change: str
    moves: tuple[str, ...]  # causes of bubbles
    cluster: ClusterSpec
