"""SGLang's way of moving KV between instances: the prefill side pushes while it computes.

``srt/disaggregation/decode.py`` and ``prefill.py``. Both sides get a request at once. The decode side gives it blocks
for its whole prompt first (*prealloc queue*) and says so to the prefill side, which only then computes it (*bootstrap
queue*) and pushes what each step has filled, in whole pages, when it takes the step's result; the rest goes with the
first token, which is the request's first token. Each side looks at every turn what has arrived (*transfer queue*) and
what has been sent (*inflight queue*).
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from penstock.network.links import Link, Network
from penstock.recording.records import Transfer
from penstock.scheduler.kv_connector import NO_MATCH, UNTIL_CALLED, Match, TransferReport
from penstock.scheduler.request_state import Outcome, RequestState
from penstock.scheduler.step import Step
from penstock.units import NEVER_NS


@dataclass(frozen=True, slots=True)
class PushWay:
    """How pages get from a stage of one instance to ``reader``, a stage of another: ``size_bytes`` over ``links``,
    which are taken for ``occupancy_ns``; it arrives ``arrival_ns`` after its start."""

    reader: int
    links: tuple[Link, ...]
    size_bytes: int
    occupancy_ns: int
    arrival_ns: int


class PushPaths(Protocol):
    """The ways from one instance's KV to another's."""

    def push_ways(self, source: int, target: int, blocks: int) -> Sequence[PushWay]:
        """One for each pair of stages that share layers, for ``blocks`` of the target's blocks."""
        ...


class KeepsRoom(Protocol):
    """What a decode instance's scheduler says of the requests that are there."""

    def room_to_keep(self, tokens_each: int) -> int:
        """Blocks for ``tokens_each`` more tokens of every request that runs, loads or is loaded, or for what the one
        with the most still to generate may need, if that is more."""
        ...


@dataclass(slots=True)
class PushWorld:
    """What all instances that take part share. ``post(at_ns, deliver, ...)`` calls ``deliver(at_ns, ...)`` then;
    ``notify_ns`` is how long a message between two sides takes. ``on_transfer`` is given every push once it is under
    way."""

    network: Network
    paths: PushPaths
    post: Callable[..., None]
    notify_ns: int = 0
    on_transfer: Callable[[Transfer], None] = lambda transfer: None
    senders: dict[int, PushSender] = field(default_factory=dict[int, Any])
    receivers: dict[int, PushReceiver] = field(default_factory=dict[int, Any])


@dataclass(slots=True, eq=False)
class _Push:
    """A prompt on its way to ``target``, whose first ``sent_blocks`` blocks are sent or need not be. ``is_wanted``:
    the other side has blocks for it. ``under_way`` counts pushes whose end is not known, ``end_ns`` is the latest of
    the others; ``is_whole``: nothing more will be sent."""

    state: RequestState
    target: int
    is_wanted: bool = False
    sent_blocks: int = 0
    under_way: int = 0
    end_ns: int = 0
    is_whole: bool = False


