"""The throughput log: a line per interval of simulated time and instance, made from the turns streaming by.

    [INFO] step=20 batch=8 prompt_t=1.4k tok/s decode_t=540 tok/s npu_mem=44.0 GB in_flight=2/2 waiting=3
    bubble=12%

(in one line). Interval k of length L is [k L, (k + 1) L) of simulated time; the last one ends with the run.
At its end T:

=========  ===================================================================================
step       steps with tokens that were scheduled before T, since the start of the run
batch      requests running after the last schedule() before T
prompt_t   prompt tokens of the steps scheduled in the interval, over its length: new tokens of
           requests that had more than one in the step, those computed again included
decode_t   tokens sampled by the steps scheduled in the interval, over its length
npu_mem    weights + KV blocks in use on one NPU of the stage where that is most; GB = 2**30 bytes
in_flight  turns scheduled before T whose result the engine takes at T or later, of the batch
           queue's depth; empty steps hold a place in that queue too
waiting    requests waiting after the last schedule() before T
bubble     1 - (time the stages computed in the interval) / (stages x time in it in which the
           instance had requests), 0 where it had none; both by overlap with the interval
power      where the cluster config gives it: what the instance's NPUs drew in the interval, on average
=========  ===================================================================================

Where the engine has taken the result of every step and does not call schedule() within its own overhead and idle
sleep, or finds nothing when it does, it has no request until the next one arrives: batch, waiting and the KV blocks
in use are then 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from penstock.recording.records import TURN_COLUMNS, Int64Array, TurnChunk, stage_columns
from penstock.spec.cluster import InstanceSpec
from penstock.spec.deployment import Deployment
from penstock.units import GIB, NS_PER_MS, NS_PER_S

_INTERVALS_AT_ONCE = 1024
_IDLE_LINES_MAX = 1000
_NEVER_NS = 2**63 - 2
_TURNS_KEPT_MAX = 8192
_SUMS = 5
_LINES_KEPT_MAX = 1024


class HeartbeatLog:
    """A TurnSink that hands each line to ``write`` as soon as every instance has passed its interval.

    Lines come in order of time, then of instance, and begin with the interval of ``start_ns``. An instance
    without a request falls silent after 1000 lines, with a note, until it has one again. How the turns are
    cut into chunks changes no line.
    """

    def __init__(
        self,
        deployments: Sequence[Deployment],
        interval_ns: int,
        write: Callable[[str], None],
        *,
        instances: Sequence[InstanceSpec] | None = None,
        start_ns: int = 0,
        power_w: Callable[[int, int, int], float] | None = None,
        summed: Summed | None = None,
        known_until_ns: Callable[[int], int] | None = None,
    ) -> None:
        """``instances``, in the order of ``deployments``, tell the depth of the batch queue (else it is taken
        to be ``pp_size``) and how long the engine may pause between two turns (else a millisecond). ``power_w`` is
        asked for the power of an instance in an interval, once all turns of it have come by. ``summed`` makes further
        lines of all instances' figures, after those of an interval. ``known_until_ns`` is asked, where many lines wait
        for an instance, before when it has no further turns: one that is idle keeps nobody waiting."""
        if interval_ns <= 0:
            raise ValueError(f"interval_ns is {interval_ns}, must be positive")
        self._write = write
        self._power_w = power_w
        self._summed = summed
        self._interval_ns = interval_ns
        self._known_until_ns = known_until_ns
        self._lines_allowed = _LINES_KEPT_MAX
        self._end_ns: int | None = None
        self._logs: dict[int, _InstanceLog] = {}
        for place, deployment in enumerate(deployments):
            spec = instances[place] if instances else None
            self._logs[deployment.instance] = _InstanceLog(
                deployment,
                depth=spec.scheduler.max_in_flight if spec else deployment.pp_size,
                pause_ns=_longest_pause_ns(spec) if spec else NS_PER_MS,
                interval_ns=interval_ns,
                first_interval=start_ns // interval_ns,
            )

    def accept(self, chunk: TurnChunk) -> None:
        """Take turns and write the lines they complete."""
        if len(chunk.values):
            self._logs[chunk.instance].accept(chunk)
            self._write_before(min(log.next_interval for log in self._logs.values()))
            if self._known_until_ns is not None and self._lines_kept > self._lines_allowed:
                self._pass_by(chunk.instance, int(chunk.column("schedule_ns")[-1]))

    @property
    def _lines_kept(self) -> int:
        return sum(log.lines_kept for log in self._logs.values())

    def _pass_by(self, instance: int, reached_ns: int) -> None:
        """Let the others go on to where ``instance`` has come, as far as they have no turns until then."""
        assert self._known_until_ns is not None
        self._lines_allowed = 2**63  # what is handed on meanwhile asks for nothing more
        for index, log in self._logs.items():
            if index != instance and log.next_interval < reached_ns // self._interval_ns:
                log.pass_to(min(self._known_until_ns(index), reached_ns))
        self._write_before(min(log.next_interval for log in self._logs.values()))
        self._lines_allowed = max(_LINES_KEPT_MAX, 2 * self._lines_kept)

    def finish(self, end_ns: int) -> None:
        """Write what is left, up to ``end_ns``, the end of the run; the last line may cover a part of an
        interval."""
        self._end_ns = end_ns
        for log in self._logs.values():
            log.finish(end_ns)
        self._write_before(None)

    def _write_before(self, interval: int | None) -> None:
        """Write all lines of earlier intervals (None: all), merged by time."""
        ready = [line for log in self._logs.values() for line in log.take_before(interval)]
        ordered = sorted(ready, key=lambda line: (line.interval, line.instance))
        for place, line in enumerate(ordered):
            prefix = f"instance={line.instance} " if len(self._logs) > 1 else ""
            self._write(f"[INFO] {prefix}{line.text}{self._power(line)}")
            is_last = place + 1 == len(ordered) or ordered[place + 1].interval != line.interval
            if self._summed is not None and is_last:
                of_interval = [one.figures for one in ordered if one.interval == line.interval]
                end_ns = min((line.interval + 1) * self._interval_ns, self._end_ns or _NEVER_NS)
                for text in self._summed(end_ns, of_interval):
                    self._write(text)

    def _power(self, line: _Line) -> str:
        if self._power_w is None:
            return ""
        begin_ns = line.interval * self._interval_ns
        end_ns = begin_ns + self._interval_ns
        if self._end_ns is not None:
            end_ns = max(min(end_ns, self._end_ns), begin_ns + 1)
        return f" power={self._power_w(line.instance, begin_ns, end_ns):.1f} W"


@dataclass(frozen=True, slots=True)
class Figures:
    """What a line says of an instance: tokens/s, and requests."""

    instance: int
    prompt_per_s: float
    decode_per_s: float
    running: int
    waiting: int


Summed = Callable[[int, Sequence[Figures]], Iterator[str]]
"""Makes lines of an interval's end and all instances' figures."""


@dataclass(frozen=True, slots=True)
class _Line:
    interval: int
    instance: int
    text: str
    figures: Figures


class _InstanceLog:
    """The turns of one instance that later times still need, and the lines that wait to be written.

    Turns are let go when a line is made, and at the latest when ``_TURNS_KEPT_MAX`` of them wait: what they add to
    the sums of :class:`_States` stays in ``_sums_gone``, so memory does not depend on the length of the interval.
    """

    def __init__(
        self, deployment: Deployment, *, depth: int, pause_ns: int, interval_ns: int, first_interval: int
    ) -> None:
        self.next_interval = first_interval  # all earlier ones have their line
        self._deployment = deployment
        self._depth = depth
        self._pause_ns = pause_ns
        self._interval_ns = interval_ns
        columns = len(TURN_COLUMNS) + len(stage_columns(deployment.pp_size))
        self._pending: list[Int64Array] = [np.zeros((0, columns), dtype=np.int64)]
        self._turns_pending = 0
        self._turns_allowed = _TURNS_KEPT_MAX
        self._sums_gone = np.zeros((_SUMS, 1), dtype=np.int64)
        self._result_gone_ns = -1  # when the last result of the turns let go was taken
        self._known_from_ns = 0  # earlier times cannot be asked for
        self._begin_sums = self._sums_gone  # at the beginning of the next interval, where that is earlier
        self._idle_lines = 0
        self._lines: list[_Line] = []

    def accept(self, chunk: TurnChunk) -> None:
        """Keep the turns; make lines where they reach into a new interval."""
        self._pending.append(chunk.values)
        self._turns_pending += len(chunk.values)
        reached_ns = int(chunk.column("schedule_ns")[-1])
        if reached_ns // self._interval_ns > self.next_interval:
            self._make_lines(reached_ns // self._interval_ns)
        elif self._turns_pending > self._turns_allowed:
            self._shorten(reached_ns)

    @property
    def lines_kept(self) -> int:
        """Lines that wait for those of other instances."""
        return len(self._lines)

    def pass_to(self, time_ns: int) -> None:
        """Make the lines of the intervals up to ``time_ns``: there are no further turns before it."""
        if time_ns // self._interval_ns > self.next_interval:
            self._make_lines(time_ns // self._interval_ns)

    def finish(self, end_ns: int) -> None:
        """Make all lines up to the end of the run."""
        self._make_lines(end_ns // self._interval_ns)
        start_ns = self.next_interval * self._interval_ns
        if end_ns > start_ns:
            edges = np.array([start_ns, end_ns], dtype=np.int64)
            self._lines.extend(self._lines_between(edges, self._states(self._turns(), edges)))

    def take_before(self, interval: int | None) -> list[_Line]:
        """Hand out the lines of earlier intervals, all of them for None."""
        count = len(self._lines)
        if interval is not None and count and self._lines[-1].interval >= interval:
            count = next(i for i, line in enumerate(self._lines) if line.interval >= interval)
        taken, self._lines = self._lines[:count], self._lines[count:]
        return taken

    def _turns(self) -> _Turns:
        # a copy: chunks may be views of a larger buffer
        return _Turns(np.concatenate(self._pending), self._deployment.pp_size, self._result_gone_ns)

    def _states(self, turns: _Turns, times_ns: Int64Array) -> _States:
        """The state at each of the times, its sums counted from the start of the run.

        The first of them may be the beginning of the next interval, though turns since were let go.
        """
        early = int(times_ns[0] < self._known_from_ns)
        state = turns.state_at(times_ns[early:], self._pause_ns)
        sums = state.sums + self._sums_gone
        return replace(state, sums=np.hstack((self._begin_sums, sums)) if early else sums)

    def _make_lines(self, stop: int) -> None:
        """Lines of the intervals before ``stop``; then let go of the turns no later interval needs."""
        turns = self._turns()
        sums = None
        while self.next_interval < stop:
            if self._idle_lines > _IDLE_LINES_MAX:
                wake_ns = turns.next_schedule_ns(self.next_interval * self._interval_ns)
                reach = stop if wake_ns is None else min(stop, wake_ns // self._interval_ns)
                if reach > self.next_interval:
                    self.next_interval, sums = reach, None
                if self.next_interval == stop:
                    break
            last = min(stop, self.next_interval + _INTERVALS_AT_ONCE)
            edges = np.arange(self.next_interval, last + 1, dtype=np.int64) * self._interval_ns
            state = self._states(turns, edges)
            self._lines.extend(self._lines_between(edges, state))
            self.next_interval, sums = last, state.sums[:, -1:]
        self._let_go(turns, self.next_interval * self._interval_ns, sums)

    def _shorten(self, reached_ns: int) -> None:
        """Let go of turns within an interval, the last of which was scheduled at ``reached_ns``."""
        turns = self._turns()
        begin_ns = self.next_interval * self._interval_ns
        if begin_ns >= self._known_from_ns:
            self._begin_sums = self._states(turns, np.array([begin_ns], dtype=np.int64)).sums
        self._let_go(turns, reached_ns, None)

    def _let_go(self, turns: _Turns, time_ns: int, sums: Int64Array | None) -> None:
        """Keep the turns that times from ``time_ns`` on need; ``sums`` are those of that time, where known."""
        if time_ns < self._known_from_ns:
            self._pending = [turns.values]
            return
        kept, gone = turns.split_at(time_ns)
        if len(gone.values):
            now = np.array([time_ns], dtype=np.int64)
            if sums is None:
                sums = self._states(turns, now).sums
            self._sums_gone = sums - kept.state_at(now, self._pause_ns).sums
            self._known_from_ns = time_ns
        self._result_gone_ns = gone.last_result_ns
        self._pending = [kept.values]
        self._turns_pending = len(kept.values)
        self._turns_allowed = max(_TURNS_KEPT_MAX, 2 * self._turns_pending)

    def _lines_between(self, edges: Int64Array, state: _States) -> Iterator[_Line]:
        """A line per interval between neighbouring ``edges``, but for those beyond the idle limit."""
        length_ns = np.diff(edges)
        steps = state.sums[0, 1:]
        prompt_tokens, sampled, busy_ns, idle_ns = np.diff(state.sums[1:])
        active_ns = (length_ns - idle_ns) * self._deployment.pp_size
        bubble = np.where(active_ns > 0, 1 - busy_ns / np.maximum(active_ns, 1), 0.0)
        rows = zip(
            steps.tolist(),
            state.running[-len(length_ns) :].tolist(),
            (prompt_tokens * NS_PER_S / length_ns).tolist(),
            (sampled * NS_PER_S / length_ns).tolist(),
            self._memory_gib(state.free_blocks[-len(length_ns) :]).tolist(),
            state.in_flight[-len(length_ns) :].tolist(),
            state.waiting[-len(length_ns) :].tolist(),
            bubble.tolist(),
            active_ns.tolist(),
            strict=True,
        )
        for k, (step, batch, prompt, decode, memory, in_flight, waiting, empty, active) in enumerate(rows):
            self._idle_lines = 0 if active else self._idle_lines + 1
            if self._idle_lines > _IDLE_LINES_MAX + 1:
                continue
            figures = Figures(self._deployment.instance, prompt, decode, batch, waiting)
            text = (
                f"step={step} batch={batch} prompt_t={_rate(prompt)} tok/s decode_t={_rate(decode)} tok/s "
                f"npu_mem={memory:.1f} GB in_flight={in_flight}/{self._depth} waiting={waiting} "
                f"bubble={empty:.0%}"
            )
            if self._idle_lines > _IDLE_LINES_MAX:
                text = f"step={step} idle for {_IDLE_LINES_MAX} intervals, no line until a request arrives"
            interval = int(edges[k]) // self._interval_ns
            yield _Line(interval, self._deployment.instance, text, figures)

    def _memory_gib(self, free_blocks: Int64Array) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Weights and used KV on the fullest stage; -1 free blocks mean that none is in use."""
        plan = self._deployment.memory
        used = np.where(free_blocks < 0, 0, plan.num_gpu_blocks - 1 - free_blocks)
        per_stage = [stage.weights_bytes + used * stage.kv_bytes_per_block for stage in plan.stages]
        return np.max(per_stage, axis=0) / GIB


