"""What a run comes to: counts, latencies, rates, and what every stage of every instance did with its time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from penstock.accounting.bubbles import CAUSE_NAMES, Bubbles
from penstock.accounting.energy_report import EnergyReport
from penstock.accounting.metrics import (
    Distribution,
    LatencyMetrics,
    RequestTable,
    Throughput,
    latency_metrics,
    throughput,
)
from penstock.recording.records import InstanceTotals, Rejection, RunRecord, TierTotals
from penstock.rendering.replica_use import replica_lines, replica_use
from penstock.rendering.statements import rests_on, wrapped
from penstock.spec.deployment import Deployment, StageMemory
from penstock.units import GIB, NS_PER_MS, NS_PER_S, NS_PER_US, seconds

REJECTIONS_SHOWN = 20
_INSTANCES_SHOWN = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestCounts:
    """``total`` = ``finished`` + ``rejected``. ``cached_tokens`` were found in the prefix cache."""

    total: int
    finished: int
    rejected: int
    preemptions: int
    cached_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCounts:
    """``iterations`` are steps with tokens, over all instances; the two kinds of turns say which path of
    the scheduler made them."""

    iterations: int
    empty_schedules: int
    idle_sleeps: int
    cohort_turns: int
    exact_turns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSummary:
    """One stage of one instance; memory is that of one NPU.

    ``busy``, ``bubble`` and ``idle`` are shares of the window from the run's first arrival to its last
    completion and add up to 1; None without such a window. ``idle`` is time without a request in the
    instance, known only with ``causes_ns``; without, bubble is all that is not busy.
    """

    stage: int
    hardware: str
    layers: int
    weights_bytes: int
    kv_tokens: int
    stranded_bytes: int
    busy_ns: int
    busy: float | None
    bubble: float | None
    idle: float | None
    causes_ns: Mapping[str, int] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceSummary:
    """One instance. ``kv_tokens`` is its KV capacity, the smallest of its stages'. ``basis`` says what its
    costs and its memory rest on."""

    instance: int
    model: str
    tp_size: int
    pp_size: int
    kv_tokens: int
    requests: int
    iterations: int
    preemptions: int
    stages: tuple[StageSummary, ...]
    basis: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class KvMoves:
    """KV that moved between instances: reads, their bytes, and the time from asking to having it, mean and largest;
    ``waited_ns`` of that was for links, over all reads. ``late_reads`` were of blocks given up before,
    ``expired_leases`` are what gave them up; ``failed_reads`` did not arrive."""

    reads: int
    size_bytes: int
    mean_ns: int
    max_ns: int
    waited_ns: int
    late_reads: int
    expired_leases: int
    failed_reads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """Everything in a run's summary that the same inputs make the same again: no wall-clock time.

    ``rejections`` are the first 20 in file order; the table of requests has all.
    """

    requests: RequestCounts
    first_arrival_ns: int
    last_completion_ns: int | None
    simulated_ns: int
    engine: EngineCounts
    latency: LatencyMetrics
    throughput: Throughput | None
    instances: tuple[InstanceSummary, ...]
    rejections: tuple[Rejection, ...]
    notices: tuple[str, ...]
    kv_moves: KvMoves | None = None
    tiers: tuple[TierTotals | None, ...] = ()
    energy: Mapping[str, Any] | None = None
    autoscaling: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries, lists, numbers and strings."""
        return asdict(self)


def build_summary(
    record: RunRecord,
    *,
    notices: Sequence[str] = (),
    bubbles: Bubbles | None = None,
    energy: EnergyReport | None = None,
) -> RunSummary:
    """Sum up a run. ``notices`` are what the user was told of options that change nothing;
    ``bubbles`` is the ledger, ``energy`` what was measured of it, where they were kept."""
    table = RequestTable.of(record)
    last_ns = int(table.column("finish_ns").max()) if len(table) else None
    window_ns = last_ns - record.first_arrival_ns if last_ns is not None else 0
    totals = record.totals
    use = replica_use(record)
    served = Counter[int](table.column("instance").tolist())
    return RunSummary(
        requests=RequestCounts(
            total=len(table) + len(record.rejections),
            finished=len(table),
            rejected=len(record.rejections),
            preemptions=sum(total.preemptions for total in totals),
            cached_tokens=int(table.column("cached_tokens").sum()),
        ),
        first_arrival_ns=record.first_arrival_ns,
        last_completion_ns=last_ns,
        simulated_ns=window_ns,
        engine=EngineCounts(
            iterations=sum(total.iterations for total in totals),
            empty_schedules=sum(total.empty_schedules for total in totals),
            idle_sleeps=sum(total.idle_sleeps for total in totals),
            cohort_turns=sum(total.cohort_turns for total in totals),
            exact_turns=sum(total.exact_turns for total in totals),
        ),
        latency=latency_metrics(table, record.token_gaps),
        throughput=throughput(table, record.first_arrival_ns),
        instances=tuple(
            _instance(
                deployment,
                total,
                served[deployment.instance],
                window_ns,
                _causes_by_stage(bubbles, place),
            )
            for place, (deployment, total) in enumerate(zip(record.deployments, totals, strict=True))
        ),
        rejections=tuple(sorted(record.rejections, key=lambda one: one.request)[:REJECTIONS_SHOWN]),
        notices=tuple(notices),
        kv_moves=_kv_moves(record),
        tiers=tuple(total.tier for total in totals) if any(total.tier for total in totals) else (),
        energy=None if energy is None else energy.to_json(),
        autoscaling=None if use is None else use.to_json(),
    )


