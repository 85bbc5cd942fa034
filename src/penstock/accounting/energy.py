"""Power and energy of a run, from what every stage did when.

An NPU is *active* while its stage runs a step (collectives among it), on *standby* for so long after one as its power
says, then *idle*; before its first step it is idle. A host's CPU draws what it draws while serving as long as any stage
of its node runs a step. Everything else draws the same all the time; bytes moved cost on top: links by what steps and
reads of KV move over them (:mod:`penstock.cost.traffic`), host memory by what is read from it or written to it.

The window is [first arrival, last event] of the run. All sums are integrals of power over it: how turns are cut into
chunks changes nothing, or the last bits where nodes have power of their own.

LLMServingSim's ``PowerModel`` books energy when a step is built, of compute rows alone, and one rank's share of a
ring's bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.accounting.energy_report import COMPONENTS, EnergyReport, InstanceEnergy
from penstock.accounting.energy_shares import InstancePower, StepEnergies, merged, shares
from penstock.accounting.interval_sums import IntervalSums
from penstock.cost.memory_cost import pim_layer
from penstock.cost.placement import host_bytes_per_step
from penstock.cost.traffic import link_bytes_per_token
from penstock.machine_code import core
from penstock.recording.records import RunRecord, TurnChunk
from penstock.spec.cluster import ClusterSpec, InstanceSpec
from penstock.spec.power import NodePower, NpuPower, estimated_npu_power
from penstock.units import NEVER_NS, NS_PER_S, Int64Array

_FIRST_INTERVAL_NS = NS_PER_S // 16
_NPU, _CPU, _MEMORY, _LINK = range(4)
_NOTHING = np.zeros(0, dtype=np.int64)


@dataclass(slots=True)
class _Stage:
    """``npus`` alike, of one node; ``end_ns`` of its last step so far. W of all its NPUs, those of work above idle."""

    npus: int
    node: int
    power: NpuPower
    end_ns: int | None = None
    active_ns: int = 0
    standby_ns: int = 0

    @property
    def active_w(self) -> float:
        return self.npus * (self.power.active_w - self.power.idle_w)

    @property
    def standby_w(self) -> float:
        return self.npus * (self.power.standby_w - self.power.idle_w)

    @property
    def idle_w(self) -> float:
        return self.npus * self.power.idle_w


class _Followed:
    """What an instance draws above idle, by interval until it is taken: spans within one interval are summed, so that
    memory does not depend on its length; those over an edge are kept."""

    def __init__(self, interval_ns: int) -> None:
        self._interval_ns = interval_ns
        self._within: dict[int, float] = {}
        self._over_edges: list[tuple[Int64Array, Int64Array, float]] = []

    def add(self, begin_ns: Int64Array, end_ns: Int64Array, watts: float) -> None:
        """Count spans [begin, end)."""
        first, last = begin_ns // self._interval_ns, (end_ns - 1) // self._interval_ns
        inside = first == last
        intervals, place = np.unique(first[inside], return_inverse=True)
        spent = np.bincount(place, weights=(end_ns - begin_ns)[inside], minlength=len(intervals)) * watts
        for interval, amount in zip(intervals.tolist(), spent.tolist(), strict=True):
            self._within[interval] = self._within.get(interval, 0.0) + amount
        if not inside.all():
            self._over_edges.append((begin_ns[~inside], end_ns[~inside], watts))

    def take(self, begin_ns: int, end_ns: int) -> float:
        """W x ns in an interval; it and those before it are let go."""
        interval = begin_ns // self._interval_ns
        total = self._within.get(interval, 0.0)
        self._within = {key: amount for key, amount in self._within.items() if key > interval}
        for begin, end, watts in self._over_edges:
            overlap = np.minimum(end, end_ns) - np.maximum(begin, begin_ns)
            total += float(overlap[overlap > 0].sum()) * watts
        self._over_edges = [span for span in self._over_edges if int(span[1].max()) > end_ns]
        return total


class EnergyMeter:
    """A TurnSink that measures the instances of a cluster from ``origin_ns``, when the first request arrives.

    ``keep_steps`` keeps 24 bytes a step, from which :meth:`finish` tells each request's share.
    """

    def __init__(self, cluster: ClusterSpec, origin_ns: int, *, keep_steps: bool = False) -> None:
        self._cluster = cluster
        self._nodes: tuple[NodePower | None, ...] = cluster.power
        self._stages: list[list[_Stage]] = []
        self._traffic: list[tuple[float, float, float]] = []
        self._sums = IntervalSums(origin_ns, 4, _FIRST_INTERVAL_NS)
        self._origin_ns = origin_ns
        self._busy: list[list[tuple[Int64Array, Int64Array]]] = [[] for _ in cluster.instances]
        self._standby: list[list[tuple[Int64Array, Int64Array, float]]] = [[] for _ in cluster.instances]
        self._steps = [StepEnergies() if keep_steps else None for _ in cluster.instances]
        self._moved_j = [[0.0, 0.0] for _ in cluster.instances]
        self._followed: list[_Followed] = []
        self._core = core()
        for spec in cluster.instances:
            self._stages.append([_stage(spec, stage, cluster) for stage in range(spec.pp_size)])
            home = self._home(spec)
            self._traffic.append(
                (
                    0.0 if home is None else home.link_j_per_byte * link_bytes_per_token(spec),
                    0.0 if home is None else home.memory_j_per_byte * host_bytes_per_step(spec),
                    0.0 if home is None else home.memory_j_per_byte,
                )
            )

    @classmethod
    def of(cls, cluster: ClusterSpec, origin_ns: int, *, keep_steps: bool = False) -> EnergyMeter | None:
        """A meter, or None where the power of an accelerator is not known."""
        known = all(
            _power_of(spec, stage, cluster) is not None
            for spec in cluster.instances
            for stage in range(spec.pp_size)
        )
        return cls(cluster, origin_ns, keep_steps=keep_steps) if known else None

    def accept(self, chunk: TurnChunk) -> None:
        """Measure the steps of a chunk of turns."""
        stages = self._stages[chunk.instance]
        ran = chunk.stage(0, "end") > chunk.stage(0, "start")
        if not ran.any():
            return
        if self._core is not None and self._has_stages_alone(chunk.instance):
            last = len(ran) - 1 - int(ran[::-1].argmax())
            for number, stage in enumerate(stages):
                self._count(self._core, chunk, number, stage, int(chunk.stage(number, "end")[last]))
            return
        step_j = np.zeros(int(ran.sum()))
        busy: list[tuple[Int64Array, Int64Array]] = []
        for number, stage in enumerate(stages):
            begin, end = chunk.stage(number, "start")[ran], chunk.stage(number, "end")[ran]
            self._measure(chunk.instance, stage, begin, end)
            busy.append((begin, end))
            step_j += (end - begin) * (stage.active_w / NS_PER_S)
        if self._home(self._cluster.instances[chunk.instance]) is not None:
            self._busy[chunk.instance].append(merged(busy))
        per_token, per_step, _ = self._traffic[chunk.instance]
        at_ns, tokens = chunk.column("update_ns")[ran], chunk.column("tokens")[ran]
        link_j = tokens.astype(np.float64) * per_token
        memory_j = np.full(len(at_ns), per_step) + self._in_memory_j(chunk, ran)
        self._moved_j[chunk.instance][0] += float(link_j.sum())
        self._moved_j[chunk.instance][1] += float(memory_j.sum())
        self._sums.put(_LINK, at_ns, link_j)
        self._sums.put(_MEMORY, at_ns, memory_j)
        kept = self._steps[chunk.instance]
        if kept is not None:
            share = chunk.column("prefill_tokens")[ran] / np.maximum(tokens, 1)
            kept.add(at_ns, step_j + link_j + memory_j, share)

    def _has_stages_alone(self, instance: int) -> bool:
        """Whether nothing is asked of an instance but the sums of its stages."""
        is_followed = bool(self._followed) or self._steps[instance] is not None
        return not is_followed and self._home(self._cluster.instances[instance]) is None

    def _count(self, machine: Any, chunk: TurnChunk, number: int, stage: _Stage, end_ns: int) -> None:
        """:meth:`_measure` in machine code, of a chunk whose last step ends at ``end_ns``."""
        self._sums.reach(end_ns)
        active_ns, standby_ns, stage.end_ns = machine.measure(
            np.ascontiguousarray(chunk.values),
            chunk.pp_size,
            number,
            -1 if stage.end_ns is None else stage.end_ns,
            stage.power.standby_ns,
            self._sums.counts(_NPU, stage.active_w / NS_PER_S),
            self._sums.counts(_NPU, stage.standby_w / NS_PER_S),
            self._sums.origin_ns,
            self._sums.interval_ns,
        )
        stage.active_ns += active_ns
        stage.standby_ns += standby_ns

    def _in_memory_j(self, chunk: TurnChunk, ran: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64] | float:
        """Attention computed in memory: its channels above rest, by the contexts of all requests in the step."""
        spec = self._cluster.instances[chunk.instance]
        if spec.pim is None or self._home(spec) is None:
            return 0.0
        decodes, context = chunk.column("decodes")[ran], chunk.column("context_tokens")[ran]
        busy_ns = pim_layer(spec, spec.model.kinds[0]).busy_ns(decodes, context * (decodes > 0))
        return busy_ns * (spec.model.num_layers * (spec.pim.active_w - spec.pim.idle_w) / NS_PER_S)

    def npu_power_w(self, instance: int, begin_ns: int, end_ns: int) -> float:
        """Mean power of an instance's NPUs in [begin, end), one of the intervals that :meth:`follow` says, the last of
        which may be cut short: asked for in the order of time, once all turns scheduled before the end have been
        measured."""
        watts = sum(stage.idle_w for stage in self._stages[instance])
        watts += self._followed[instance].take(begin_ns, end_ns) / (end_ns - begin_ns)
        for stage in self._stages[instance]:
            if stage.end_ns is not None:
                until = min(stage.end_ns + min(stage.power.standby_ns, NEVER_NS - stage.end_ns), end_ns)
                watts += max(until - max(stage.end_ns, begin_ns), 0) * stage.standby_w / (end_ns - begin_ns)
        return watts

    def follow(self, interval_ns: int) -> None:
        """Keep what :meth:`npu_power_w` needs, of intervals of this length from 0 on."""
        self._followed = [_Followed(interval_ns) for _ in self._stages]

    def _measure(self, instance: int, stage: _Stage, begin: Int64Array, end: Int64Array) -> None:
        """Steps of a stage, in order, and what lies between them."""
        before = np.concatenate([[begin[0] if stage.end_ns is None else stage.end_ns], end[:-1]])
        after = np.minimum(before + np.minimum(begin - before, stage.power.standby_ns), begin)
        stage.active_ns += int((end - begin).sum())
        stage.standby_ns += int((after - before).sum())
        stage.end_ns = int(end[-1])
        self._sums.spread(_NPU, begin, end, stage.active_w / NS_PER_S)
        waits = after > before
        self._add_standby(instance, stage, before[waits], after[waits])
        if self._followed:
            self._followed[instance].add(begin, end, stage.active_w)
            self._followed[instance].add(before[waits], after[waits], stage.standby_w)

    def _add_standby(self, instance: int, stage: _Stage, begin: Int64Array, end: Int64Array) -> None:
        self._sums.spread(_NPU, begin, end, stage.standby_w / NS_PER_S)
        if len(begin) and self._steps[instance] is not None:
            self._standby[instance].append((begin, end, stage.standby_w))

    def finish(self, record: RunRecord) -> EnergyReport:
        """The run's energy; call it once, at its end."""
        begin_ns, end_ns = record.first_arrival_ns, max(record.end_ns, record.first_arrival_ns)
        for instance, stages in enumerate(self._stages):
            for stage in stages:
                if stage.end_ns is not None:
                    after = stage.end_ns + min(stage.power.standby_ns, max(end_ns - stage.end_ns, 0))
                    stage.standby_ns += after - stage.end_ns
                    if after > stage.end_ns:
                        self._add_standby(instance, stage, np.array([stage.end_ns]), np.array([after]))
        self._count_moved_kv(record)
        serving = self._serving(end_ns)
        window_s = (end_ns - begin_ns) / NS_PER_S
        instances = self._instances(begin_ns, end_ns, window_s)
        components = self._components(instances, serving, window_s)
        edges = self._sums.edges_ns(end_ns)
        report = EnergyReport(
            begin_ns=begin_ns,
            end_ns=end_ns,
            nodes=tuple(components),
            instances=tuple(instances),
            edges_ns=edges,
            watts=self._watts(edges, end_ns),
            generated_tokens=sum(total.generated_tokens for total in record.totals),
            basis=self._basis(),
        )
        if all(steps is not None for steps in self._steps):
            powers = self._instance_powers(serving)
            requests, unassigned = shares(record, powers, begin_ns, end_ns)
            return report.with_requests(requests, unassigned)
        return report

    # --- the parts of a report --------------------------------------------------------------------------------

    def _instances(self, begin_ns: int, end_ns: int, window_s: float) -> list[InstanceEnergy]:
        found: list[InstanceEnergy] = []
        for place, stages in enumerate(self._stages):
            joules = sum(
                stage.idle_w * window_s
                + (stage.active_ns * stage.active_w + stage.standby_ns * stage.standby_w) / NS_PER_S
                for stage in stages
            )
            active = sum(stage.npus * stage.active_ns for stage in stages)
            standby = sum(stage.npus * stage.standby_ns for stage in stages)
            whole = sum(stage.npus for stage in stages) * (end_ns - begin_ns)
            found.append(
                InstanceEnergy(
                    instance=self._cluster.instances[place].index,
                    npu_j=joules,
                    active_ns=active,
                    standby_ns=standby,
                    idle_ns=whole - active - standby,
                )
            )
        return found

    def _components(
        self, instances: Sequence[InstanceEnergy], serving: dict[int, tuple[Int64Array, Int64Array]], s: float
    ) -> list[dict[str, float]]:
        """J by component of each node."""
        nodes: list[dict[str, float]] = [
            dict.fromkeys(COMPONENTS, 0.0) for _ in range(self._cluster.num_nodes)
        ]
        for place, stages in enumerate(self._stages):
            for stage in stages:
                nodes[stage.node]["npu"] += (
                    stage.idle_w * s
                    + (stage.active_ns * stage.active_w + stage.standby_ns * stage.standby_w) / NS_PER_S
                )
            home = nodes[self._cluster.instances[place].node]
            home["link"] += self._moved_j[place][0]
            home["memory"] += self._moved_j[place][1]
        for node, power in enumerate(self._nodes):
            if power is None:
                continue
            begin, end = serving[node]
            here = nodes[node]
            here["cpu"] += power.cpu_w * s + float((end - begin).sum()) * power.cpu_serving_w / NS_PER_S
            here["base"] += power.base_w * s
            here["memory"] += power.memory_w * s
            here["link"] += power.links_w * s
            here["nic"] += power.nics_w * s
            here["storage"] += power.storage_w * s
        return nodes

    def _serving(self, end_ns: int) -> dict[int, tuple[Int64Array, Int64Array]]:
        """When any stage of a node runs a step, by node; counts the host's share into the sums over time."""
        by_node: dict[int, tuple[Int64Array, Int64Array]] = {}
        for node in range(self._cluster.num_nodes):
            parts = [
                span
                for place, spec in enumerate(self._cluster.instances)
                if spec.node == node
                for span in self._busy[place]
            ]
            begin, end = merged(parts) if parts else (_NOTHING, _NOTHING)
            by_node[node] = begin, np.minimum(end, end_ns)
            power = self._nodes[node] if node < len(self._nodes) else None
            if power is not None:
                self._sums.spread(_CPU, begin, end, power.cpu_serving_w / NS_PER_S)
        return by_node

    def _count_moved_kv(self, record: RunRecord) -> None:
        """KV between instances over links, and to and from host memory."""
        for one in record.transfers:
            place = one.source
            home = self._home(self._cluster.instances[place])
            if home is not None and home.link_j_per_byte:
                joules = one.size_bytes * home.link_j_per_byte
                self._moved_j[place][0] += joules
                self._sums.put(_LINK, np.array([one.end_ns]), np.array([joules]))
                self._keep_move(place, one.end_ns, joules)
        for place, (total, deployment) in enumerate(zip(record.totals, record.deployments, strict=True)):
            spec = self._cluster.instances[place]
            if total.tier is None or spec.tier is None:
                continue
            chunk = sum(stage.kv_bytes_per_block for stage in deployment.memory.stages) * spec.tp_size
            moved = (total.tier.stores + total.tier.loads) * chunk * spec.tier.blocks_per_chunk
            joules = moved * self._traffic[place][2]
            self._moved_j[place][1] += joules
            self._sums.put(_MEMORY, np.array([record.end_ns]), np.array([joules]))
            self._keep_move(place, record.end_ns, joules)

    def _keep_move(self, place: int, at_ns: int, joules: float) -> None:
        kept = self._steps[place]
        if kept is not None:
            kept.add(np.array([at_ns]), np.array([joules]), np.zeros(1))

    def _instance_powers(self, serving: dict[int, tuple[Int64Array, Int64Array]]) -> list[InstancePower]:
        """What shares are made of; a node's host is its instances' in equal parts."""
        found: list[InstancePower] = []
        homes = [spec.node for spec in self._cluster.instances]
        for place, spec in enumerate(self._cluster.instances):
            steps = self._steps[place]
            assert steps is not None
            home = self._home(spec)
            sharers = homes.count(spec.node)
            spans = list(self._standby[place])
            constant = sum(stage.idle_w for stage in self._stages[place])
            if home is not None:
                constant += home.constant_w / sharers
                begin, end = serving[spec.node]
                spans.append((begin, end, home.cpu_serving_w / sharers))
            found.append(InstancePower(spec.index, constant, spans, steps))
        return found

    def _watts(self, edges: Int64Array, end_ns: int) -> dict[str, list[float]]:
        """Mean power of each interval by component."""
        seconds = np.diff(edges) / NS_PER_S
        table = self._sums.table(end_ns)
        idle_w = sum(stage.idle_w for stages in self._stages for stage in stages)
        known = [power for power in self._nodes if power is not None]
        constant = {
            "npu": (_NPU, idle_w),
            "cpu": (_CPU, sum(power.cpu_w for power in known)),
            "memory": (_MEMORY, sum(power.memory_w for power in known)),
            "link": (_LINK, sum(power.links_w for power in known)),
            "nic": (None, sum(power.nics_w for power in known)),
            "storage": (None, sum(power.storage_w for power in known)),
            "base": (None, sum(power.base_w for power in known)),
        }
        return {
            name: ((table[row] / seconds if row is not None else 0 * seconds) + watts).tolist()
            for name, (row, watts) in constant.items()
        }

    def _basis(self) -> tuple[str, ...]:
        told = [f"power: {stage.power.basis}" for stages in self._stages for stage in stages]
        if any(power is None for power in self._nodes):
            told.append(
                "power: without hosts, memory, links and storage, which the cluster config does not give"
            )
        return tuple(dict.fromkeys(told))

    def _home(self, spec: InstanceSpec) -> NodePower | None:
        return self._nodes[spec.node]


def _stage(spec: InstanceSpec, stage: int, cluster: ClusterSpec) -> _Stage:
    power = _power_of(spec, stage, cluster)
    if power is None:
        raise LookupError(f"no power is known for {_hardware(spec, stage)}")
    return _Stage(spec.tp_size, _node(spec, stage), power)


def _power_of(spec: InstanceSpec, stage: int, cluster: ClusterSpec) -> NpuPower | None:
    hardware = _hardware(spec, stage)
    given = cluster.power[_node(spec, stage)]
    own = None if given is None else given.npu(hardware)
    return own or estimated_npu_power(hardware)


def _hardware(spec: InstanceSpec, stage: int) -> str:
    return spec.hardware if spec.stage_hardware is None else spec.stage_hardware[stage]


def _node(spec: InstanceSpec, stage: int) -> int:
    return spec.node if spec.placement_nodes is None else spec.placement_nodes[stage]
