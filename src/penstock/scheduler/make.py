"""The scheduler that the options ask for."""

from __future__ import annotations

from penstock.scheduler.kv_cache import KVCache
from penstock.scheduler.kv_connector import KVConnector
from penstock.scheduler.policies.limits import Policy
from penstock.scheduler.policies.make import PrefillTime, make_policy
from penstock.scheduler.vllm import VllmScheduler
from penstock.scheduler.vllm_async import VllmAsyncScheduler, calls_between_tokens
from penstock.scheduler.vllm_async_each import VllmAsyncEachScheduler
from penstock.spec.options import SchedulerOptions


def check_policy(options: SchedulerOptions, pp_size: int) -> None:
    """Make the policy, for its mistakes.

    Raises:
        UserError: as :func:`make_scheduler`.
    """
    _policy(options, pp_size, None)


def _policy(options: SchedulerOptions, pp_size: int, prefill_ns: PrefillTime | None) -> Policy | None:
    return make_policy(options.policy, pp_size, prefill_ns or (lambda tokens, context: tokens))


def make_scheduler(
    options: SchedulerOptions,
    pp_size: int,
    num_gpu_blocks: int,
    *,
    prefill_ns: PrefillTime | None = None,
    connector: KVConnector | None = None,
    kv: KVCache | None = None,
    keep_token_times: bool = True,
    exact_only: bool = False,
) -> VllmScheduler:
    """A scheduler for one instance of ``pp_size`` stages with ``num_gpu_blocks`` blocks, null block included.

    ``prefill_ns`` is for policies that size chunks by their time. ``kv`` is the block pool where a connector needs one
    of its own kind.

    Raises:
        UserError: no such policy.
    """
    policy = _policy(options, pp_size, prefill_ns)
    if options.async_scheduling:
        in_step = options.max_in_flight <= 2 * calls_between_tokens(options, pp_size)
        if in_step and connector is None and not exact_only:
            return VllmAsyncScheduler(
                options, num_gpu_blocks, pp_size, policy=policy, kv=kv, keep_token_times=keep_token_times
            )
        return VllmAsyncEachScheduler(
            options,
            num_gpu_blocks,
            pp_size,
            policy=policy,
            connector=connector,
            kv=kv,
            keep_token_times=keep_token_times,
        )
    return VllmScheduler(
        options,
        num_gpu_blocks,
        policy=policy,
        connector=connector,
        kv=kv,
        keep_token_times=keep_token_times,
        exact_only=exact_only,
    )
