"""What became of each request: a row if it finished, an entry if it was refused, left by its client, or failed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from penstock.engine.instance import Instance
from penstock.recording.records import (
    REQUEST_COLUMNS,
    Abortion,
    Rejection,
    RequestLog,
    Role,
    TokenTimes,
    Transfer,
)
from penstock.scheduler.request_state import Outcome, RequestState
from penstock.units import Int64Array
from penstock.workload.request import Request

_FINISH = REQUEST_COLUMNS.index("finish_ns")


class Outcomes:
    """The log of requests as they end. Where prompts are computed at other instances than answers, it keeps what a
    request's row and legs need of its prompt until its answer ends. ``end_ns`` is when the latest of them ended."""

    def __init__(self, *, keep_token_times: bool) -> None:
        self.log = RequestLog(keep_token_times=keep_token_times)
        self.rejections: list[Rejection] = []
        self.abortions: list[Abortion] = []
        self.transfers: list[Transfer] = []
        self.end_ns = 0
        self._prompts: dict[int, tuple[Instance, RequestState, int]] = {}
        self._kv_bytes: dict[int, int] = {}

    def forget(self) -> None:
        """Drop all that has ended so far."""
        self.log = RequestLog(keep_token_times=self.log.keep_token_times)
        self.rejections.clear()
        self.abortions.clear()
        self.transfers.clear()

    def rejected(self, request: Request, instance: int, reason: str) -> Rejection:
        """A request can never run."""
        at_ns = request.arrival_ns
        rejection = Rejection(
            request.index, instance, at_ns, request.input_tokens, request.output_tokens, reason
        )
        self.rejections.append(rejection)
        self.end_ns = max(self.end_ns, at_ns)
        return rejection

    def moved(self, transfer: Transfer) -> None:
        """KV is under way to the instance that generates a request's answer."""
        self._kv_bytes[transfer.request] = self._kv_bytes.get(transfer.request, 0) + transfer.size_bytes
        self.transfers.append(transfer)

    def computed(self, replica: Instance, state: RequestState, at_ns: int) -> None:
        """A prompt is computed, and another instance goes on with it."""
        self._prompts[state.request.index] = replica, state, at_ns

    def ended(self, replica: Instance, state: RequestState, at_ns: int) -> None:
        """A request has left its (last) instance."""
        if state.outcome is Outcome.FINISHED:
            self._finished(replica, state, at_ns)
            self.end_ns = max(self.end_ns, at_ns)
        else:
            generated = state.num_tokens - state.request.input_tokens
            self.left(replica.index, state.request, at_ns, generated, failed=state.outcome is Outcome.FAILED)

    def finished_rows(
        self,
        rows: bytes,
        segments: Sequence[tuple[tuple[TokenTimes, int, int], ...]],
        way_in_ns: int | Int64Array,
    ) -> None:
        """Requests have finished: their rows of REQUEST_COLUMNS, int64, in the order of their instances' turns. Each
        came to its instance ``way_in_ns`` after its user had sent it."""
        first = len(self.log)
        self.log.extend(rows, segments)
        values = np.frombuffer(rows, dtype=np.int64).reshape(-1, len(REQUEST_COLUMNS))
        if len(values):
            self.end_ns = max(self.end_ns, int(values[:, _FINISH].max()))
        if not np.any(way_in_ns):
            return
        ways_in = np.broadcast_to(way_in_ns, len(values)).tolist()
        for place, (row, way_ns) in enumerate(zip(values.tolist(), ways_in, strict=True)):
            if way_ns:
                request, instance, _, _, arrival, scheduled, token, finish, _, _ = row
                leg = (request, 0, instance, int(Role.WHOLE), arrival + way_ns, scheduled, token, finish, 0)
                self.log.add_legs(first + place, (leg,))

    def left(
        self, instance: int, request: Request, at_ns: int, generated_tokens: int, *, failed: bool = False
    ) -> None:
        """A request has ended without its answer: its client left, or it ``failed``."""
        self.abortions.append(
            Abortion(
                request.index,
                instance,
                request.arrival_ns,
                at_ns,
                request.input_tokens,
                generated_tokens,
                failed,
            )
        )
        self._prompts.pop(request.index, None)
        self._kv_bytes.pop(request.index, None)
        self.end_ns = max(self.end_ns, at_ns)

    def _finished(self, replica: Instance, state: RequestState, at_ns: int) -> None:
        request = state.request
        prompt = self._prompts.pop(request.index, None)
        began = state if prompt is None else prompt[1]
        assert began.first_scheduled_ns is not None
        assert state.first_token_ns is not None
        self.log.append(
            (
                request.index,
                replica.index,
                request.input_tokens,
                state.num_tokens - request.input_tokens,
                request.arrival_ns,
                began.first_scheduled_ns,
                state.first_token_ns,
                at_ns,
                state.preemptions + (began.preemptions if began is not state else 0),
                began.cached_tokens or 0,
            ),
            tuple(state.segments),
            self._legs(replica, state, at_ns, prompt),
        )

    def _legs(
        self,
        replica: Instance,
        state: RequestState,
        at_ns: int,
        prompt: tuple[Instance, RequestState, int] | None,
    ) -> tuple[tuple[int, ...], ...]:
        """The request's stays at instances, where its row does not say it all."""
        if prompt is not None:
            prefill, computed, computed_ns = prompt
            kv_bytes = self._kv_bytes.pop(state.request.index, 0)
            return (
                _leg(0, prefill, Role.PREFILL, computed, computed_ns, 0),
                _leg(1, replica, Role.DECODE, state, at_ns, kv_bytes),
            )
        if state.arrived_ns == state.request.arrival_ns:
            return ()
        return (_leg(0, replica, Role.WHOLE, state, at_ns, 0),)


def _leg(
    number: int, replica: Instance, role: Role, state: RequestState, end_ns: int, kv_bytes: int
) -> tuple[int, ...]:
    """A row of LEG_COLUMNS."""
    times = (state.arrived_ns, state.first_scheduled_ns or 0, state.first_token_ns or 0, end_ns)
    return (state.request.index, number, replica.index, int(role), *times, kv_bytes)
