"""What is measured, in order; each function runs its cases and returns rows of plain values."""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.inputs import (
    EXAMPLE_TRACE,
    MODES,
    RATE_PER_GPU,
    SEED,
    SHAPES,
    SHAREGPT_300,
    profile_root,
    write_cluster_config,
)
from benchmarks.measure import run_child, run_worker

Row = dict[str, Any]

SIZES = (300, 1_000, 10_000, 100_000, 1_000_000)
QUICK_LIMIT = 10_000
RUNNING = (8, 128, 512)
PENSTOCK = (str(Path(sys.executable).parent / "penstock"),)


_ASKED = ("shape", "requests", "max_num_seqs", "prefixes", "caching", "mode", "what")


def job(shape: str, requests: int, **changes: Any) -> dict[str, Any]:
    """A worker's job: by default a run at 10 requests a second per GPU, 128 running at most."""
    return {
        "shape": shape,
        "requests": requests,
        "max_num_seqs": 128,
        "burst": False,
        "prefixes": False,
        "caching": True,
        "mode": "synchronous",
        "what": "run",
        "repeats": 5 if requests <= QUICK_LIMIT else 1,
        "seconds": 5.0,
        **changes,
    }


def measured(task: dict[str, Any]) -> Row:
    """The job's row: what was asked and what it took. Rates are over the fastest repeat."""
    usage, answer = run_worker(task)
    return {
        **{name: task[name] for name in _ASKED},
        **answer,
        "iterations_per_s": answer["iterations"] / answer["min_cpu_s"],
        "median_iterations_per_s": answer["iterations"] / answer["median_cpu_s"],
        "requests_per_s": task["requests"] / answer["min_cpu_s"],
        "peak_mb": usage.peak_mb,
    }


def saturated(*, quick: bool) -> Iterator[Row]:
    """8, 128 and 512 requests running all the time at pp 4; at 512 the reference scheduler beside it."""
    for running in RUNNING:
        requests = 600 if running == RUNNING[0] else 3_000 if quick else 10_000
        for what in ("run", "engine"):
            yield measured(job("pp4", requests, burst=True, max_num_seqs=running, what=what, seconds=15.0))


def modes(*, quick: bool) -> Iterator[Row]:
    """128 requests running all the time at pp 4, by the way of scheduling."""
    for mode in MODES:
        yield measured(job("pp4", 3_000 if quick else 10_000, burst=True, mode=mode, seconds=15.0))


def reference(*, quick: bool) -> Iterator[Row]:
    """The same 2,048 requests (1,024 if quick), 512 of them running, by the engine and by the reference."""
    requests = 1_024 if quick else 2_048
    for what, repeats in (("run", 5), ("engine", 5), ("reference", 1)):
        yield measured(job("pp4", requests, burst=True, max_num_seqs=RUNNING[-1], what=what, repeats=repeats))


def prefixes(*, quick: bool) -> Iterator[Row]:
    """Token ids known, prompts share prefixes: with and without prefix caching; and without ids."""
    requests = 1_000 if quick else 3_000
    for with_ids, caching in ((True, True), (True, False), (False, True)):
        yield measured(job("pp4", requests, burst=True, prefixes=with_ids, caching=caching))


def sizes(*, quick: bool) -> Iterator[Row]:
    """Every deployment with every number of requests, at 10 requests a second per GPU."""
    for shape in SHAPES:
        for requests in SIZES:
            if quick and requests > QUICK_LIMIT:
                continue
            if shape == "128 x pp4" and requests == SIZES[-1]:
                continue  # among the whole processes
            yield measured(job(shape, requests))


def processes(*, quick: bool) -> Iterator[Row]:
    """Whole processes, from the interpreter's start to the written files."""
    yield _process("penstock --help", 0, ["--help"], repeats=7)
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as name:
        folder = Path(name)
        dataset, label, requests = SHAREGPT_300, "300 ShareGPT requests", 300
        if not dataset.is_file():
            dataset, label, requests = EXAMPLE_TRACE, "the example's 10 requests", 10
        for shape in ("tp1", "pp4"):
            arguments = _run_arguments(shape, dataset, folder)
            yield _process(f"{label}, {shape}, CSV with ITL", requests, arguments, repeats=5)
        if quick:
            return
        dataset = generated(100_000, "pp4", folder)
        arguments = _run_arguments("pp4", dataset, folder)
        yield _process("100,000 requests, pp4, CSV without ITL", 100_000, [*arguments, "--no-itl"])
        yield _process("100,000 requests, pp4, CSV with ITL", 100_000, arguments)
        dataset = generated(1_000_000, "128 x pp4", folder)
        arguments = [*_run_arguments("128 x pp4", dataset, folder), "--no-itl", "--record", "requests"]
        yield _process("1,000,000 requests, 128 x pp4, CSV without ITL", 1_000_000, arguments)


def _run_arguments(shape: str, dataset: Path, folder: Path) -> list[str]:
    cluster = write_cluster_config(SHAPES[shape], folder / "cluster.json")
    arguments = ["run", "--cluster-config", str(cluster), "--dataset", str(dataset)]
    arguments += ["--output", str(folder / "requests.csv")]
    root = profile_root()
    return arguments if root is None else [*arguments, "--profile-root", str(root)]


def generated(requests: int, shape: str, folder: Path) -> Path:
    """A workload file, written by a child so that this process stays small."""
    path = folder / "workload.jsonl"
    rate = RATE_PER_GPU * SHAPES[shape].gpus
    recipe = ["--num-requests", str(requests), "--rate", str(rate), "--preset", "sharegpt"]
    run_child([*PENSTOCK, "workload", "generate", *recipe, "--seed", str(SEED), "--output", str(path)])
    return path


def _process(name: str, requests: int, arguments: Sequence[str], repeats: int = 1) -> Row:
    """Usage of a penstock command; a short one is repeated after a warm-up that fills the file caches."""
    if repeats > 1:
        run_child([*PENSTOCK, *arguments])
    usages = [run_child([*PENSTOCK, *arguments])[0] for _ in range(repeats)]
    times = [usage.cpu_s for usage in usages]
    return {
        "name": name,
        "requests": requests,
        "repeats": repeats,
        "min_cpu_s": min(times),
        "median_cpu_s": statistics.median(times),
        "min_wall_s": min(usage.wall_s for usage in usages),
        "peak_mb": max(usage.peak_mb for usage in usages),
    }


GROUPS: dict[str, Callable[..., Iterator[Row]]] = {
    "saturated": saturated,
    "modes": modes,
    "reference": reference,
    "prefixes": prefixes,
    "sizes": sizes,
    "processes": processes,
}
"""Groups of cases by name, in the order in which they are measured."""
