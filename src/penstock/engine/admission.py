"""Requests that can never run are refused before they reach the scheduler, as vLLM's front end does."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from penstock.spec.options import SchedulerOptions
from penstock.units import Int64Array
from penstock.workload.request import Request


def reason_to_reject(request: Request, options: SchedulerOptions, usable_blocks: int) -> str | None:
    """Why the request can never be served, or None.

    A prompt must leave room for a token within ``max_model_len`` (vLLM ``v1/engine/processor.py:
    _validate_prompt_length``); prompt and output but for the last token must fit the KV pool, or the request
    would, alone in the replica, preempt itself for ever.
    """
    if request.input_tokens >= options.max_model_len:
        return f"prompt of {request.input_tokens} tokens, max_model_len is {options.max_model_len}"
    stored = min(request.input_tokens + request.output_tokens, options.max_model_len) - 1
    blocks = -(-stored // options.block_size)
    if blocks > usable_blocks:
        return f"needs {blocks} KV blocks ({stored} tokens), the instance has {usable_blocks}"
    if not options.enable_chunked_prefill and request.input_tokens > options.max_num_batched_tokens:
        return (
            f"prompt of {request.input_tokens} tokens exceeds max_num_batched_tokens "
            f"{options.max_num_batched_tokens}, and chunked prefill is off"
        )
    return None


def can_run(
    input_tokens: Int64Array, output_tokens: Int64Array, options: SchedulerOptions, usable_blocks: int
) -> npt.NDArray[np.bool_]:
    """Of many requests at once, for which :func:`reason_to_reject` has no reason."""
    stored = np.minimum(input_tokens + output_tokens, options.max_model_len) - 1
    good = (input_tokens < options.max_model_len) & (-(-stored // options.block_size) <= usable_blocks)
    if not options.enable_chunked_prefill:
        good &= input_tokens <= options.max_num_batched_tokens
    return good
