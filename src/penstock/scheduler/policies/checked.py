"""A user's policy, whose mistakes are told as such before they reach the scheduler."""

from __future__ import annotations

import traceback
from typing import Any

from penstock.errors import Problem, UserError
from penstock.scheduler.policies.limits import Policy, SchedulerView, StepLimits


class CheckedPolicy:
    """``name`` is how the user calls it."""

    def __init__(self, policy: Policy, name: str) -> None:
        self.policy = policy
        self._name = name

    def limits(self, view: SchedulerView) -> StepLimits:
        """See :class:`Policy`.

        Raises:
            UserError: it raised, or returned something else than :class:`StepLimits`.
        """
        try:
            answer: Any = self.policy.limits(view)
        except Exception as error:  # whatever the user's class raises is the user's to mend
            frames = traceback.extract_tb(error.__traceback__)[1:]
            place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
            raise self._problem(f"raised {type(error).__name__}: {error}{place}") from error
        if not isinstance(answer, StepLimits):
            text = repr(answer)
            raise self._problem(
                f"returned {text if len(text) <= 60 else text[:57] + '...'}, expected StepLimits"
            )
        return answer

    def _problem(self, message: str) -> UserError:
        return UserError([Problem(f"policy '{self._name}'", message)])
