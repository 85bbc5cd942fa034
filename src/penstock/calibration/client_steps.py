"""Steps read off a benchmark without a log: tokens that reach the client together came out of one step.

With one stage, a step's tokens leave together, and the next step's follow a whole step later. So the token times of
all requests fall into bunches; who is in a bunch says what the step computed, and from one bunch to the next passes
what the step took. Where that is not certain (a prompt that may have begun one step earlier, a pause, a stall in
which bunches run into each other), the step is left out.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from penstock.calibration.benchmark import Benchmark, FloatArray
from penstock.calibration.matched_steps import MatchedSteps, Token
from penstock.units import Int64Array

FEWEST_STEPS = 100
"""With fewer steps of either half that are certain, the benchmark is fitted by simulation."""
_SURE = 0.5
"""So many of all tokens must be in steps that are certain."""
_APART = 0.4
"""Tokens further apart than this share of a quick step belong to two steps."""
_QUICK = 10
_READ_TOGETHER_S = 1e-4


@dataclass(slots=True)
class _Bunch:
    """Tokens that came together: when (their median), and whose, by how many tokens of the answer there are.

    ``chunks`` are prompt tokens that the step computed, each with the context before it.
    """

    at_s: float
    tokens: dict[int, int]
    sure: bool
    chunks: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])

    @property
    def computed(self) -> int:
        """Tokens in the step, as far as they are known."""
        decodes = sum(count > 1 for count in self.tokens.values())
        return decodes + sum(tokens for tokens, _ in self.chunks)


def steps_of_client(benchmark: Benchmark, budget: int) -> MatchedSteps | None:
    """The steps of a benchmark at pp 1 that are certain, or None where they are too few.

    ``budget`` is how many tokens a step, or a prompt's chunk, may have. ``elapsed_s`` of the result is the time
    from the step before: the engine's own time is part of it. No prefix hits are assumed.
    """
    if benchmark.gaps_s is None:
        return None
    bunches = _bunches(benchmark)
    if bunches is None:
        return None
    _find_chunks(bunches, benchmark.input_tokens, budget)
    rows = _Rows()
    for before, bunch in itertools.pairwise(bunches):
        staying = {
            request for request, count in before.tokens.items() if count < benchmark.output_tokens[request]
        }
        fresh = {request for request, count in bunch.tokens.items() if count == 1}
        if bunch.sure and before.sure and staying and bunch.tokens.keys() == staying | fresh:
            rows.add(bunch.at_s - before.at_s, bunch, benchmark.input_tokens)
    if (
        sum(map(len, rows.tokens)) < _SURE * int(benchmark.output_tokens.sum())
        or len(rows.tokens) < 2 * FEWEST_STEPS
    ):
        return None
    return rows.steps(len(benchmark))


def _bunches(benchmark: Benchmark) -> list[_Bunch] | None:
    """Tokens by bunch, in order of time; None where no gap is wide enough to tell a step."""
    assert benchmark.gaps_s is not None
    gaps = np.concatenate([own[own > _READ_TOGETHER_S] for own in benchmark.gaps_s])
    if not len(gaps):
        return None
    apart_s = _APART * float(np.percentile(gaps, _QUICK))
    times = [benchmark.token_times_s(request) for request in range(len(benchmark))]
    at_s = np.concatenate(times)
    request = np.repeat(np.arange(len(times)), [len(own) for own in times])
    count = np.concatenate([np.arange(1, len(own) + 1) for own in times])
    order = np.argsort(at_s, kind="stable")
    edges = np.flatnonzero(np.diff(at_s[order]) > apart_s) + 1
    return [_bunch(at_s, request, count, part) for part in np.split(order, edges)]


def _bunch(at_s: FloatArray, request: Int64Array, count: Int64Array, part: Int64Array) -> _Bunch:
    """A request that is in it twice makes it unsure: two steps ran into each other."""
    tokens = dict(zip(request[part].tolist(), count[part].tolist(), strict=True))
    return _Bunch(float(np.median(at_s[part])), tokens, sure=len(tokens) == len(part))


def _find_chunks(bunches: Sequence[_Bunch], input_tokens: Int64Array, budget: int) -> None:
    """Say which prompt tokens each step computed.

    Prompts end in the step of their first token, first come, first served: of those that end together, only the
    first can have begun before, and it then took all that was left of the budget in the steps before. Where both
    are possible, or a step before has no tokens to be seen by, the steps are unsure.
    """
    for place, bunch in enumerate(bunches):
        prompts = sorted(request for request, count in bunch.tokens.items() if count == 1)
        if not prompts:
            continue
        for request in prompts[1:]:
            bunch.chunks.append((int(input_tokens[request]), 0))
        left = int(input_tokens[prompts[0]])
        cut, at = [(bunch, left)], place
        while at > 0:
            earlier = bunches[at - 1]
            unused = budget - earlier.computed
            fits = cut[0][1] <= budget - bunch.computed
            if unused <= 0 or unused >= cut[0][1]:
                # It would have ended there, or there was no room for it.
                break
            if fits:
                # It may have begun there, or come later.
                earlier.sure = bunch.sure = False
                break
            at -= 1
            cut[0] = (bunch, cut[0][1] - unused)
            cut.append((earlier, unused))
        if cut[0][1] > budget - bunch.computed or not _linked(bunches[at : place + 1]):
            for own in bunches[max(at - 1, 0) : place + 1]:
                own.sure = False
        context = 0
        for own, tokens in reversed(cut):
            own.chunks.append((tokens, context))
            context += tokens


def _linked(bunches: Sequence[_Bunch]) -> bool:
    """Whether each has a request of the one before, so that no step without tokens can lie between them."""
    return all(
        any(count + 1 == after.tokens.get(request) for request, count in before.tokens.items())
        for before, after in itertools.pairwise(bunches)
    )


@dataclass(slots=True)
class _Rows:
    figures: list[tuple[float, ...]] = field(default_factory=list[tuple[float, ...]])
    tokens: list[tuple[Token, ...]] = field(default_factory=list[tuple[Token, ...]])

    def add(self, took_s: float, bunch: _Bunch, input_tokens: Int64Array) -> None:
        """A step. A chunk of one token counts as a decode, as the cost model has it."""
        whole = [(tokens, context) for tokens, context in bunch.chunks if tokens > 1]
        contexts = [context for tokens, context in bunch.chunks if tokens == 1]
        contexts += [
            int(input_tokens[request]) + count - 2 for request, count in bunch.tokens.items() if count > 1
        ]
        prefill_tokens = sum(tokens for tokens, _ in whole)
        prefill_context = sum(context for _, context in whole)
        least, most = (min(contexts), max(contexts)) if contexts else (0, 0)
        sampled = len(bunch.tokens)
        self.figures.append(
            (took_s, prefill_tokens, prefill_context, len(contexts), sum(contexts), least, most, sampled)
        )
        self.tokens.append(tuple(bunch.tokens.items()))

    def steps(self, requests: int) -> MatchedSteps:
        """All that were added, as steps."""
        table = np.array(self.figures, dtype=np.float64)
        counts = table[:, 1:].astype(np.int64)
        return MatchedSteps(
            table[:, 0],
            *(counts[:, column] for column in range(7)),
            tokens=tuple(self.tokens),
            cached_tokens=np.zeros(requests, dtype=np.int64),
            complete=True,
            note="",
        )
