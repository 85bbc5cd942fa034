"""What came in while a server ran, as a workload that gives the same schedule again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from penstock.engine.observer import Observer, RequestView
from penstock.engine.simulation import Simulation
from penstock.files.writing import all_or_nothing, atomic_write
from penstock.rendering.result import KeepTurns, RunContext, SimulationResult
from penstock.server.live import ArrivalListener, Wanted
from penstock.workload.request import Request

WORKLOAD = "workload.jsonl"


@dataclass(slots=True)
class _Row:
    request: Request
    generated: int | None = None


class Recorder(Observer, ArrivalListener):
    """Keeps arrivals, and writes a directory at the end: ``workload.jsonl`` and the tables that ``penstock run
    --results`` writes.

    A request whose client left stands in the workload with the tokens that it had by then: a run of the workload
    agrees up to the token that was in flight when it left.
    """

    def __init__(self, directory: str, simulation: Simulation, turns: KeepTurns, context: RunContext) -> None:
        self._directory = Path(directory)
        self._simulation = simulation
        self._turns = turns
        self._context = context
        self._rows: dict[int, _Row] = {}
        simulation.observe(self)

    def arrived(self, request: Request, wanted: Wanted) -> None:
        """See :class:`~penstock.server.live.ArrivalListener`."""
        self._rows[request.index] = _Row(request)

    def request_ended(self, request: RequestView) -> None:
        """See :class:`~penstock.engine.observer.Observer`."""
        row = self._rows.get(request.request)
        if row is not None and request.outcome != "finished":
            row.generated = max(request.output_tokens, 1)

    def write(self) -> tuple[Path, ...]:
        """Write what has happened so far; returns the paths.

        Raises:
            UserError: the directory cannot be written.
        """
        workload = self._directory / WORKLOAD
        inputs = {**self._context.inputs, "dataset": WORKLOAD, "requests": len(self._rows)}
        context = RunContext(inputs=inputs, notices=self._context.notices)
        result = SimulationResult(self._simulation.record(), self._turns, None, context)
        with all_or_nothing():
            with atomic_write(workload) as file:
                for row in self._rows.values():
                    file.write(json.dumps(_line(row), separators=(",", ":")) + "\n")
            return workload, *result.save(self._directory)


def _line(row: _Row) -> dict[str, object]:
    request = row.request
    tokens = request.output_tokens if row.generated is None else row.generated
    assert request.input_ids is not None
    assert request.output_ids is not None
    line: dict[str, object] = {
        "input_toks": request.input_tokens,
        "output_toks": tokens,
        "arrival_time_ns": request.arrival_ns,
        "input_tok_ids": request.input_ids.tolist(),
        "output_tok_ids": request.output_ids[:tokens].tolist(),
    }
    if request.priority:
        line["priority"] = request.priority
    if request.model is not None:
        line["model"] = request.model
    return line