@dataclass(frozen=True, slots=True)
class _States:
    """An instance at some points in time. ``sums``, of shape (5, times), count what was before them: steps with
    tokens, prompt tokens, tokens sampled, ns that the stages computed (summed over them), ns without a request;
    in :meth:`_Turns.state_at` but for a constant, which is the same at all times."""

    sums: Int64Array
    running: Int64Array
    waiting: Int64Array
    free_blocks: Int64Array  # -1 where no request is left
    in_flight: Int64Array


@dataclass(frozen=True, slots=True)
class _Turns:
    """Consecutive turns of one instance, oldest first, as in :class:`TurnChunk`; ``earlier_result_ns`` is when
    the last result of a step before them was taken, -1 if there is none."""

    values: Int64Array
    pp_size: int
    earlier_result_ns: int

    def column(self, name: str) -> Int64Array:
        return self.values[:, TURN_COLUMNS.index(name)]

    def next_schedule_ns(self, time_ns: int) -> int | None:
        """The first schedule() at ``time_ns`` or later."""
        schedule = self.column("schedule_ns")
        place = int(np.searchsorted(schedule, time_ns))
        return int(schedule[place]) if place < len(schedule) else None

    @property
    def results_ns(self) -> Int64Array:
        """When the last result of a step up to each turn is taken; first, that of earlier turns; shape (n + 1,)."""
        own = np.where(self.column("tokens") > 0, self.column("update_ns"), -1)
        return np.maximum.accumulate(np.concatenate(([self.earlier_result_ns], own)))

    @property
    def last_result_ns(self) -> int:
        """Of these and earlier turns."""
        return int(self.results_ns[-1])

    def split_at(self, time_ns: int) -> tuple[_Turns, _Turns]:
        """Those that say something of times from ``time_ns`` on, in a copy, and those before them.

        The last turn before is needed for its state, whatever has become of its step.
        """
        over = np.maximum.accumulate(self.column("update_ns")) < time_ns
        before = int(np.searchsorted(self.column("schedule_ns"), time_ns))
        first = max(0, min(int(np.count_nonzero(over)), before - 1))
        gone = _Turns(self.values[:first], self.pp_size, self.earlier_result_ns)
        return _Turns(self.values[first:].copy(), self.pp_size, gone.last_result_ns), gone

    def state_at(self, times_ns: Int64Array, pause_ns: int) -> _States:
        """The state at each of the times, ascending, not counting what happens at that time itself."""
        schedule, tokens = self.column("schedule_ns"), self.column("tokens")
        before = np.searchsorted(schedule, times_ns)
        results_taken = np.searchsorted(np.sort(self.column("update_ns")), times_ns)
        idle_from, idle_to = self._idle_gaps(pause_ns)
        place = np.searchsorted(idle_from, times_ns)
        over = (place > 0) & (np.concatenate(([0], idle_to))[place] >= times_ns)
        return _States(
            sums=np.array(
                (
                    _running_sum((tokens > 0).astype(np.int64))[before],
                    _running_sum(self.column("prefill_tokens"))[before],
                    _running_sum(self.column("sampled"))[before],
                    self._busy_before(times_ns),
                    _covered_before(idle_from, idle_to, times_ns),
                )
            ),
            running=np.where(over, 0, np.concatenate(([0], self.column("running")))[before]),
            waiting=np.where(over, 0, np.concatenate(([0], self.column("waiting")))[before]),
            free_blocks=np.where(over, -1, np.concatenate(([-1], self.column("free_blocks")))[before]),
            in_flight=before - results_taken,
        )

    def _idle_gaps(self, pause_ns: int) -> tuple[Int64Array, Int64Array]:
        """When the instance had no request: to the next arrival from the last result or, if later, from a turn
        that found none; a result that a turn follows within the engine's own pauses was not the last.
        Ascending; the first gap begins with time, the last has no end."""
        results, schedule = self.results_ns, self.column("schedule_ns")
        begin = np.concatenate((results[:1], np.maximum(results[1:], schedule)))
        end = np.concatenate((self.column("first_arrival_ns"), [_NEVER_NS]))
        found_none = (self.column("running") == 0) & (self.column("waiting") == 0)
        ran_empty = np.concatenate(([True], (results[1:] > schedule) | found_none)) & (end - begin > pause_ns)
        return begin[ran_empty], end[ran_empty]

    def _busy_before(self, times_ns: Int64Array) -> Int64Array:
        """Time that the stages, taken together, computed before each of the times."""
        computing = self.values[self.column("tokens") > 0]
        total = np.zeros(len(times_ns), dtype=np.int64)
        for stage in range(self.pp_size):
            start = computing[:, len(TURN_COLUMNS) + 3 * stage + 1]
            total += _covered_before(start, computing[:, len(TURN_COLUMNS) + 3 * stage + 2], times_ns)
        return total


def _covered_before(begin: Int64Array, end: Int64Array, times_ns: Int64Array) -> Int64Array:
    """How much of the time before each of ``times_ns`` lies in the intervals [begin, end).

    They are in order and do not overlap, so all but the last that began are over.
    """
    begun = np.searchsorted(begin, times_ns)
    last_end = np.concatenate(([0], end))[begun]
    return _running_sum(end - begin)[begun] - np.where(begun > 0, np.maximum(last_end - times_ns, 0), 0)


def _running_sum(values: Int64Array) -> Int64Array:
    """Sums of the first 0, 1, ... values, shape (n + 1,)."""
    return np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(values)))


def _longest_pause_ns(instance: InstanceSpec) -> int:
    """Between taking a result and calling schedule() again, while requests are left."""
    return instance.overhead.update_ns + instance.scheduler.engine_idle_sleep_ns


def _rate(tokens_per_s: float) -> str:
    """``540``, ``1.4k``, ``2.1M``"""
    if tokens_per_s < 999.5:
        return f"{tokens_per_s:.0f}"
    if tokens_per_s < 999_950:
        return f"{tokens_per_s / 1e3:.1f}k"
    return f"{tokens_per_s / 1e6:.1f}M"
