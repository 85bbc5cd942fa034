"""From a loaded cluster to servers that run until they are told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from penstock.engine.models import cluster_models, eligible_instances
from penstock.engine.simulation import Simulation
from penstock.errors import Problem, UserError
from penstock.server.answers import Answerer, TextSource
from penstock.server.app import Api
from penstock.server.clock import SimulatedClock
from penstock.server.lateness import Lateness
from penstock.server.live import LiveCluster
from penstock.server.pieces import Pieces
from penstock.server.served_model import ServedModel
from penstock.server.tokenizer import ApproximateTokenizer
from penstock.spec.cluster import ClusterSpec
from penstock.spec.deployment import Deployment
from penstock.spec.options import RunOptions
from penstock.workload.lengths import Lengths

BACKLOG = 16_384
"""Connections that may wait to be accepted; the kernel's net.core.somaxconn bounds it too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """How to serve, as opposed to what. ``port`` 0 takes any that is free; ``answer_lengths`` where requests leave them
    open; ``served_names`` what clients call the model instead of its own name."""

    host: str = "127.0.0.1"
    port: int = 8000
    time_scale: float = 1.0
    answer_lengths: Lengths
    text: TextSource = "filler"
    max_queue: int = 0
    served_names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Listener:
    """A bound socket and what answers on it, made once the event loop runs; ``stop`` afterwards."""

    socket: socket.socket
    deployments: tuple[Deployment, ...]
    start: Callable[[], tuple[ASGIApp, Callable[[], None]]]

    @property
    def address(self) -> str:
        """As a client writes it."""
        host, port = self.socket.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def listener(cluster: ClusterSpec, run_options: RunOptions, options: ServeOptions) -> Listener:
    """One address for the whole cluster, with its router.

    Raises:
        UserError: the cluster cannot be built, or the address is taken.
    """
    simulation = Simulation(cluster, None, run_options)
    bound = _bind(options.host, options.port)

    def start() -> tuple[ASGIApp, Callable[[], None]]:
        live = LiveCluster(simulation, SimulatedClock(options.time_scale))
        api = Api(
            live, _served_models(cluster, options), Lateness(options.time_scale), max_queue=options.max_queue
        )
        return api.app(), live.stop

    return Listener(bound, simulation.deployments, start)


def run(listeners: Sequence[Listener], ready: Callable[[], None] = lambda: None) -> None:
    """Serve until SIGINT or SIGTERM; open streams are ended then. ``ready`` is called once all accept requests."""
    config = {
        "http": "httptools",
        "ws": "none",
        "lifespan": "off",
        "log_level": "warning",
        "access_log": False,
    }
    try:
        import uvloop

        make_loop = uvloop.new_event_loop
    except ImportError:
        make_loop = asyncio.new_event_loop
    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(_serve(listeners, config, ready))


async def _serve(listeners: Sequence[Listener], config: Mapping[str, Any], ready: Callable[[], None]) -> None:
    servers: list[_Server] = []
    stops: list[Callable[[], None]] = []
    for one in listeners:
        app, stop = one.start()
        servers.append(_Server(uvicorn.Config(app, backlog=BACKLOG, timeout_keep_alive=5, **config)))
        stops.append(stop)
    loop = asyncio.get_running_loop()

    def end() -> None:
        for stop in stops:
            stop()
        for server in servers:
            server.should_exit = True

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end)
    tasks = [
        asyncio.create_task(server.serve(sockets=[one.socket]))
        for server, one in zip(servers, listeners, strict=True)
    ]
    while not all(server.started for server in servers) and not any(task.done() for task in tasks):
        await asyncio.sleep(0.005)
    ready()
    await asyncio.gather(*tasks)


class _Server(uvicorn.Server):
    """Signals are the caller's, who may run several."""

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]
        yield


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UserError([Problem("--port", f"{host}:{port} cannot be served: {reason}")]) from None
    bound.setblocking(False)
    return bound


def _served_models(cluster: ClusterSpec, options: ServeOptions) -> list[ServedModel]:
    names = cluster_models(cluster)
    models: list[ServedModel] = []
    for name in names:
        instances = [cluster.instances[index] for index in eligible_instances(cluster, name)]
        tokenizer = ApproximateTokenizer(instances[0].model.vocab_size)
        aliases = options.served_names if len(names) == 1 and options.served_names else (name,)
        models.append(
            ServedModel(
                name=name,
                aliases=aliases,
                max_model_len=min(instance.scheduler.max_model_len for instance in instances),
                tokenizer=tokenizer,
                answerer=Answerer(tokenizer, options.answer_lengths, options.text),
                pieces=Pieces(tokenizer),
            )
        )
    return models


def with_own_run_options(options: RunOptions) -> RunOptions:
    """What a server keeps of a run: nothing that grows with it."""
    return replace(options, keep_token_times=False, record="requests")
