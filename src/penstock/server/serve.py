"""Addresses that answer until they are told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import resource
import signal
import socket
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace

import uvicorn

from penstock.errors import Problem, UserError
from penstock.rendering.result import RunContext
from penstock.server.protocol import ReceiptProtocol
from penstock.server.session import Session, SessionOptions
from penstock.spec.cluster import ClusterSpec
from penstock.spec.options import RunOptions

BACKLOG = 16_384
"""Connections that may wait to be accepted; the kernel's net.core.somaxconn bounds it too."""
_OPEN_FILES = 65_535
_GRACE_S = 5
_KEEP_ALIVE_S = 75
"""vLLM's 5 s cut connections that a busy client was about to use again: after a burst of 10,000 most of them."""


@dataclass(frozen=True, slots=True)
class Listener:
    """A bound socket and the session behind it."""

    socket: socket.socket
    session: Session

    @property
    def address(self) -> str:
        """As a client writes it."""
        host, port = self.socket.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def listen(
    cluster: ClusterSpec,
    run_options: RunOptions,
    options: SessionOptions,
    context: RunContext,
    *,
    host: str,
    port: int,
    each: bool = False,
) -> list[Listener]:
    """One address for the whole cluster, with its router; or with ``each`` one for every instance, on ports that
    follow each other. Port 0 takes any that are free.

    Raises:
        UserError: the cluster cannot be built or taken apart, or an address is taken.
    """
    parts = _alone(cluster) if each else [cluster]
    listeners: list[Listener] = []
    for place, part in enumerate(parts):
        own = options
        if each and options.record is not None:
            own = replace(options, record=f"{options.record}/instance-{place}")
        session = Session(part, run_options, own, context)
        listeners.append(Listener(_bind(host, port + place if port else 0), session))
    return listeners


def _alone(cluster: ClusterSpec) -> list[ClusterSpec]:
    """Each instance as a cluster of its own."""
    together = [one for one in cluster.instances if one.pd_type is not None or one.dp_group is not None]
    if together:
        message = "instances that serve parts of a request, or are ranks of one deployment, have one address"
        raise UserError([Problem("--each", f"{together[0].where}: {message}")])
    return [replace(cluster, instances=(replace(one, index=0),)) for one in cluster.instances]


def run(listeners: Sequence[Listener], ready: Callable[[], None]) -> None:
    """Serve until SIGINT or SIGTERM; open streams are ended then. ``ready`` is called once all accept requests."""
    _allow_many_connections()
    try:
        import uvloop

        make_loop = uvloop.new_event_loop
    except ImportError:
        make_loop = asyncio.new_event_loop
    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(_serve(listeners, ready))


async def _serve(listeners: Sequence[Listener], ready: Callable[[], None]) -> None:
    servers = [
        _Server(
            uvicorn.Config(
                one.session.start(),
                backlog=BACKLOG,
                http=ReceiptProtocol,
                ws="none",
                lifespan="off",
                log_level="warning",
                access_log=False,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=_GRACE_S,
            )
        )
        for one in listeners
    ]
    loop = asyncio.get_running_loop()

    def end() -> None:
        for one in listeners:
            one.session.stop()
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
    # What is there now stays: a full collection would go through all of it, and stop every stream for 0.1 s or more.
    gc.collect()
    gc.freeze()
    ready()
    await asyncio.gather(*tasks)


class _Server(uvicorn.Server):
    """Signals are the caller's, who may run several."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Take none."""
        yield


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except (OSError, UnicodeError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError([Problem("--port", f"{host}:{port} cannot be served: {reason}")]) from None
    bound.setblocking(False)
    return bound


def _allow_many_connections() -> None:
    """A connection is an open file (vLLM ``set_ulimit``)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
