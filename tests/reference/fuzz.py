"""The fast engine against the reference on random cases: ``PYTHONPATH=tests python -m reference.fuzz 2000``.

Each seed is a replay of one instance, compared in every field of the recordings, a run of several instances, compared
turn by turn and request by request, and a group of data-parallel ranks, compared in every list of their recordings.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from penstock.validate.schedule import Engine, NamedTrace, first_difference, name_trace, penstock_engine
from penstock.workload.request import Request

from . import simulated
from .cases import Case, ClusterCase, seeded_case, seeded_cluster
from .engine import replay as reference_engine
from .group_cases import failure_of_group


def difference(case: Case, engine: Engine) -> str | None:
    """The first difference of ``engine`` ("ours") from the reference ("recorded"), or None."""
    expected = _run(case, reference_engine)
    recorded: dict[str, Any] = expected.as_recording("reference")
    try:
        ours = _run(case, engine)
    except AssertionError as error:
        return f"assertion failed: {error!r}"
    except (LookupError, ValueError, RuntimeError, TypeError) as error:
        return f"raised {error!r}"
    return first_difference(recorded, ours)


def _run(case: Case, engine: Engine) -> NamedTrace:
    trace = engine(case.options, case.num_gpu_blocks, case.cost, case.requests, reject_oversized=False)
    names = [f"r{request.index:03}" for request in case.requests]
    return name_trace(trace, names, case.requests)


def shrink(case: Case, fails: Callable[[Case], bool]) -> Case:
    """Leave out requests, then shorten outputs, as long as the case still fails."""
    changed = True
    while changed:
        changed = False
        for smaller in _smaller(case):
            if fails(smaller):
                case, changed = smaller, True
                break
    return case


def _smaller(case: Case) -> Iterator[Case]:
    requests = case.requests
    for left_out in reversed(range(len(requests))):
        kept = [*requests[:left_out], *requests[left_out + 1 :]]
        renumbered = (_changed(each, index, each.output_tokens) for index, each in enumerate(kept))
        yield replace(case, requests=tuple(renumbered))
    for position, request in enumerate(requests):
        for fewer in sorted({request.output_tokens // 2, request.output_tokens - 1} - {0}):
            shorter = _changed(request, request.index, fewer)
            yield replace(case, requests=(*requests[:position], shorter, *requests[position + 1 :]))


def _changed(request: Request, index: int, output_tokens: int) -> Request:
    outputs = request.output_ids[:output_tokens] if request.output_ids else None
    return replace(request, index=index, output_tokens=output_tokens, output_ids=outputs)


def describe(case: Case) -> str:
    """The case, short enough to paste."""
    cost: Any = case.cost.stage
    lines = [str(case.options), f"num_gpu_blocks={case.num_gpu_blocks}"]
    lines += [
        f"stages={cost.stages} hop={[(h.arrival_ns[:2], h.occupancy_ns[:2]) for h in case.cost.hops[:1]]}"
    ]
    lines += [
        f"r{request.index:03} at {request.arrival_ns}: {request.input_tokens} in, {request.output_tokens} out"
        + (f", priority {request.priority}" if request.priority else "")
        for request in case.requests
    ]
    return "\n".join(lines)


def shrink_cluster(case: ClusterCase, fails: Callable[[ClusterCase], bool]) -> ClusterCase:
    """Leave out sessions, then calls at their ends, as long as the case still fails."""
    changed = True
    while changed:
        changed = False
        for smaller in _smaller_cluster(case):
            if fails(smaller):
                case, changed = smaller, True
                break
    return case


def _smaller_cluster(case: ClusterCase) -> Iterator[ClusterCase]:
    sessions = case.sessions
    for left_out in reversed(range(len(sessions))):
        if len(sessions) > 1:
            yield replace(case, sessions=(*sessions[:left_out], *sessions[left_out + 1 :]))
    for place, (arrival_ns, calls) in enumerate(sessions):
        if len(calls) > 1:
            yield replace(
                case, sessions=(*sessions[:place], (arrival_ns, calls[:-1]), *sessions[place + 1 :])
            )


def describe_cluster(case: ClusterCase) -> str:
    """The case, short enough to paste."""
    lines: list[str] = []
    for each in case.instances:
        cost: Any = each.cost.stage
        hops = [(h.shared_link, h.arrival_ns[:2], h.occupancy_ns[:2]) for h in each.cost.hops]
        lines += [str(each.options), f"num_gpu_blocks={each.num_gpu_blocks} {each.overhead}"]
        lines += [f"blocking_sends={each.blocking_sends} stages={cost.stages} hops={hops}"]
    for arrival_ns, calls in case.sessions:
        texts = (
            f"{call.input_tokens} in, {call.output_tokens} out, priority {call.priority}" for call in calls
        )
        lines.append(f"at {arrival_ns}: {'; then '.join(texts)}")
    return "\n".join(lines)


ENGINES = {"cohorts": penstock_engine(), "exact only": penstock_engine(exact_only=True)}


def failure_of_replay(seed: int) -> str | None:
    """The first difference on the replay of a seed, on either path, with the smallest case that shows one."""
    case = seeded_case(seed)
    for path, engine in ENGINES.items():
        found = difference(case, engine)
        if found is not None:
            small = shrink(case, lambda smaller, engine=engine: difference(smaller, engine) is not None)
            return _failure(f"replay, seed {seed}, {path}", found, difference(small, engine), describe(small))
    return None


def failure_of_cluster(seed: int) -> str | None:
    """As :func:`failure_of_replay`, for the run on several instances."""
    case = seeded_cluster(seed)
    for exact_only in (False, True):
        compare = partial(simulated.difference, exact_only=exact_only)
        found = compare(case)
        if found is not None:
            small = shrink_cluster(case, lambda smaller, compare=compare: compare(smaller) is not None)
            title = f"cluster, seed {seed}, {'exact only' if exact_only else 'cohorts'}"
            return _failure(title, found, compare(small), describe_cluster(small))
    return None


def _failure(title: str, found: str, smallest: str | None, case: str) -> str:
    return f"{title}: {found}\n  smallest: {smallest}\n{case}"


def main() -> int:
    """Run so many seeds on both paths of the engine; print and shrink what differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", type=int, nargs="?", default=2000)
    parser.add_argument("--start", type=int, default=0, help="first seed")
    parser.add_argument("--stop-after", type=int, default=5, help="give up after so many failures")
    arguments = parser.parse_args()
    failures = run = 0
    for seed in range(arguments.start, arguments.start + arguments.cases):
        run += 1
        for failure in (failure_of_replay(seed), failure_of_cluster(seed), failure_of_group(seed)):
            if failure is not None:
                failures += 1
                print(f"{failure}\n")
        if failures >= arguments.stop_after:
            break
    print(f"{run} seeds, {failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
