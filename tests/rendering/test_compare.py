from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from penstock.api import simulate
from penstock.cli.compare import app
from penstock.errors import UserError
from penstock.rendering.compare import different_inputs, load_runs, render_comparison, write_comparison
from penstock.rendering.compared_rows import PER_GPU, ComparedRow, compared_rows, winner


@pytest.fixture(scope="module")
def directories(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    base = tmp_path_factory.mktemp("runs")
    cluster = repository / "configs/cluster/single_node_pp4_instance.json"
    dataset = repository / "workloads/example_trace.jsonl"
    result = []
    for name, max_num_seqs in (("wide", 128), ("narrow", 2)):
        simulate(str(cluster), str(dataset), max_num_seqs=max_num_seqs).save(base / name)
        result.append(base / name)
    return result


def test_the_inputs_that_differ_are_named(directories: list[Path]) -> None:
    views = load_runs(directories)
    assert [view.name for view in views] == ["wide", "narrow"]
    inputs = dict(different_inputs(views))
    assert inputs["each instance.scheduler.max_num_seqs"] == ("128", "2")
    assert not any(path.startswith("link") for path in inputs)


def test_values_are_those_of_the_summaries(directories: list[Path]) -> None:
    rows = {row.name: row for row in compared_rows(load_runs(directories))}
    summaries = [json.loads((path / "summary.json").read_text())["summary"] for path in directories]
    p99 = tuple(one["latency"]["ttft"]["p99_ns"] / 1e9 for one in summaries)
    assert (rows["TTFT p99"].values, rows["TTFT p99"].label) == (p99, "TTFT p99 (s)")
    tpot = tuple(one["latency"]["tpot"]["mean_ns"] / 1e6 for one in summaries)
    assert (rows["TPOT mean"].values, rows["TPOT mean"].label) == (tpot, "TPOT mean (ms)")
    assert rows["TTFT p99"].change(1) == pytest.approx(p99[1] / p99[0] - 1)
    assert rows["seqs"].values[0] == 0.0
    assert rows["seqs"].values[1] > 10
    assert rows["finished"].values == (100, 100)


def test_the_table_relates_to_the_first_run(directories: list[Path]) -> None:
    text = render_comparison(load_runs(directories))
    assert "each instance.scheduler.max_num_seqs" in text
    assert "finished (requests)" in text
    assert "better" in text
    assert "worse" in text


def test_equal_runs_have_equal_inputs_and_are_told_apart(directories: list[Path]) -> None:
    views = load_runs([directories[0], directories[0], directories[1]])
    assert len({view.name for view in views}) == 3
    assert "all inputs are the same" in render_comparison(views[:2])
    assert all(row.change(1) in (0, None) for row in compared_rows(views[:2]))
    assert "No run is better" in render_comparison(views[:2])


def test_an_improvement_is_called_better_from_old_to_new(directories: list[Path]) -> None:
    views = load_runs([directories[1], directories[0]])
    row = next(row for row in compared_rows(views) if row.name == "TTFT p99")
    narrow, wide = row.values
    assert narrow is not None
    assert wide is not None
    assert wide < narrow
    assert row.verdict(1) == "better"
    assert f"{narrow:,.3f} → {wide:,.3f} better" in " ".join(render_comparison(views, 200).split())


def test_the_winner_is_named_with_what_it_is_best_in(directories: list[Path]) -> None:
    views = load_runs(directories)
    text = winner(compared_rows(views), [view.name for view in views])
    assert text.startswith(
        "No run is best in everything: wide in generated tokens; wide in TTFT p99; narrow in TPOT p99"
    )
    one, two = (ComparedRow("generated tokens", "/s", (1.0, 2.0), 1), ComparedRow("GPUs", "", (1, 4), 0))
    per_gpu = ComparedRow(PER_GPU, "/s", (1.0, 0.5), 1)
    assert winner([one, two, per_gpu], ["small", "large"]) == (
        "large is best in everything that was judged: generated tokens 2.000/s. generated tokens per GPU: small "
        "1.000/s against large 0.500/s."
    )


def test_runs_on_different_numbers_of_gpus_are_compared_per_gpu(
    directories: list[Path], repository: Path
) -> None:
    other = directories[0].with_name("one_gpu")
    simulate(
        str(repository / "configs/cluster/single_node_single_instance.json"),
        str(repository / "workloads/example_trace.jsonl"),
    ).save(other)
    views = load_runs([other, directories[0]])
    rows = {row.name: row for row in compared_rows(views)}
    assert rows["GPUs"].values == (1, 4)
    tokens, per_gpu = rows["generated tokens"].values, rows[PER_GPU].values
    assert tokens[1] is not None
    assert per_gpu[1] == pytest.approx(tokens[1] / 4)
    assert rows["price"].values == pytest.approx((1.79, 4 * 1.79))
    assert PER_GPU in winner(list(rows.values()), ["one", "four"])


def test_long_values_are_wrapped_to_the_width(directories: list[Path]) -> None:
    for width in (60, 100):
        lines = render_comparison(load_runs(directories), width).splitlines()
        assert max(map(len, lines)) <= width


def test_the_page_holds_all_runs(directories: list[Path], tmp_path: Path) -> None:
    write_comparison(load_runs(directories), tmp_path / "c.html")
    text = (tmp_path / "c.html").read_text(encoding="utf-8")
    assert "<title>wide and narrow</title>" in text
    assert "each instance.scheduler.max_num_seqs" in text


def test_what_cannot_be_read_is_said_for_all(directories: list[Path], tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/summary.json").write_text("{")
    with pytest.raises(UserError) as caught:
        load_runs([tmp_path / "absent", directories[0], tmp_path / "broken"])
    assert len(caught.value.problems) == 2


def test_the_command(directories: list[Path], tmp_path: Path) -> None:
    page = tmp_path / "c.html"
    outcome = CliRunner().invoke(app, [str(directories[0]), str(directories[1]), "--report", str(page)])
    assert outcome.exit_code == 0
    assert "generated tokens (/s)" in outcome.output
    assert page.exists()
