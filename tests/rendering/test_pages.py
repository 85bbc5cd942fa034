"""Every page in a real Chromium: at two widths, light and dark, printed, saved, and looked at for accessibility."""

from __future__ import annotations

import io
import json
import unicodedata
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from chromium import AXE, CHROMIUM, THEMES, WIDTHS, Browser, browser

from explore.studies import write_study
from kv_clusters import cluster, instance
from penstock.api import load_scenario, simulate
from penstock.calibration.comparison import compare
from penstock.explore.advise import advise
from penstock.explore.advise_page import advice_page
from penstock.explore.capacity import CapacityOptions, find_capacity, latency_curve
from penstock.explore.capacity_page import capacity_page
from penstock.explore.design_point import DesignPoint, Site
from penstock.explore.load_test import LoadTest, Trial
from penstock.explore.objectives import pareto_front
from penstock.explore.report_html import report_page as explore_page
from penstock.explore.result import OK, PointResult
from penstock.explore.size_cuts import Cuts
from penstock.explore.sizing import Choice, HardwareAnswer, SizeQuestion
from penstock.explore.sizing_page import sizing_page
from penstock.explore.slo import parse_slo
from penstock.explore.space import Pruned
from penstock.explore.study import StudyOutcome
from penstock.explore.study_spec import load_study
from penstock.rendering.compare import write_comparison
from penstock.rendering.page import Cell, Chart, Table, document, facts, picture, section, table, verdict
from penstock.rendering.report import write_report
from penstock.rendering.result import SimulationResult
from penstock.rendering.run_view import view_of
from penstock.workload.offered_load import Arrivals, OfferedLoad
from penstock.workload.workload import Workload

TEXT_COLOUR = "getComputedStyle(document.querySelector('.chart .xtick text, .chart .xtitle')).fill"
PAGES = ("run", "apart", "compare", "size", "explore", "capacity", "advise", "validate", "calibrate")


