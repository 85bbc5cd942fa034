"""A longer or shorter workload from the requests of another."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import replace

from penstock.errors import Problem, UserError
from penstock.workload.workload import Call, Columns, Workload

_MOST = 2**31


def drawn_from(workload: Workload, rows: Sequence[int], source: str) -> Workload:
    """The requests (with a session, the whole of it) at ``rows``, in that order, a row as often as it is named.

    ``rows`` are of requests that arrive by themselves; arrivals stay as they are. Where there are token ids, the
    second and every further copy of a request has ids of its own: the copies made in one round share with each other
    what the originals share, so that no request finds itself in the prefix cache.

    Raises:
        UserError: there are more copies than token ids can be told apart.
    """
    named = workload.has_priorities or workload.names_models
    if not workload.has_sessions and not workload.has_token_ids and not named:
        inputs, outputs, arrivals = workload.input_tokens, workload.output_tokens, workload.arrival_ns
        picked = list(rows)
        return Workload.from_columns(
            arrivals[picked].tolist(), inputs[picked].tolist(), outputs[picked].tolist(), source
        )
    columns = Columns()
    copies: dict[int, int] = {}
    span = workload.largest_id + 1
    for row in rows:
        copy = copies.get(row, 0)
        copies[row] = copy + 1
        if (copy + 1) * span > _MOST:
            message = f"cannot be repeated {copy + 1} times: its token ids would no longer be told apart"
            raise UserError([Problem(workload.source, message)])
        request = workload.request(row)
        if request.session is None:
            columns.add(request.arrival_ns, _renamed(workload.call(row), copy * span))
        else:
            calls = workload.calls_of_session(request.session)
            columns.add_session(request.arrival_ns, [_renamed(call, copy * span) for call in calls])
    return Workload(columns, source)


def _renamed(call: Call, by: int) -> Call:
    return replace(
        call,
        input_ids=_shifted(call.input_ids, by),
        output_ids=_shifted(call.output_ids, by),
        prefix_blocks=_shifted(call.prefix_blocks, by),
    )


def _shifted(ids: array[int] | None, by: int) -> array[int] | None:
    return ids if ids is None or not by else array("i", (one + by for one in ids))
