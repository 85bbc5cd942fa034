""":class:`Workload` -> LLMServingSim JSONL, a request or session per line."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator

from penstock.workload.workload import Call, Workload


def lines(workload: Workload, *, token_ids: bool = True) -> Iterator[str]:
    """The lines of the file, each with its newline: sessions and requests by arrival."""
    for request in workload.requests():
        head = f'"arrival_time_ns":{request.arrival_ns}'
        if request.session is None:
            call = Call(
                request.input_tokens,
                request.output_tokens,
                input_ids=request.input_ids,
                output_ids=request.output_ids,
                priority=request.priority,
                model=request.model,
            )
            yield f"{{{_lengths(call)},{head}{_marks(call)}{_ids(call, token_ids)}}}\n"
        else:
            calls = workload.calls_of_session(request.session)
            bodies = (f"{{{_lengths(c)}{_wait(c)}{_marks(c)}{_ids(c, token_ids)}}}" for c in calls)
            name = json.dumps(f"session-{request.session}")
            yield f'{{"session_id":{name},{head},"sub_requests":[{",".join(bodies)}]}}\n'


def _lengths(call: Call) -> str:
    return f'"input_toks":{call.input_tokens},"output_toks":{call.output_tokens}'


def _wait(call: Call) -> str:
    return f',"tool_duration_ns":{call.tool_duration_ns}' if call.tool_duration_ns else ""


def _marks(call: Call) -> str:
    priority = f',"priority":{call.priority}' if call.priority else ""
    return priority if call.model is None else f'{priority},"model":{json.dumps(call.model)}'


def _ids(call: Call, token_ids: bool) -> str:
    if not token_ids:
        return ""
    return _list("input_tok_ids", call.input_ids) + _list("output_tok_ids", call.output_ids)


def _list(key: str, ids: array[int] | None) -> str:
    return "" if ids is None else f',"{key}":[{",".join(map(str, ids))}]'
