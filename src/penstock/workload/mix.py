"""Several workloads in one, each with its share of the requests and its priority."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from penstock.errors import Problem, UserError
from penstock.workload.resample import drawn_from
from penstock.workload.workload import Columns, Workload


@dataclass(frozen=True, slots=True)
class Part:
    """``share`` of the requests are drawn from ``workload``, in its order, from the start again where it ends.
    ``priority`` replaces theirs; None leaves it."""

    workload: Workload
    share: float
    priority: int | None = None


def mixed(parts: Sequence[Part], arrival_ns: Sequence[int], seed: int = 0) -> Workload:
    """Requests of ``parts`` at the given times, each drawn at random by the shares: the same ones for a seed. Token ids
    stay as they are.

    Raises:
        UserError: no parts, shares that are not positive, or sessions, whose calls follow from a run.
    """
    problems = [
        Problem("--part", f"{part.workload.source}: share must be above 0")
        for part in parts
        if not part.share > 0
    ]
    problems += [
        Problem("--part", f"{part.workload.source}: has sessions, which cannot be mixed")
        for part in parts
        if part.workload.has_sessions
    ]
    if not parts:
        problems.append(Problem("--part", "missing: give FILE:SHARE[:PRIORITY]"))
    if problems:
        raise UserError(problems)
    shares = np.array([part.share for part in parts], dtype=np.float64)
    generator = np.random.Generator(np.random.PCG64(seed))
    chosen = generator.choice(len(parts), size=len(arrival_ns), p=shares / shares.sum())
    columns = Columns()
    drawn: list[Workload] = []
    for place, part in enumerate(parts):
        rows = np.argsort(part.workload.arrival_ns, kind="stable")
        wanted = int((chosen == place).sum())
        drawn.append(drawn_from(part.workload, np.resize(rows, wanted).tolist(), part.workload.source))
    used = [0] * len(parts)
    for place, at_ns in zip(chosen.tolist(), arrival_ns, strict=True):
        call = drawn[place].call(used[place])
        used[place] += 1
        priority = parts[place].priority
        columns.add(at_ns, call if priority is None else replace(call, priority=priority))
    return Workload(columns, f"a mix of {len(parts)}, seed {seed}")
