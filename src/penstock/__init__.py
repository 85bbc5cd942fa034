"""Penstock: a fast simulator of LLM serving with pipeline parallelism at its centre."""

from __future__ import annotations

TYPE_CHECKING = (
    False  # typing itself is not imported: an interrupt before penstock.cli.entry gives a traceback
)

if TYPE_CHECKING:
    from typing import Any

    from penstock.api import Scenario, load_scenario, simulate
    from penstock.cost.step_cost import HopCost, PipelineCost, StageCost
    from penstock.engine.observer import Observer, RequestView, StepView, TokensView
    from penstock.engine.simulation import Simulation
    from penstock.errors import NoProgressError, UserError
    from penstock.recording.records import TurnChunk, TurnSink
    from penstock.rendering.result import SimulationResult
    from penstock.spec.given import SimulateOptions
    from penstock.spec.load import load_cluster
    from penstock.workload.formats import load_workload
    from penstock.workload.request import Request

__version__ = "0.1.0"
__all__ = [
    "HopCost",
    "NoProgressError",
    "Observer",
    "PipelineCost",
    "Request",
    "RequestView",
    "Scenario",
    "SimulateOptions",
    "Simulation",
    "SimulationResult",
    "StageCost",
    "StepView",
    "TokensView",
    "TurnChunk",
    "TurnSink",
    "UserError",
    "__version__",
    "load_cluster",
    "load_scenario",
    "load_workload",
    "simulate",
]

_HOMES = {
    "HopCost": "penstock.cost.step_cost",
    "NoProgressError": "penstock.errors",
    "Observer": "penstock.engine.observer",
    "PipelineCost": "penstock.cost.step_cost",
    "Request": "penstock.workload.request",
    "RequestView": "penstock.engine.observer",
    "Scenario": "penstock.api",
    "SimulateOptions": "penstock.spec.given",
    "Simulation": "penstock.engine.simulation",
    "SimulationResult": "penstock.rendering.result",
    "StageCost": "penstock.cost.step_cost",
    "StepView": "penstock.engine.observer",
    "TokensView": "penstock.engine.observer",
    "TurnChunk": "penstock.recording.records",
    "TurnSink": "penstock.recording.records",
    "UserError": "penstock.errors",
    "load_cluster": "penstock.spec.load",
    "load_scenario": "penstock.api",
    "load_workload": "penstock.workload.formats",
    "simulate": "penstock.api",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for only then: ``penstock --help`` needs none of it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
