"""The scheduler that the options ask for."""

from __future__ import annotations

from penstock.errors import Problem, UserError
from penstock.scheduler.async_scheduler import AsyncScheduler
from penstock.scheduler.policies.limits import Policy
from penstock.scheduler.policies.make import PrefillTime, make_policy
from penstock.scheduler.scheduler import Scheduler
from penstock.spec.options import SchedulerOptions


def check_policy(options: SchedulerOptions, pp_size: int) -> None:
    """Make the policy, for its mistakes.

    Raises:
        UserError: as :func:`make_scheduler`.
    """
    _policy(options, pp_size, None)


def _policy(options: SchedulerOptions, pp_size: int, prefill_ns: PrefillTime | None) -> Policy | None:
    policy = make_policy(options.policy, pp_size, prefill_ns or (lambda tokens, context: tokens))
    if policy is not None and options.async_scheduling:
        message = "does not go with async scheduling, which takes everything that is eligible"
        raise UserError([Problem(f"policy '{options.policy}'", message)])
    return policy


def make_scheduler(
    options: SchedulerOptions,
    pp_size: int,
    num_gpu_blocks: int,
    *,
    prefill_ns: PrefillTime | None = None,
    keep_token_times: bool = True,
    exact_only: bool = False,
) -> Scheduler:
    """A scheduler for one instance of ``pp_size`` stages with ``num_gpu_blocks`` blocks, null block included.

    ``prefill_ns`` is for policies that size chunks by their time.

    Raises:
        UserError: no such policy, or one beside async scheduling, which has its own way of filling steps.
    """
    policy = _policy(options, pp_size, prefill_ns)
    if options.async_scheduling:
        return AsyncScheduler(options, num_gpu_blocks, pp_size, keep_token_times=keep_token_times)
    return Scheduler(
        options, num_gpu_blocks, policy=policy, keep_token_times=keep_token_times, exact_only=exact_only
    )
