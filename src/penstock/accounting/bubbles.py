"""Where the time of every stage went: busy, or waiting for exactly one cause. In integer nanoseconds.

The window is [first arrival, last completion] of the run. For every stage, busy time + all causes =
window.

**Gaps.** Let stage ``s`` end step ``p`` and next start step ``m`` (steps with tokens only; before an
instance's first step the gap begins with the window, after its last one it ends with it). ``schedule``,
``arrive[s]``, ``start[s]``, ``end[s]``, ``done`` and ``update`` are the columns of the turn log. The gap
[end[s](p), start[s](m)) is cut at the points below, in this order, each clipped to what is left:

==========================================  =============================================================
up to                                       cause
==========================================  =============================================================
arrive[s+1](p), with blocking sends only    ``blocked``: the stage had finished, its send had not
update(p), if the instance then ran empty   ``drain``: the stage's last step before the instance ran empty;
                                            other stages still computed, or the last tokens came back
schedule(m)                                 ``idle | dependency | memory | seqs | kv_transfer | engine``:
                                            by the turns, see below
arrive[0](m)                                ``engine``: scheduling overhead and the way to the first worker
end[s-1](m)                                 m was upstream: ``fill``, ``imbalance`` or inherited, see below
arrive[s](m)                                ``transfer``: m's activations were on the link, or queued for it
start[s](m)                                 ``dependency``: m was there, and waited for an earlier token;
                                            ``sync`` for a rank in lock-step: m was there, another rank was not
==========================================  =============================================================

A rank's dummy batches take their place among the steps; their time on the stages is ``dummy``, not busy.

An instance *ran empty* between p and m if a turn between them left no unfinished request; and after its
last step, where the window's rest is ``idle``.

**By the turns.** After turn k returned, its ``cause_after`` holds until turn k+1 calls schedule(),
except:

- from ``first_arrival`` of turn k+1 an ``idle``, ``dependency`` or ``kv_transfer`` becomes ``engine``: there is a
  request to take in, and the engine sleeps or is blocked on its oldest step;
- from the moment the oldest sampling step not yet taken in comes back (its ``done``) any cause becomes
  ``engine``: there are tokens to continue from; or ``idle`` if turn k+1 then finds no unfinished
  request.

Before an instance's first turn: ``idle`` until its first arrival, then ``engine``.

**Upstream.** While m computes or queues on earlier stages, stage s waits for a reason that may lie
further up:

- The pipeline was empty when m was scheduled (p had left the last stage). If the instance had run empty,
  or m is its first step, all of it is ``fill``. Otherwise the instance had work and let the pipeline run
  dry: all of it goes to the cause in force (by the turns) just before p left the last stage.
- It was not empty. m came late to stage s partly because it came late to stage s-1: stage s-1's own gap
  before m is passed down. What of that gap is not already among the causes of this gap up to
  arrive[0](m) is inherited under its own name (``transfer`` first, then ``blocked``, ``engine``,
  ``memory``, ``seqs``, ``kv_transfer``, ``dependency``), as far as it reaches. The rest is ``imbalance``: an
  earlier stage took
  longer over m than this stage over p.

So in the textbook pipeline (equal micro-batches, all there at the start, equal stages, no hops) stage s
of p has s slots of ``fill`` and p-1-s of ``drain``; and one request alone on four equal stages leaves
each of them waiting for three quarters of the time, by ``dependency``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from penstock.accounting.stage_spans import GapSplitter, StageCause, StageSpans
from penstock.accounting.time_counter import TimeCounter
from penstock.recording.records import Int64Array, TurnChunk

CAUSE_NAMES = tuple(cause.name.lower() for cause in StageCause)
"""``busy`` and the causes, in the order of the columns of :attr:`Bubbles.ns`."""

BUBBLE_CAUSES = tuple(cause for cause in StageCause if cause not in (StageCause.BUSY, StageCause.IDLE))
"""The causes that are bubbles: time without any request (``idle``) is none."""


class SpanSink(Protocol):
    """Takes the spans of an instance's stages as they become known, in any order, each once."""

    def take(self, instance: int, spans: Sequence[StageSpans]) -> None:
        """``spans[s]`` are of stage s; together with all others they cover the window exactly once."""
        ...