def _kv_moves(record: RunRecord) -> KvMoves | None:
    """What moved between instances; None where nothing did."""
    transfers = record.transfers
    if not transfers:
        return None
    times = [one.end_ns - one.post_ns for one in transfers]
    return KvMoves(
        reads=len(transfers),
        size_bytes=sum(one.size_bytes for one in transfers),
        mean_ns=round(sum(times) / len(times)),
        max_ns=max(times),
        waited_ns=sum(one.start_ns - one.post_ns for one in transfers),
        late_reads=sum(total.late_reads for total in record.totals),
        expired_leases=sum(total.expired_leases for total in record.totals),
        failed_reads=sum(not one.is_ok for one in transfers),
    )


def _causes_by_stage(bubbles: Bubbles | None, instance: int) -> list[dict[str, int]]:
    """For each stage, nanoseconds by cause, busy left out; empty without a ledger."""
    if bubbles is None:
        return []
    named = [dict(zip(CAUSE_NAMES, stage.tolist(), strict=True)) for stage in bubbles.ns[instance]]
    return [{cause: ns for cause, ns in stage.items() if cause != "busy"} for stage in named]


def _instance(
    deployment: Deployment,
    totals: InstanceTotals,
    requests: int,
    window_ns: int,
    causes_ns: Sequence[Mapping[str, int]],
) -> InstanceSummary:
    plan = deployment.memory
    stages: list[StageSummary] = []
    for stage, memory in enumerate(plan.stages):
        busy_ns = totals.busy_ns[stage]
        causes = causes_ns[stage] if causes_ns else None
        idle_ns = causes["idle"] if causes else 0
        stages.append(
            StageSummary(
                stage=stage,
                hardware=deployment.hardware[stage],
                layers=deployment.layers[stage],
                weights_bytes=memory.weights_bytes,
                kv_tokens=(memory.kv_blocks - 1) * plan.block_size,
                stranded_bytes=memory.stranded_bytes,
                busy_ns=busy_ns,
                busy=busy_ns / window_ns if window_ns else None,
                bubble=(window_ns - busy_ns - idle_ns) / window_ns if window_ns else None,
                idle=idle_ns / window_ns if window_ns and causes else None,
                causes_ns=causes,
            )
        )
    return InstanceSummary(
        instance=deployment.instance,
        model=deployment.model,
        tp_size=deployment.tp_size,
        pp_size=deployment.pp_size,
        kv_tokens=(plan.num_gpu_blocks - 1) * plan.block_size,
        requests=requests,
        iterations=totals.iterations,
        preemptions=totals.preemptions,
        stages=tuple(stages),
        basis=_basis(deployment),
        notes=totals.notes,
    )


def render_deployment(deployment: Deployment) -> str:
    """What stands where and what fits beside it, per NPU of each stage; shown before a run."""
    plan = deployment.memory
    reserves = list(dict.fromkeys(name for stage in plan.stages for name, size in stage.reserves if size))
    rows = [["stage", "hardware", "layers", "usable", "weights", *reserves, "KV tokens", "stranded"]]
    for place, stage in enumerate(plan.stages):
        rows.append(
            [
                str(place),
                deployment.hardware[place],
                str(deployment.layers[place]),
                f"{_gib(stage.usable_bytes)} of {_gib(stage.capacity_bytes)}",
                _gib(stage.weights_bytes),
                *(_gib(_reserve(stage, name)) for name in reserves),
                f"{(stage.kv_blocks - 1) * plan.block_size:,}",
                _gib(stage.stranded_bytes),
            ]
        )
    blocks = plan.num_gpu_blocks - 1  # the null block holds nothing
    capacity = f"  KV capacity {blocks * plan.block_size:,} tokens in {blocks:,} blocks of {plan.block_size}"
    return "\n".join(
        [
            _instance_title(deployment.instance, deployment.model, deployment.tp_size, deployment.pp_size),
            _table(rows, left=(1,)),
            f"{capacity}; memory is in GiB per NPU",
        ]
    )


