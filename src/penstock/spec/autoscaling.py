"""Autoscaling of a cluster: how many of its replicas serve, by what they are seen to do."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoscalingSpec:
    """Every ``interval_ns`` as many replicas are wanted as bring the mean of ``metric`` over them to ``target``,
    ``min_replicas`` at least. ``metric``: ``queue`` are requests that wait, ``requests`` those that wait or run, ``kv``
    is the share of the KV blocks in use.

    One that starts serves after ``start_up_ns``; one that no look of the last ``down_after_ns`` has wanted takes no new
    requests, and stops when it has served those that it has.
    """

    metric: str
    target: float
    min_replicas: int
    start_up_ns: int
    interval_ns: int
    down_after_ns: int
