"""What one replica may take, from its mean step alone: an estimate in microseconds, for the order of a search.

In a steady state as many requests begin as end. With x of them per step, a step holds x (answer - 1) decodes of the
mean context and, where a prompt begins, its tokens; the compiled costs say how long each stage computes on it. A
token's time is a round through all stages, or the slowest stage's for all micro-batches in flight, whichever is longer;
where one of those has a prompt they all take as long. Nothing of queues, of bursts or of percentiles is in it: what it
says is simulated before anybody is told (see :mod:`penstock.explore.sizing`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from penstock.cost.step_cost import StepShape
from penstock.engine.build import BuiltInstance
from penstock.explore.slo import Slo
from penstock.units import NS_PER_S
from penstock.workload.workload import Workload

_HALVINGS = 30


@dataclass(frozen=True, slots=True)
class Traffic:
    """Mean tokens of a request: its prompt, and its answer."""

    prompt: float
    answer: float

    @classmethod
    def of(cls, workload: Workload) -> Traffic:
        """Of all requests of a workload."""
        return cls(float(workload.input_tokens.mean()), float(workload.output_tokens.mean()))


@dataclass(frozen=True, slots=True)
class MeanStep:
    """``requests`` that begin per step of one rank; ``round_ns`` between two tokens of one sequence; ``running``
    sequences of one rank; ``requests_per_s`` of one rank."""

    requests: float
    round_ns: float
    running: float
    requests_per_s: float


@dataclass(frozen=True, kw_only=True)
class Replica:
    """A replica as the estimate sees it: all ``ranks`` are alike and equally loaded. ``decodes`` False computes prompts
    alone; ``prefills`` False generates from KV that comes from elsewhere. ``host_ns`` is the engine's own time for a
    step, which asynchronous scheduling hides behind the steps in flight (``host_hides``). ``stage_ns`` is known of
    steps of up to ``most_step_tokens``."""

    stage_ns: Callable[[StepShape], Sequence[int]]
    hop_ns: Callable[[int], int]
    pp: int
    ranks: int
    max_num_seqs: int
    max_num_batched_tokens: int
    kv_tokens: int
    host_ns: int = 0
    host_hides: bool = False
    prefills: bool = True
    decodes: bool = True
    most_step_tokens: int = 1 << 62

    @classmethod
    def of(cls, built: BuiltInstance) -> Replica:
        """Of one of the ranks that make it up."""
        spec, memory = built.spec, built.deployment.memory
        group, ranks = built.group_cost, spec.dp_size
        stage = built.cost.stage.stage_ns
        hops, overhead = built.cost.hops, spec.overhead
        return cls(
            stage_ns=stage if group is None else lambda shape: group.forward_ns([shape] * ranks),
            hop_ns=lambda tokens: sum(hop.arrival_ns[min(tokens, len(hop.arrival_ns) - 1)] for hop in hops),
            pp=spec.pp_size,
            ranks=ranks,
            max_num_seqs=spec.scheduler.max_num_seqs,
            max_num_batched_tokens=spec.scheduler.max_num_batched_tokens,
            kv_tokens=(memory.num_gpu_blocks - 1) * memory.block_size,
            host_ns=overhead.schedule_ns
            + overhead.update_ns
            + overhead.ipc_to_first_stage_ns
            + overhead.ipc_from_last_stage_ns,
            host_hides=spec.scheduler.async_scheduling,
            prefills=spec.pd_type != "decode",
            decodes=spec.pd_type != "prefill",
        )

    def with_options(self, max_num_seqs: int, max_num_batched_tokens: int) -> Replica:
        """The same with other limits of a step."""
        return replace(self, max_num_seqs=max_num_seqs, max_num_batched_tokens=max_num_batched_tokens)

    def most(self, traffic: Traffic, round_limit_ns: float = math.inf) -> MeanStep | None:
        """The fullest mean step that its limits allow and whose round takes ``round_limit_ns`` at most; None where even
        the emptiest takes longer."""
        high = self._most_requests(traffic)
        low = high / 2**_HALVINGS
        if self.step(low, traffic).round_ns > round_limit_ns:
            return None
        if self.step(high, traffic).round_ns <= round_limit_ns:
            return self.step(high, traffic)
        while high > low * 1.002:
            middle = math.sqrt(low * high)
            low, high = (
                (middle, high) if self.step(middle, traffic).round_ns <= round_limit_ns else (low, middle)
            )
        return self.step(low, traffic)

    def step(self, requests: float, traffic: Traffic) -> MeanStep:
        """The mean step in which so many requests begin."""
        decodes = requests * self._decodes_of(traffic)
        prompt = traffic.prompt if self.prefills else 0.0
        # Prompts come one by one, by chance: some steps have none, the others more than the mean.
        room = max(self.max_num_batched_tokens - decodes, 1.0)
        share = -math.expm1(-requests) if prompt else 0.0
        chunk = requests * prompt / share if share else 0.0
        if chunk > room:
            chunk, share = room, min(requests * prompt / room, 1.0)
        # Micro-batches in flight go round together: one with a prompt holds up those without.
        held_up = 1 - (1 - share) ** self.pp
        round_ns = slot_ns = 0.0
        context = traffic.prompt + traffic.answer / 2
        for part, slots, tokens in ((1 - share, 1 - held_up, 0), (share, held_up, round(chunk))):
            running = round(decodes) or (1 if self.decodes and not tokens else 0)
            tokens = min(tokens, max(self.max_num_batched_tokens - running, 0))  # both are rounded
            if not part or not running + tokens:
                continue
            shape = StepShape(
                prefill_tokens=tokens,
                decodes=running,
                decode_context=round(running * context),
                min_context=round(context) if running else 0,
                max_context=round(context) if running else 0,
                sampled=max(round(decodes + requests), 1),
            )
            times = self.stage_ns(shape)
            round_ns += part * (sum(times) + self.hop_ns(running + tokens))
            slot_ns += slots * max(times)
        # A micro-batch comes back to the first stage behind the engine's turn, with as many in flight as stages.
        turn_ns = 0 if self.host_hides else self.host_ns
        round_ns = max(max(round_ns, self.pp * slot_ns) + turn_ns, self.pp * self.host_ns, 1.0)
        per_s = self.ranks * requests / (round_ns / self.pp) * NS_PER_S
        return MeanStep(requests, round_ns, decodes * self.pp, per_s)

    def _decodes_of(self, traffic: Traffic) -> float:
        return max(traffic.answer - 1, 0.0) if self.decodes else 0.0

    def _most_requests(self, traffic: Traffic) -> float:
        """That places, KV cache and a step's tokens leave room for, per step of one rank."""
        tokens = self._decodes_of(traffic) + (traffic.prompt if self.prefills else 0.0)
        most = self.max_num_batched_tokens / max(tokens, 1e-9)
        if self.decodes:
            context = traffic.prompt + traffic.answer / 2
            running = min(self.max_num_seqs, self.kv_tokens / context)
            most = min(most, running / self.pp / max(self._decodes_of(traffic), 1e-9))
        return most


def round_limit_ns(slo: Slo, traffic: Traffic) -> float:
    """How long a token may take by the tightest bound of an SLO on tokens or whole answers."""
    limits = [bound.limit_ns for bound in slo.bounds if bound.metric in ("tpot", "itl")]
    limits += [bound.limit_ns / traffic.answer for bound in slo.bounds if bound.metric == "latency"]
    return min(limits, default=math.inf)