def render_summary(summary: RunSummary, *, wall_s: float | None = None) -> str:
    """The whole summary. ``wall_s``, where given, is the only part that differs between equal runs."""
    parts = [_counts(summary, wall_s), _latencies(summary), _stages(summary), _remarks(summary)]
    return "\n\n".join(part for part in parts if part)


def _basis(deployment: Deployment) -> tuple[str, ...]:
    """What an instance's costs and its memory rest on."""
    return (*deployment.basis, f"KV capacity: {deployment.memory.basis}")


def _counts(summary: RunSummary, wall_s: float | None) -> str:
    counts, engine, rates = summary.requests, summary.engine, summary.throughput
    requests = f"{counts.total:,}: {counts.finished:,} finished, {counts.rejected:,} rejected"
    if counts.preemptions:
        requests += f"; {counts.preemptions:,} preemptions"
    if counts.cached_tokens:
        requests += f"; {counts.cached_tokens:,} prompt tokens from the prefix cache"
    simulated = f"{seconds(summary.simulated_ns):,.3f} s from first arrival to last completion"
    lines = [["requests", requests], ["simulated", simulated]]
    iterations = f"{engine.iterations:,} steps with tokens, {engine.empty_schedules:,} empty"
    iterations += f"; turns taken as cohorts {engine.cohort_turns:,}, one by one {engine.exact_turns:,}"
    if wall_s is not None:
        lines.append(["wall time", f"{wall_s:,.3f} s"])
    lines.append(["iterations", iterations])
    if rates is not None:
        tokens = (
            f"{rates.prompt_tokens_per_s:,.1f} prompt, {rates.generated_tokens_per_s:,.1f} generated tokens/s"
        )
        lines.append(["throughput", f"{rates.requests_per_s:,.3f} requests/s, {tokens}"])
    lines += _kv_lines(summary)
    lines += _energy_lines(summary.energy)
    lines += replica_lines(summary.autoscaling)
    return _table(lines, left=(0, 1), indent="")


def _energy_lines(energy: Mapping[str, Any] | None) -> list[list[str]]:
    """What the run drew, and by what."""
    if energy is None or not energy["total_j"]:
        return []
    text = f"{_joules(energy['total_j'])}, {energy['mean_w']:,.1f} W on average"
    if energy["per_generated_token_j"] is not None:
        text += f", {energy['per_generated_token_j']:,.3f} J per generated token"
    lines = [["energy", text]]
    parts: Mapping[str, float] = energy["components_j"]
    if len(parts) > 1:
        lines.append(["", ", ".join(f"{name} {_joules(joules)}" for name, joules in parts.items())])
    return lines


def _joules(joules: float) -> str:
    return f"{joules / 1000:,.3f} kJ" if joules >= 1000 else f"{joules:,.3f} J"


def _kv_lines(summary: RunSummary) -> list[list[str]]:
    """What moved between instances, and what host memory gave."""
    lines: list[list[str]] = []
    moves = summary.kv_moves
    if moves is not None:
        text = (
            f"{moves.reads:,} reads, {_gib(moves.size_bytes)} GiB; from asked for to there "
            f"{moves.mean_ns / NS_PER_MS:,.2f} ms on average, {moves.max_ns / NS_PER_MS:,.2f} ms at most, of which "
            f"{moves.waited_ns / moves.reads / NS_PER_MS:,.2f} ms on average in line for links"
        )
        if moves.expired_leases:
            text += f"; {moves.expired_leases:,} leases ran out, {moves.late_reads:,} reads came too late"
        if moves.failed_reads:
            text += f"; {moves.failed_reads:,} reads failed"
        lines.append(["KV moved", text])
    for instance, tier in enumerate(summary.tiers):
        if tier is not None:
            share = tier.hit_tokens / tier.looked_up_tokens if tier.looked_up_tokens else 0.0
            text = (
                f"instance {instance}: {share:.1%} of the tokens looked up found; {tier.stores:,} copies out, "
                f"{tier.loads:,} back; steps held back {tier.stall_ns / NS_PER_MS:,.2f} ms"
            )
            if tier.refused_stores:
                text += f"; {tier.refused_stores:,} times no room to store"
            lines.append(["CPU tier", text])
    return lines


def _latencies(summary: RunSummary) -> str:
    latency = summary.latency
    named: list[tuple[str, Distribution | None]] = [
        ("TTFT", latency.ttft),
        ("TPOT", latency.tpot),
        ("ITL", latency.itl),
        ("latency", latency.latency),
        ("queuing", latency.queuing),
    ]
    rows = [["", "unit", "mean", "p50", "p90", "p99", "max"]]
    for name, of in named:
        if of is not None:
            unit, scale = _unit(of.max_ns)
            values = (of.mean_ns, of.p50_ns, of.p90_ns, of.p99_ns, of.max_ns)
            rows.append([name, unit, *(f"{value / scale:,.2f}" for value in values)])
    return _table(rows, left=(0, 1), indent="") if len(rows) > 1 else ""


