"""Whole searches: the same whoever works and however often they are interrupted; stopped early without loss."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from both_ways import needs_core
from explore.studies import SMALL, write_study
from penstock.explore.evaluate import Evaluator, PointJob
from penstock.explore.objectives import OBJECTIVES, pareto_front, values_of
from penstock.explore.pool import InProcess, LocalPool
from penstock.explore.report import TABLE_CSV, grouped, table_rows, write_outputs
from penstock.explore.result import PointResult
from penstock.explore.search import Step
from penstock.explore.study import RESULTS_FILE, StudyOutcome, run_study
from penstock.explore.study_spec import load_study
from penstock.spec.load import load_cluster

LARGE_SPACE: dict[str, Any] = {
    "hardware": ["H100", "L40S"],
    "gpus": [1, 2],
    "tp": [1, 2],
    "max_num_seqs": [2, 8, 32],
}


def run(path: Path, out: Path, make: Callable[..., Any] = InProcess) -> StudyOutcome:
    return run_study(load_study(path), out, make, lambda step: None)


def lines(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / RESULTS_FILE).read_text().splitlines()]


@dataclass(frozen=True)
class Interrupting:
    """An evaluator that is interrupted at its third point."""

    inner: Evaluator
    done: list[str]

    def __call__(self, job: PointJob) -> PointResult:
        if len(self.done) == 3:
            raise KeyboardInterrupt
        self.done.append(job.key)
        return self.inner(job)


@dataclass(frozen=True)
class Poisoned:
    """An evaluator with an error of its own at one point."""

    inner: Evaluator
    label: str

    def __call__(self, job: PointJob) -> PointResult:
        if job.point.label == self.label:
            raise ZeroDivisionError("poison")
        return self.inner(job)


def test_a_search_evaluates_every_point_and_finds_the_front(tmp_path: Path) -> None:
    outcome = run(write_study(tmp_path), tmp_path / "out")
    assert outcome.method == "exhaustive"
    assert [result.point.label for result in outcome.results[:3]] == [
        "H100, TP1",
        "H100, 2 x TP1",
        "H100, PP2",
    ]
    assert {result.status for result in outcome.results} <= {"ok", "hopeless"}
    assert outcome.winner is not None
    objective = outcome.spec.objectives[0]
    best = max(objective.value(result) or 0 for result in outcome.results)
    assert objective.value(outcome.winner) == best
    for result in outcome.results:
        if result.status == "ok":
            assert result.goodput_per_s is not None
            assert result.rate_per_s is not None
            assert result.goodput_per_s <= result.rate_per_s
            tokens = (result.generated_tokens_per_s or 0) * 3600
            price = outcome.spec.prices[result.point.hardware] * result.gpus
            assert result.usd_per_million_tokens == pytest.approx(price / tokens * 1e6)
            assert result.basis


def test_two_processes_write_the_same_bytes_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_study(tmp_path)
    names = ("table.csv", "table.parquet", "report.html", "best.json", "best-requests.jsonl")
    files: list[list[bytes]] = []
    for name, make in (("one", InProcess), ("two", lambda evaluate: LocalPool(evaluate, 2))):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)  # the commands in the page name the directory of results
        write_outputs(run(path, Path("out"), make), Path("out"))
        files.append([Path("out", file).read_bytes() for file in names])
    assert files[0] == files[1]


def test_an_interrupted_search_goes_on_where_it_was(tmp_path: Path) -> None:
    path, out = write_study(tmp_path), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run(path, out, lambda evaluate: InProcess(Interrupting(evaluate, [])))
    assert len(lines(out)) == 3
    done: list[str] = []

    def counting(evaluate: Evaluator) -> InProcess[PointJob, PointResult]:
        def count(job: PointJob) -> PointResult:
            done.append(job.key)
            return evaluate(job)

        return InProcess(count)

    resumed = run(path, out, counting)
    whole = run(path, tmp_path / "whole")
    assert resumed.results == whole.results
    assert len(done) == len(whole.results) - 3


def test_a_line_cut_short_is_dropped_and_evaluated_again(tmp_path: Path) -> None:
    path, out = write_study(tmp_path), tmp_path / "out"
    whole = run(path, out)
    file = out / RESULTS_FILE
    content = file.read_bytes()
    file.write_bytes(content[:-40])
    assert run(path, out).results == whole.results
    assert file.read_bytes() == content
    file.write_bytes(b'{"key": "of another version"}\n' + content)
    assert run(path, out).results == whole.results


def test_results_of_other_circumstances_are_not_taken_for_these(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(write_study(tmp_path), out)
    before = len(lines(out))
    changed = run(write_study(tmp_path, slo="ttft_p90<300ms,tpot_p90<25ms"), out)
    assert len(lines(out)) == 2 * before
    assert {result.key for result in changed.results}.isdisjoint(line["key"] for line in lines(out)[:before])


def test_a_poisoned_point_is_reported_and_tried_again_next_time(tmp_path: Path) -> None:
    path, out = write_study(tmp_path), tmp_path / "out"
    outcome = run(path, out, lambda evaluate: InProcess(Poisoned(evaluate, "H100, PP2")))
    (bad,) = [result for result in outcome.results if result.status == "failed"]
    assert bad.point.label == "H100, PP2"
    assert bad.reason is not None
    assert bad.reason.startswith("ZeroDivisionError: poison")
    assert run(path, out).results == run(path, tmp_path / "clean").results


def test_a_killed_search_loses_at_most_the_running_points(tmp_path: Path) -> None:
    path, out = write_study(tmp_path), tmp_path / "out"
    script = (
        "from pathlib import Path\n"
        "from explore.pool_jobs import KillsParent\n"
        "from penstock.explore.pool import LocalPool\n"
        "from penstock.explore.study import run_study\n"
        "from penstock.explore.study_spec import load_study\n"
        "if __name__ == '__main__':\n"
        "    make = lambda evaluate: LocalPool(KillsParent(evaluate, 'H100, TP2'), 1)\n"
        f"    run_study(load_study(Path({str(path)!r})), Path({str(out)!r}), make, print)\n"
    )
    (tmp_path / "main.py").write_text(script)
    environment = {"PYTHONPATH": str(Path(__file__).parents[1]), "PATH": ""}
    process = subprocess.run(
        [sys.executable, tmp_path / "main.py"], stdout=subprocess.DEVNULL, env=environment, timeout=600
    )
    assert process.returncode == -signal.SIGKILL
    kept = (out / RESULTS_FILE).read_bytes().count(b"\n")
    done: list[str] = []

    def counting(evaluate: Evaluator) -> InProcess[PointJob, PointResult]:
        return InProcess(lambda job: (done.append(job.key), evaluate(job))[1])

    outcome = run(path, out, counting)
    assert 0 < kept < len(outcome.results)
    assert len(done) == len(outcome.results) - kept
    assert outcome.results == run(path, tmp_path / "whole").results


def test_stopping_early_saves_runs_and_keeps_the_front(tmp_path: Path) -> None:
    generate = {**SMALL["generate"], "num_requests": 240}
    search = {"early_stop": 1.5, "pilot_requests": 80}
    objectives = ["goodput_per_gpu"]
    path = write_study(tmp_path, generate=generate, search=search, objectives=objectives, space=LARGE_SPACE)
    steps: list[Step] = []
    stopping = run_study(load_study(path), tmp_path / "a", InProcess, steps.append)
    path = write_study(
        tmp_path, generate=generate, search={"early_stop": None}, objectives=objectives, space=LARGE_SPACE
    )
    full = run(path, tmp_path / "b")
    stopped = [result for result in stopping.results if result.status == "stopped"]
    assert len(stopped) > len(full.results) / 4
    assert all("beaten 1.5 times" in (result.reason or "") for result in stopped)
    rows = [row for row in table_rows(stopping) if row["status"] == "stopped"]
    # A first look's figures are of shorter runs: they do not stand beside the others'.
    assert all(row["rate_per_s"] is None and row["usd_per_million_tokens"] is None for row in rows)
    assert all(row["first_look_rate_per_s"] > 0 for row in rows)
    assert {step.phase for step in steps} == {"pilot", "full"}
    first = full.spec.objectives[0]
    best = max(first.value(result) or 0 for result in full.results)
    assert stopping.winner is not None
    assert first.value(stopping.winner) == pytest.approx(best, rel=0.1)


def test_optuna_is_seeded_and_blind_to_the_number_of_workers(tmp_path: Path) -> None:
    search = {"method": "optuna", "trials": 12, "seed": 3, "early_stop": None}
    path = write_study(tmp_path, space=LARGE_SPACE, search=search)
    one = run(path, tmp_path / "one")
    two = run(path, tmp_path / "two", lambda evaluate: LocalPool(evaluate, 2))
    assert one.method == "optuna"
    assert one.results == two.results
    assert len({result.point for result in one.results}) == 12
    assert one.pruned.counts.keys() <= {"gpus"}
    other = run(write_study(tmp_path, space=LARGE_SPACE, search={**search, "seed": 4}), tmp_path / "c")
    assert [r.point for r in other.results] != [r.point for r in one.results]


def test_optuna_ends_when_a_small_space_is_exhausted(tmp_path: Path) -> None:
    outcome = run(
        write_study(tmp_path, search={"method": "optuna", "trials": 100, "early_stop": None}), tmp_path / "o"
    )
    assert len(outcome.results) == len(run(write_study(tmp_path), tmp_path / "e").results)


def test_a_given_rate_is_a_run_each_and_the_slo_decides(tmp_path: Path) -> None:
    path = write_study(tmp_path, rate=40, objectives=["gpus", "ttft_p99"], slo="ttft_p90<150ms")
    outcome = run(path, tmp_path / "out")
    assert {result.status for result in outcome.results} == {"ok", "misses"}
    for result in outcome.results:
        assert result.rate_per_s == 40
        assert {trial.rate_per_s for trial in result.trials} == {40}
        assert (result.status == "ok") is (result.excess is not None and result.excess <= 1)
    assert all(outcome.results[index].status == "ok" for index in outcome.front)
    missing = next(result for result in outcome.results if result.status == "misses")
    assert "ttft_p90 is" in (missing.reason or "") or "queue grows" in (missing.reason or "")


BUYER: dict[str, Any] = {
    "model": "meta-llama/Llama-3.1-70B",
    "slo": "ttft_p99<2s,tpot_p99<60ms",
    "search": {"early_stop": None},
}


@needs_core
def test_a_short_workload_has_the_same_capacity_and_price_as_a_long_one(tmp_path: Path) -> None:
    found: list[PointResult] = []
    for count in (600, 6000):
        path = write_study(
            tmp_path,
            **BUYER,
            generate={"num_requests": count, "preset": "sharegpt"},
            tolerance=0.1,
            max_requests=6000,
            space={"hardware": "H100", "gpus": 16, "tp": 4},
            objectives=["cost_per_million_tokens", "goodput"],
        )
        found += run(path, tmp_path / str(count)).results
    for one, other in (found, found[::-1]):
        assert one.low_per_s is not None
        assert one.low_per_s <= (other.rate_per_s or 0) <= (one.high_per_s or 0)
        assert one.low_per_s <= (other.saturated_per_s or 0) <= (one.high_per_s or 0)
        assert one.goodput_per_s == pytest.approx(other.goodput_per_s, rel=0.05)
        assert one.usd_per_million_tokens == pytest.approx(other.usd_per_million_tokens, rel=0.05)


@needs_core
def test_what_misses_in_a_long_workload_does_not_win_in_a_short_one(tmp_path: Path) -> None:
    for count in (600, 6000):
        path = write_study(
            tmp_path,
            **BUYER,
            generate={"num_requests": count, "preset": "sharegpt"},
            rate=15,
            max_requests=8000,
            space=[{"hardware": "H100", "gpus": 16, "tp": tp, "pp": 4 // tp} for tp in (2, 4)],
            objectives=["goodput", "ttft_p99"],
        )
        outcome = run(path, tmp_path / str(count))
        assert {result.point.label: result.status for result in outcome.results} == {
            "H100, 4 x TP2 PP2": "misses",
            "H100, 4 x TP4": "ok",
        }
        assert outcome.winner is not None
        assert outcome.winner.point.tp == 4


def test_the_trace_as_it_is_needs_no_slo(tmp_path: Path) -> None:
    outcome = run(write_study(tmp_path, rate="trace", slo=None, objectives=["ttft_p99"]), tmp_path / "out")
    assert all(result.status == "ok" and result.trials[0].rate_per_s is None for result in outcome.results)
    assert outcome.front


def test_the_front_is_what_comparing_all_pairs_gives(tmp_path: Path) -> None:
    outcome = run(write_study(tmp_path, space=LARGE_SPACE), tmp_path / "out")
    objectives = outcome.spec.objectives
    signs = [1 if objective.maximise else -1 for objective in objectives]
    values = [values_of(result, objectives) for result in outcome.results]
    scores = [None if v is None else [s * x for s, x in zip(signs, v, strict=True)] for v in values]

    def dominated(index: int) -> bool:
        mine = scores[index]
        return mine is not None and any(
            other is not None and other != mine and all(a >= b for a, b in zip(other, mine, strict=True))
            for other in scores
        )

    expected = [i for i, score in enumerate(scores) if score is not None and not dominated(i)]
    assert list(outcome.front) == expected
    assert pareto_front(outcome.results, OBJECTIVES[:1]) != []


def test_outputs_are_a_table_a_page_and_configs_that_load(tmp_path: Path) -> None:
    import polars as pl

    out = tmp_path / "out"
    outcome = run(write_study(tmp_path), out)
    write_outputs(outcome, out)
    csv, parquet = pl.read_csv(out / TABLE_CSV), pl.read_parquet(out / "table.parquet")
    assert csv.height == parquet.height == len(outcome.results)
    assert parquet["key"].to_list() == [result.key for result in outcome.results]
    assert parquet["pareto"].sum() == len(outcome.front)
    winner = outcome.winner
    assert winner is not None
    best = load_cluster(out / "best.json")
    assert len(best.instances) == winner.point.replicas
    assert {(s.tp_size, s.pp_size) for s in best.instances} == {(winner.point.tp, winner.point.pp)}
    fronts = {path.stem for path in (out / "front").iterdir()}
    assert fronts == {outcome.results[index].key for index in outcome.front}
    html = (out / "report.html").read_text()
    assert html.count('<tr data-point="') == len(outcome.results)
    for words in ('id="parallel"', 'id="scatter"', 'id="curve-ttft_p90"', winner.key, "penstock explore"):
        assert words in html
    first = html[html.index("data-point=") :].partition('"')[2].partition('"')[0]
    assert first == winner.key


def test_ties_are_broken_by_the_distance_from_the_limits(tmp_path: Path) -> None:
    outcome = run(write_study(tmp_path, rate=20, objectives=["goodput"]), tmp_path / "out")
    good = [result for result in outcome.results if result.status == "ok"]
    assert len({round(result.goodput_per_s or 0, 6) for result in good}) < len(good)
    assert outcome.winner is not None
    assert outcome.winner.excess == min(
        r.excess for r in good if r.goodput_per_s == outcome.winner.goodput_per_s
    )


def test_the_best_of_each_hardware_is_known(tmp_path: Path) -> None:
    outcome = run(write_study(tmp_path), tmp_path / "out")
    best = outcome.best_by_hardware
    assert outcome.winner is not None
    assert next(iter(best)) == outcome.winner.point.hardware
    for hardware, result in best.items():
        of_kind = [r.goodput_per_gpu or 0 for r in outcome.results if r.point.hardware == hardware]
        assert result.goodput_per_gpu == pytest.approx(max(of_kind), rel=0.0101)


def test_reasons_that_differ_in_figures_are_counted_as_one() -> None:
    reasons = ["ttft_p99 is 2.4 s, the limit 2 s", "ttft_p99 is 300 ms, the limit 2 s", "tpot_p99 is never"]
    assert grouped(reasons) == ["2 x ttft_p99 is 2.4 s, the limit 2 s, and the like", "1 x tpot_p99 is never"]


def test_workers_leave_nothing_behind(tmp_path: Path) -> None:
    run(write_study(tmp_path), tmp_path / "out", lambda evaluate: LocalPool(evaluate, 2))
    assert {path.name for path in tmp_path.iterdir()} == {"study.yaml", "out"}
