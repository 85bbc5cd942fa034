"""A cluster whose instances serve parts of requests: what each gets for that, and who sends requests where."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from random import Random

from penstock.engine.admission import reason_to_reject
from penstock.engine.build import BuiltInstance
from penstock.engine.disaggregation_policy import make_disaggregation_policy
from penstock.engine.instance import Instance
from penstock.engine.kernel import Agenda, Phase
from penstock.engine.kv_paths import ClusterPaths
from penstock.engine.lookahead import Lookahead
from penstock.engine.messages import Messages
from penstock.engine.pairing_proxy import PairingProxy
from penstock.engine.proxy import Deliver, Proxy, TakesIn
from penstock.engine.replica import Replica
from penstock.engine.router import Router, make_router
from penstock.engine.sides import Side, vllm_scheduler
from penstock.kv_transfer.pull import PullConnector, PullOptions
from penstock.kv_transfer.pull_workers import PullWorkers, PullWorld
from penstock.kv_transfer.push import PushReceiver, PushSender, PushWorkers, PushWorld
from penstock.kv_transfer.step_workers import StepWorkers
from penstock.network.links import Network
from penstock.recording.records import Transfer
from penstock.scheduler.kv_connector import KVConnector
from penstock.spec.cluster import ClusterSpec
from penstock.spec.options import RunOptions
from penstock.workload.request import Request

_PLACE = 1 << 16
"""Among the actors of a phase: behind those of all data-parallel groups."""


def _fails(rate: float, seed: int, request: int, stage: int) -> bool:
    """Whether the read of a request fails: on the first stage, if at all, drawn for each request on its own."""
    return rate > 0 and stage == 0 and Random(f"{seed}:{request}").random() < rate


class Disaggregation:
    """Give each instance its connector and workers with :meth:`connect`, then let it :meth:`start`. ``proxy`` is who
    takes requests in from then on. ``seed`` draws which reads fail."""

    proxy: TakesIn

    def __init__(
        self,
        cluster: ClusterSpec,
        built: Sequence[BuiltInstance],
        network: Network,
        agenda: Agenda,
        on_transfer: Callable[[Transfer], None],
        seed: int = 0,
    ) -> None:
        transfer = cluster.kv_transfer
        self._transfer = transfer
        self._policy = make_disaggregation_policy(transfer)
        # Who goes on with a request, where the policy had to know that when it arrived.
        self._chosen_at: dict[int, int] = {}
        self._moved: dict[Instance, None] = {}
        self._built = built
        self._instances: Sequence[Replica] = ()
        # The first of those of one role that are alike, as far as it matters what requests they can run.
        self._limits: list[tuple[Replica, str | None]] = []
        self._sides: dict[str, Side] = {}
        self._side_of: dict[int, Side] = {}
        self._pulls: dict[int, PullConnector] = {}
        paths = ClusterPaths(cluster, built, network)
        self._messages = Messages(agenda)
        agenda.add(self._messages, Phase.MESSAGE, _PLACE)
        self._world = PullWorld(
            network,
            paths,
            notify_ns=transfer.notify_ns,
            handshake_ns=transfer.handshake_ns,
            fails=partial(_fails, transfer.read_failure_rate, seed),
            on_transfer=on_transfer,
        )
        self._pushes = PushWorld(
            network, paths, self._messages.send, notify_ns=transfer.notify_ns, on_transfer=on_transfer
        )

    def connect(self, built: BuiltInstance, concerns: Callable[..., None]) -> tuple[KVConnector, StepWorkers]:
        """An instance's connector, and its workers, which tell ``concerns`` when something may concern it."""
        spec = built.spec
        if self._transfer.kind == "push":
            if spec.pd_type == "prefill":
                sleeps = spec.scheduler.engine_idle_sleep_ns > 0
                sender = PushSender(
                    spec.index, spec.scheduler.block_size, self._pushes, concerns, sleeps=sleeps
                )
                return sender, PushWorkers()
            reserved = self._transfer.num_reserved_decode_tokens
            return PushReceiver(spec.index, self._pushes, concerns, reserved_tokens=reserved), PushWorkers()
        connector = PullConnector(
            PullOptions(
                "kv_producer" if spec.pd_type == "prefill" else "kv_consumer",
                recomputes_failures=self._transfer.recomputes_failures,
                lease_s=self._transfer.lease_s,
                looks_at_end=self._transfer.looks_at_end,
            )
        )
        self._pulls[spec.index] = connector
        sleeps = spec.scheduler.engine_idle_sleep_ns > 0
        workers = PullWorkers(spec.index, spec.pp_size, connector, self._world, concerns, sleeps=sleeps)
        return connector, workers

    def start(
        self,
        instances: Sequence[Replica],
        agenda: Agenda,
        router: Router,
        options: RunOptions,
        moved: dict[Instance, None],
        deliver: Deliver,
    ) -> None:
        """All instances are there: put the proxy before them, with a router for each side. ``moved`` are those that
        have acted since a router last looked.

        Raises:
            UserError: there is no such router.
        """
        self._instances = instances
        named = self._transfer.decode_router
        where = "kv_transfer.decode_router" if named else "--router"
        decode_router = make_router(named or options.router, options.seed, where)
        self._moved = moved
        unlike: dict[object, tuple[Replica, str | None]] = {}
        for one in instances:
            role = self._built[one.index].spec.pd_type
            limits = one.options
            key = (
                role,
                limits.max_model_len,
                limits.block_size,
                limits.enable_chunked_prefill,
                limits.max_num_batched_tokens,
                one.usable_blocks,
            )
            unlike.setdefault(key, (one, role))
        self._limits = list(unlike.values())
        prefill = self._side("prefill", router, "--router")
        decode = self._side("decode", decode_router, where)
        self._sides = {"prefill": prefill, "decode": decode}
        self._side_of = {one.index: side for side in self._sides.values() for one in side.instances}
        for receiver in self._pushes.receivers.values():
            receiver.scheduler = vllm_scheduler(instances[receiver.place])
        if self._transfer.kind == "push":
            self.proxy = PairingProxy(
                choose_prefill=self._choose_prefill,
                choose_decode=self._choose_decode,
                serves_whole=self._serves_whole,
                deliver=deliver,
                senders=self._pushes.senders,
                receivers=self._pushes.receivers,
            )
            return
        self.proxy = proxy = Proxy(
            choose_prefill=self._choose_prefill,
            choose_decode=self._choose_decode,
            serves_whole=self._serves_whole,
            deliver=deliver,
            connectors=self._pulls,
            delay_ns=self._transfer.proxy_ns,
            wake=lambda at_ns: agenda.wake(proxy, at_ns),
        )
        agenda.add(proxy, Phase.CONTROL, _PLACE)

    def _side(self, role: str, router: Router, where: str) -> Side:
        ours = [one for one in self._instances if self._built[one.index].spec.pd_type == role]
        return Side(ours, router, where)

    def _serves_whole(self, request: Request) -> int | None:
        if self._policy is None:
            return None
        prefill, decode = self._sides["prefill"], self._sides["decode"]
        self._look()
        prefill.look()
        decode.look()
        index = decode.choose(request)
        hit_tokens = decode.hit_tokens(index, request)
        if not self._policy.disaggregates(request, prefill.fleet, decode.fleet, hit_tokens):
            return index
        self._chosen_at[request.index] = index
        return None

    def _choose_prefill(self, request: Request) -> int:
        self._look()
        return self._sides["prefill"].choose(request)

    def _choose_decode(self, request: Request) -> int:
        chosen = self._chosen_at.pop(request.index, None)
        if chosen is not None:
            return chosen
        self._look()
        return self._sides["decode"].choose(request)

    def _look(self) -> None:
        """Let both sides know who has moved."""
        for one in self._moved:
            self._side_of[one.index].moved[one] = None
        self._moved.clear()

    @property
    def looks_into_instances(self) -> bool:
        """Whether somebody asks what lies in an instance's prefix cache."""
        return self._policy is not None

    def replace(self, instance: Instance) -> None:
        """Let ``instance`` take the place of the one of its number, which has not acted."""
        self._side_of[instance.index].replace(instance)

    def lookahead(self, network: Network) -> Lookahead | None:
        """How far decode instances may run ahead; None where an engine looks whenever something happens."""
        if any(not one.options.engine_idle_sleep_ns for one in self._instances):
            return None
        proxies = [self.proxy] if isinstance(self.proxy, Proxy) else []
        between = [network, self._messages, *proxies]
        return Lookahead(self._sides["prefill"].instances, self._sides["decode"].instances, between)

    def computes_prompts(self, replica: Instance) -> bool:
        """Whether an instance hands its requests on."""
        return self._built[replica.index].spec.pd_type == "prefill"

    def reason_to_reject(self, request: Request) -> tuple[int, str] | None:
        """The first instance that could never run the request's part, and why: any may be asked to."""
        prompt = replace(request, output_tokens=1)
        for replica, role in self._limits:
            part = prompt if role == "prefill" else request
            reason = reason_to_reject(part, replica.options, replica.usable_blocks)
            if reason is not None:
                return replica.index, f"{role} instance {replica.index}: {reason}"
        return None