def _stages(summary: RunSummary) -> str:
    """A table per instance; where there are many, one per kind of instance with means over its instances."""
    if len(summary.instances) <= _INSTANCES_SHOWN:
        groups = [[instance] for instance in summary.instances]
    else:
        by_kind: dict[object, list[InstanceSummary]] = {}
        for instance in summary.instances:
            stages = tuple((stage.hardware, stage.layers, stage.kv_tokens) for stage in instance.stages)
            by_kind.setdefault((instance.model, instance.tp_size, stages), []).append(instance)
        groups = list(by_kind.values())
    return "\n\n".join(_stage_table(group) for group in groups)


def _stage_table(group: Sequence[InstanceSummary]) -> str:
    first = group[0]
    title = _instance_title(first.instance, first.model, first.tp_size, first.pp_size)
    requests = sum(instance.requests for instance in group)
    if len(group) > 1:
        kind = _instance_title(None, first.model, first.tp_size, first.pp_size)
        title = f"{len(group)} instances, {first.instance} to {group[-1].instance}{kind}; shares are means"
    rows = [["stage", "hardware", "layers", "weights", "KV tokens", "stranded", "busy", "bubble", "idle"]]
    for place, stage in enumerate(first.stages):
        alike = [instance.stages[place] for instance in group]
        rows.append(
            [
                str(stage.stage),
                stage.hardware,
                str(stage.layers),
                f"{_gib(stage.weights_bytes)} GiB",
                f"{stage.kv_tokens:,}",
                f"{_gib(stage.stranded_bytes)} GiB",
                _share(one.busy for one in alike),
                _share(one.bubble for one in alike),
                _share(one.idle for one in alike),
            ]
        )
    lines = [
        f"{title}; {requests:,} requests, KV capacity {first.kv_tokens:,} tokens",
        _table(rows, left=(1,)),
    ]
    causes = _causes([stage for instance in group for stage in instance.stages])
    return "\n".join([*lines, *causes])


def _causes(stages: Sequence[StageSummary]) -> list[str]:
    """What the stages did while their instance had requests, bubbles of 0.05% and more by size."""
    total: dict[str, int] = {}
    for stage in stages:
        for cause, ns in (stage.causes_ns or {}).items():
            total[cause] = total.get(cause, 0) + ns
    total.pop("idle", None)
    busy_ns = sum(stage.busy_ns for stage in stages)
    active_ns = busy_ns + sum(total.values())
    if not total or not active_ns:
        return []
    bubbles = sorted(((ns, cause) for cause, ns in total.items() if ns >= active_ns / 2000), reverse=True)
    parts = [f"{cause} {ns / active_ns:.1%}" for ns, cause in [(busy_ns, "busy"), *bubbles]]
    return ["  while it had requests: " + ", ".join(parts)]


def _remarks(summary: RunSummary) -> str:
    """What the costs rest on, what was refused and what the user should know."""
    basis = [line for instance in summary.instances for line in instance.basis]
    basis += () if summary.energy is None else summary.energy["basis"]
    lines = [rests_on(basis)]
    for instance in summary.instances:
        lines += [wrapped(f"note: instance {instance.instance}: {note}") for note in instance.notes]
    lines += [f"rejected: request {one.request}: {one.reason}" for one in summary.rejections]
    unseen = summary.requests.rejected - len(summary.rejections)
    return "\n".join([*lines, *([f"rejected: {unseen:,} more"] if unseen else [])])


def _instance_title(instance: int | None, model: str, tp_size: int, pp_size: int) -> str:
    name = "" if instance is None else f"instance {instance}"
    return f"{name}: {model}, tp {tp_size} x pp {pp_size}"


def _share(shares: Iterable[float | None]) -> str:
    """The mean as percent."""
    known = [share for share in shares if share is not None]
    return f"{sum(known) / len(known):.1%}" if known else "-"


def _reserve(stage: StageMemory, name: str) -> int:
    return sum(size for key, size in stage.reserves if key == name)


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / GIB:.2f}"


def _unit(largest_ns: int) -> tuple[str, int]:
    """The unit in which a row reads best."""
    for unit, scale in (("s", 100 * NS_PER_S), ("ms", NS_PER_MS), ("us", NS_PER_US)):
        if largest_ns >= scale:
            return unit, NS_PER_S if unit == "s" else scale
    return "ns", 1


def _table(rows: Sequence[Sequence[str]], *, left: Sequence[int] = (), indent: str = "  ") -> str:
    """Columns two spaces apart, right-aligned but for those in ``left``."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines: list[str] = []
    for row in rows:
        cells = (
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append((indent + "  ".join(cells)).rstrip())
    return "\n".join(lines)
