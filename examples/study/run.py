"""The worked study of docs/study.md: python examples/study/run.py [--images DIR]

Runs study.yaml beside this file (resumable: finished points are kept), then the load curves, and draws three charts.
Where the Azure trace is not at hand it serves a generated one like it, and says so.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from charts import grouped_bars, lines, round_up, stacked_bars

from penstock.errors import Problem
from penstock.explore.design_point import DesignPoint, cluster_config, settled
from penstock.explore.load_test import LoadTest, Trial
from penstock.explore.pool import LocalPool, Lost
from penstock.explore.report import text_report, write_outputs
from penstock.explore.result import PointResult
from penstock.explore.study import StudyOutcome, run_study
from penstock.explore.study_spec import StudySpec, load_study
from penstock.files.yaml_text import read_yaml
from penstock.spec.load import load_cluster
from penstock.workload.offered_load import OfferedLoad

HERE = Path(__file__).parent
CURVE_SHARES = (0.1, 0.3, 0.5, 0.7, 0.85, 1.0, 1.15)
LIKE_THE_TRACE = {"input_toks": "lognormal:1014,0.98", "output_toks": "lognormal:247,0.66", "max_input": 8000}
FAST = "nvlink+ib"
CAUSES = {
    "busy": "#059669",
    "dependency": "#7c3aed",
    "imbalance": "#d97706",
    "transfer": "#2563eb",
    "memory": "#dc2626",
    "seqs": "#db2777",
    "engine": "#0891b2",
    "fill and drain": "#93c5fd",
    "idle": "#e5e7eb",
}


class Curve:
    """Picklable: a deployment's trials at shares of its capacity."""

    def __init__(self, spec: StudySpec) -> None:
        self._site, self._load = spec.site, spec.load

    def __call__(self, result: PointResult) -> list[Trial]:
        cluster = load_cluster(cluster_config(result.point, self._site))
        load_test = LoadTest(cluster, OfferedLoad(self._load.workload, self._load.arrivals), self._load.slo)
        return [
            load_test.try_rate(float(f"{(result.rate_per_s or 1) * share:.4g}"), 0) for share in CURVE_SHARES
        ]


def main() -> None:
    """Search, curves, charts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("study-results"), help="results [study-results]")
    parser.add_argument("--images", type=Path, default=None, help="charts [the results' directory]")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    spec = load_study(study_file(given.out))
    print(f"served: {spec.load.workload.source}, {len(spec.load.workload)} requests", flush=True)
    outcome = run_study(
        spec,
        given.out,
        lambda evaluate: LocalPool(evaluate, given.workers),
        lambda step: print(".", end="", flush=True),
    )
    print()
    write_outputs(outcome, given.out)
    print(text_report(outcome, given.out))
    fast = [r for r in outcome.results if r.rate_per_s is not None and r.point.network == FAST]
    fast.sort(key=lambda result: -(result.goodput_per_s or 0))
    with LocalPool(Curve(spec), given.workers) as pool:
        found = dict(pool.run(fast))
    curves = {
        name(fast[index].point): trials for index, trials in found.items() if not isinstance(trials, Lost)
    }
    images = given.images or given.out
    images.mkdir(parents=True, exist_ok=True)
    for file, chart in (
        ("study-goodput.svg", goodput_chart(outcome, fast)),
        ("study-load.svg", load_chart(spec, {name(r.point): curves[name(r.point)] for r in fast})),
        ("study-time.svg", time_chart(fast)),
    ):
        (images / file).write_text(chart)
        print(f"wrote {images / file}")
    print("\n" + markdown_table(outcome, fast))


def study_file(out: Path) -> Path:
    """study.yaml, or a copy that generates its requests where the trace is missing."""
    path = HERE / "study.yaml"
    problems: list[Problem] = []
    data = read_yaml(path, problems)
    if (path.parent / data["dataset"]).is_file():
        return path
    import yaml

    requests = data.pop("num_requests")
    print(f"{data.pop('dataset')} is not here: a generated trace with its mean lengths stands in", flush=True)
    data |= {
        "generate": {"num_requests": requests, **LIKE_THE_TRACE},
        "arrivals": "gamma",
        "burstiness": 0.64,
    }
    out.mkdir(parents=True, exist_ok=True)
    copy = out / "study-generated.yaml"
    copy.write_text(yaml.safe_dump(data, sort_keys=False))
    return copy


def name(point: DesignPoint) -> str:
    """``2 x TP4``"""
    text = replace(point, network="default", max_num_seqs=None).label
    return re.sub(r"(TP\d+) PP", r"\1PP", text.removeprefix(f"{point.hardware}, "))


def goodput_chart(outcome: StudyOutcome, order: list[PointResult]) -> str:
    """Who wins where."""
    networks = list(outcome.spec.site.networks)
    names = [name(result.point) for result in order]
    table = by_network(outcome)
    series = {network: [table.get((one, network)) for one in names] for network in networks}
    title = f"Goodput of 8 H100 in two nodes, Llama-3.1-70B, {outcome.spec.load.slo}"
    return grouped_bars(title, "requests/s within the SLO", names, series)


def by_network(outcome: StudyOutcome) -> dict[tuple[str, str], float | None]:
    """Goodput by deployment and network: one network's figure stands for those that are the same to a point."""
    found = {result.point: result.goodput_per_s for result in outcome.results}
    site = outcome.spec.site
    return {
        (name(point), network): found.get(settled(replace(point, network=network), site))
        for point in found
        for network in site.networks
    }


