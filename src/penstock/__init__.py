"""Penstock: a fast simulator of LLM serving with pipeline parallelism at its centre."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penstock.api import simulate
    from penstock.errors import NoProgressError, UserError
    from penstock.rendering.result import SimulationResult
    from penstock.spec.given import SimulateOptions
    from penstock.spec.load import load_cluster
    from penstock.workload.formats import load_workload

__version__ = "0.1.0"
__all__ = [
    "NoProgressError",
    "SimulateOptions",
    "SimulationResult",
    "UserError",
    "__version__",
    "load_cluster",
    "load_workload",
    "simulate",
]

_HOMES = {
    "NoProgressError": "penstock.errors",
    "SimulateOptions": "penstock.spec.given",
    "SimulationResult": "penstock.rendering.result",
    "UserError": "penstock.errors",
    "load_cluster": "penstock.spec.load",
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
