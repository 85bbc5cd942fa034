"""What would help a deployment: single changes, each simulated, the best first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import log

import numpy as np
import numpy.typing as npt

from penstock.accounting.bubbles import BUBBLE_CAUSES, BubbleLedger, Bubbles
from penstock.accounting.energy import EnergyMeter
from penstock.accounting.metrics import RequestTable, throughput
from penstock.accounting.stage_spans import StageCause
from penstock.engine.simulation import Simulation
from penstock.errors import NoProgressError, UserError
from penstock.explore.candidate import Candidate
from penstock.explore.changes import single_changes, with_partition
from penstock.explore.slo import shown_ns
from penstock.explore.tables import shift
from penstock.spec.cluster import ClusterSpec
from penstock.spec.deployment import Deployment
from penstock.spec.options import RunOptions
from penstock.statistics.intervals import Interval, sectioned_interval
from penstock.units import Int64Array
from penstock.workload.workload import Workload

PARTITION_ROUNDS = 4

Score = Callable[["Outcome", "Outcome"], float]
"""How much better the second is than the first, as the logarithm of a ratio."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a simulated deployment came to, over the whole workload. ``busy_ns[i][s]`` is of stage s of instance i.

    ``ttft_ns`` and ``tpot_ns`` are the p99 with their 95% intervals from sections of the run
    (:func:`penstock.statistics.intervals.sectioned_interval`). ``joules_per_token`` is None where the power of an
    accelerator is not known.
    """

    requests_per_s: float
    generated_tokens_per_s: float
    ttft_ns: Interval
    tpot_ns: Interval | None
    rejected: int
    bubbles: Bubbles
    deployments: tuple[Deployment, ...]
    joules_per_token: float | None = None

    @property
    def ttft_p99_ns(self) -> float:
        """Of finished requests."""
        return self.ttft_ns.estimate

    @property
    def tpot_p99_ns(self) -> float | None:
        """Of those with two tokens or more; None without any."""
        return None if self.tpot_ns is None else self.tpot_ns.estimate

    @property
    def figures(self) -> tuple[float, float, float | None]:
        """Tokens/s, p99 TTFT, p99 TPOT."""
        return self.generated_tokens_per_s, self.ttft_p99_ns, self.tpot_p99_ns

    @property
    def busy_ns(self) -> tuple[tuple[int, ...], ...]:
        """Compute time per instance and stage."""
        return tuple(tuple(int(ns) for ns in table[:, StageCause.BUSY]) for table in self.bubbles.ns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """A change and what it brings: ``gains`` of throughput, p99 TTFT and p99 TPOT relative to the baseline,
    positive where it is better; None where there is nothing to compare. ``failure`` is why it cannot run."""

    knob: str
    change: str
    moves: tuple[str, ...]
    outcome: Outcome | None
    score: float
    gains: tuple[float | None, float | None, float | None]
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class AdviceTable:
    """The run as given, and the changes: those that run, best first, then those that do not."""

    baseline: Outcome
    rows: tuple[Advice, ...]

    def alike(self) -> list[list[Advice]]:
        """The changes that run; those that come to the same, of one knob or several, together. The order of the first
        of each stays."""
        groups: dict[object, list[Advice]] = {}
        for row in self.rows:
            if row.outcome is not None:
                joules = row.outcome.joules_per_token
                key = row.outcome.figures, None if joules is None else round(joules, 6)
                groups.setdefault(key, []).append(row)
        return list(groups.values())

    def shares(self) -> list[tuple[str, float, tuple[str, ...]]]:
        """Causes of bubbles by their share of the stages' time while there were requests, largest first,
        with the knobs tried against each."""
        named = [(cause.name.lower(), self.baseline.bubbles.share(cause)) for cause in BUBBLE_CAUSES]
        return [
            (cause, share, tuple(dict.fromkeys(row.knob for row in self.rows if cause in row.moves)))
            for cause, share in sorted(named, key=lambda one: -one[1])
            if share > 0
        ]


def speed(before: Outcome, after: Outcome) -> float:
    """Of generated tokens/s, and p99 TTFT and p99 TPOT turned over: the mean of the logarithms of their ratios."""
    return sum(log(1 + gain) for gain in _gains(before, after) if gain is not None) / 3


def energy(before: Outcome, after: Outcome) -> float:
    """Of tokens per joule.

    Raises:
        UserError: the power of an accelerator is not known.
    """
    if not before.joules_per_token or not after.joules_per_token:
        raise UserError("the power of an accelerator is not known: give the cluster config's nodes a 'power'")
    return log(before.joules_per_token / after.joules_per_token)


SCORES: dict[str, Score] = {"speed": speed, "joules_per_token": energy}
"""What changes may be ranked by."""


def advise(
    cluster: ClusterSpec,
    workload: Workload,
    options: RunOptions | None = None,
    *,
    objective: str = "speed",
    progress: Callable[[str], None] | None = None,
) -> AdviceTable:
    """Simulate ``workload`` on ``cluster`` as it is and after each of a list of single changes.

    Ranked by ``objective``, a name of :data:`SCORES`. A change that refuses more requests than the baseline comes last.

    Raises:
        UserError: the cluster as given cannot run, nothing finishes on it, or there is no such figure of it.
    """
    tell = progress or _silent
    tell("as it is")
    baseline = simulate_outcome(cluster, workload, options)
    score = SCORES[objective]
    score(baseline, baseline)

    def attempt(candidate: Candidate) -> Advice:
        tell(f"{candidate.knob}: {candidate.change}")
        return _try(candidate, baseline, workload, options, score)

    rows = [attempt(candidate) for candidate in single_changes(cluster, baseline.deployments)]
    rows += _partitions(cluster, baseline, attempt)
    ordered = sorted(rows, key=lambda row: (row.failure is not None, -row.score))
    return AdviceTable(baseline, tuple(ordered))


def _silent(_: str) -> None:
    """Nobody watches."""


def simulate_outcome(cluster: ClusterSpec, workload: Workload, options: RunOptions | None = None) -> Outcome:
    """One run and its ledger.

    Raises:
        UserError: the cluster cannot run, or nothing finishes.
    """
    plain = replace(options or RunOptions(), record="requests", keep_token_times=False)
    blocking = [instance.blocking_sends for instance in cluster.instances]
    ledger = BubbleLedger(
        [instance.pp_size for instance in cluster.instances],
        blocking_sends=blocking,
        in_lockstep=[instance.in_lockstep for instance in cluster.instances],
    )
    meter = EnergyMeter.of(cluster, workload.first_arrival_ns)
    sinks = [ledger] if meter is None else [ledger, meter]
    simulation = Simulation(cluster, workload, plain, sinks=sinks)
    record = simulation.run()
    table = RequestTable.of(record)
    rates = throughput(table, record.first_arrival_ns)
    several = table.column("output_tokens") > 1
    if rates is None:
        raise UserError("no request finishes: there is nothing to advise on")
    return Outcome(
        requests_per_s=rates.requests_per_s,
        generated_tokens_per_s=rates.generated_tokens_per_s,
        ttft_ns=_p99(table.ttft_ns, table),
        tpot_ns=_p99(table.tpot_ns[several], table, several) if several.any() else None,
        rejected=len(record.rejections),
        bubbles=ledger.finish(record.first_arrival_ns, int(table.column("finish_ns").max())),
        deployments=simulation.deployments,
        joules_per_token=None if meter is None else meter.finish(record).per_token_j,
    )


def _p99(values: Int64Array, table: RequestTable, chosen: npt.NDArray[np.bool_] | None = None) -> Interval:
    arrival = table.column("arrival_ns") if chosen is None else table.column("arrival_ns")[chosen]
    ordered = values[np.argsort(arrival, kind="stable")].astype(np.float64)
    return sectioned_interval([ordered], lambda part: float(np.percentile(part, 99)))


def balanced_layers(busy_ns: Sequence[float], layers: Sequence[int]) -> tuple[int, ...]:
    """The split that evens out ``busy_ns`` if a stage's time is in proportion to its layers: they are dealt
    one at a time to the stage that is then the least busy."""
    per_layer = [busy / count for busy, count in zip(busy_ns, layers, strict=True)]
    return _dealt(per_layer, [0.0] * len(layers), sum(layers))


def _dealt(per_layer: Sequence[float], fixed: Sequence[float], num_layers: int) -> tuple[int, ...]:
    dealt = [1] * len(per_layer)
    for _ in range(num_layers - len(dealt)):
        chosen = min(
            range(len(dealt)), key=lambda stage: fixed[stage] + (dealt[stage] + 1) * per_layer[stage]
        )
        dealt[chosen] += 1
    return tuple(dealt)


def _partitions(
    cluster: ClusterSpec,
    baseline: Outcome,
    attempt: Callable[[Candidate], Advice],
) -> Iterator[Advice]:
    """The partition that balances measured busy time: dealt by what each stage was seen to need per layer,
    simulated, and dealt again with what that run showed; the one with the least busy slowest stage."""
    if all(instance.pp_size == 1 for instance in cluster.instances):
        return
    start = tuple(deployment.layers for deployment in baseline.deployments)
    seen = {start: baseline}
    rows: list[tuple[float, Advice]] = []
    proposal = tuple(
        balanced_layers(busy, layers) for busy, layers in zip(baseline.busy_ns, start, strict=True)
    )
    for _ in range(PARTITION_ROUNDS):
        if proposal in seen:
            break
        told = "; ".join(dict.fromkeys(",".join(map(str, layers)) for layers in proposal))
        before = "; ".join(dict.fromkeys(",".join(map(str, layers)) for layers in start))
        moves = ("imbalance", "dependency")
        candidate = Candidate(
            "partition", f"layers {before} to {told}", moves, with_partition(cluster, proposal)
        )
        advice = attempt(candidate)
        outcome = advice.outcome
        if outcome is None:
            rows.append((float("inf"), advice))
            break
        rows.append((max(max(busy) for busy in outcome.busy_ns), advice))
        seen[proposal] = outcome
        proposal = tuple(
            _refined(
                [(layers[place], outcome.busy_ns[place]) for layers, outcome in seen.items()],
                sum(start[place]),
            )
            for place in range(len(start))
        )
    if rows:
        yield min(rows, key=lambda row: row[0])[1]


def _refined(seen: Sequence[tuple[tuple[int, ...], tuple[int, ...]]], num_layers: int) -> tuple[int, ...]:
    """Deal layers again: a stage seen with two numbers of layers has a time per layer and a fixed one."""
    (layers, busy) = seen[-1]
    per_layer: list[float] = []
    fixed: list[float] = []
    for stage, count in enumerate(layers):
        slope = busy[stage] / count
        for other_layers, other_busy in seen[:-1]:
            if other_layers[stage] != count:
                measured = (busy[stage] - other_busy[stage]) / (count - other_layers[stage])
                slope = min(max(measured, 0.1 * slope), busy[stage] / count)
        per_layer.append(slope)
        fixed.append(busy[stage] - slope * count)
    return _dealt(per_layer, fixed, num_layers)


def _try(
    candidate: Candidate, baseline: Outcome, workload: Workload, options: RunOptions | None, score: Score
) -> Advice:
    try:
        outcome = simulate_outcome(candidate.cluster, workload, options)
    except (UserError, NoProgressError) as error:
        reason = str(error).splitlines()[0]
        return Advice(
            knob=candidate.knob,
            change=candidate.change,
            moves=candidate.moves,
            outcome=None,
            score=float("-inf"),
            gains=(None, None, None),
            failure=reason,
        )
    gain = score(baseline, outcome)
    if outcome.rejected > baseline.rejected:
        gain -= 1000
    return Advice(
        knob=candidate.knob,
        change=candidate.change,
        moves=candidate.moves,
        outcome=outcome,
        score=gain,
        gains=_gains(baseline, outcome),
    )


def _gains(before: Outcome, after: Outcome) -> tuple[float | None, float | None, float | None]:
    return (
        after.generated_tokens_per_s / before.generated_tokens_per_s - 1,
        _gain(before.ttft_p99_ns, after.ttft_p99_ns),
        _gain(before.tpot_p99_ns, after.tpot_p99_ns),
    )


def _gain(before: float | None, after: float | None) -> float | None:
    """How many times faster, less one."""
    return before / after - 1 if before and after else None


def shifts(before: Outcome, after: Outcome) -> tuple[str, str, str]:
    """Tokens/s, p99 TTFT and p99 TPOT from old to new, said better or worse."""
    tpot = "-"
    if before.tpot_p99_ns is not None and after.tpot_p99_ns is not None:
        tpot = shift(before.tpot_p99_ns, after.tpot_p99_ns, more_is_better=False, shown=shown_ns)
    return (
        shift(
            before.generated_tokens_per_s,
            after.generated_tokens_per_s,
            more_is_better=True,
            shown=lambda value: f"{value:,.1f}",
        ),
        shift(before.ttft_p99_ns, after.ttft_p99_ns, more_is_better=False, shown=shown_ns),
        tpot,
    )
