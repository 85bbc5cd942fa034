"""The outcome of a run in tables: what ``penstock.simulate`` returns and ``--results`` writes."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.accounting.bubbles import CAUSE_NAMES, BubbleLedger, Bubbles, SpanSink
from penstock.accounting.energy_report import EnergyReport
from penstock.accounting.metrics import RequestTable
from penstock.files.frames import write_parquet
from penstock.files.writing import all_or_nothing, atomic_write
from penstock.recording.records import (
    LEG_COLUMNS,
    TURN_COLUMNS,
    Int64Array,
    Role,
    RunRecord,
    Transfer,
    TurnChunk,
    TurnSink,
)
from penstock.recording.turn_frames import no_turns, stages_frame, steps_frame, write_turns
from penstock.rendering.summary import RunSummary, build_summary

if TYPE_CHECKING:
    import polars as pl

FORMAT_VERSION = 1
"""Of the files that :meth:`SimulationResult.save` writes."""

_OPTIONAL_TABLES = (
    "legs.parquet",
    "steps.parquet",
    "stages.parquet",
    "bubbles.parquet",
    "timeline.parquet",
    "transfers.parquet",
    "power.parquet",
)

SAVED_FILES = ("summary.json", "requests.parquet", *_OPTIONAL_TABLES)
"""All that :meth:`SimulationResult.save` may write, and the table that a command adds."""


class KeepTurns:
    """A TurnSink that keeps the turns of a run for the tables of steps and stages.

    Each column of a chunk is kept in the narrowest integers that hold it, times but ``schedule_ns`` as
    distances from that: about 70 bytes a turn at four stages instead of 216, and nothing is lost. ``stages``
    False leaves the stages' times out.
    """

    def __init__(self, *, stages: bool = True) -> None:
        self.stages = stages
        self._chunks: dict[int, list[_PackedTurns]] = {}

    @classmethod
    def for_record(cls, record: str) -> KeepTurns | None:
        """By ``--record``: None for ``requests``, without stages for ``steps``, all for ``stages``."""
        return None if record == "requests" else cls(stages=record == "stages")

    def accept(self, chunk: TurnChunk) -> None:
        """Keep a packed copy."""
        self._chunks.setdefault(chunk.instance, []).append(_PackedTurns.of(chunk, stages=self.stages))

    def turns(self) -> Iterator[TurnChunk]:
        """All turns again, by instance, oldest first; without stages their columns are missing."""
        for _, chunks in sorted(self._chunks.items()):
            for chunk in chunks:
                yield chunk.unpacked()

    @property
    def nbytes(self) -> int:
        """Bytes of all columns kept."""
        return sum(
            column.nbytes for chunks in self._chunks.values() for chunk in chunks for column in chunk.columns
        )


@dataclass(frozen=True, slots=True)
class _PackedTurns:
    """A chunk by column, each in its narrowest type."""

    instance: int
    pp_size: int
    first_turn: int
    columns: tuple[np.ndarray[Any, np.dtype[Any]], ...]

    @classmethod
    def of(cls, chunk: TurnChunk, *, stages: bool) -> _PackedTurns:
        width = chunk.values.shape[1] if stages else len(TURN_COLUMNS)
        schedule = chunk.column("schedule_ns")
        columns = tuple(
            schedule.copy() if place == 0 else _narrowed(chunk.values[:, place] - schedule * _is_time(place))
            for place in range(width)
        )
        return cls(chunk.instance, chunk.pp_size, chunk.first_turn, columns)

    def unpacked(self) -> TurnChunk:
        values = np.empty((len(self.columns[0]), len(self.columns)), dtype=np.int64)
        for place, column in enumerate(self.columns):
            values[:, place] = column
            if place and _is_time(place):
                values[:, place] += self.columns[0]
        return TurnChunk(self.instance, self.pp_size, self.first_turn, values)


def _is_time(place: int) -> bool:
    """Whether the column there is a point in time."""
    return place >= len(TURN_COLUMNS) or TURN_COLUMNS[place].endswith("_ns")


def _narrowed(values: Int64Array) -> np.ndarray[Any, np.dtype[Any]]:
    """A copy in the smallest signed integers that hold all values."""
    low, high = (int(values.min()), int(values.max())) if len(values) else (0, 0)
    for kind in (np.int8, np.int16, np.int32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return values.astype(kind)
    return values.copy()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContext:
    """Where a run came from: ``inputs`` by name (files, options), as plain JSON values that are equal for
    equal runs, and the ``notices`` that the user was given."""

    inputs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    notices: tuple[str, ...] = ()


class SimulationResult:
    """A finished run. The tables are Polars frames, made when first asked for; times are integer nanoseconds.

    ``turns`` are None where the run kept only requests; ``bubbles`` is None where they were not accounted, ``energy``
    where the power of an accelerator is not known.
    """

    def __init__(
        self,
        record: RunRecord,
        turns: KeepTurns | None = None,
        bubbles: Bubbles | None = None,
        context: RunContext | None = None,
        energy: EnergyReport | None = None,
    ) -> None:
        self.record = record
        self.energy = energy
        self.context = context or RunContext()
        self._bubbles = bubbles
        self._turns = turns

    def turns(self) -> Iterator[TurnChunk]:
        """All turns of the engines as they were recorded, by instance, oldest first.

        Raises:
            LookupError: the run kept only requests.
        """
        return self._kept_turns().turns()

    @property
    def keeps_turns(self) -> bool:
        """Whether :meth:`turns` and :attr:`steps` are there."""
        return self._turns is not None

    @property
    def keeps_stages(self) -> bool:
        """Whether the stages' times were kept: :meth:`turns` and :attr:`stages` have them."""
        return self._turns is not None and self._turns.stages

    @cached_property
    def summary(self) -> RunSummary:
        """Counts, latency distributions, throughput, and every stage's memory and time."""
        return build_summary(
            self.record, notices=self.context.notices, bubbles=self._bubbles, energy=self.energy
        )

    @cached_property
    def requests(self) -> pl.DataFrame:
        """A row per request that has ended, in file order.

        ``request`` (index in the workload), ``instance``, ``model``, ``status`` (finished | rejected | aborted |
        failed), ``reason`` (why it did not finish), ``input_tokens``, ``output_tokens`` (generated; asked for, if
        rejected),
        ``arrival_ns``, ``first_scheduled_ns``, ``first_token_ns``, ``finish_ns``, ``latency_ns``,
        ``queuing_ns``, ``ttft_ns``, ``tpot_ns``, ``preemptions``, ``cached_tokens``, and ``energy_j``, its share of
        the run's energy (:mod:`penstock.accounting.energy_shares`), where that is known. What a rejected request
        never had is null.
        """
        return _requests_frame(self.record, self.energy)

    @cached_property
    def power(self) -> pl.DataFrame:
        """A row per interval of the run: ``begin_ns``, ``end_ns``, and mean W by component, ``npu_w``, ``cpu_w``, ....

        Raises:
            LookupError: the power of an accelerator is not known.
        """
        import polars as pl

        if self.energy is None:
            raise LookupError("the power of an accelerator is not known: give 'power' in the cluster config")
        return pl.DataFrame(self.energy.columns())

    @cached_property
    def legs(self) -> pl.DataFrame:
        """A row per stay of a finished request at an instance: ``request``, ``leg``, ``instance``, ``role`` (whole |
        prefill | decode), ``arrived_ns`` there, ``first_scheduled_ns``, ``first_token_ns``, ``end_ns``, and
        ``kv_bytes`` moved to that instance for it."""
        import polars as pl

        roles = {role.value: role.name.lower() for role in Role}
        frame = pl.DataFrame(self.record.requests.legs(), schema=list(LEG_COLUMNS), orient="row")
        by_name = pl.col("role").replace_strict(roles, return_dtype=pl.Enum(list(roles.values())))
        return frame.with_columns(by_name).sort("request", "leg")

    @cached_property
    def transfers(self) -> pl.DataFrame:
        """A row per read of KV by a stage of a decode instance: ``request``, ``source`` and ``target`` instance,
        ``stage``, ``blocks``, ``size_bytes``, ``post_ns`` (asked for), ``start_ns`` (on its links), ``end_ns``,
        ``is_ok``."""
        import polars as pl

        names = [field.name for field in fields(Transfer)]
        columns = {name: [getattr(one, name) for one in self.record.transfers] for name in names}
        return pl.DataFrame(columns)

    @cached_property
    def steps(self) -> pl.DataFrame:
        """A row per step with tokens: ``instance``, ``turn`` (of the engine; empty ones are left out here and
        count there), and the columns of ``records.TURN_COLUMNS``, ``cause_after`` by name.

        Raises:
            LookupError: the run kept only requests.
        """
        import polars as pl

        frames = [steps_frame(chunk) for chunk in self._kept_turns().turns()]
        return pl.concat(frames) if frames else steps_frame(no_turns())

    @cached_property
    def stages(self) -> pl.DataFrame:
        """A row per step and stage it visited: ``instance``, ``turn``, ``stage``, ``arrive_ns``, ``start_ns``,
        ``end_ns``.

        Raises:
            LookupError: the run did not keep the stages' times.
        """
        import polars as pl

        turns = self._kept_turns()
        if not turns.stages:
            raise LookupError("the stages' times were not kept: run with record='stages'")
        frames = [stages_frame(chunk) for chunk in turns.turns()]
        return pl.concat(frames) if frames else stages_frame(no_turns())

    def bubbles(self) -> pl.DataFrame:
        """A row per stage: ``instance``, ``stage``, ``window_ns``, ``busy_ns``, and ``<cause>_ns`` for each
        cause of :mod:`penstock.accounting.bubbles`; busy and the causes add up to the window.

        Raises:
            LookupError: bubbles were not accounted.
        """
        import polars as pl

        if self._bubbles is None:
            if not len(self.record.requests):
                return self._no_bubbles()
            raise LookupError("bubbles were not accounted in this run")
        return pl.DataFrame(list(self._bubbles.rows()))

    def _no_bubbles(self) -> pl.DataFrame:
        """Of a run in which nothing finished, so that there is no window."""
        import polars as pl

        names = ["window_ns", *(f"{cause}_ns" for cause in CAUSE_NAMES)]
        rows = [
            {"instance": place, "stage": stage, **dict.fromkeys(names, 0)}
            for place, deployment in enumerate(self.record.deployments)
            for stage in range(deployment.pp_size)
        ]
        return pl.DataFrame(rows)

    def token_times_ns(self, request: int) -> Int64Array:
        """When each token of a finished request reached the engine, shape (output_tokens,).

        Raises:
            LookupError: the request did not finish, or token times were not kept.
        """
        row = self._row_of_request.get(request)
        if row is None:
            raise LookupError(f"request {request} is not among the finished ones")
        return self.record.requests.token_times_ns(row)

    @cached_property
    def _row_of_request(self) -> dict[int, int]:
        return {request: row for row, request in enumerate(self.record.requests.values()[:, 0].tolist())}

    def save(
        self, directory: str | Path, extra: Mapping[str, pl.DataFrame] | None = None
    ) -> tuple[Path, ...]:
        """Write ``summary.json``, ``requests.parquet`` and, as far as they were kept, ``steps.parquet``,
        ``stages.parquet`` and ``bubbles.parquet``, beside the ``extra`` tables by name; returns their paths.

        All appear together when the last is complete; tables of an earlier run that this one does not have are
        removed. The same inputs give the same bytes.

        Raises:
            UserError: the directory cannot be written.
        """
        target = Path(directory)
        tables = self._tables()
        for name, frame in (extra or {}).items():
            tables[name] = partial(write_parquet, frame=frame)
        names = sorted([*(f"{name}.parquet" for name in tables), "summary.json"])
        with all_or_nothing():
            for name, write in tables.items():
                write(target / f"{name}.parquet")
            text = json.dumps(self.summary_json(), indent=2, ensure_ascii=False, allow_nan=False)
            with atomic_write(target / "summary.json") as file:
                file.write(text + "\n")
        for name in set(_OPTIONAL_TABLES) - set(names):
            with suppress(OSError):
                (target / name).unlink(missing_ok=True)
        return tuple(target / name for name in names)

    def report(self, path: str | Path) -> None:
        """Write the HTML page of ``--report``.

        Raises:
            UserError: the file cannot be written.
        """
        from penstock.rendering.report import write_report

        write_report(self, path)

    def trace(self, path: str | Path, *, window_ns: tuple[int | None, int | None] = (None, None)) -> None:
        """Write the Perfetto timeline of ``--trace``, or the part of it that touches ``window_ns``.

        Raises:
            LookupError: the run did not keep the stages' times.
            UserError: the file cannot be written.
        """
        from penstock.rendering.perfetto import PerfettoTrace

        if not self.keeps_stages:
            raise LookupError("the stages' times were not kept: run with record='stages'")
        with PerfettoTrace(path, self.record.deployments, window_ns=window_ns) as trace:
            self.replay(trace, [trace])
            trace.finish(self.record, energy=self.energy)

    def replay(self, turns: TurnSink, spans: Sequence[SpanSink]) -> None:
        """Pass the kept turns, and what the stages did, to sinks as a run does.

        Raises:
            LookupError: the run did not keep the stages' times.
        """
        inputs = self.context.inputs["instances"]
        ledger = BubbleLedger(
            [deployment.pp_size for deployment in self.record.deployments],
            blocking_sends=[instance["blocking_sends"] for instance in inputs],
            in_lockstep=[instance.get("dp_size", 1) > 1 for instance in inputs],
            sinks=list(spans),
        )
        for chunk in self.turns():
            turns.accept(chunk)
            ledger.accept(chunk)
        last_ns = self.summary.last_completion_ns
        if last_ns is not None:
            ledger.finish(self.summary.first_arrival_ns, last_ns)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from penstock.rendering.notebook import result_html

        return result_html(self)

    def summary_json(self) -> dict[str, Any]:
        """``summary.json``: inputs, versions, the summary with what every cost rests on. No wall-clock time."""
        from importlib.metadata import version

        return {
            "format": FORMAT_VERSION,
            "inputs": dict(self.context.inputs),
            "versions": {
                "penstock": version("penstock"),
                "python": platform.python_version(),
                "numpy": np.__version__,
                "polars": version("polars"),
            },
            "summary": self.summary.to_json(),
        }

    def _tables(self) -> dict[str, Callable[[Path], None]]:
        """What writes each table that the run kept, by its name."""
        tables: dict[str, Callable[[Path], None]] = {"requests": partial(write_parquet, frame=self.requests)}
        if self.record.requests.has_legs:
            tables["legs"] = partial(write_parquet, frame=self.legs)
        if self.record.transfers:
            tables["transfers"] = partial(write_parquet, frame=self.transfers)
        if self.energy is not None:
            tables["power"] = partial(write_parquet, frame=self.power)
        turns = self._turns
        if turns is not None:
            tables["steps"] = partial(write_turns, frame_of=steps_frame, turns=turns.turns)
            if turns.stages:
                tables["stages"] = partial(write_turns, frame_of=stages_frame, turns=turns.turns)
        if self._bubbles is not None:
            tables["bubbles"] = partial(write_parquet, frame=self.bubbles())
        return tables

    def _kept_turns(self) -> KeepTurns:
        if self._turns is None:
            raise LookupError("the turns were not kept: run with record='steps' or 'stages'")
        return self._turns