@dataclass(frozen=True, slots=True)
class Bubbles:
    """The ledger of a run: ``ns[i]`` is of shape (stages of instance i, causes), columns by StageCause."""

    window_start_ns: int
    window_end_ns: int
    ns: tuple[Int64Array, ...]

    @property
    def window_ns(self) -> int:
        """First arrival to last completion."""
        return self.window_end_ns - self.window_start_ns

    def rows(self) -> Iterator[dict[str, int]]:
        """One per stage: ``instance, stage, window_ns, busy_ns, transfer_ns, ...``."""
        for instance, table in enumerate(self.ns):
            for stage, values in enumerate(table):
                named = {f"{name}_ns": int(ns) for name, ns in zip(CAUSE_NAMES, values, strict=True)}
                yield {"instance": instance, "stage": stage, "window_ns": self.window_ns, **named}

    def total_ns(self, cause: StageCause) -> int:
        """Summed over all stages of all instances."""
        return sum(int(table[:, cause].sum()) for table in self.ns)

    def share(self, cause: StageCause, instance: int | None = None) -> float:
        """Part of the stages' time while their instance had requests (window less ``idle``); 0.0 if none."""
        tables = self.ns if instance is None else (self.ns[instance],)
        active = sum(int(table.sum()) - int(table[:, StageCause.IDLE].sum()) for table in tables)
        if cause is StageCause.IDLE:
            active = sum(int(table.sum()) for table in tables)
        return sum(int(table[:, cause].sum()) for table in tables) / active if active else 0.0

    def bubble_share(self, instance: int | None = None) -> float:
        """Part of the stages' time lost to bubbles while their instance had requests."""
        return sum(self.share(cause, instance) for cause in BUBBLE_CAUSES)


class BubbleLedger:
    """A TurnSink that accounts for every nanosecond of every stage, by the rules above.

    ``pp_sizes[i]`` is the number of stages of instance i, ``blocking_sends[i]`` whether it sends so,
    ``in_lockstep[i]`` whether it is a data-parallel rank in lock-step (by default none does or is). ``sinks`` are
    given the spans themselves. One pass; how the turns are cut into chunks changes nothing; memory does not grow with
    the run.
    """

    def __init__(
        self,
        pp_sizes: Sequence[int],
        *,
        blocking_sends: Sequence[bool] | None = None,
        in_lockstep: Sequence[bool] | None = None,
        sinks: Sequence[SpanSink] = (),
    ) -> None:
        blocking = blocking_sends or [False] * len(pp_sizes)
        lockstep = in_lockstep or [False] * len(pp_sizes)
        self._splitters = [
            GapSplitter(pp_size, blocking_sends=blocks, in_lockstep=joins)
            for pp_size, blocks, joins in zip(pp_sizes, blocking, lockstep, strict=True)
        ]
        self._ns = [np.zeros((pp_size, len(StageCause)), dtype=np.int64) for pp_size in pp_sizes]
        self._sinks = list(sinks)
        self._counters = [
            None if joins else TimeCounter.of(pp_size, blocking_sends=blocks)
            for pp_size, blocks, joins in zip(pp_sizes, blocking, lockstep, strict=True)
        ]

    def pass_on(self, sink: SpanSink) -> None:
        """Give ``sink`` the spans too; it joins before the first turn."""
        self._sinks.append(sink)

    def accept(self, chunk: TurnChunk) -> None:
        """Account for the chunk's turns."""
        counter = self._counters[chunk.instance]
        if counter is not None and not self._sinks:
            counter.accept(chunk)
            return
        self._take(chunk.instance, self._splitters[chunk.instance].accept(chunk))

    def finish(self, window_start_ns: int, window_end_ns: int) -> Bubbles:
        """Close the window, [first arrival, last completion] of the run; call it once, at the end.

        Ranks in lock-step go on with dummy batches until they agree that nothing is left: there the window ends with
        the last of these.

        Raises:
            ValueError: the window does not cover every step.
        """
        window_end_ns = max([window_end_ns, *(splitter.dummies_until_ns for splitter in self._splitters)])
        for instance, (splitter, counter) in enumerate(zip(self._splitters, self._counters, strict=True)):
            if counter is not None and not self._sinks:
                self._ns[instance] = counter.finish(window_start_ns, window_end_ns)
            else:
                self._take(instance, splitter.finish(window_start_ns, window_end_ns))
        return Bubbles(window_start_ns, window_end_ns, tuple(self._ns))

    def so_far_ns(self, instance: int) -> Int64Array:
        """ns per stage and cause up to the latest turns, shape (stages, causes): for a display."""
        counter = self._counters[instance]
        if counter is not None and not self._sinks:
            return counter.so_far_ns()
        return self._ns[instance].copy()

    def _take(self, instance: int, spans: Sequence[StageSpans]) -> None:
        if not spans:
            return
        for stage, of_stage in enumerate(spans):
            lengths = of_stage.end_ns - of_stage.begin_ns
            for cause in range(len(StageCause)):
                self._ns[instance][stage, cause] += lengths[of_stage.cause == cause].sum()
        for sink in self._sinks:
            sink.take(instance, spans)
