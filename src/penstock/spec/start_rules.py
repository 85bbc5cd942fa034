"""What vLLM refuses when it starts, so that no run answers for a server that would never have come up.

Source: vLLM ``config/scheduler.py: SchedulerConfig.verify_max_model_len``.
"""

from __future__ import annotations

from collections.abc import Mapping

from penstock.spec.options import SchedulerOptions


def start_refusals(
    options: SchedulerOptions, batched_tokens: int | None, max_num_seqs: int
) -> Mapping[str, str]:
    """Members of an instance, each with the reason why vLLM does not start with it.

    ``batched_tokens`` is ``max_num_batched_tokens`` as given, before the model's context caps it: None where nothing
    is, and vLLM chooses one that will do. A ``max_num_seqs`` of 0, any number, is not vLLM's.
    """
    found: dict[str, str] = {}
    most = options.max_model_len
    if batched_tokens is not None and not options.enable_chunked_prefill and batched_tokens < most:
        found["enable_chunked_prefill"] = (
            f"is off, so max_num_batched_tokens {batched_tokens} must hold a prompt of max_model_len {most}: vLLM does "
            "not start"
        )
    if batched_tokens is not None and batched_tokens < max_num_seqs:
        message = f"{batched_tokens} is below max_num_seqs {max_num_seqs}: vLLM does not start"
        found["max_num_batched_tokens"] = message
    if options.long_prefill_token_threshold > most:
        message = f"{options.long_prefill_token_threshold} is above max_model_len {most}: vLLM does not start"
        found["long_prefill_token_threshold"] = message
    return found
