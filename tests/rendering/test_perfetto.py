from __future__ import annotations

import gzip
import json
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.api import Run, load_scenario
from penstock.errors import UserError
from penstock.rendering.perfetto import PerfettoTrace, parse_window
from penstock.rendering.result import SimulationResult
from penstock.units import NS_PER_MS, NS_PER_S

Event = dict[str, Any]


def ns(microseconds: float) -> int:
    return round(microseconds * 1000)


def traced(
    path: Path, repository: Path, tmp_path: Path, **options: Any
) -> tuple[SimulationResult, PerfettoTrace, list[Event]]:
    """300 requests on a pipeline of four stages, and the trace read back."""
    rng = np.random.default_rng(1)
    lines: list[str] = []
    at = 0
    for _ in range(300):
        at += int(rng.exponential(2e7))
        request = {"input_toks": int(rng.integers(1, 900)), "output_toks": int(rng.integers(1, 20))}
        lines.append(json.dumps(request | {"arrival_time_ns": at}))
    (tmp_path / "requests.jsonl").write_text("\n".join(lines) + "\n")
    cluster = repository / "configs/cluster/single_node_pp4_instance.json"
    run = Run(load_scenario(str(cluster), str(tmp_path / "requests.jsonl"), {}))
    with PerfettoTrace(path, run.deployments, **options) as trace:
        run.listen(trace)
        run.listen_to_spans(trace)
        result = run.run()
        trace.finish(result.record)
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return result, trace, json.load(file)["traceEvents"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> tuple[SimulationResult, list[Event]]:
    directory = tmp_path_factory.mktemp("trace")
    result, trace, events = traced(directory / "t.json.gz", repository, directory)
    assert not trace.truncated
    return result, events


def slices(events: list[Event]) -> dict[tuple[int, int], list[tuple[int, int, Event]]]:
    tracks: dict[tuple[int, int], list[tuple[int, int, Event]]] = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            begin = ns(event["ts"])
            tracks[event["pid"], event["tid"]].append((begin, begin + ns(event["dur"]), event))
    return {track: sorted(of_track, key=lambda one: one[0]) for track, of_track in tracks.items()}


def test_no_slices_overlap_on_a_track(whole: tuple[SimulationResult, list[Event]]) -> None:
    tracks = slices(whole[1])
    assert len(tracks) > 4 + 4 + 3
    for of_track in tracks.values():
        for (_, end, _), (begin, _, _) in pairwise(of_track):
            assert end <= begin


def test_every_arrow_leads_from_slice_to_slice_of_the_same_step(
    whole: tuple[SimulationResult, list[Event]],
) -> None:
    events = whole[1]
    starting = {
        (*track, begin): event["args"].get("step")
        for track, of_track in slices(events).items()
        for begin, _, event in of_track
        if "args" in event
    }
    arrows: dict[int, list[Event]] = defaultdict(list)
    for event in events:
        if event["ph"] in "stf":
            arrows[event["id"]].append(event)
    steps = whole[0].steps.height
    assert len(arrows) == 3 * steps
    for arrow in arrows.values():
        assert [event["ph"] for event in arrow] in (["s", "f"], ["s", "t", "f"])
        carried = {starting[event["pid"], event["tid"], ns(event["ts"])] for event in arrow}
        assert len(carried) == 1


def test_busy_and_waits_are_those_of_the_summary(whole: tuple[SimulationResult, list[Event]]) -> None:
    result, events = whole
    tracks = slices(events)
    for stage in result.summary.instances[0].stages:
        steps = tracks[0, 100 * (stage.stage + 1)]
        assert sum(end - begin for begin, end, _ in steps) == stage.busy_ns
        waits: dict[str, int] = defaultdict(int)
        for begin, end, event in tracks[0, 100 * (stage.stage + 1) + 1]:
            waits[event["name"]] += end - begin
        assert stage.causes_ns is not None
        assert waits == {cause: spent for cause, spent in stage.causes_ns.items() if spent}


def test_requests_and_counters_are_there(whole: tuple[SimulationResult, list[Event]]) -> None:
    events = whole[1]
    counters = {event["name"] for event in events if event["ph"] == "C"}
    assert {"requests", "free KV blocks", "steps in flight", "bubble cause, stage 0"} <= counters
    lives = [event for event in events if event["ph"] == "X" and event["pid"] == 1]
    assert {event["name"] for event in lives} == {"waiting", "prefill", "decode"}
    assert len({event["tid"] for event in lives}) == 20


def test_a_window_keeps_what_touches_it(tmp_path: Path, repository: Path) -> None:
    window = (NS_PER_S, NS_PER_S + 50 * NS_PER_MS)
    result, _, events = traced(tmp_path / "t.json.gz", repository, tmp_path, window_ns=window)
    kept = {
        event["args"]["step"] for event in events if event["ph"] == "X" and "step" in event.get("args", {})
    }
    stages = result.stages
    ends = stages.filter(stage=3)["end_ns"].to_list()
    begins = stages.filter(stage=0)["start_ns"].to_list()
    schedules = result.steps["schedule_ns"].to_list()
    touching = {
        step
        for step, (scheduled, end) in enumerate(zip(schedules, ends, strict=True))
        if scheduled < window[1] and end >= window[0]
    }
    assert kept == touching
    assert 0 < len(kept) < len(begins)


def test_a_limit_ends_the_trace_and_says_so(tmp_path: Path, repository: Path) -> None:
    _, trace, events = traced(tmp_path / "t.json.gz", repository, tmp_path, event_limit=500)
    assert trace.truncated
    assert len(events) < 1000
    flows = [event["id"] for event in events if event["ph"] == "s"]
    assert sorted(flows) == sorted(event["id"] for event in events if event["ph"] == "f")


@pytest.mark.parametrize(
    ("text", "window"),
    [
        ("10s:12s", (10 * NS_PER_S, 12 * NS_PER_S)),
        ("500ms:", (500 * NS_PER_MS, None)),
        (":2", (None, 2 * NS_PER_S)),
    ],
)
def test_windows(text: str, window: tuple[int | None, int | None]) -> None:
    assert parse_window(text) == window


@pytest.mark.parametrize("text", ["10s", "a:b", "5s:5s", "3s:2s", "1:2:3", "-1s:2s", "nan:1"])
def test_what_is_no_window_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--trace-window"):
        parse_window(text)
