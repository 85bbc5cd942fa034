from __future__ import annotations

import base64
import json
import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import CHROMIUM, Browser, browser
from hypothesis import given
from hypothesis import strategies as st

from penstock.accounting.bubbles import CAUSE_NAMES
from penstock.accounting.verdict import verdict
from penstock.api import simulate
from penstock.rendering.gantt_data import pack
from penstock.rendering.report import write_report
from penstock.rendering.report_data import page_data
from penstock.rendering.result import SimulationResult
from penstock.rendering.run_view import view_of, view_of_directory
from penstock.workload.generate import Recipe, generate
from penstock.workload.lengths import parse_lengths


def unpack(text: str) -> list[int]:
    values: list[int] = []
    value = shift = 0
    for byte in base64.b64decode(text):
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            values.append(value)
            value = shift = 0
    return values


@pytest.fixture(scope="module")
def result(repository: Path) -> SimulationResult:
    cluster = repository / "configs/cluster/single_node_pp4_instance.json"
    return simulate(str(cluster), str(repository / "workloads/example_trace.jsonl"))


@given(st.lists(st.integers(0, 2**62)))
def test_packed_numbers_come_back(values: list[int]) -> None:
    assert unpack(pack(np.array(values, dtype=np.int64))) == values


def test_the_chart_of_the_pipeline_holds_every_step_and_every_cause(result: SimulationResult) -> None:
    (gantt,) = page_data(view_of(result))["gantt"]
    summary = result.summary
    assert summary.last_completion_ns is not None
    assert gantt["complete"]
    stages = result.stages
    for stage, packed in enumerate(gantt["stages"]):
        spans = unpack(packed["spans"])
        assert len(spans) == packed["count"]
        kinds = len(CAUSE_NAMES)
        lengths, causes = [span // kinds for span in spans], [span % kinds for span in spans]
        assert packed["first_ns"] == summary.first_arrival_ns
        assert packed["first_ns"] + sum(lengths) == summary.last_completion_ns
        ends = packed["first_ns"] + np.cumsum(lengths)
        busy = [int(end) for end, cause in zip(ends, causes, strict=True) if cause == 0]
        assert busy == stages.filter(stage=stage)["end_ns"].to_list()
    steps = gantt["steps"]
    assert unpack(steps["tokens"]) == result.steps["tokens"].to_list()
    assert np.cumsum(unpack(steps["schedule_ns"])).tolist() == result.steps["schedule_ns"].to_list()


def test_a_directory_of_results_gives_the_same_page_but_for_the_pipeline(
    result: SimulationResult, tmp_path: Path
) -> None:
    result.save(tmp_path / "run")
    fresh, read = page_data(view_of(result)), page_data(view_of_directory(tmp_path / "run"))
    for key in ("latency", "cdfs", "over_time", "summary", "inputs", "basis"):
        assert fresh[key] == read[key]
    assert read["gantt"] == []
    assert fresh["instances"][0]["cohorts"] == read["instances"][0]["cohorts"]


def test_the_page_is_one_file_without_links(result: SimulationResult, tmp_path: Path) -> None:
    write_report(result, tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    markup = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", markup)
    assert "<title>example_trace.jsonl on single_node_pp4_instance.json</title>" in text
    embedded = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert embedded is not None
    assert json.loads(embedded[1])["runs"][0]["summary"]["requests"]["finished"] == 100


@pytest.mark.parametrize(("record", "has_steps"), [("requests", False), ("steps", True)])
def test_a_run_that_kept_less_has_a_page_with_less(
    repository: Path, tmp_path: Path, record: str, has_steps: bool
) -> None:
    cluster = repository / "configs/cluster/single_node_pp4_instance.json"
    dataset = repository / "workloads/example_trace.jsonl"
    bare = simulate(str(cluster), str(dataset), record=record)
    write_report(bare, tmp_path / "r.html")
    data = page_data(view_of(bare))
    assert data["gantt"] == []
    assert bool(data["over_time"]) is has_steps
    assert data["instances"][0]["verdict"]


def test_a_run_in_which_nothing_finishes_has_a_page_too(repository: Path, tmp_path: Path) -> None:
    cluster = repository / "configs/cluster/single_node_pp4_instance.json"
    request = {"input_toks": 5_000_000, "output_toks": 5, "arrival_time_ns": 0}
    (tmp_path / "requests.jsonl").write_text(json.dumps(request) + "\n")
    nothing = simulate(str(cluster), str(tmp_path / "requests.jsonl"))
    write_report(nothing, tmp_path / "r.html")
    data = page_data(view_of(nothing))
    assert data["instances"][0]["verdict"] == ["No request finished."]
    assert len(data["rejections"]) == 1


def test_equal_runs_give_equal_pages(result: SimulationResult, tmp_path: Path) -> None:
    for name in ("a.html", "b.html"):
        write_report(result, tmp_path / name)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def causes(**ns: int) -> dict[str, int]:
    return {"busy": 0, "idle": 0, "imbalance": 0, "memory": 0, "dependency": 0} | ns


def test_verdicts_name_the_cause_and_the_slow_stage() -> None:
    sentences = verdict([causes(busy=50, memory=50), causes(busy=60, memory=30, imbalance=10)])
    assert sentences[0].startswith("Memory limits it")
    assert any(sentence.startswith("Stage 1 is the slowest") for sentence in sentences)
    assert verdict([causes(busy=95, memory=5)])[0].startswith("Compute limits it: stage 0")
    keeping_up = verdict([causes(busy=40, dependency=60)], waiting=0.1)
    assert keeping_up[0].startswith("It keeps up with its load: 0.1 requests wait")
    assert not any("limits it" in one or "may help" in one for one in keeping_up)
    assert "Dependency limits it" in verdict([causes(busy=40, dependency=60)], waiting=3.0)[0]
    assert verdict([causes(idle=10)]) == ["It served nothing."]
    assert "no request at all" in verdict([causes(busy=40, memory=10, idle=50)])[-1]


def test_the_report_of_a_deployment_that_keeps_up_says_so(repository: Path) -> None:
    cluster = str(repository / "configs/cluster/single_node_pp4_instance.json")
    prompts, answers = parse_lengths("fixed:60", ""), parse_lengths("fixed:40", "")
    recipe = Recipe(num_requests=60, rate_per_s=2.0, input_tokens=prompts, output_tokens=answers)
    view = view_of(simulate(cluster, generate(recipe)))
    assert np.percentile(view.requests["ttft_ns"], 99) < 50e6
    (instance,) = page_data(view)["instances"]
    assert instance["verdict"][0].startswith("It keeps up with its load")
    assert not any("limits it" in line or "may help" in line for line in instance["verdict"])


# --- in a browser -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Generator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium in the path: apt-get install chromium")
class TestInChromium:
    @pytest.fixture(autouse=True)
    def _open(self, chromium: Browser, result: SimulationResult, tmp_path: Path) -> Generator[None]:
        write_report(result, tmp_path / "report.html")
        chromium.problems.clear()
        chromium.requests.clear()
        chromium.open(tmp_path / "report.html", height=6000)
        yield
        assert chromium.problems == []
        assert {url.partition(":")[0] for url in chromium.requests} == {"file"}

    def shown(self, chromium: Browser) -> Any:
        return chromium.evaluate("[gantt.from, gantt.to]")

    def test_every_chart_is_drawn_with_a_unit_on_its_axes(self, chromium: Browser) -> None:
        chromium.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        chromium.drawn()
        titles = chromium.evaluate(
            "[...document.querySelectorAll('.chart')].map((c) => [c.id, c._fullLayout?.xaxis.title.text])"
        )
        assert len(titles) == 11
        for name, title in titles:
            assert re.search(r"\((ms|s|%|GiB)\)(, log)?$", title or ""), (name, title)

    def test_the_pipeline_zooms_and_moves_by_keyboard(self, chromium: Browser) -> None:
        begin, end = self.shown(chromium)
        chromium.evaluate("document.getElementById('gantt').focus()")
        chromium.key("+")
        zoomed = self.shown(chromium)
        assert zoomed[1] - zoomed[0] == pytest.approx(0.6 * (end - begin))
        chromium.key("ArrowRight")
        assert self.shown(chromium)[0] > zoomed[0]
        chromium.key("n")
        chromium.key("Enter")
        first, last = self.shown(chromium)
        assert last - first < (end - begin) / 100
        assert "step" in chromium.evaluate("document.getElementById('inspect').textContent")
        chromium.key("Home")
        assert self.shown(chromium) == [begin, end]

    def test_the_pipeline_zooms_and_moves_by_mouse(self, chromium: Browser) -> None:
        begin, end = self.shown(chromium)
        box = chromium.evaluate(
            "(({x, y, width, height}) => [x, y, width, height])(gantt.canvas.getBoundingClientRect())"
        )
        x, y = box[0] + box[2] / 2, box[1] + 20
        chromium.mouse("mouseWheel", x, y, deltaX=0, deltaY=-200)
        assert self.shown(chromium) == [begin, end]  # the wheel alone scrolls the page
        for _ in range(20):
            chromium.mouse("mouseWheel", x, y, deltaX=0, deltaY=-200, modifiers=2)
        first, last = self.shown(chromium)
        assert last - first < (end - begin) / 100
        chromium.mouse("mousePressed", x, y, button="left", clickCount=1)
        chromium.mouse("mouseMoved", x - 200, y, button="left", buttons=1)
        chromium.mouse("mouseReleased", x - 200, y, button="left", clickCount=1)
        assert self.shown(chromium)[0] > first

    def test_light_and_dark(self, chromium: Browser) -> None:
        def background() -> str:
            return chromium.evaluate("getComputedStyle(document.body).backgroundColor")

        before = background()
        chromium.evaluate("document.getElementById('theme').click()")
        assert background() != before

    def test_a_run_of_a_hundred_thousand_steps_opens(
        self, chromium: Browser, repository: Path, tmp_path: Path
    ) -> None:
        lines = (
            json.dumps({"input_toks": 20, "output_toks": 50, "arrival_time_ns": place * 100_000_000})
            for place in range(4200)
        )
        (tmp_path / "long.jsonl").write_text("\n".join(lines) + "\n")
        cluster = repository / "configs/cluster/single_node_pp4_instance.json"
        long = simulate(str(cluster), str(tmp_path / "long.jsonl"), keep_token_times=False)
        assert long.summary.engine.iterations >= 100_000
        write_report(long, tmp_path / "long.html")
        assert (tmp_path / "long.html").stat().st_size < 20_000_000
        chromium.open(tmp_path / "long.html")
        assert chromium.evaluate("gantt.steps.count") == long.summary.engine.iterations
