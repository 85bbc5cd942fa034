"""The fast engine against the reference on random cases: ``PYTHONPATH=tests python -m reference.fuzz 2000``."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from penstock.validate.schedule import Engine, NamedTrace, first_difference, name_trace, penstock_engine
from penstock.workload.request import Request

from .cases import Case, seeded_case
from .engine import replay as reference_engine


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
    return Request(index, request.arrival_ns, request.input_tokens, output_tokens, request.input_ids, outputs)


def describe(case: Case) -> str:
    """The case, short enough to paste."""
    cost: Any = case.cost.stage
    lines = [str(case.options), f"num_gpu_blocks={case.num_gpu_blocks}"]
    lines += [
        f"stages={cost.stages} hop={[(h.arrival_ns[:2], h.occupancy_ns[:2]) for h in case.cost.hops[:1]]}"
    ]
    lines += [
        f"r{request.index:03} at {request.arrival_ns}: {request.input_tokens} in, {request.output_tokens} out"
        for request in case.requests
    ]
    return "\n".join(lines)


def main() -> int:
    """Run so many seeds on both paths of the engine; print and shrink what differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", type=int, nargs="?", default=2000)
    parser.add_argument("--start", type=int, default=0, help="first seed")
    parser.add_argument("--stop-after", type=int, default=5, help="give up after so many failures")
    arguments = parser.parse_args()
    engines = {"cohorts": penstock_engine(), "exact only": penstock_engine(exact_only=True)}
    failures = run = 0
    for seed in range(arguments.start, arguments.start + arguments.cases):
        case, run = seeded_case(seed), run + 1
        for path, engine in engines.items():
            found = difference(case, engine)
            if found is None:
                continue
            failures += 1
            small = shrink(case, lambda smaller, engine=engine: difference(smaller, engine) is not None)
            print(
                f"seed {seed}, {path}: {found}\n  smallest: {difference(small, engine)}\n{describe(small)}\n"
            )
            break
        if failures >= arguments.stop_after:
            break
    print(f"{run} cases, {failures} differ")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
