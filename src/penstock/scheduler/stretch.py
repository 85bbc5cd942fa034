"""Stretches of turns in which nothing changes but that every context grows by a token."""

from __future__ import annotations

import numpy as np

from penstock.scheduler.vllm import VllmScheduler
from penstock.units import Int64Array


def turns_alike(scheduler: VllmScheduler) -> int:
    """For how many turns from now, one step in flight at a time, all requests decode in lock-step and no
    other joins or finishes. 0 where it takes a closer look."""
    cohort = scheduler.ready
    if cohort is None or scheduler.waiting or scheduler.partials or cohort.block_fills or cohort.irregular:
        return 0
    if (
        scheduler.exact_only
        or scheduler.policy is not None
        or scheduler.connector is not None
        or cohort.size > scheduler.options.max_num_batched_tokens
    ):
        return 0
    return cohort.turns_alike()


def take_alike(scheduler: VllmScheduler, updates_ns: Int64Array) -> Int64Array:
    """Take turns that :func:`turns_alike` foresaw, as many as blocks last; returns the new blocks of each.

    ``updates_ns`` are their completions.
    """
    cohort = scheduler.ready
    assert cohort is not None
    size = cohort.size
    phases = (cohort.turn + np.arange(len(updates_ns))) % cohort.block_size
    needs = np.array(cohort.block_needs)[phases]
    needs = needs[np.cumsum(needs) <= scheduler.kv.free]
    turns = len(needs)
    if turns:
        updates_ns = updates_ns[:turns]
        gaps = np.full((turns, 2), size, dtype=np.int64)
        gaps[:, 0] = np.diff(updates_ns, prepend=cohort.last_ns)
        scheduler.token_gaps.frombytes(gaps.tobytes())
        if scheduler.keep_token_times:
            cohort.times.frombytes(np.ascontiguousarray(updates_ns).tobytes())
        cohort.turn += turns
        cohort.last_ns = int(updates_ns[-1])
        scheduler.kv.take(int(needs.sum()))
        scheduler.cohort_turns += turns
    return needs
