"""What each habit of the real engine is worth: the reference scheduler with and without it.

``python benchmarks/subtleties.py [--write docs/subtleties.md]``: every habit is switched off on every workload of
a grid, three seeds each, and the workloads on which that changes mean TTFT and throughput most are shown.
"""

from __future__ import annotations

import argparse
import random
import sys
from array import array
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from penstock.cost.linear import LinearStage, linear_hop, linear_pipeline
from penstock.cost.step_cost import PipelineCost
from penstock.files.writing import atomic_write
from penstock.spec.options import SchedulerOptions
from penstock.units import NS_PER_MS, NS_PER_S
from penstock.workload.request import Request
from reference.engine import replay
from reference.scheduler import Departures

START, END = (
    "<!-- table: python benchmarks/subtleties.py --write docs/subtleties.md -->",
    "<!-- end of table -->",
)
REQUESTS = 100
SEEDS = (1, 2, 3)
QUESTIONS_PER_DOCUMENT = 10
REAL = Departures()


@dataclass(frozen=True, slots=True)
class Habit:
    """A habit of the real engine, and how to drop it. ``sleeps``: whether the engine without the habit has the
    idle sleep; ``against_sleep``: whether the one with it has."""

    name: str
    without: str
    departures: Departures
    sleeps: bool = True
    against_sleep: bool = True
    min_pp: int = 1
    only_caching: bool = False

    def on(self, load: Load) -> bool:
        """Whether the habit could matter on a load."""
        return load.pp_size >= self.min_pp and (load.caching or not self.only_caching)


HABITS = (
    Habit("1 ms idle sleep after a turn that scheduled nothing", "no sleep", REAL, sleeps=False, min_pp=2),
    Habit(
        "empty steps take a slot of the batch queue",
        "an empty step is not queued: the engine blocks on the oldest real step at once",
        Departures(empty_steps_take_slots=False),
        min_pp=2,
    ),
    Habit(
        "an engine blocked on a step sees no arrivals (sleep off on both sides)",
        "an arrival is scheduled at once if the queue has room",
        Departures(empty_steps_take_slots=False, blocks_on_oldest_step=False),
        sleeps=False,
        against_sleep=False,
        min_pp=2,
    ),
    Habit(
        "tokens in flight of a preempted request are delivered, and its resume waits for them",
        "tokens in flight are thrown away, the victim may resume at once",
        Departures(deliver_late_tokens=False),
        min_pp=2,
    ),
    Habit(
        "freed blocks without a hash are reused first",
        "all freed blocks go to the end of the free queue",
        Departures(unhashed_blocks_first=False),
        only_caching=True,
    ),
    Habit(
        "a block can be hit when it is scheduled",
        "a block can be hit when its step is done",
        Departures(hit_when_scheduled=False),
        only_caching=True,
    ),
)


