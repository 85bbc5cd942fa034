"""A recording of any kind, run and compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from penstock.files.document import understood
from penstock.validate import disaggregated, offloading
from penstock.validate.data_parallel import is_data_parallel, penstock_group, validate_group
from penstock.validate.disaggregated_setup import is_disaggregated
from penstock.validate.engines import penstock_disaggregated, penstock_offloading
from penstock.validate.recordings import Recording
from penstock.validate.schedule import Result, penstock_engine, validate_case


@dataclass(frozen=True, slots=True)
class ComparedRun:
    """One case of several instances or tiers. ``difference`` is the first one, or None; ``ours`` the run in the
    recording's schema."""

    case: str
    difference: str | None
    size: str
    ours: Mapping[str, Any]

    @property
    def line(self) -> str:
        """The report's line of this case."""
        if self.difference is not None:
            return f"{self.case}: DIFFERENT {self.difference}"
        return f"{self.case}: equal ({self.size})"

    def dumped(self) -> dict[str, Any]:
        """What we did, in the recording's schema."""
        return dict(self.ours)


def validate_recording(
    recording: Recording, *, as_recorded: bool = False, exact_only: bool = False
) -> Result:
    """Run one recording on the simulator's engine and compare; ``as_recorded`` and ``exact_only`` as in
    :func:`~penstock.validate.schedule.validate_case`."""
    with understood(recording.source, "cannot be run again"):
        return _validated(recording, as_recorded=as_recorded, exact_only=exact_only)


def _validated(recording: Recording, *, as_recorded: bool, exact_only: bool) -> Result:
    if is_disaggregated(recording.data):
        ours = disaggregated.run_disaggregated(
            recording, partial(penstock_disaggregated, exact_only=exact_only)
        )
        size = (
            f"{len(ours['instances'])} instances, {len(ours['pd_requests'])} requests, "
            f"{len(ours['transfers'])} transfers"
        )
        return _compared(recording, ours, disaggregated.first_difference, size)
    if offloading.is_offloading(recording.data):
        ours = offloading.run_offloading(recording, partial(penstock_offloading, exact_only=exact_only))
        size = (
            f"{len(ours['iterations'])} iterations, {len(ours['per_request'])} requests, "
            f"{len(ours['jobs'])} copies"
        )
        return _compared(recording, ours, offloading.first_difference, size)
    if is_data_parallel(recording):
        return validate_group(recording, penstock_group(exact_only=exact_only))
    return validate_case(recording, penstock_engine(exact_only=exact_only), as_recorded=as_recorded)


def _compared(
    recording: Recording,
    ours: Mapping[str, Any],
    first_difference: Callable[[Mapping[str, Any], Mapping[str, Any]], str | None],
    size: str,
) -> ComparedRun:
    return ComparedRun(recording.case, first_difference(recording.data, ours), size, ours)
