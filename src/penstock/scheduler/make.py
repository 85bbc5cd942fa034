"""The scheduler that the options ask for."""

from __future__ import annotations

from penstock.scheduler.async_scheduler import AsyncScheduler
from penstock.scheduler.scheduler import Scheduler
from penstock.spec.options import SchedulerOptions


def make_scheduler(
    options: SchedulerOptions,
    pp_size: int,
    num_gpu_blocks: int,
    *,
    keep_token_times: bool = True,
    exact_only: bool = False,
) -> Scheduler:
    """A scheduler for one instance of ``pp_size`` stages with ``num_gpu_blocks`` blocks, null block included."""
    if options.async_scheduling:
        return AsyncScheduler(options, num_gpu_blocks, pp_size, keep_token_times=keep_token_times)
    return Scheduler(options, num_gpu_blocks, keep_token_times=keep_token_times, exact_only=exact_only)