@dataclass(frozen=True, slots=True)
class Load:
    """A workload and the engine it meets; ``requests`` makes the workload of a seed."""

    name: str
    pp_size: int
    num_gpu_blocks: int
    caching: bool
    requests: Callable[[int], tuple[Request, ...]]
    block_size: int = 16

    def options(self, *, sleeps: bool) -> SchedulerOptions:
        """The defaults but for the pool."""
        return SchedulerOptions(
            block_size=self.block_size,
            enable_prefix_caching=self.caching,
            max_in_flight=self.pp_size,
            engine_idle_sleep_ns=NS_PER_MS if sleeps else 0,
        )

    def cost(self) -> PipelineCost:
        """An 8B model on one fast GPU, cut in ``pp_size``: 10.5 ms + 28 us a token + 82 ns a token of context."""
        each = LinearStage(10_500_000 // self.pp_size, 28_000 // self.pp_size, 82 // self.pp_size)
        return linear_pipeline([each] * self.pp_size, linear_hop(20_000, 477, 2048), 128, "linear")


@dataclass(frozen=True, slots=True)
class Outcome:
    """Mean time to first token, and tokens per second until the last one."""

    ttft_ms: float
    tokens_per_s: float


@dataclass(frozen=True, slots=True)
class Job:
    """One run: a load of :func:`loads` by its place there."""

    load: int
    departures: Departures
    sleeps: bool
    seed: int


def run(job: Job) -> Outcome:
    """Serve the load on the reference engine."""
    load = loads()[job.load]
    requests = load.requests(job.seed)
    trace = replay(
        load.options(sleeps=job.sleeps), load.num_gpu_blocks, load.cost(), requests, departures=job.departures
    )
    rows = [trace.requests[request.index] for request in requests]
    waits = [row["first_token_ns"] - request.arrival_ns for row, request in zip(rows, requests, strict=True)]
    span = max(row["finish_ns"] for row in rows) - requests[0].arrival_ns
    tokens = sum(len(row["token_times_ns"]) for row in rows)
    return Outcome(fmean(waits) / NS_PER_MS, tokens * NS_PER_S / span)


def loads() -> list[Load]:
    """The grid: chats from light to a burst, tight pools, shared prefixes, conversations and documents under
    eviction."""
    made: list[Load] = []
    for pp_size in (1, 2, 4, 8):
        for rate in (1, 4, 12, 40):
            requests = partial(chat, rate=rate, prompt=300, output=200)
            made.append(Load(f"chat, {rate}/s", pp_size, 20_001, False, requests))
        made.append(
            Load(
                "chat, all at once", pp_size, 20_001, False, partial(chat, rate=None, prompt=300, output=200)
            )
        )
        for blocks in (301, 601, 1001):
            tight = partial(chat, rate=40, prompt=100, output=250, longest=2000)
            made.append(Load(f"chat, 40/s, {blocks - 1} KV blocks", pp_size, blocks, False, tight))
        for rate in (20, 100, None):
            name = f"4 prefixes of 1,500 tokens, {'all at once' if rate is None else f'{rate}/s'}"
            made.append(Load(name, pp_size, 20_001, True, partial(shared_prefixes, rate=rate)))
        for blocks in (601, 1201):
            name = f"30 conversations of 4 turns, {blocks - 1} KV blocks"
            made.append(Load(name, pp_size, blocks, True, conversations))
        for size, blocks in ((16, 331), (128, 47)):
            name = f"3 documents among short questions, {blocks - 1} KV blocks of {size}"
            made.append(Load(name, pp_size, blocks, True, documents, size))
    return made


def chat(
    seed: int, *, rate: float | None, prompt: int, output: int, longest: int = 4000
) -> tuple[Request, ...]:
    """Poisson arrivals (all at once without a rate), lognormal lengths with these means."""
    rng = random.Random(seed)
    now = 0.0
    made: list[Request] = []
    for index in range(REQUESTS):
        now += rng.expovariate(rate) if rate else 0
        lengths = _length(rng, prompt, longest), _length(rng, output, longest // 2)
        made.append(Request(index, int(now * NS_PER_S), *lengths))
    return tuple(made)


def _length(rng: random.Random, mean: int, longest: int) -> int:
    return max(1, min(longest, round(mean * rng.lognormvariate(-0.32, 0.8))))


def shared_prefixes(seed: int, *, rate: float | None) -> tuple[Request, ...]:
    """Four prefixes of 1,500 tokens, each followed by a short prompt of its own; short answers."""
    rng = random.Random(seed)
    made: list[Request] = []
    for request in chat(seed, rate=rate, prompt=60, output=40):
        group, own = 10_000 * rng.randrange(4), _own_ids(request.index)
        made.append(_with_ids(request, [*range(group, group + 1500), *own[: request.input_tokens]]))
    return tuple(made)


def documents(seed: int) -> tuple[Request, ...]:
    """Three documents of 1,600 tokens, one of them asked about every second; short questions in between."""
    rng = random.Random(seed)
    made: list[Request] = []
    now = 0.0
    for index in range(4 * REQUESTS):
        now += rng.expovariate(20)
        request, own = Request(index, int(now * NS_PER_S), 9, 5), _own_ids(index)
        if index % QUESTIONS_PER_DOCUMENT:
            made.append(_with_ids(request, own[:9]))
        else:
            document = 10_000 * (index // QUESTIONS_PER_DOCUMENT % 3)
            made.append(_with_ids(request, [*range(document, document + 1600), *own[:9]]))
    return tuple(made)


def conversations(seed: int) -> tuple[Request, ...]:
    """30 conversations, two more a second; each turn repeats all before it, 15 s after the last."""
    rng = random.Random(seed)
    now = 0.0
    made: list[tuple[float, list[int], list[int]]] = []
    for number in range(30):
        now += rng.expovariate(2.0)
        said: list[int] = []
        for turn in range(4):
            own = _own_ids(4 * number + turn)
            said = [*said, *own[: _length(rng, 200, 1000)]]
            answer = list(own[5000 : 5000 + _length(rng, 100, 400)])
            made.append((now + 15 * turn, said, answer))
            said = said + answer
    made.sort(key=lambda each: each[0])
    return tuple(
        Request(index, int(at * NS_PER_S), len(ids), len(answer), array("i", ids), array("i", answer))
        for index, (at, ids, answer) in enumerate(made)
    )


def _own_ids(number: int) -> range:
    """Token ids that no other number has."""
    return range(100_000 * (1 + number), 100_000 * (1 + number) + 10_000)


def _with_ids(request: Request, ids: Sequence[int]) -> Request:
    answer = _own_ids(request.index)[5000 : 5000 + request.output_tokens]
    return Request(
        request.index,
        request.arrival_ns,
        len(ids),
        request.output_tokens,
        array("i", ids),
        array("i", answer),
    )


@dataclass(frozen=True, slots=True)
class Effect:
    """One habit dropped on one load: outcomes with and without it, a pair for each seed."""

    load: Load
    pairs: tuple[tuple[Outcome, Outcome], ...]

    def changes(self, what: str) -> list[float]:
        """Relative change of an outcome's field, per seed."""
        return [getattr(without, what) / getattr(real, what) - 1 for real, without in self.pairs]

    def size(self, what: str) -> float:
        """How large the mean change is, in either direction."""
        return abs(fmean(self.changes(what)))

    def cell(self, what: str) -> str:
        """``real → without (mean change; least to most over the seeds)``."""
        real, without = (fmean(getattr(pair[side], what) for pair in self.pairs) for side in (0, 1))
        changes = self.changes(what)
        spread = f"{min(changes):+.0%} to {max(changes):+.0%}"
        return f"{real:.0f} → {without:.0f} ({fmean(changes):+.1%}; {spread})"


def effects() -> list[list[Effect]]:
    """Every habit dropped on every load where it could matter."""
    grid = list(enumerate(loads()))
    jobs = {Job(at, REAL, sleeps, seed) for at, _ in grid for sleeps in (True, False) for seed in SEEDS}
    for habit in HABITS:
        jobs |= {
            Job(at, habit.departures, habit.sleeps, seed)
            for at, load in grid
            for seed in SEEDS
            if habit.on(load)
        }
    ordered = sorted(jobs, key=repr)
    with ProcessPoolExecutor() as pool:
        outcome = dict(zip(ordered, pool.map(run, ordered, chunksize=8), strict=True))
    return [
        [
            Effect(
                load,
                tuple(
                    (
                        outcome[Job(at, REAL, habit.against_sleep, seed)],
                        outcome[Job(at, habit.departures, habit.sleeps, seed)],
                    )
                    for seed in SEEDS
                ),
            )
            for at, load in grid
            if habit.on(load)
        ]
        for habit in HABITS
    ]


def table() -> Iterator[str]:
    """Markdown, two rows a habit: the largest change of TTFT, the largest change of throughput."""
    yield "| habit of the real engine | left out | workload | mean TTFT, ms | tokens/s |"
    yield "|---|---|---|---|---|"
    for habit, found in zip(HABITS, effects(), strict=True):
        names = f"{habit.name} | {habit.without}"
        for most in ("ttft_ms", "tokens_per_s"):
            effect = max(found, key=lambda each: each.size(most))
            cells = {what: effect.cell(what) for what in ("ttft_ms", "tokens_per_s")}
            cells[most] = f"**{cells[most]}**"
            yield f"| {names} | pp {effect.load.pp_size}, {effect.load.name} | {' | '.join(cells.values())} |"
            names = " | "


def main() -> None:
    """Print the table, or put it into a page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, help="page to put the table into")
    page: Path | None = parser.parse_args().write
    text = "\n".join(table())
    if page is None:
        print(text)
        return
    before, _, rest = page.read_text(encoding="utf-8").partition(START)
    _, _, after = rest.partition(END)
    with atomic_write(page) as output:
        output.write(f"{before}{START}\n{text}\n{END}{after}")


if __name__ == "__main__":
    main()
