"""Link classes from the measurements of Vidur (send/recv and all-reduce) and AIConfigurator (all-reduce): time by size,
smoothed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from penstock.cost.aiconfigurator.systems import SYSTEMS
from penstock.cost.aiconfigurator.wheel import PACKAGE, VERSION, Wheel, find_wheel, read_rows
from penstock.cost.fitted import hat_basis
from penstock.cost.tables import FloatArray
from penstock.errors import Problem, UserError
from penstock.files.csv_text import measured_above_zero, named_rows

CLASSES: Mapping[str, tuple[str, bool, str]] = {
    "nvlink3": ("a100_dgx", True, "between GPUs of a DGX A100 (NVLink 3, NVSwitch)"),
    "nvlink4": ("h100_dgx", True, "between GPUs of a DGX H100 (NVLink 4, NVSwitch)"),
    "ethernet-a100": ("a100_dgx", False, "between DGX A100 nodes, as Vidur's cluster had them (7.8 GB/s)"),
    "rdma-h100": ("h100_dgx", False, "between DGX H100 nodes, as Vidur's cluster had them (36 GB/s)"),
}
"""Name -> (directory, inside a node, what it is)."""

_SAME_LINKS = {"A100-80GB": "nvlink3", "H100": "nvlink4", "H200": "nvlink4"}

_KNOTS = np.arange(11.0, 26.1, 1.5)
_ENGINE_KNOTS = np.arange(8.0, 30.1, 1.0)


def fit_links(directory: Path) -> tuple[dict[str, Any], list[str]]:
    """The JSON of ``data/links.json`` from ``<directory>/<machine>/{send_recv,all_reduce}.csv``, and one line of
    error per curve.

    Raises:
        UserError: a file is missing or broken.
    """
    classes: dict[str, Any] = {}
    report = [f"{'class':<16}{'curve':<16}{'points':>7}{'p50':>7}{'p90':>7}"]
    for name, (machine, inside, what) in CLASSES.items():
        hop = _points(directory / machine / "send_recv.csv", "send_recv")
        own = {2: hop[2, 2 if inside else 1]}
        curves: dict[str, Any] = {"message": _curve(name, "message", own[2], report)}
        reduce = _points(directory / machine / "all_reduce.csv", "all_reduce")
        for (ranks, per_node), points in sorted(reduce.items()):
            if (inside and per_node == ranks) or (not inside and per_node == 1):
                label = f"all-reduce {ranks}"
                curves.setdefault("all_reduce", {})[str(ranks)] = _curve(name, label, points, report)
        classes[name] = {"what": what, **curves}
    source = "Vidur's medians of send/recv and all-reduce (MIT licence)"
    wheel = find_wheel()
    if wheel is not None:
        classes |= _engine_classes(wheel, classes, report)
        source += f"; all-reduces of vLLM in {PACKAGE} {VERSION} (Apache-2.0, NVIDIA)"
    return {"format": 1, "source": source, "classes": classes}, report


def _engine_classes(wheel: Wheel, measured: Mapping[str, Any], report: list[str]) -> dict[str, Any]:
    """vLLM's own all-reduces between the GPUs of a node, in CUDA graphs, a class for each system; hops as in Vidur's
    class of the same links where there is one."""
    classes: dict[str, Any] = {}
    for label, system in SYSTEMS.items():
        path = wheel.table(system.name, "comm", "vllm", "custom_allreduce")
        version = wheel.engine_version(system.name, "vllm")
        columns = ("num_gpus", "message_size", "latency")
        rows = read_rows(path, columns, {"backend": "vllm_graph"}).to_numpy()
        name = f"vllm-{label.lower()}"
        curves: dict[str, Any] = {}
        for ranks in np.unique(rows[:, 0]).astype(int).tolist():
            own = rows[rows[:, 0] == ranks]
            # The tables count elements of two bytes, and time in milliseconds.
            points = np.column_stack([own[:, 1] * 2.0, own[:, 2] * 1e6])
            curves[str(ranks)] = _curve(name, f"all-reduce {ranks}", points, report, _ENGINE_KNOTS)
        hops = {"message": measured[_SAME_LINKS[label]]["message"]} if label in _SAME_LINKS else {}
        what = f"between {label} of one node, as vLLM {version} reduces in CUDA graphs (AIConfigurator)"
        classes[name] = {"what": what, **hops, "all_reduce": curves}
    return classes


def _points(path: Path, collective: str) -> dict[tuple[int, int], FloatArray]:
    found: dict[tuple[int, int], list[tuple[float, float]]] = {}
    column = f"time_stats.{collective}.median"
    for line, row in named_rows(path, (column, "num_workers", "devices_per_node", "size")):
        try:
            key = int(row["num_workers"]), int(row["devices_per_node"])
            found.setdefault(key, []).append(
                (measured_above_zero(row["size"]), measured_above_zero(row[column]) * 1e6)
            )
        except ValueError as error:
            raise UserError([Problem(f"{path}:{line}", f"not a measurement: {error}")]) from error
    return {key: np.array(sorted(points), dtype=np.float64) for key, points in found.items()}


def _curve(
    name: str, label: str, points: FloatArray, report: list[str], knots: FloatArray = _KNOTS
) -> dict[str, list[float]]:
    """Log of time, piecewise linear over log of size, least absolute deviations by reweighting."""
    basis = hat_basis(np.log2(points[:, 0]), knots)
    target = np.log(points[:, 1])
    weight = np.ones(len(target))
    bends = np.diff(np.eye(len(knots)), n=2, axis=0)
    solution = np.zeros(len(knots))
    for _ in range(30):
        weighted = basis * weight[:, None]
        gram = weighted.T @ basis + 1e-2 * bends.T @ bends + 1e-6 * np.eye(len(knots))
        solution = np.linalg.solve(gram, weighted.T @ target)
        weight = 1.0 / np.maximum(np.abs(basis @ solution - target), 1e-3)
    solution = np.maximum.accumulate(solution)
    error = np.abs(np.exp(basis @ solution) / points[:, 1] - 1)
    p50, p90 = np.percentile(error, [50, 90])
    report.append(f"{name:<16}{label:<16}{len(points):>7}{p50:>7.1%}{p90:>7.1%}")
    return {
        "sizes": [float(round(2.0**knot)) for knot in knots],
        "ns": [float(f"{value:.4g}") for value in np.exp(solution)],
        "error": [round(float(p50), 3), round(float(p90), 3)],
    }
