"""How a turn's work is cut into micro-batches, where vLLM's rule (take everything) is not wanted.

A policy is asked at the top of every schedule() what this step may hold, and answers with :class:`StepLimits`. One
small class each; ``make_policy`` finds them by name, as an entry point of the group ``penstock.policies``, or as
``module:Class``.
"""

from penstock.scheduler.policies.limits import Policy, SchedulerView, StepLimits
from penstock.scheduler.policies.make import POLICY_NAMES, make_policy

__all__ = ["POLICY_NAMES", "Policy", "SchedulerView", "StepLimits", "make_policy"]
