"""One address: a simulation, what watches it, and the application that answers for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from starlette.applications import Starlette
from starlette.routing import Route

from penstock.engine.build import BuiltInstance, build_instances
from penstock.engine.models import cluster_models, eligible_instances
from penstock.engine.observer import Observer
from penstock.engine.simulation import Simulation
from penstock.errors import NoProgressError
from penstock.rendering.result import KeepTurns, RunContext
from penstock.server.answers import Answerer, TextSource
from penstock.server.app import Api
from penstock.server.clock import SimulatedClock
from penstock.server.engine_stats import EngineStats
from penstock.server.lateness import Lateness
from penstock.server.live import LiveCluster
from penstock.server.live_view import LiveView, watched_stages
from penstock.server.log_lines import INTERVAL_S, IterationLines, PeriodicLines
from penstock.server.metrics import Metrics
from penstock.server.pieces import Pieces
from penstock.server.recorder import Recorder
from penstock.server.served_model import ServedModel
from penstock.server.tokenizer import ApproximateTokenizer, Tokenizer
from penstock.server.tokenizer_file import FileTokenizer
from penstock.spec.cluster import ClusterSpec
from penstock.spec.deployment import Deployment
from penstock.spec.options import RunOptions
from penstock.workload.lengths import Lengths
from penstock.workload.request import Request

_REHEARSED = 4
_REHEARSED_TOKENS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOptions:
    """How to serve, as opposed to what. ``answer_lengths`` where requests leave them open; ``served_names``: what
    clients call the model instead of its own name; ``tokenizer``: a file, None for the approximation; ``record``: a
    directory to record into. The logs go to standard output."""

    time_scale: float = 1.0
    answer_lengths: Lengths
    text: TextSource = "filler"
    max_queue: int = 0
    served_names: tuple[str, ...] = ()
    tokenizer: str | None = None
    record: str | None = None
    logs_stats: bool = False
    logs_iterations: bool = False


class Session:
    """Everything is checked and built when it is made; :meth:`start` needs the event loop.

    Raises:
        UserError: the cluster cannot be built, or the tokenizer not read.
    """

    def __init__(
        self,
        cluster: ClusterSpec,
        run_options: RunOptions,
        options: SessionOptions,
        context: RunContext,
    ) -> None:
        self._cluster = cluster
        self._options = options
        self._context = context
        self._models = _served_models(cluster, options)
        self._turns = KeepTurns() if options.record is not None else None
        self._ledger, self._watch = watched_stages(cluster, options.time_scale)
        sinks = [self._ledger] if self._turns is None else [self._ledger, self._turns]
        kept = replace(run_options, keep_token_times=options.record is not None)
        profile_root = Path(run_options.profile_root) if run_options.profile_root else None
        built = build_instances(cluster, profile_root)
        self._rehearse(built)
        self._simulation = Simulation(cluster, None, kept, sinks=sinks, built=built)
        self._live: LiveCluster | None = None
        self._recorder: Recorder | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def _rehearse(self, built: Sequence[BuiltInstance]) -> None:
        """Serve a few requests at once: the first pays for imports and tables that are made when they are asked for."""
        rows: list[Request] = []
        for model in self._models:
            prompt = model.encode(
                [1] * min(_REHEARSED_TOKENS, model.max_model_len - 1), add_special_tokens=False
            )
            room = model.max_model_len - len(prompt)
            answer = model.answerer.answer(prompt, max_tokens=min(_REHEARSED, room), ignore_eos=True)
            model.pieces.text(answer.ids)
            rows += [
                Request(
                    len(rows) + place, 0, len(prompt), len(answer.ids), prompt, answer.ids, model=model.name
                )
                for place in range(_REHEARSED)
            ]
        rehearsal = Simulation(self._cluster, None, observers=[Observer()], built=built)
        for row in rows:
            rehearsal.submit(row)
        with contextlib.suppress(NoProgressError):
            rehearsal.run()

    @property
    def deployments(self) -> tuple[Deployment, ...]:
        """Each instance as it will run."""
        return self._simulation.deployments

    def start(self) -> Starlette:
        """Let simulated time run, and return what answers."""
        options, simulation = self._options, self._simulation
        live = self._live = LiveCluster(
            simulation, SimulatedClock(options.time_scale), keeps_record=options.record is not None
        )
        stats = EngineStats(simulation)
        live.listeners.append(stats)
        lateness = Lateness(options.time_scale)
        if options.record is not None and self._turns is not None:
            self._recorder = Recorder(options.record, simulation, self._turns, self._context)
            live.listeners.append(self._recorder)
        if options.logs_iterations:
            IterationLines(simulation, stats, _print)
        if options.logs_stats:
            self._tasks.append(asyncio.create_task(_every(INTERVAL_S, PeriodicLines(stats, _print).log)))
        aliases = {model.name: model.aliases[0] for model in self._models}
        names = [aliases[spec.model.name] for spec in self._cluster.instances]
        metrics = Metrics(live, stats, lateness, self._ledger, names)
        view = LiveView(live, stats, lateness, self._ledger, self._watch)
        api = Api(live, self._models, lateness, max_queue=options.max_queue)
        return api.app([Route("/metrics", metrics.endpoint, methods=["GET"]), *view.routes()])

    def stop(self) -> None:
        """Let time stand still and end all streams."""
        for task in self._tasks:
            task.cancel()
        if self._live is not None:
            self._live.stop()

    def finish(self) -> tuple[str, ...]:
        """Write what was recorded; returns the paths.

        Raises:
            UserError: it cannot be written.
        """
        return () if self._recorder is None else tuple(map(str, self._recorder.write()))


async def _every(seconds: float, what: Callable[[], None]) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        while True:
            await asyncio.sleep(seconds)
            what()


def _print(line: str) -> None:
    print(line, flush=True)


def _served_models(cluster: ClusterSpec, options: SessionOptions) -> list[ServedModel]:
    names = cluster_models(cluster)
    given = None if options.tokenizer is None else FileTokenizer(options.tokenizer)
    models: list[ServedModel] = []
    for name in names:
        instances = [cluster.instances[index] for index in eligible_instances(cluster, name)]
        tokenizer: Tokenizer = given or ApproximateTokenizer(instances[0].model.vocab_size)
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
