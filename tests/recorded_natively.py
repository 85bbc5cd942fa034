"""The clusters of the recordings with prefill and decode apart, their instances in machine code or in Python, and what
either leaves."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from both_ways import Turns
from penstock import machine_code
from penstock.engine import replay_disaggregated
from penstock.engine.instance import Instance
from penstock.engine.native_connected import ConnectedReplica
from penstock.engine.replay_disaggregated import ReplayInstance
from penstock.engine.replica import Replica
from penstock.recording.turn_log import TurnLog
from penstock.scheduler.request_state import Outcome, RequestState
from penstock.spec.options import EngineOverhead, RunOptions
from penstock.units import NEVER_NS
from penstock.validate.disaggregated_setup import DisaggregatedSetup
from penstock.validate.engines import penstock_disaggregated
from reference.cluster import InstanceCase
from reference.simulated import built_instance


def replayed(monkeypatch: pytest.MonkeyPatch, setup: DisaggregatedSetup, *, native: bool) -> dict[str, Any]:
    """What a run of a recording's requests leaves, by name."""
    found: dict[str, Any] = {}

    class Replay(replay_disaggregated._Replay):  # pyright: ignore[reportPrivateUsage]
        """Nobody looks at single turns."""

        def __init__(self, *arguments: Any, **more: Any) -> None:
            self.turns = Turns()
            self.ends: list[list[tuple[Any, ...]]] = []
            self.serving: list[Instance] = []
            super().__init__(*arguments, **more)
            self.replicas = self.serving  # type: ignore[assignment]

        def _replica(self, place: int, instance: ReplayInstance) -> Replica:
            self.ends.append([])
            replica = super()._replica(place, instance)
            replica.watcher = None
            replica.log = TurnLog(place, replica.executor.pp_size, [self.turns])
            if not native or not instance.options.engine_idle_sleep_ns:
                self.serving.append(replica)
                return replica
            cost = replace(instance.cost, stage=copy(instance.cost.stage))
            case = InstanceCase(instance.options, instance.num_gpu_blocks, cost, EngineOverhead(), False)
            one = ConnectedReplica(
                machine_code.core(),
                built_instance(place, case),
                replica,
                options=RunOptions(),
                sinks=[self.turns],
                on_end=partial(self._ended, place, instance),  # type: ignore[arg-type]
                agenda=self.agenda,
            )
            replica.expect = one.expect  # the workers' news
            self.agenda.replace(replica, one)
            self.serving.append(one)
            return replica

        def _ended(
            self, place: int, instance: ReplayInstance, replica: Replica, state: RequestState, at_ns: int
        ) -> None:
            del replica
            times = [time for column, start, stop in state.segments for time in column[start:stop]]
            self.ends[place].append(
                (
                    state.request.index,
                    int(state.outcome),
                    at_ns,
                    state.num_tokens,
                    *((state.first_scheduled_ns, state.first_token_ns) if not state.outcome else ()),
                    *((state.preemptions, state.cached_tokens, times) if not state.outcome else ()),
                )
            )
            if instance.prefills and state.outcome is Outcome.FINISHED:
                self.proxy.answered(state, at_ns)

        def _leave(self, index: int, at_ns: int, side: str) -> None:
            places = self.proxy.prefilled_at if side == "prefill" else self.proxy.decoded_at
            if (place := places.get(index)) is None:
                return
            one = self.serving[place]
            one.cancel(index, at_ns)
            if one.next_ns is not None:
                self.agenda.wake(one, one.next_ns)

        def _close(self) -> replay_disaggregated.DisaggregatedReplay:
            for one in self.serving:
                one.catch_up(NEVER_NS if one.next_ns is not None else 0)
                one.flush()
            workers = self.world.instances
            found.update(
                natives=sum(isinstance(one, ConnectedReplica) for one in self.serving),
                turns={
                    place: rows.tolist() for place in self.turns.rows if len(rows := self.turns.of(place))
                },
                ends=self.ends,
                transfers=self.result.transfers,
                heartbeats=self.heartbeats,
                leases=[one.lease_ends for one in workers.values()],
                late_reads=[one.late_reads for one in workers.values()],
                gaps=[one.token_gaps().tolist() for one in self.serving],
                sent=self.proxy.sent_ns,
            )
            return self.result

    with monkeypatch.context() as patch:
        patch.setattr(replay_disaggregated, "_Replay", Replay)
        penstock_disaggregated(setup)
    return found
