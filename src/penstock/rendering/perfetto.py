"""``--trace FILE.json.gz``: the run as Chrome trace events, for https://ui.perfetto.dev.

A process per instance. In it, per stage, a track with its micro-batches and one with what it waits for between
them; per link the steps on their way (several tracks where they overlap); counters; and a process with the life
of a few requests. Where KV moves between instances, a process with a track per way and the bytes under way.
Arrows lead each micro-batch over the link to the next stage. ``ts`` and ``dur`` are
microseconds with three decimals: the nanoseconds are kept.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TextIO

import numpy as np

from penstock.accounting.energy_report import EnergyReport
from penstock.accounting.metrics import RequestTable
from penstock.accounting.stage_spans import StageCause, StageSpans
from penstock.errors import Problem, UserError
from penstock.files.writing import atomic_write
from penstock.recording.records import Int64Array, RunRecord, Transfer, TurnChunk
from penstock.spec.deployment import Deployment
from penstock.units import NS_PER_MS, NS_PER_S, NS_PER_US

DEFAULT_EVENT_LIMIT = 2_000_000
_TRACKS_PER_STAGE = 100
_WAITS = 1  # offsets of a stage's other tracks
_LINK = 10
_STEP_ARGS = (
    "tokens",
    "prefills",
    "prefill_tokens",
    "decodes",
    "sampled",
    "context_tokens",
    "free_blocks",
    "running",
    "waiting",
)
_UNITS = {"ns": 1, "us": NS_PER_US, "ms": NS_PER_MS, "s": NS_PER_S}


def parse_window(text: str, where: str = "--trace-window") -> tuple[int | None, int | None]:
    """``"10s:12s"`` as nanoseconds of simulated time. Either side may be empty; units ns, us, ms, s (the
    default).

    Raises:
        UserError: it cannot be read, or is empty.
    """
    parts = text.split(":")
    try:
        if len(parts) != 2:
            raise ValueError
        begin, end = (_time_ns(part) for part in parts)
    except ValueError:
        message = f"'{text}' is not a window of time such as 10s:12s or 500ms:"
        raise UserError([Problem(where, message)]) from None
    if begin is not None and end is not None and begin >= end:
        raise UserError([Problem(where, f"'{text}' ends before it begins")])
    return begin, end


def _time_ns(text: str) -> int | None:
    text = text.strip()
    if not text:
        return None
    unit = next((unit for unit in _UNITS if text.endswith(unit)), "")
    value = float(text[: len(text) - len(unit)]) * _UNITS.get(unit, NS_PER_S)
    if not 0 <= value < float("inf"):
        raise ValueError(text)
    return round(value)


def _us(ns: int) -> str:
    """Nanoseconds as microseconds, exactly."""
    return f"{ns // 1000}.{ns % 1000:03d}"


class PerfettoTrace:
    """A TurnSink and SpanSink that writes events as the turns go by; a context manager.

    ``window_ns`` keeps the steps and waits that touch it; None is open. After ``event_limit`` events nothing
    more is written and ``truncated`` is set, so neither memory nor the file grows without end. The file
    appears when the block ends without an error.
    """

    def __init__(
        self,
        path: str | Path,
        deployments: Sequence[Deployment],
        *,
        window_ns: tuple[int | None, int | None] = (None, None),
        event_limit: int = DEFAULT_EVENT_LIMIT,
    ) -> None:
        self.events = 0
        self.truncated = False
        self._path = path
        self._deployments = deployments
        self._begin_ns = window_ns[0] if window_ns[0] is not None else 0
        self._end_ns = window_ns[1]
        self._event_limit = event_limit
        self._flows = 0
        self._steps = [0] * len(deployments)
        # When each track of each link is free again.
        self._link_tracks = [[list[int]() for _ in deployment.layers[1:]] for deployment in deployments]
        self._stack = ExitStack()
        self._file: TextIO | None = None

    def __enter__(self) -> PerfettoTrace:
        self._file = self._stack.enter_context(atomic_write(self._path))
        self._file.write('{"displayTimeUnit":"ns","traceEvents":[\n')
        for place, deployment in enumerate(self._deployments):
            self._name_tracks(place, deployment)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._file is not None:
            other = {"simulated by": "penstock", "truncated": self.truncated}
            self._file.write(f'\n],"otherData":{json.dumps(other)}}}\n')
        self._stack.__exit__(kind, error, trace)

    # --- what comes by ----------------------------------------------------------------------------------------

    def accept(self, chunk: TurnChunk) -> None:
        """Write the steps of a chunk of turns, and the counters of every turn."""
        first_step = self._steps[chunk.instance]
        has_tokens = chunk.column("tokens") > 0
        self._steps[chunk.instance] += int(has_tokens.sum())
        if self.truncated:
            return
        is_dummy = ~has_tokens & (chunk.stage(0, "end") > chunk.stage(0, "start"))
        last_end = chunk.stage(chunk.pp_size - 1, "end")
        end = np.where(has_tokens | is_dummy, last_end, chunk.column("schedule_ns"))
        number = first_step + np.cumsum(has_tokens)
        columns = {name: chunk.column(name) for name in _STEP_ARGS}
        for row in np.flatnonzero(self._touches(chunk.column("schedule_ns"), end)):
            values = {name: int(column[row]) for name, column in columns.items()}
            self._counters(
                chunk.instance, int(chunk.values[row, 0]), values, int(chunk.column("in_flight")[row])
            )
            if has_tokens[row]:
                self._step(chunk, int(row), int(number[row]) - 1, values)
            elif is_dummy[row]:
                self._dummy(chunk, int(row))
            if self.truncated:
                return

    def take(self, instance: int, spans: Sequence[StageSpans]) -> None:
        """Write what the stages wait for."""
        for stage, part in enumerate(spans):
            chosen = self._touches(part.begin_ns, part.end_ns) & (part.cause != StageCause.BUSY)
            order = np.argsort(part.begin_ns[chosen], kind="stable")
            waits = part.chosen(chosen).chosen(order)
            rows = zip(waits.begin_ns.tolist(), waits.end_ns.tolist(), waits.cause.tolist(), strict=True)
            for begin, end, cause in rows:
                if self.truncated:
                    return
                name = StageCause(cause).name.lower()
                self._slice(instance, _stage_track(stage) + _WAITS, begin, end, name, '"cat":"bubble"')
                self._counter(instance, f"bubble cause, stage {stage}", begin, {"cause": cause})
                self._counter(instance, f"bubble cause, stage {stage}", end, {"cause": 0})

    def finish(self, record: RunRecord, *, energy: EnergyReport | None = None, requests: int = 20) -> None:
        """Write the KV that moved between instances, power over time, and the lives of the first few requests that
        touch the window."""
        self._kv_transfers(record.transfers)
        self._power(energy)
        table = RequestTable.of(record)
        arrival, finish = table.column("arrival_ns"), table.column("finish_ns")
        process = len(self._deployments)
        self._meta(process, None, "process_name", "requests")
        for row in np.flatnonzero(self._touches(arrival, finish))[:requests]:
            request = int(table.column("request")[row])
            self._meta(process, request, "thread_name", f"request {request}")
            names = ("arrival_ns", "first_scheduled_ns", "first_token_ns", "finish_ns")
            times = [int(table.column(name)[row]) for name in names]
            args = {
                name: int(table.column(name)[row])
                for name in ("instance", "input_tokens", "output_tokens", "preemptions", "cached_tokens")
            }
            for name, begin, end in zip(("waiting", "prefill", "decode"), times, times[1:], strict=False):
                if end > begin:
                    self._slice(process, request, begin, end, name, f'"args":{json.dumps(args)}')

    def _power(self, energy: EnergyReport | None) -> None:
        """A counter of mean W by component."""
        if energy is None or self.truncated:
            return
        process = len(self._deployments) + 2
        self._meta(process, None, "process_name", "power")
        names = list(energy.components_j)
        begin, end = energy.edges_ns[:-1], energy.edges_ns[1:]
        for place in np.flatnonzero(self._touches(begin, end)):
            watts = {name: round(energy.watts[name][place], 3) for name in names}
            self._counter(process, "W", int(begin[place]), watts)

    def _kv_transfers(self, transfers: Sequence[Transfer]) -> None:
        """A track per source and reading stage; a read's wait for its links stands before it."""
        if not transfers or self.truncated:
            return
        process = len(self._deployments) + 1
        self._meta(process, None, "process_name", "KV between instances")
        tracks: dict[tuple[int, int, int], int] = {}
        moves: list[tuple[int, int]] = []
        for one in transfers:
            if one.end_ns < self._begin_ns or (self._end_ns is not None and one.post_ns >= self._end_ns):
                continue
            way = (one.source, one.target, one.stage)
            if way not in tracks:
                tracks[way] = 2 * len(tracks)
                name = f"instance {one.source} → {one.target}, stage {one.stage}"
                self._meta(process, tracks[way], "thread_name", name)
                self._meta(process, tracks[way] + 1, "thread_name", f"{name}: queued")
            args = {"request": one.request, "blocks": one.blocks, "bytes": one.size_bytes}
            more = f'"args":{_numbers(args)}'
            name = f"request {one.request}" + ("" if one.is_ok else " (failed)")
            self._slice(process, tracks[way], one.start_ns, one.end_ns, name, more)
            if one.start_ns > one.post_ns:
                self._slice(process, tracks[way] + 1, one.post_ns, one.start_ns, name, more)
            moves += [(one.start_ns, one.size_bytes), (one.end_ns, -one.size_bytes)]
            if self.truncated:
                return
        under_way = 0
        for at_ns, size_bytes in sorted(moves):
            under_way += size_bytes
            self._counter(process, "KV under way", at_ns, {"bytes": under_way})

    # --- events ---------------------------------------------------------------------------------------------

    def _dummy(self, chunk: TurnChunk, row: int) -> None:
        """The slices of a data-parallel rank's dummy batch."""
        for stage in range(chunk.pp_size):
            start, end = (int(chunk.stage(stage, what)[row]) for what in ("start", "end"))
            self._slice(chunk.instance, _stage_track(stage), start, end, "dummy", '"cat":"dummy"')

    def _step(
        self, chunk: TurnChunk, row: int, number: int, values: dict[str, int] | dict[str, float]
    ) -> None:
        """The slices of a step on all stages and links, and the arrows between them."""
        args = f'"args":{_numbers({"step": number, "turn": chunk.first_turn + row} | values)}'
        prefill = f"{values['prefill_tokens']}p " if values["prefills"] else ""
        name = f"{prefill}{values['decodes']}d" if values["decodes"] else prefill.strip()
        instance = chunk.instance
        previous_end, came_from = 0, (0, 0)
        for stage in range(chunk.pp_size):
            arrive, start, end = (int(chunk.stage(stage, what)[row]) for what in ("arrive", "start", "end"))
            track = _stage_track(stage)
            self._slice(instance, track, start, end, name, args)
            if stage:
                self._flow("s", instance, came_from)
                if arrive > previous_end:
                    link = self._link_track(instance, stage - 1, previous_end, arrive)
                    self._slice(instance, link, previous_end, arrive, f"step {number}", args)
                    self._flow("t", instance, (link, previous_end))
                self._flow("f", instance, (track, start))
                self._flows += 1
            previous_end, came_from = end, (track, start)

    def _link_track(self, instance: int, link: int, begin: int, end: int) -> int:
        """A track of the link on which nothing is under way; steps that overlap get one each."""
        free = self._link_tracks[instance][link]
        lane = next((lane for lane, free_ns in enumerate(free) if free_ns <= begin), len(free))
        track = _stage_track(link) + _LINK + lane
        if lane == len(free):
            free.append(0)
            name = f"link {link} → {link + 1}" + (f" ({lane + 1})" if lane else "")
            self._meta(instance, track, "thread_name", name)
            self._meta(instance, track, "thread_sort_index", track)
        free[lane] = end
        return track

    def _name_tracks(self, instance: int, deployment: Deployment) -> None:
        model = f"{deployment.model}, tp {deployment.tp_size} x pp {deployment.pp_size}"
        self._meta(instance, None, "process_name", f"instance {deployment.instance}: {model}")
        for stage, layers in enumerate(deployment.layers):
            track = _stage_track(stage)
            titles = {track: f"stage {stage} ({layers} layers)", track + _WAITS: f"stage {stage} waits for"}
            for number, title in titles.items():
                self._meta(instance, number, "thread_name", title)
                self._meta(instance, number, "thread_sort_index", number)

    def _counters(self, instance: int, at_ns: int, values: dict[str, int], in_flight: int) -> None:
        self._counter(
            instance, "requests", at_ns, {"running": values["running"], "waiting": values["waiting"]}
        )
        self._counter(instance, "free KV blocks", at_ns, {"blocks": values["free_blocks"]})
        self._counter(instance, "steps in flight", at_ns, {"steps": in_flight})

    def _meta(self, process: int, track: int | None, what: str, value: str | int) -> None:
        thread = "" if track is None else f'"tid":{track},'
        key = "sort_index" if isinstance(value, int) else "name"
        self._write(f'{{"ph":"M","pid":{process},{thread}"name":"{what}","args":{json.dumps({key: value})}}}')

    def _slice(self, process: int, track: int, begin: int, end: int, name: str, more: str) -> None:
        self._write(
            f'{{"ph":"X","pid":{process},"tid":{track},"ts":{_us(begin)},"dur":{_us(end - begin)},'
            f'"name":"{name}",{more}}}'
        )

    def _flow(self, phase: str, process: int, at: tuple[int, int]) -> None:
        track, time_ns = at
        bind = ',"bp":"e"' if phase == "f" else ""
        self._write(
            f'{{"ph":"{phase}","pid":{process},"tid":{track},"ts":{_us(time_ns)},"id":{self._flows},'
            f'"name":"hop","cat":"hop"{bind}}}'
        )

    def _counter(
        self, process: int, name: str, at_ns: int, values: dict[str, int] | dict[str, float]
    ) -> None:
        self._write(
            f'{{"ph":"C","pid":{process},"ts":{_us(at_ns)},"name":"{name}","args":{_numbers(values)}}}'
        )

    def _write(self, event: str) -> None:
        assert self._file is not None
        self._file.write(event if not self.events else f",\n{event}")
        self.events += 1
        self.truncated = self.events >= self._event_limit

    def _touches(self, begin: Int64Array, end: Int64Array) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        chosen = end >= self._begin_ns
        return chosen if self._end_ns is None else chosen & (begin < self._end_ns)


def _numbers(values: dict[str, int] | dict[str, float]) -> str:
    """JSON; these are most of a trace, and its own encoder takes three times as long."""
    return "{" + ",".join([f'"{name}":{value}' for name, value in values.items()]) + "}"


def _stage_track(stage: int) -> int:
    return _TRACKS_PER_STAGE * (stage + 1)
