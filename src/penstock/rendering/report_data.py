"""What a report shows, as plain values for the page's scripts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from penstock.accounting.bubbles import CAUSE_NAMES
from penstock.accounting.verdict import verdict
from penstock.recording.records import Int64Array
from penstock.rendering.run_view import LATENCIES, RunView
from penstock.units import NS_PER_MS, NS_PER_S

CDF_POINTS = 200
TIME_POINTS = 400


def stage_causes(instance: Mapping[str, Any]) -> list[dict[str, int]]:
    """ns by cause of each stage of an instance of ``summary.json``, ``busy`` first; empty without a ledger."""
    if any(stage["causes_ns"] is None for stage in instance["stages"]):
        return []
    return [{"busy": stage["busy_ns"], **stage["causes_ns"]} for stage in instance["stages"]]


def page_data(view: RunView) -> dict[str, Any]:
    """Everything the page's scripts need to know of a run, ready for JSON."""
    summary = view.summary
    start_ns = summary["first_arrival_ns"]
    instances: list[dict[str, Any]] = []
    waiting = mean_waiting(view)
    for place, instance in enumerate(summary["instances"]):
        causes = stage_causes(instance)
        role = view.inputs["instances"][place].get("pd_type")
        title = f"instance {instance['instance']}" + (f" ({role})" if role else "")
        instances.append(
            {
                "title": title,
                "model": f"{instance['model']}, tp {instance['tp_size']} x pp {instance['pp_size']}",
                "verdict": verdict(causes, waiting) if causes else ["No request finished."],
                "stages": instance["stages"],
                "causes": causes,
                "memory": view.memory[place],
                "cohorts": _cohorts(view.steps.get(place), start_ns),
            }
        )
    return {
        "name": view.name,
        "summary": {key: summary[key] for key in ("requests", "engine", "throughput", "simulated_ns")},
        "latency": summary["latency"],
        "cdfs": {title: _cdf(view.requests[f"{key}_ns"]) for title, key in LATENCIES.items()},
        "over_time": _over_time(view),
        "energy": _energy(view),
        "instances": instances,
        "inputs": view.inputs,
        "basis": list(dict.fromkeys(line for one in summary["instances"] for line in one["basis"])),
        "notes": [note for one in summary["instances"] for note in one["notes"]] + list(summary["notices"]),
        "rejections": [f"request {one['request']}: {one['reason']}" for one in summary["rejections"]],
        "start_ns": start_ns,
        "gantt": list(view.gantt),
        "causes": list(CAUSE_NAMES),
        "kv": dict(view.kv),
    }


def mean_waiting(view: RunView) -> float | None:
    """Finished requests that wait for their first step, on average and per instance, while requests arrive (Little's
    law: all their waits over that time); None where they all arrive at once."""
    arrival, queuing = view.requests["arrival_ns"], view.requests["queuing_ns"]
    if len(arrival) < 2 or arrival.max() == arrival.min():
        return None
    return float(queuing.sum()) / float(arrival.max() - arrival.min()) / len(view.summary["instances"])


def _cdf(values: Int64Array) -> dict[str, list[float]]:
    """Milliseconds at evenly spaced shares of the requests."""
    if not len(values):
        return {"x": [], "y": []}
    shares = np.linspace(0, 100, min(CDF_POINTS, len(values)) if len(values) > 1 else 1)
    return {"x": _rounded(np.percentile(values, shares) / NS_PER_MS, 4), "y": _rounded(shares, 3)}


def _over_time(view: RunView) -> dict[str, Any]:
    """Rates and states at up to TIME_POINTS moments, over all instances."""
    start = view.summary["first_arrival_ns"]
    end = view.summary["last_completion_ns"] or start
    if not view.steps or end <= start:
        return {}
    edges = np.linspace(start, end, min(TIME_POINTS, max(2, (end - start) // NS_PER_MS)) + 1)
    width_s = (edges[1] - edges[0]) / NS_PER_S
    count = len(edges) - 1
    series = {name: np.zeros(count) for name in ("prompt", "generated", "running", "waiting", "kv")}
    for instance, steps in view.steps.items():
        for name, weights in (("prompt", steps["prefill_tokens"]), ("generated", steps["sampled"])):
            at = steps["schedule_ns"] if name == "prompt" else steps["update_ns"]
            series[name] += np.histogram(np.clip(at, start, end), edges, weights=weights)[0] / width_s
        state = np.searchsorted(steps["schedule_ns"], edges[1:], side="left") - 1
        known = state >= 0
        blocks = view.inputs["instances"][instance]["scheduler"]["block_size"]
        capacity = view.summary["instances"][instance]["kv_tokens"] // blocks
        over = edges[1:] > steps["update_ns"][-1]
        for name in ("running", "waiting"):
            series[name] += np.where(known & ~over, steps[name][state], 0)
        used = np.where(known & ~over, capacity - steps["free_blocks"][state], 0)
        series["kv"] += 100 * used / max(capacity, 1) / len(view.steps)
    middle = (edges[1:] + edges[:-1]) / 2
    return {"t": _rounded((middle - start) / NS_PER_S, 6)} | {
        name: _rounded(values, 3) for name, values in series.items()
    }


def _energy(view: RunView) -> dict[str, Any]:
    """The summary's energy, and mean W by component over time, in s from the first arrival; empty if not known."""
    energy = view.summary.get("energy")
    if energy is None or not view.power:
        return {}
    start = view.summary["first_arrival_ns"]
    names = [name for name in view.power if name.endswith("_w") and any(view.power[name])]
    begin, end = np.array(view.power["begin_ns"]), np.array(view.power["end_ns"])
    return {
        "summary": energy,
        "t": _rounded(((begin + end) / 2 - start) / NS_PER_S, 6),
        "watts": {name.removesuffix("_w"): _rounded(view.power[name], 3) for name in names},
    }


def _cohorts(steps: Mapping[str, Int64Array] | None, start_ns: int) -> dict[str, Any]:
    """Decodes per step over time: every step of a short run, else least, mean and most per interval."""
    if steps is None:
        return {}
    carrying = steps["decodes"] > 0
    at, decodes = (steps["schedule_ns"][carrying] - start_ns) / NS_PER_S, steps["decodes"][carrying]
    if not len(at):
        return {}
    if len(at) <= 4000:
        return {"t": _rounded(at, 6), "steps": decodes.tolist()}
    groups = np.array_split(np.arange(len(at)), TIME_POINTS)
    return {
        "t": _rounded(np.array([at[group].mean() for group in groups]), 6),
        "least": [int(decodes[group].min()) for group in groups],
        "mean": _rounded(np.array([decodes[group].mean() for group in groups]), 2),
        "most": [int(decodes[group].max()) for group in groups],
    }


def _rounded(values: Any, digits: int) -> list[float]:
    return np.round(values, digits).tolist()