class PushSender:
    """A :class:`~penstock.scheduler.kv_connector.KVConnector` of a prefill instance, number ``place``. ``concerns`` is
    told of times at which something happens that its engine may be waiting for, and which engine does that then.
    ``sleeps``: between turns that schedule nothing the engine sleeps, so it looks at its own times.
    ``scheduled_steps`` and ``reported_steps`` count steps that were decided, and came back; whoever leaves some out
    brings the counts up to date."""

    writes_blocks = False
    must_deliver = False

    def __init__(
        self,
        place: int,
        block_size: int,
        world: PushWorld,
        concerns: Callable[[int, int], None],
        *,
        sleeps: bool,
    ) -> None:
        self.place = place
        self._sleeps = sleeps
        self._block_size = block_size
        self._world = world
        self._concerns = concerns
        self._targets: dict[int, int] = {}
        self._pushes: dict[int, _Push] = {}
        self._unwanted = 0
        # What the other side has blocks for, as it was said: (when, by whom, request, blocks there already).
        self._wanted: list[tuple[int, int, int, int]] = []
        # What steps in flight fill, oldest step first, with how many steps had come before; the ends of whole prompts.
        self._steps: deque[tuple[int, list[tuple[_Push, int]]]] = deque()
        self.scheduled_steps = self.reported_steps = 0
        self._ends: list[tuple[int, int]] = []
        world.senders[place] = self

    def keep_for_reader(self, request: int, target: int) -> None:
        """The prompt of a request that is about to come is computed for ``target``."""
        self._targets[request] = target

    def added(self, state: RequestState) -> None:
        """See :class:`~penstock.scheduler.kv_connector.KVConnector`."""
        target = self._targets.pop(state.request.index, None)
        if target is None:
            return
        self._pushes[state.request.index] = _Push(state, target)
        self._unwanted += 1

    def wanted(self, at_ns: int, request: int, hit_blocks: int, by: int) -> None:
        """The other side has blocks for a prompt, and the first ``hit_blocks`` of them already. The engine ``by`` has
        said so at that very instant; -1: it was under way."""
        by = by if self._sleeps else -1
        self._wanted.append((at_ns, by, request, hit_blocks))
        self._concerns(at_ns, by)

    def called(self, now: int) -> list[RequestState]:
        """See :class:`~penstock.scheduler.kv_connector.CallsBack`. Of what happens at one instant an engine has heard
        what those before it have said."""
        if not self._wanted:
            return []
        waits: list[tuple[int, int, int, int]] = []
        called: list[RequestState] = []
        for entry in self._wanted:
            at_ns, by, request, hit_blocks = entry
            push = self._pushes.get(request)
            if (at_ns, by) >= (now, self.place) or (push is None and request in self._targets):
                waits.append(entry)
            elif push is not None and not push.is_whole:
                push.is_wanted = True
                push.sent_blocks = hit_blocks
                self._unwanted -= 1
                called.append(push.state)
        self._wanted = waits
        return called

    def matched_tokens(self, state: RequestState, computed: int) -> Match | None:
        """Nothing; a prompt that is not wanted yet waits, and others may overtake it."""
        push = self._pushes.get(state.request.index)
        return NO_MATCH if push is None or push.is_wanted else UNTIL_CALLED

    def allocated(self, state: RequestState, hit_blocks: int, external_tokens: int) -> None:
        """Nothing to note: what the cache held goes with the first pages."""

    def scheduled(self, step: Step, now: int) -> None:
        """Note the pages that the step fills."""
        filled: list[tuple[_Push, int]] = []
        for state, new, computed in step.chunks:
            push = self._pushes.get(state.request.index)
            if push is not None and computed + new < state.request.input_tokens:
                filled.append((push, (computed + new) // self._block_size))
        if filled:
            self._steps.append((self.scheduled_steps, filled))
        self.scheduled_steps += 1

    def reported(self, now: int) -> TransferReport | None:
        """The oldest step is back: push what it filled, and give up the blocks of prompts that are there."""
        if self._steps and self._steps[0][0] == self.reported_steps:
            for push, blocks in self._steps.popleft()[1]:
                if not push.is_whole:
                    self._send(push, blocks, now)
        self.reported_steps += 1
        ends = self._ends
        if not ends or ends[0][0] > now:
            return None
        report = TransferReport()
        while ends and ends[0][0] <= now:
            report.released.append(self._pushes.pop(heapq.heappop(ends)[1]).state)
        return report

    def finished(self, state: RequestState, now: int) -> bool:
        """The prompt is computed: the rest of it goes with its first token. Its blocks stay until all is there."""
        push = self._pushes.get(state.request.index)
        if push is None:
            return False
        self._unwanted -= not push.is_wanted
        push.is_whole = True
        if state.outcome is Outcome.FINISHED:
            self._send(push, -(-state.request.input_tokens // self._block_size), now)
        push.end_ns = max(push.end_ns, now)
        self._close(push)
        return True

    def quiet_until_ns(self) -> int:
        """See :class:`~penstock.scheduler.kv_connector.KVConnector`. Decodes fill nothing that is pushed."""
        if self._steps or self._wanted:
            return 0
        return self._ends[0][0] if self._ends else NEVER_NS

    def has_work(self) -> bool:
        """The engine looks at every turn whether a prompt is wanted."""
        return self._unwanted > 0

    def _send(self, push: _Push, blocks: int, now: int) -> None:
        """Push the pages up to ``blocks`` that were not."""
        world = self._world
        more = blocks - push.sent_blocks
        if more <= 0:
            return
        push.sent_blocks = blocks
        ways = world.paths.push_ways(self.place, push.target, more)
        push.under_way += len(ways)
        for way in ways:
            world.network.transfer(
                way.links,
                occupancy_ns=way.occupancy_ns,
                arrival_ns=way.arrival_ns,
                at_ns=now,
                arrived=partial(self._sent, push, way, more, now),
                rank=(self.place << 10) + way.reader,
            )

    def _sent(self, push: _Push, way: PushWay, blocks: int, post_ns: int, start_ns: int, end_ns: int) -> None:
        """A push has got its links."""
        push.under_way -= 1
        push.end_ns = max(push.end_ns, end_ns)
        request = push.state.request.index
        self._world.on_transfer(
            Transfer(
                request,
                self.place,
                push.target,
                way.reader,
                blocks,
                way.size_bytes,
                post_ns,
                start_ns,
                end_ns,
            )
        )
        self._close(push)

    def _close(self, push: _Push) -> None:
        """Once all ends are known, both sides can look for the last of them."""
        if push.under_way or not push.is_whole:
            return
        request = push.state.request.index
        heapq.heappush(self._ends, (push.end_ns, request))
        self._concerns(push.end_ns, -1)
        self._world.receivers[push.target].comes(push.end_ns, request)


class PushReceiver:
    """A :class:`~penstock.scheduler.kv_connector.KVConnector` of a decode instance, number ``place``, whose
    ``scheduler`` is to be given before it runs. ``reserved_tokens`` of KV stay free for each request that is there
    when another is given blocks (``num_reserved_decode_tokens``), or as many as the one with the most still to
    generate may need, if that is more."""

    writes_blocks = True
    must_deliver = False

    def __init__(
        self, place: int, world: PushWorld, concerns: Callable[[int], None], *, reserved_tokens: int = 512
    ) -> None:
        self.place = place
        self.scheduler: KeepsRoom | None = None
        self._world = world
        self._concerns = concerns
        self._reserved_tokens = reserved_tokens
        self._sources: dict[int, int] = {}
        self._loading: dict[int, RequestState] = {}
        self._has_ended: set[int] = set()
        self._news: list[tuple[int, int, int]] = []
        self._ends: list[tuple[int, int]] = []
        world.receivers[place] = self

    def expect(self, request: int, source: int) -> None:
        """Instance ``source`` computes the prompt of a request that is about to come."""
        self._sources[request] = source

    def added(self, state: RequestState) -> None:
        """See :class:`~penstock.scheduler.kv_connector.KVConnector`."""

    def matched_tokens(self, state: RequestState, computed: int) -> Match | None:
        """The rest of the prompt, once, if enough stays free beside it."""
        if state.request.index not in self._sources:
            return NO_MATCH
        rest = state.request.input_tokens - computed
        return Match(rest, loads=True, reserved_blocks=self._reserved_blocks()) if rest > 0 else NO_MATCH

    def _reserved_blocks(self) -> int:
        return 0 if self.scheduler is None else self.scheduler.room_to_keep(self._reserved_tokens)

    def allocated(self, state: RequestState, hit_blocks: int, external_tokens: int) -> None:
        """There are blocks for a prompt: the other side will hear of it."""
        index = state.request.index
        source = self._sources.pop(index, None)
        if source is not None:
            self._loading[index] = state
            self._news.append((source, index, hit_blocks))

    def scheduled(self, step: Step, now: int) -> None:
        """Tell the prefill side what can be pushed."""
        notify_ns = self._world.notify_ns
        by = -1 if notify_ns else self.place
        for source, index, hit_blocks in self._news:
            self._world.post(now + notify_ns, self._world.senders[source].wanted, index, hit_blocks, by)
        self._news.clear()

    def comes(self, at_ns: int, request: int) -> None:
        """The last of a prompt, and its first token, are here at ``at_ns``; or its sender has given it up by then."""
        heapq.heappush(self._ends, (at_ns, request))
        self._concerns(at_ns)

    def reported(self, now: int) -> TransferReport | None:
        """Look what is here."""
        ends = self._ends
        if not ends or ends[0][0] > now:
            return None
        report = TransferReport()
        while ends and ends[0][0] <= now:
            index = heapq.heappop(ends)[1]
            state = self._loading.pop(index, None)
            if state is None:
                continue  # its client left before it had blocks
            if index in self._has_ended:
                self._has_ended.discard(index)
                report.released.append(state)
            else:
                report.loaded.append(state)
                report.first_tokens.add(state)
        return report

    def finished(self, state: RequestState, now: int) -> bool:
        """Blocks that are being written are kept until that is over."""
        index = state.request.index
        self._sources.pop(index, None)
        if index not in self._loading:
            return False
        self._has_ended.add(index)
        return True

    def quiet_until_ns(self) -> int:
        """See :class:`~penstock.scheduler.kv_connector.KVConnector`."""
        if self._news:
            return 0
        return self._ends[0][0] if self._ends else NEVER_NS

    def has_work(self) -> bool:
        """See :class:`~penstock.scheduler.kv_connector.KVConnector`."""
        return False


class PushWorkers:
    """A :class:`~penstock.kv_transfer.step_workers.StepWorkers` of either side: pushes are the engine's own, so its
    workers have nothing to do."""

    def started(self, step: Step, stage: int, start_ns: int, end_ns: int) -> None:
        """See :class:`~penstock.kv_transfer.step_workers.StepWorkers`."""

    def passed(self, step: Step, now: int, stage_free_ns: list[int]) -> int:
        """See :class:`~penstock.kv_transfer.step_workers.StepWorkers`."""
        return now

    def quiet_until_ns(self) -> int:
        """See :class:`~penstock.kv_transfer.step_workers.StepWorkers`."""
        return NEVER_NS

    def went_by(self, older: int, times: Sequence[Sequence[int]]) -> None:
        """See :class:`~penstock.kv_transfer.step_workers.StepWorkers`."""

    def collect(self, now: int) -> None:
        """See :class:`~penstock.kv_transfer.step_workers.StepWorkers`."""
