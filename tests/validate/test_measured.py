from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from penstock.cost.aiconfigurator.wheel import find_wheel
from penstock.errors import UserError
from penstock.profiling.database import import_database, wanted_tables
from penstock.validate.measured import compare_times, host_overhead, report, validate_measured
from penstock.validate.measured_page import write_measured_page
from penstock.validate.measured_run import RequestTimes, read_measured_run

CLUSTER = {
    "num_nodes": 1,
    "link_bw": 16,
    "link_latency": 20000,
    "nodes": [
        {
            "num_instances": 1,
            "cpu_mem": {"mem_size": 512, "mem_bw": 256, "mem_latency": 0},
            "instances": [
                {
                    "model_name": "meta-llama/Llama-3.1-8B",
                    "hardware": "RTXPRO6000",
                    "npu_mem": {"mem_size": 96, "mem_bw": 1597, "mem_latency": 0},
                    "num_npus": 1,
                    "tp_size": 1,
                    "pd_type": None,
                }
            ],
        }
    ],
}


def write_run(directory: Path, meta: dict[str, object] | None = None) -> Path:
    """Two requests as if measured; returns the workload."""
    directory.mkdir(exist_ok=True)
    (directory / "cluster.json").write_text(json.dumps(CLUSTER), encoding="utf-8")
    engine = {
        "max_num_seqs": 4,
        "max_num_batched_tokens": 512,
        "dtype": "bfloat16",
        "tensor_parallel_size": 1,
    }
    given = {"vllm_version": "0.19.0", "engine_kwargs": engine, **(meta or {})}
    (directory / "meta.json").write_text(json.dumps(given), encoding="utf-8")
    rows = [
        {"request_id": "bench-1", "input_toks": 100, "output_toks": 1, "queued_ts": 11.0, "scheduled_ts": 11.0,
         "first_token_ts": 11.1, "last_token_ts": 11.1},
        {"request_id": "bench-0", "input_toks": 300, "output_toks": 5, "queued_ts": 10.0, "scheduled_ts": 10.0,
         "first_token_ts": 10.05, "last_token_ts": 10.1},
    ]  # fmt: skip
    (directory / "requests.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    workload = directory / "workload.jsonl"
    lines = [
        {"input_toks": 300, "output_toks": 5, "arrival_time_ns": 0},
        {"input_toks": 100, "output_toks": 1, "arrival_time_ns": 1_000_000_000},
    ]
    workload.write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    return workload


def test_times_are_put_in_the_order_of_the_workload(tmp_path: Path) -> None:
    write_run(tmp_path)
    run = read_measured_run(tmp_path)
    assert run.indices == (0, 1)
    metrics = run.times.metrics()
    np.testing.assert_allclose(metrics["TTFT"], [0.05, 0.1])
    np.testing.assert_allclose(metrics["TPOT"], [0.0125])
    np.testing.assert_allclose(metrics["latency"], [0.1, 0.1])
    assert run.flags()["async_scheduling"] is True


@pytest.mark.parametrize(
    ("version", "engine", "expected"),
    [
        ("0.19.0", {}, True),
        ("0.13.2", {}, False),
        ("0.19.0", {"async_scheduling": False}, False),
        ("0.19.0", {"pipeline_parallel_size": 2}, False),
    ],
)
def test_asynchronous_scheduling_follows_the_version(
    tmp_path: Path, version: str, engine: dict[str, object], expected: bool
) -> None:
    write_run(tmp_path, {"vllm_version": version, "engine_kwargs": engine})
    assert read_measured_run(tmp_path).asynchronous() is expected


def test_errors_are_relative_to_the_measurement() -> None:
    zero = np.zeros(2)
    measured = RequestTimes(np.array([3.0, 3.0]), zero, zero, np.array([1.0, 3.0]), np.array([2.0, 4.0]))
    simulated = RequestTimes(np.array([3.0, 3.0]), zero, zero, np.array([2.0, 4.0]), np.array([3.0, 5.0]))
    lines = {(line.metric, line.statistic): line.error for line in compare_times(measured, simulated)}
    assert lines["TTFT", "mean"] == pytest.approx(0.5)
    assert lines["TPOT", "p99"] == pytest.approx(0.0)


def test_a_small_run_is_simulated_reported_and_plotted(tmp_path: Path) -> None:
    workload = write_run(tmp_path, {"kv_cache": {"num_gpu_blocks": 1234}})
    comparison = validate_measured(tmp_path, workload, profile_root=None)
    text = report(comparison)
    assert "1234 KV blocks, as recorded" in text
    assert "calibrated once" in text
    assert "packaged fit" in text
    plain = validate_measured(tmp_path, workload, profile_root=None, calibrated=False)
    assert "no overhead per turn" in report(plain)
    page = tmp_path / "plot.html"
    write_measured_page(comparison, page)
    assert "simulated" in page.read_text(encoding="utf-8")


def test_another_workload_and_another_cluster_are_refused(tmp_path: Path) -> None:
    workload = write_run(tmp_path)
    text = workload.read_text(encoding="utf-8")
    workload.write_text(text.replace('"output_toks": 5', '"output_toks": 6'), encoding="utf-8")
    with pytest.raises(UserError, match="is not the run's workload: 1 requests"):
        validate_measured(tmp_path, workload, profile_root=None)
    workload.write_text(text.splitlines()[0] + "\n", encoding="utf-8")
    with pytest.raises(UserError, match="1 requests, but the run answers 2"):
        validate_measured(tmp_path, workload, profile_root=None)
    workload = write_run(tmp_path, {"engine_kwargs": {"tensor_parallel_size": 2}})
    with pytest.raises(UserError, match=r"tp_size 1, but meta\.json has tensor_parallel_size 2"):
        validate_measured(tmp_path, workload, profile_root=None)


def test_broken_lines_are_all_reported(tmp_path: Path) -> None:
    write_run(tmp_path)
    (tmp_path / "requests.jsonl").write_text('{"request_id": "x"}\nnot json\n', encoding="utf-8")
    with pytest.raises(UserError) as error:
        read_measured_run(tmp_path)
    lines = [problem.where.rpartition(":")[2] for problem in error.value.problems]
    assert list(dict.fromkeys(lines)) == ["1", "2"]


@pytest.mark.parametrize(("profiled", "bounds"), [(True, (0.02, 0.01, 0.03)), (False, (0.02, 0.02, 0.04))])
def test_the_measured_run_is_met(
    shared_dir: Path, profiled: bool, bounds: tuple[float, float, float]
) -> None:
    data = shared_dir / "data" / "llmservingsim"
    comparison = validate_measured(
        data / "measured" / "RTXPRO6000-Llama-3.1-8B",
        data / "workloads" / "sharegpt-llama-3.1-8b-300-sps10.jsonl",
        profile_root=data / "perf" if profiled else None,
    )
    ttft, other, tail = bounds
    for line in comparison.lines:
        if line.statistic == "mean":
            assert abs(line.error) < (ttft if line.metric == "TTFT" else other), line
        elif line.statistic == "p99":
            assert abs(line.error) < tail, line


def test_only_the_host_that_was_calibrated_has_an_overhead() -> None:
    overhead = host_overhead("RTXPRO6000")
    assert overhead is not None
    assert overhead.prefill_step_ns == 4_000_000
    assert host_overhead("RTX4090") is None


def test_the_packaged_fit_meets_the_iterations_of_the_run(
    shared_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from penstock.cost.stage import TabulatedStageCost
    from penstock.cost.step_cost import StepLoad, StepShape
    from penstock.engine.build import build_instances
    from penstock.spec.load import load_cluster

    data = shared_dir / "data" / "llmservingsim"
    directory = data / "measured" / "RTXPRO6000-Llama-3.1-8B"
    steps: list[StepShape] = []
    original = TabulatedStageCost.stage_ns

    def spy(cost: TabulatedStageCost, load: StepLoad) -> object:
        steps.append(StepShape(*(getattr(load, name) for name in StepShape.__slots__)))
        return original(cost, load)

    monkeypatch.setattr(TabulatedStageCost, "stage_ns", spy)
    monkeypatch.setenv("PENSTOCK_PURE", "1")
    dataset = data / "workloads" / "sharegpt-llama-3.1-8b-300-sps10.jsonl"
    validate_measured(directory, dataset, profile_root=data / "perf")
    monkeypatch.undo()
    cluster = load_cluster(directory / "cluster.json", read_measured_run(directory).flags())
    profiled, fitted = (build_instances(cluster, root)[0].cost.stage for root in (data / "perf", None))
    theirs = np.array([profiled.stage_ns(step)[0] for step in steps], dtype=np.float64)
    ours = np.array([fitted.stage_ns(step)[0] for step in steps], dtype=np.float64)
    error = np.abs(ours / theirs - 1)
    assert len(steps) > 2000
    assert np.percentile(error, 50) < 0.015
    assert np.percentile(error, 90) < 0.03
    assert abs(ours.sum() / theirs.sum() - 1) < 0.01


def write_run_of_ranks(directory: Path, version: str, ranks: int) -> Path:
    """The same two requests on two data-parallel ranks of a mixture of experts, in LLMServingSim's layout."""
    engine = {
        "max_num_seqs": 4,
        "max_num_batched_tokens": 512,
        "dtype": "bfloat16",
        "data_parallel_size": ranks,
    }
    workload = write_run(directory, {"vllm_version": version, "engine_kwargs": engine})
    cluster = json.loads(json.dumps(CLUSTER))
    rank = {
        **cluster["nodes"][0]["instances"][0],
        "model_name": "Qwen/Qwen3-30B-A3B-Instruct-2507",
        "dp_group": "A",
        "ep_size": 2,
    }
    cluster["nodes"][0] |= {"num_instances": 2, "instances": [rank, rank]}
    (directory / "cluster.json").write_text(json.dumps(cluster), encoding="utf-8")
    return workload


@pytest.mark.parametrize(("version", "protocol", "every"), [("0.19.0", "0.19", 32), ("0.32.0", "0.32", 16)])
def test_ranks_in_lock_step_run_as_the_version_s_do(
    tmp_path: Path, version: str, protocol: str, every: int
) -> None:
    workload = write_run_of_ranks(tmp_path, version, ranks=2)
    comparison = validate_measured(tmp_path, workload, profile_root=None)
    told = " ".join(comparison.notes)
    assert f"ranks in lock-step as in vLLM {protocol}" in told
    assert f"every {every} forwards" in told
    _, simulated = comparison.times
    assert (simulated.output_tokens == [5, 1]).all()
    assert (simulated.first_token > simulated.queued).all()


def test_a_run_of_other_ranks_than_the_cluster_s_is_refused(tmp_path: Path) -> None:
    workload = write_run_of_ranks(tmp_path, "0.19.0", ranks=4)
    with pytest.raises(UserError, match=r"dp_size 2, but meta\.json has data_parallel_size 4"):
        validate_measured(tmp_path, workload, profile_root=None)


def test_a_run_on_kernels_of_another_database(shared_dir: Path, tmp_path: Path) -> None:
    if find_wheel() is None:
        pytest.skip("needs penstock[aiconfigurator]")
    data = shared_dir / "data" / "llmservingsim"
    wanted = wanted_tables("RTXPRO6000", "meta-llama/Llama-3.1-8B", "1", ("bfloat16", "auto"), "vllm")
    import_database(wanted, tmp_path)
    comparison = validate_measured(
        data / "measured" / "RTXPRO6000-Llama-3.1-8B",
        data / "workloads" / "sharegpt-llama-3.1-8b-300-sps10.jsonl",
        profile_root=tmp_path,
    )
    means = {line.metric: line.error for line in comparison.lines if line.statistic == "mean"}
    assert abs(means["TPOT"]) < 0.05
    assert abs(means["TTFT"]) < 0.10
    assert any("aiconfigurator" in note or str(tmp_path) in note for note in comparison.notes)
