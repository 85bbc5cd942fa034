"""Synthetic workloads: arrivals x lengths, optionally with shared prefixes and sessions, from a seed.

Arrivals, lengths, token ids, turns and priorities each draw from a stream of their own (PCG64, spawned from the
seed), so that changing one leaves the others as they were.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from penstock.errors import Problem, UserError, nearest
from penstock.units import NS_PER_MS, NS_PER_S, Int64Array
from penstock.workload.jsonl import MAX_NS
from penstock.workload.lengths import MAX_LENGTH, Lengths
from penstock.workload.traffic import PLAIN_BURSTS, Bursts, RateCurve
from penstock.workload.workload import Call, Columns, Workload

ARRIVALS = ("poisson", "gamma", "constant", "burst", "mmpp")
MAX_REQUESTS = 100_000_000
MAX_PREFIX_TOKENS = 1_000_000_000
"""Of all groups' prefixes: 4 GB of token ids."""

MAX_TOOL_NS = 10**18
VOCABULARY = 32_000
"""Token ids are drawn below this."""


@dataclass(frozen=True, slots=True)
class Preset:
    """Length distributions with a name; ``basis`` says what they rest on."""

    input_tokens: Lengths
    output_tokens: Lengths
    basis: str


PRESETS = {
    "sharegpt": Preset(
        Lengths("lognormal", {"mean": 860, "cv": 0.62}),
        Lengths("lognormal", {"mean": 650, "cv": 0.15}),
        "means 857 and 653, cv 0.615 and 0.151, of the 300 ShareGPT requests that LLMServingSim ships for "
        "Llama-3.1-8B, rounded",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What to generate.

    ``num_requests`` counts a session as one. ``rate_per_s`` is requests per second of simulated time;
    ``burstiness`` is the gamma distribution's shape (1 is Poisson, below 1 burstier, cv = burstiness**-0.5),
    as in vLLM's benchmarks. ``bursts`` shape "mmpp" arrivals; ``curve`` lets the rate change over time, whatever the
    arrivals. Lengths come from ``sample_from`` (pairs, with replacement) where the two
    distributions are None. ``prefix_tokens`` stand before the drawn prompt, the same within one of
    ``prefix_groups``; they are part of the input length, which ``max_input`` limits as a whole. ``turns``
    makes sessions: each call's prompt is the conversation so far and a newly drawn part. ``priorities`` are the
    shares of the requests that have each priority, in any unit; all calls of a session have the same.
    """

    num_requests: int
    arrivals: str = "poisson"
    rate_per_s: float = 1.0
    burstiness: float = 1.0
    bursts: Bursts = PLAIN_BURSTS
    curve: RateCurve | None = None
    input_tokens: Lengths | None = None
    output_tokens: Lengths | None = None
    sample_from: Workload | None = None
    max_input: int | None = None
    max_output: int | None = None
    prefix_groups: int = 0
    prefix_tokens: int = 0
    token_ids: bool = False
    turns: Lengths | None = None
    tool_duration_ns: int = 0
    priorities: Mapping[int, float] | None = None
    seed: int = 0


def generate(recipe: Recipe) -> Workload:
    """Draw the workload of ``recipe``: the same one each time.

    Raises:
        UserError: all settings that make no sense.
    """
    _check(recipe)
    streams = [np.random.Generator(np.random.PCG64(s)) for s in np.random.SeedSequence(recipe.seed).spawn(7)]
    arrivals = _arrivals_ns(recipe, streams[0])
    turns = recipe.turns.sample(streams[5], recipe.num_requests) if recipe.turns else None
    calls = recipe.num_requests if turns is None else int(turns.sum())
    if calls > MAX_REQUESTS:
        raise UserError([Problem("--turns", f"{calls:,} calls are more than {MAX_REQUESTS:,}")])
    inputs, outputs = _lengths(recipe, calls, streams)
    ids = _TokenIds(recipe, streams[4]) if recipe.token_ids or recipe.prefix_groups else None
    priorities = _priorities(recipe, streams[6])
    columns = Columns()
    row = 0
    for number, arrival_ns in enumerate(arrivals.tolist()):
        prefix = ids.prefix() if ids else None
        first_row = len(columns.arrival_ns)
        if turns is None:
            columns.add(arrival_ns, _call(recipe, int(inputs[row]), int(outputs[row]), ids, prefix))
            row += 1
        else:
            last = row + int(turns[number])
            conversation = _conversation(recipe, inputs[row:last], outputs[row:last], ids, prefix)
            columns.add_session(arrival_ns, conversation)
            row = last
        for added in range(first_row, len(columns.arrival_ns)):
            columns.priority.put(added, priorities[number])
    return Workload(columns, f"generated, seed {recipe.seed}")


def _check(recipe: Recipe) -> None:
    problems: list[Problem] = []

    def require(holds: bool, option: str, message: str) -> None:
        if not holds:
            problems.append(Problem(option, message))

    kinds = f"{nearest(recipe.arrivals, ARRIVALS)} ({', '.join(ARRIVALS)})"
    require(1 <= recipe.num_requests <= MAX_REQUESTS, "--num-requests", f"must be from 1 to {MAX_REQUESTS:,}")
    require(recipe.arrivals in ARRIVALS, "--arrivals", f"unknown kind '{recipe.arrivals}'{kinds}")
    require(
        1e-6 <= recipe.rate_per_s <= 1e9, "--rate", "must be a number from 1e-6 to 1e9, requests per second"
    )
    require(1e-3 <= recipe.burstiness <= 1e6, "--burstiness", "must be a number from 1e-3 to 1e6")
    wait = recipe.tool_duration_ns
    require(0 <= wait <= MAX_TOOL_NS, "--tool-duration-ms", f"must be from 0 to {MAX_TOOL_NS // NS_PER_MS:,}")
    require(0 <= recipe.seed < 2**128, "--seed", "must be 0 or more, below 2**128")
    require(
        recipe.max_output is None or 1 <= recipe.max_output <= MAX_LENGTH,
        "--max-output",
        f"must be from 1 to {MAX_LENGTH:,}",
    )
    shares = list((recipe.priorities or {0: 1.0}).values())
    known = all(0 <= share <= 1e300 for share in shares) and 0 < sum(shares) < math.inf
    require(known, "--priorities", "shares must be >= 0 and not all 0")
    if recipe.arrivals == "mmpp" and not problems:
        _check_bursts(recipe, require)
    _check_prefixes(recipe, require)
    for lengths, option in ((recipe.input_tokens, "--input-toks"), (recipe.output_tokens, "--output-toks")):
        known = lengths is not None or recipe.sample_from is not None
        require(known, option, "missing: give it, --preset or --lengths-from")
    if problems:
        raise UserError(problems)


def _check_bursts(recipe: Recipe, require: Callable[[bool, str, str], None]) -> None:
    """Neither a state that brings more requests than memory holds, nor millions that bring none."""
    bursts, rate = recipe.bursts, recipe.rate_per_s
    longest_s = bursts.mean_s * max(1.0, (1 - bursts.share) / bursts.share)
    most = rate * bursts.factor * longest_s
    require(most <= 1e7, "--bursts", f"a state of them would bring {most:.3g} requests: make it shorter")
    rounds = recipe.num_requests / (rate * bursts.mean_s / bursts.share)
    require(rounds <= 1e7, "--bursts", f"so many requests take {rounds:.3g} bursts: make them longer")


def _check_prefixes(recipe: Recipe, require: Callable[[bool, str, str], None]) -> None:
    require(0 <= recipe.prefix_tokens <= MAX_LENGTH, "--prefix-tokens", f"must be from 0 to {MAX_LENGTH:,}")
    require(
        0 <= recipe.prefix_groups <= MAX_REQUESTS, "--prefix-groups", f"must be from 0 to {MAX_REQUESTS:,}"
    )
    together = recipe.prefix_groups * recipe.prefix_tokens
    message = f"{recipe.prefix_groups:,} groups of {recipe.prefix_tokens:,} tokens are more than {MAX_PREFIX_TOKENS:,}"
    require(together <= MAX_PREFIX_TOKENS, "--prefix-groups", message)
    both = bool(recipe.prefix_tokens) == bool(recipe.prefix_groups)
    require(both, "--prefix-tokens", "goes together with --prefix-groups")
    if recipe.max_input is not None:
        least = max(recipe.prefix_tokens, 0) + 1
        require(
            least <= recipe.max_input <= 2 * MAX_LENGTH,
            "--max-input",
            f"must be from {least} to {2 * MAX_LENGTH:,}",
        )


def _arrivals_ns(recipe: Recipe, generator: np.random.Generator) -> Int64Array:
    count, rate = recipe.num_requests, recipe.rate_per_s
    match recipe.arrivals:
        case "burst":
            return np.zeros(count, dtype=np.int64)
        case "constant":
            times = np.arange(count) / rate
        case "mmpp":
            times = recipe.bursts.times_s(generator, rate, count)
        case "gamma":
            times = np.cumsum(generator.gamma(recipe.burstiness, 1 / (rate * recipe.burstiness), count))
        case _:
            times = np.cumsum(generator.exponential(1 / rate, count))
    if recipe.curve is not None:
        times = recipe.curve.warp(times)
    if count and not float(times[-1]) * NS_PER_S < MAX_NS:
        message = f"{count:,} requests at {rate:g} a second go on for more than {MAX_NS // NS_PER_S:,} s"
        raise UserError([Problem("--rate", message)])
    return np.rint(times * NS_PER_S).astype(np.int64)


def _lengths(recipe: Recipe, count: int, streams: list[np.random.Generator]) -> tuple[Int64Array, Int64Array]:
    """Drawn prompt lengths (without the prefix) and answer lengths, each of shape (count,)."""
    rows = streams[3].integers(0, len(recipe.sample_from), count) if recipe.sample_from else None
    columns: list[Int64Array] = []
    for lengths, name, stream in (
        (recipe.input_tokens, "input_tokens", streams[1]),
        (recipe.output_tokens, "output_tokens", streams[2]),
    ):
        if lengths is not None:
            columns.append(lengths.sample(stream, count))
        else:
            trace: Int64Array = getattr(recipe.sample_from, name)
            columns.append(trace[rows])
    inputs, outputs = columns
    if recipe.max_input is not None:
        inputs = np.minimum(inputs, recipe.max_input - recipe.prefix_tokens)
    return inputs, outputs if recipe.max_output is None else np.minimum(outputs, recipe.max_output)


def _priorities(recipe: Recipe, generator: np.random.Generator) -> list[int]:
    """One for each arrival."""
    if not recipe.priorities:
        return [0] * recipe.num_requests
    values, shares = list(recipe.priorities), np.array(list(recipe.priorities.values()))
    return generator.choice(values, recipe.num_requests, p=shares / shares.sum()).tolist()


class _TokenIds:
    """Random token ids, and one prefix for each group."""

    def __init__(self, recipe: Recipe, generator: np.random.Generator) -> None:
        self._generator = generator
        self._prefixes = [self.draw(recipe.prefix_tokens) for _ in range(recipe.prefix_groups)]

    def draw(self, count: int) -> array[int]:
        """``count`` fresh ids."""
        drawn = self._generator.integers(0, VOCABULARY, count, dtype=np.int32)
        return array("i", drawn.tobytes())

    def prefix(self) -> array[int]:
        """The prefix of a group drawn at random, empty where there are no groups."""
        groups = len(self._prefixes)
        return self._prefixes[int(self._generator.integers(0, groups))] if groups else array("i")


def _call(
    recipe: Recipe, input_tokens: int, output_tokens: int, ids: _TokenIds | None, before: array[int] | None
) -> Call:
    """A call whose prompt is what stands ``before`` it and ``input_tokens`` of its own."""
    if ids is None or before is None:
        return Call(input_tokens, output_tokens, recipe.tool_duration_ns)
    prompt = before + ids.draw(input_tokens)
    return Call(len(prompt), output_tokens, recipe.tool_duration_ns, prompt, ids.draw(output_tokens))


def _conversation(
    recipe: Recipe, inputs: Int64Array, outputs: Int64Array, ids: _TokenIds | None, prefix: array[int] | None
) -> list[Call]:
    """The calls of a session; it ends early where the next prompt would pass ``max_input``."""
    calls: list[Call] = []
    said, said_ids = 0, prefix
    for own, answer in zip(inputs.tolist(), outputs.tolist(), strict=True):
        call = _call(recipe, own if ids else said + own, answer, ids, said_ids)
        if calls and recipe.max_input is not None and call.input_tokens > recipe.max_input:
            break
        calls.append(call)
        said = call.input_tokens + answer
        if call.input_ids is not None and call.output_ids is not None:
            said_ids = call.input_ids + call.output_ids
    return calls