def _requests_frame(record: RunRecord, energy: EnergyReport | None) -> pl.DataFrame:
    """Finished, rejected, aborted and failed requests, by index."""
    import polars as pl

    table = RequestTable.of(record)
    models = {deployment.instance: deployment.model for deployment in record.deployments}
    names = ("request", "instance", "input_tokens", "output_tokens", "arrival_ns")
    times = ("first_scheduled_ns", "first_token_ns", "finish_ns")
    finished = pl.DataFrame(
        {name: table.column(name) for name in names + times}
        | {
            "latency_ns": table.latency_ns,
            "queuing_ns": table.queuing_ns,
            "ttft_ns": table.ttft_ns,
            "tpot_ns": table.tpot_ns,
            "preemptions": table.column("preemptions"),
            "cached_tokens": table.column("cached_tokens"),
        }
        | ({} if energy is None or energy.requests_j is None else {"energy_j": energy.requests_j})
    ).with_columns(status=pl.lit("finished"), reason=pl.lit(None, dtype=pl.String))
    refused = _rejections_columns(record)
    rejected = pl.DataFrame(
        refused, schema=dict.fromkeys(names, pl.Int64) | {"reason": pl.String}
    ).with_columns(status=pl.lit("rejected"))
    aborted = pl.DataFrame(
        [
            (
                one.request,
                one.instance,
                one.input_tokens,
                one.generated_tokens,
                one.arrival_ns,
                *(("failed", "its KV could not be loaded") if one.failed else ("aborted", "its client left")),
            )
            for one in record.abortions
        ],
        schema=dict.fromkeys(names, pl.Int64) | {"status": pl.String, "reason": pl.String},
        orient="row",
    )
    order = ["request", "instance", "model", "status", "reason", *names[2:], *finished.columns[5:-2]]
    return (
        pl.concat([finished, rejected, aborted], how="diagonal")
        .with_columns(
            model=pl.col("instance").replace_strict(models, return_dtype=pl.String)
            if models
            else pl.lit(None, dtype=pl.String)
        )
        .select(order)
        .sort("request")
    )


def _rejections_columns(record: RunRecord) -> dict[str, Sequence[int] | Sequence[str]]:
    rejections = record.rejections
    return {
        "request": [one.request for one in rejections],
        "instance": [one.instance for one in rejections],
        "input_tokens": [one.input_tokens for one in rejections],
        "output_tokens": [one.output_tokens for one in rejections],
        "arrival_ns": [one.arrival_ns for one in rejections],
        "reason": [one.reason for one in rejections],
    }
