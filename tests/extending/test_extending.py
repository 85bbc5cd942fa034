"""What a stranger can add from outside, without a change to Penstock's own files."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from penstock import Observer, Request, Simulation, StepView, TurnChunk, load_cluster
from penstock.cost.step_cost import StepLoad
from penstock.engine.build import build_instances
from penstock.recording.records import Cause, RunRecord
from penstock.scheduler.kv_connector import NO_MATCH, KVConnector, Match, TransferReport
from penstock.scheduler.policies import SchedulerView, StepLimits
from penstock.scheduler.protocol import SchedulerStatus
from penstock.scheduler.request_state import Outcome, RequestState
from penstock.scheduler.step import Step
from penstock.spec.options import RunOptions
from penstock.workload.workload import Workload


def cluster(instances: int = 1, **changes: Any) -> Any:
    instance: dict[str, Any] = {
        "model_name": "meta-llama/Llama-3.1-8B",
        "hardware": "H100",
        "npu_mem": {"mem_size": 80, "mem_bw": 3350, "mem_latency": 0},
        "tp_size": 1,
        "pp_size": 2,
        **changes,
    }
    node = {"num_instances": instances, "instances": [instance] * instances}
    return load_cluster({"num_nodes": 1, "link_bw": 100, "link_latency": 1000, "nodes": [node]})


WORKLOAD = Workload.from_columns([0] * 12, [400] * 12, [20] * 12, "test")


def finish_ns(record: RunRecord) -> list[int]:
    return record.requests.values()[:, 7].tolist()


# --- a policy -----------------------------------------------------------------------------------------------------


class OnePrompt:
    """At most one request is admitted per step."""

    def __init__(self, pp_size: int) -> None:
        self.pp_size = pp_size

    def limits(self, view: SchedulerView) -> StepLimits:
        return StepLimits(admissions=1)


def test_a_policy_of_ones_own() -> None:
    prefills: list[int] = []

    class Keep:
        def accept(self, chunk: TurnChunk) -> None:
            prefills.extend(chunk.column("prefills").tolist())

    Simulation(cluster(policy=f"{__name__}:OnePrompt"), WORKLOAD, sinks=[Keep()]).run()
    assert max(prefills) == 1
    assert sum(prefills) == 12


# --- a router -----------------------------------------------------------------------------------------------------


class Always:
    """Everything goes to the last instance."""

    def route(self, request: Request, instances: Sequence[Any]) -> tuple[int, str]:
        return len(instances) - 1, "the last"


def test_a_router_of_ones_own() -> None:
    record = Simulation(cluster(3), WORKLOAD, RunOptions(router=f"{__name__}:Always")).run()
    assert set(record.requests.values()[:, 1].tolist()) == {2}


# --- a cost model -------------------------------------------------------------------------------------------------


class Flat:
    """Every stage takes a millisecond for any step."""

    def stage_ns(self, load: StepLoad) -> Sequence[int]:
        return [1_000_000, 1_000_000]

    def notes(self) -> tuple[str, ...]:
        return ()


def test_a_cost_model_of_ones_own() -> None:
    spec = cluster(engine_idle_sleep_ns=0)
    (built,) = build_instances(spec, None)
    flat = replace(built, cost=replace(built.cost, stage=Flat()))
    record = Simulation(spec, Workload.from_columns([0], [400], [1], "test"), built=[flat]).run()
    hop_and_return = built.cost.hops[0].arrival_ns[400] + built.cost.token_return_ns[1]
    assert finish_ns(record) == [2_000_000 + hop_and_return]


# --- a sink -------------------------------------------------------------------------------------------------------


class Tokens:
    """Counts the tokens that were computed."""

    def __init__(self) -> None:
        self.tokens = 0

    def accept(self, chunk: TurnChunk) -> None:
        self.tokens += int(chunk.column("tokens").sum())


def test_a_sink_of_ones_own() -> None:
    sink = Tokens()
    Simulation(cluster(), WORKLOAD, sinks=[sink]).run()
    assert sink.tokens == 12 * (400 + 20 - 1)


# --- a KV connector -----------------------------------------------------------------------------------------------


class Store:
    """A store that holds the first 256 tokens of every prompt: there at once, or after ``load_ns``."""

    writes_blocks = True
    must_deliver = False

    def __init__(self, load_ns: int | None = None) -> None:
        self.load_ns = load_ns
        self.loading: list[tuple[int, RequestState]] = []
        self.waiting: list[RequestState] = []
        self.served = 0

    def matched_tokens(self, state: RequestState, computed: int) -> Match | None:
        return Match(256 - computed, loads=self.load_ns is not None) if computed < 256 else NO_MATCH

    def added(self, state: RequestState) -> None: ...

    def allocated(self, state: RequestState, hit_blocks: int, external_tokens: int) -> None:
        self.served += external_tokens
        if external_tokens and self.load_ns is not None:
            self.waiting.append(state)

    def scheduled(self, step: Step, now: int) -> None:
        self.loading += [(now + (self.load_ns or 0), state) for state in self.waiting]
        self.waiting.clear()

    def reported(self, now: int) -> TransferReport:
        done = [state for at_ns, state in self.loading if at_ns <= now]
        self.loading = [entry for entry in self.loading if entry[0] > now]
        return TransferReport(loaded=done)

    def finished(self, state: RequestState, now: int) -> bool:
        return False

    def quiet_until_ns(self) -> int:
        return 0

    def has_work(self) -> bool:
        return False


def served_with(store: KVConnector) -> tuple[RunRecord, int]:
    """The record, and the tokens computed."""
    sink = Tokens()
    record = Simulation(cluster(), WORKLOAD, sinks=[sink], connector_for=lambda built: store).run()
    return record, sink.tokens


def test_a_connector_of_ones_own() -> None:
    without = Simulation(cluster(), WORKLOAD).run()
    store, slow_store = Store(), Store(load_ns=50_000_000)
    at_once, tokens = served_with(store)
    later, tokens_later = served_with(slow_store)
    assert store.served == slow_store.served == 12 * 256
    assert tokens == tokens_later == 12 * (400 - 256 + 20 - 1)
    assert max(finish_ns(at_once)) < max(finish_ns(without)) < max(finish_ns(later))
    assert later.requests.values()[:, 5].min() >= 50_000_000  # nobody runs before its KV is there


# --- an observer --------------------------------------------------------------------------------------------------


class Impatient(Observer):
    """Clients leave when their request is preempted."""

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation

    def step_scheduled(self, step: StepView) -> None:
        for request in step.preempted:
            self.simulation.abort(request)


def test_an_observer_of_ones_own() -> None:
    patient = Simulation(cluster(num_gpu_blocks=265), WORKLOAD).run()
    simulation = Simulation(cluster(num_gpu_blocks=265), WORKLOAD)
    simulation.observe(Impatient(simulation))
    record = simulation.run()
    preempted = sum(totals.preemptions for totals in patient.totals)
    assert preempted > 0
    assert len(record.abortions) > 0
    assert len(record.requests) + len(record.abortions) == 12
    assert record.requests.values()[:, 8].max() == 0  # nobody who was preempted has stayed


# --- another engine's scheduler -----------------------------------------------------------------------------------


class StaticBatching:
    """First come first served, ``size`` at a time: a batch computes its prompts together, then its answers, and the
    next begins when the last of it has finished. It keeps no account of KV blocks."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.token_gaps: array[int] = array("q")
        self.preemptions = self.cohort_turns = self.exact_turns = 0
        self.waiting: list[RequestState] = []
        self.batch: list[RequestState] = []
        self.in_flight = False
        self._status = SchedulerStatus(usable_blocks=10**9)

    def add(self, state: RequestState, now: int) -> None:
        self.waiting.append(state)

    def abort(self, state: RequestState, now: int) -> bool:
        for queue in (self.waiting, self.batch):
            if state in queue:
                queue.remove(state)
                state.outcome = Outcome.ABORTED
                return True
        return False

    def has_work(self) -> bool:
        return bool(self.waiting or self.batch)

    def schedule(self, now: int) -> Step:
        step = Step()
        self._status.cause = int(Cause.DEPENDENCY if self.has_work() else Cause.IDLE)
        if self.in_flight:
            return step
        if not self.batch:
            self.batch, self.waiting = self.waiting[: self.size], self.waiting[self.size :]
        for order, state in enumerate(self.batch):
            state.order = order
            if state.first_scheduled_ns is None:
                state.first_scheduled_ns = now
            step.add_chunk(state, state.num_tokens - state.num_computed, state.num_computed)
            state.num_computed = state.num_tokens
            step.sampling.append(state)
            step.sampled += 1
        self.in_flight = step.tokens > 0
        self.exact_turns += 1
        return step

    def update(self, step: Step, now: int) -> Sequence[RequestState]:
        self.in_flight = self.in_flight and not step.tokens
        for state in step.sampling:
            state.num_tokens += 1
            if state.first_token_ns is None:
                state.first_token_ns = now
            else:
                self.token_gaps.extend((now - state.last_token_ns, 1))
            state.last_token_ns = now
        ended = [state for state in step.sampling if state.num_tokens == state.final_tokens]
        self.batch = [state for state in self.batch if state not in ended]
        return ended

    def states(self) -> Iterable[RequestState]:
        return [*self.batch, *self.waiting]

    def first_in_line(self) -> RequestState:
        return [*self.batch, *self.waiting][0]

    def status(self) -> SchedulerStatus:
        self._status.running, self._status.waiting = len(self.batch), len(self.waiting)
        return self._status


def test_another_engine_s_scheduler() -> None:
    workload = Workload.from_columns([0] * 12, [400] * 12, [20, 5, 9, 30] * 3, "test")
    options = RunOptions(keep_token_times=False)
    static = Simulation(cluster(), workload, options, scheduler_for=lambda built: StaticBatching(5)).run()
    continuous = Simulation(cluster(), workload, options).run()
    assert len(static.requests) == 12
    rows = static.requests.values()
    rows = rows[rows[:, 0].argsort()]
    for batch in (slice(0, 5), slice(5, 10)):
        following = rows[batch.stop :, 5].min()
        assert following >= rows[batch, 7].max()  # a batch begins when the one before it has ended
    assert max(finish_ns(continuous)) < max(finish_ns(static))
    assert static.totals[0].busy_ns[0] > 0