def load_chart(spec: StudySpec, curves: dict[str, list[Trial]]) -> str:
    """Why: the price of a token as the load rises."""
    limit = next(
        bound.limit_ns for bound in (spec.load.slo.bounds if spec.load.slo else ()) if bound.metric == "tpot"
    )
    points = {
        label: [(trial.rate_per_s or 0.0, (trial.statistics_ns["tpot_p99"] or 0.0) / 1e6) for trial in trials]
        for label, trials in curves.items()
    }
    window = (round_up(max(x for curve in points.values() for x, _ in curve)), 2 * limit / 1e6)
    title = "TPOT p99 over load, NVLink and InfiniBand (dotted: the limit)"
    return lines(title, ("requests/s", "TPOT p99 in ms"), points, limit / 1e6, window)


def time_chart(order: list[PointResult]) -> str:
    """Why: where the time of the stages goes just above the edge, mean over stages and replicas."""

    def share(result: PointResult, cause: str) -> float:
        causes = ("fill", "drain") if cause == "fill and drain" else (cause,)
        return sum(stage[one] for stage in result.stages for one in causes) / len(result.stages)

    parts = {cause: (colour, [share(result, cause) for result in order]) for cause, colour in CAUSES.items()}
    names = [name(result.point) for result in order]
    return stacked_bars(
        "Where the stages' time goes at the edge, NVLink and InfiniBand", "share of time", names, parts
    )


def markdown_table(outcome: StudyOutcome, order: list[PointResult]) -> str:
    """The table of docs/study.md."""
    networks = list(outcome.spec.site.networks)
    table = by_network(outcome)
    lines_ = [
        "| deployment | " + " | ".join(networks) + " | limited by | busy |",
        "|---" * (len(networks) + 3) + "|",
    ]
    for result in order:
        label = name(result.point)
        cells = [f"{value:.2f}" if (value := table.get((label, one))) else "none" for one in networks]
        busy = sum(stage["busy"] for stage in result.stages) / max(len(result.stages), 1)
        limit = f"{result.limiting_metric}: {result.limiting_cause}"
        lines_.append(f"| {label} | {' | '.join(cells)} | {limit} | {busy:.0%} |")
    return "\n".join(lines_)


if __name__ == "__main__":
    main()