@pytest.fixture(scope="module")
def pages(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One of each kind, small."""
    folder = tmp_path_factory.mktemp("pages")
    config = str(repository / "configs/cluster/single_node_pp_instance.json")
    dataset = str(repository / "workloads/example_trace.jsonl")
    first = simulate(config, dataset, num_reqs=40)
    second = simulate(config, dataset, num_reqs=40, max_num_seqs=4)
    write_report(first, folder / "run.html")
    write_comparison([view_of(first, "wide"), view_of(second, "narrow")], folder / "compare.html")
    write_report(_apart(), folder / "apart.html")
    scenario = load_scenario(config, dataset, {"num_reqs": 20})
    advice = advise(scenario.cluster, scenario.workload, scenario.options)
    (folder / "advise.html").write_text(advice_page(advice, "Advice"), encoding="utf-8")
    slo = parse_slo("ttft p90 < 100 ms, tpot p90 < 20 ms")
    load_test = LoadTest(scenario.cluster, OfferedLoad(scenario.workload, Arrivals("poisson")), slo)
    found = find_capacity(load_test, CapacityOptions(seeds=1, tolerance=0.5, requests=100, max_requests=100))
    curve = latency_curve(load_test, found, 5)
    text = capacity_page(found, curve, slo, load_test, [("capacity", "a number")])
    (folder / "capacity.html").write_text(text, encoding="utf-8")
    (folder / "size.html").write_text(_size_page(folder), encoding="utf-8")
    (folder / "explore.html").write_text(_explore_page(folder), encoding="utf-8")
    _measured_page(folder / "validate.html")
    (folder / "calibrate.html").write_text(_fit_page(), encoding="utf-8")
    return {name: folder / f"{name}.html" for name in PAGES}


def _apart() -> SimulationResult:
    """Prefill and decode on instances of their own."""
    config = cluster(instance(pd_type="prefill"), instance(pd_type="decode", pp_size=2))
    load = Workload.from_columns([n * 5_000_000 for n in range(12)], [300] * 12, [20] * 12, "twelve")
    return simulate(config, load)


def _results() -> list[PointResult]:
    """Of a search that did not take place: the pages are what is tried here."""

    def trial(rate: float, ttft_ms: float) -> Trial:
        times = {"ttft_p90": ttft_ms * 1e6, "tpot_p90": 12e6, "ttft_p99": ttft_ms * 2e6, "tpot_p99": 15e6}
        return Trial(
            rate_per_s=rate,
            seed=0,
            requests=80,
            rejected=0,
            excess=ttft_ms / 150,
            worst="ttft_p90",
            attained=0.95,
            requests_per_s=rate,
            generated_tokens_per_s=20 * rate,
            preemptions=0,
            statistics_ns=times,
        )

    return [
        PointResult(
            key=f"k{place}",
            phase="full",
            point=DesignPoint(hardware=hardware, tp=tp, pp=1, replicas=replicas),
            status=OK,
            rate_per_s=goodput,
            low_per_s=goodput * 0.9,
            high_per_s=goodput * 1.1,
            goodput_per_s=goodput,
            usd_per_million_tokens=3.0 / goodput,
            requests=80,
            limiting_metric="ttft_p90",
            limiting_cause="compute",
            limiting_text="stage 0 busy 97%",
            statistics_ns=trial(goodput, 140).statistics_ns,
            stages=({"instance": 0, "stage": 0, "busy": 0.9, "engine": 0.1},),
            trials=tuple(trial(goodput * share, 20 + 130 * share**4) for share in (0.25, 0.5, 1, 1.2)),
            basis=("compute: made up for this test",),
        )
        for place, (hardware, tp, replicas, goodput) in enumerate(
            [("H100", 1, 1, 30.0), ("H100", 2, 1, 48.0), ("L40S", 1, 1, 9.0), ("L40S", 1, 2, 17.0)]
        )
    ]


def _explore_page(folder: Path) -> str:
    spec = load_study(write_study(folder, slo="ttft p90 < 150 ms, tpot p90 < 25 ms"))
    results = _results()
    front = tuple(pareto_front(results, spec.objectives))
    outcome = StudyOutcome(spec, "exhaustive", tuple(results), Pruned({}, {}), front)
    return explore_page(outcome, folder / "results")


def _size_page(folder: Path) -> str:
    """One kind of GPU that there are enough of, one that there are not, one that no number of would do."""
    results = _results()
    workload = Workload.from_columns([0] * 10, [50] * 10, [10] * 10, "ten")
    question = SizeQuestion(
        model="meta-llama/Llama-3.1-8B",
        rate_per_s=9.0,
        slo=parse_slo("ttft p90 < 150 ms, tpot p90 < 25 ms"),
        hardware={"H100": 2, "L40S": 1, "T4": 4},
        workload=workload,
        recipe=None,
        arrivals=Arrivals("poisson"),
        prices={"H100": 2.99, "L40S": 0.86},
    )

    def choice(result: PointResult, edge_per_s: float, *, fits: bool) -> Choice:
        held = replace(result, rate_per_s=9.0)
        return Choice(at_rate=held, fits=fits, edge=replace(result, rate_per_s=edge_per_s))

    answers = [
        HardwareAnswer(
            hardware="H100",
            available=2,
            cuts=Cuts(candidates=40),
            choices=[choice(results[0], 12.0, fits=True), choice(results[1], 30.0, fits=True)],
        ),
        HardwareAnswer(
            hardware="L40S",
            available=1,
            cuts=Cuts(candidates=40),
            choices=[choice(results[3], 9.5, fits=False)],
        ),
        HardwareAnswer(hardware="T4", available=4, cuts=Cuts(candidates=9, reasons=["too slow: by far"])),
    ]
    site = Site(model=question.model, gpus_per_node=8, networks={}, npu_mem={}, engine={})
    load = OfferedLoad(workload, question.arrivals)
    evaluator = cast("Any", SimpleNamespace(site=site, offered_load=load))
    return sizing_page(question, answers, evaluator, folder / "size-results")


def _measured_page(path: Path) -> None:
    from penstock.validate.measured import MeasuredComparison, compare_times
    from penstock.validate.measured_page import write_measured_page
    from penstock.validate.measured_run import MeasuredRun, RequestTimes

    queued = np.arange(20.0)
    tokens = np.full(20, 10.0)

    def times(slower: float) -> RequestTimes:
        first = queued + 0.2 * slower
        return RequestTimes(tokens, queued, queued + 0.05, first, first + 0.9 * slower)

    both = (times(1.0), times(1.1))
    run = MeasuredRun.__new__(MeasuredRun)
    object.__setattr__(run, "directory", Path("a-run"))
    write_measured_page(MeasuredComparison(run, both, tuple(compare_times(*both)), ("a note",)), path)


def _fit_page() -> str:
    """Of a fit that was not made: what the page reads of one."""
    from penstock.calibration.benchmark import Benchmark
    from penstock.calibration.fit import STEPS
    from penstock.calibration.page import fit_page
    from penstock.calibration.parameters import MEANINGS, Estimate

    def benchmark(slower: float) -> Benchmark:
        start = np.arange(40.0)
        ttft = 0.1 * slower + 0.001 * np.arange(40)
        return Benchmark(
            source="bench.json",
            kind="vllm bench serve",
            start_s=start,
            input_tokens=np.full(40, 100),
            output_tokens=np.full(40, 10),
            ttft_s=ttft,
            latency_s=ttft + 0.9 * slower,
            gaps_s=None,
        )

    seen, simulated = benchmark(1.0), benchmark(1.05)
    second = ~seen.first_half()
    name = next(iter(MEANINGS))
    fit = SimpleNamespace(
        method=STEPS,
        cost="kernels",
        simulations=0,
        noise=None,
        held_out=(compare(seen, simulated, second),),
        estimates=(Estimate(name=name, value=1.0, low=0.9, high=1.1, prior=1.0, identified=True),),
        measured=(SimpleNamespace(benchmark=seen, steps=None),),
        half_simulated=(simulated,),
        simulated=(simulated,),
        step_errors=None,
        notes=("a note",),
        instance=SimpleNamespace(hardware="H100", model=SimpleNamespace(name="a model")),
    )
    return fit_page(cast("Any", fit))


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Generator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


# --- without a browser --------------------------------------------------------------------------------------


def test_no_text_of_a_user_can_end_or_hide_the_data() -> None:
    evil = "<!--<script></script>&\"'"
    chart = Chart(id="one", title=evil, traces=[{"x": [1], "y": [2], "name": evil}], x=evil, y="y")
    of = Table(label=evil, head=[evil], rows=[[evil], [Cell(evil, 1.0)]], row_names=["a", "b"])
    body = verdict([evil]) + facts([(evil, evil)]) + section(evil, picture(chart), table(of))
    text = document(evil, body, charts=[chart], data={"said": evil})
    embedded = text.split('<script type="application/json" id="data">')[1].split("</script>")[0]
    assert "<" not in embedded
    assert json.loads(embedded)["said"] == evil
    assert json.loads(embedded)["charts"][0]["traces"][0]["name"] == evil
    assert evil not in text


def test_arrays_and_what_is_not_finite_can_be_embedded() -> None:
    chart = Chart(id="one", title="", traces=[{"x": np.array([1.0, np.nan]), "y": np.arange(2)}], x="", y="")
    embedded = document("t", "", charts=[chart]).split('id="data">')[1].split("</script>")[0]
    assert json.loads(embedded)["charts"][0]["traces"] == [{"x": [1.0, None], "y": [0, 1]}]


def test_every_page_has_its_verdict_first_and_is_small(pages: dict[str, Path]) -> None:
    for path in pages.values():
        text = path.read_text(encoding="utf-8")
        body = text.split("</header>")[1]
        assert body.lstrip().startswith("<section") or body.lstrip().startswith("<div")
        assert "verdict" in body[:200]
        assert path.stat().st_size < 1_700_000


# --- in a browser -------------------------------------------------------------------------------------------


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium in the path: apt-get install chromium")
class TestInChromium:
    @pytest.fixture(autouse=True)
    def _watch(self, chromium: Browser) -> Generator[None]:
        chromium.problems.clear()
        chromium.requests.clear()
        yield
        assert chromium.problems == []
        assert {url.partition(":")[0] for url in chromium.requests} <= {"file", "data", "blob"}

    @pytest.mark.parametrize("name", PAGES)
    def test_it_fits_both_widths_and_follows_the_theme(
        self, chromium: Browser, pages: dict[str, Path], name: str
    ) -> None:
        chromium.open(pages[name], width=WIDTHS[0], theme=THEMES[0])
        chromium.drawn()
        colours: set[str] = set()
        for theme in THEMES:
            chromium.system_theme(theme)
            for width in WIDTHS:
                chromium.resize(width, 1000)
                self.check_look(chromium, width, theme)
            colours.add(chromium.evaluate(TEXT_COLOUR))
        assert len(colours) == len(THEMES)
        chromium.evaluate("document.getElementById('theme').click()")
        assert chromium.evaluate("document.documentElement.dataset.theme") == "light"

    def check_look(self, chromium: Browser, width: int, theme: str) -> None:
        """Nothing sticks out, every chart is there, the switch says where it leads."""
        assert chromium.evaluate("document.documentElement.dataset.theme") == theme
        other = "dark" if theme == "light" else "light"
        assert chromium.evaluate("document.getElementById('theme').textContent") == f"switch to {other}"
        # A chart is drawn anew a moment after its box has another size.
        sticks_out = chromium.evaluate(
            "new Promise((done) => { let looks = 0; const look = () => { const out = "
            "[document.documentElement, ...document.querySelectorAll('.chart')].filter((one) => "
            "one.scrollWidth > one.clientWidth + 1).map((one) => one.id || one.tagName); "
            "if (!out.length || ++looks > 100) done(out); else setTimeout(look, 50); }; look(); })"
        )
        assert sticks_out == []
        missing = chromium.evaluate(
            "[...document.querySelectorAll('.chart')].filter((one) => !one.closest('.card').hidden && "
            "!one.querySelector('.main-svg')).map((one) => one.id)"
        )
        assert missing == []

    @pytest.mark.parametrize("name", PAGES)
    def test_axe_finds_no_serious_fault(self, chromium: Browser, pages: dict[str, Path], name: str) -> None:
        if not AXE.is_file():
            pytest.skip("no axe-core: npm install --prefix tests/rendering")
        chromium.open(pages[name])
        chromium.drawn()
        assert chromium.faults() == {}

    @pytest.mark.parametrize("name", PAGES)
    def test_it_prints_with_every_chart(self, chromium: Browser, pages: dict[str, Path], name: str) -> None:
        pypdf = pytest.importorskip("pypdf", reason="needs pypdf, which the extra dev installs")
        chromium.open(pages[name])  # printed at once, before the charts further down were drawn
        document_of = pypdf.PdfReader(io.BytesIO(chromium.pdf()))
        printed = "".join("".join(one.extract_text() for one in document_of.pages).split())
        printed = unicodedata.normalize("NFKC", printed)  # ligatures
        wanted = chromium.evaluate(
            "[...document.querySelectorAll('.chart')].filter((one) => !one.closest('.card').hidden)"
            ".map((one) => one._fullLayout?.xaxis.title.text || one._fullLayout?.yaxis.title.text)"
        )
        assert wanted
        for title in filter(None, wanted):
            assert "".join(title.split()) in printed, title
        assert chromium.evaluate("document.documentElement.dataset.theme") == "light"
        assert chromium.evaluate("document.querySelectorAll('details[open]').length") == 0

    @pytest.mark.parametrize("name", PAGES)
    def test_every_chart_saves_as_svg_and_png(
        self, chromium: Browser, pages: dict[str, Path], name: str
    ) -> None:
        chromium.open(pages[name])
        chromium.drawn()
        chromium.evaluate(
            "window.saved = []; HTMLAnchorElement.prototype.click = function () "
            "{ saved.push([this.download, this.href]); }"
        )
        chromium.evaluate("for (const one of document.querySelectorAll('.save button')) one.click()")
        saved: list[list[str]] = chromium.evaluate(
            "new Promise((done) => { const all = document.querySelectorAll('.save button').length; "
            "const look = () => saved.length === all ? done(saved) : setTimeout(look, 20); look(); })"
        )
        boxes = chromium.evaluate("document.querySelectorAll('.chart, #gantt').length")
        hidden = chromium.evaluate("document.querySelectorAll('.card[hidden] .chart').length")
        assert len(saved) == 2 * (boxes - hidden)
        for file, url in saved:
            kind = "data:image/svg+xml" if file.endswith(".svg") else "data:image/png;base64,"
            assert url.startswith(kind), file
            assert len(url) > 2000, file

    def test_a_search_s_table_sorts_filters_and_opens_a_run_beside_it(
        self, chromium: Browser, pages: dict[str, Path]
    ) -> None:
        chromium.open(pages["explore"], width=1400)
        first = "document.querySelector('#points tbody tr').dataset.point"
        assert chromium.evaluate("document.querySelector('#detail h2').textContent") == "H100, TP1"
        assert chromium.evaluate(first) == "k0"
        chromium.evaluate("document.querySelectorAll('#points th[aria-sort]')[0].click()")
        assert chromium.evaluate(first) == "k2"
        chromium.evaluate(
            "document.getElementById('filter').value = 'l40s tp1'; "
            "document.getElementById('filter').dispatchEvent(new Event('input'))"
        )
        assert chromium.evaluate("document.getElementById('count').textContent") == "2 of 4 deployments"
        chromium.evaluate("document.querySelector('[data-point=k3] button').click()")
        assert chromium.evaluate("document.querySelector('#detail h2').textContent") == "L40S, 2 x TP1"
        assert chromium.evaluate("location.hash") == "#k3"
        chromium.open(pages["explore"], width=700)
        chromium.evaluate("document.querySelector('[data-point=k1] button').click()")
        assert chromium.evaluate("document.querySelector('.detail-row h2').textContent") == "H100, TP2"

    def test_the_column_under_the_pointer_is_told(self, chromium: Browser, pages: dict[str, Path]) -> None:
        chromium.open(pages["run"], width=700)
        chromium.drawn()
        told = chromium.evaluate("gantt.describeColumn(0, 300)")
        assert told.startswith("stage 0, ")
        shares = [float(part.rsplit(" ", 1)[1].rstrip("%")) for part in told.partition(": ")[2].split(", ")]
        assert sum(shares) == pytest.approx(100, abs=0.5)

    def test_a_name_with_markup_leaves_the_page_whole(
        self, chromium: Browser, repository: Path, tmp_path: Path
    ) -> None:
        cluster = json.loads(
            (repository / "configs/cluster/single_node_pp_instance.json").read_text(encoding="utf-8")
        )
        model = json.loads((repository / "configs/model/meta-llama/Llama-3.1-8B.json").read_text())
        model["_name_or_path"] = "<!--<script>alert(1)</script>"
        (tmp_path / "config.json").write_text(json.dumps(model))
        cluster["nodes"][0]["instances"][0]["model_name"] = str(tmp_path / "config.json")
        dataset = str(repository / "workloads/example_trace.jsonl")
        write_report(simulate(cluster, dataset, num_reqs=5), tmp_path / "r.html")
        chromium.open(tmp_path / "r.html")
        chromium.drawn()
        assert "<!--<script>" in chromium.evaluate("document.getElementById('inputs').textContent")
