from __future__ import annotations

import re
import tracemalloc
from unittest.mock import patch

import numpy as np
import pytest
from fake_records import fake_deployment, fake_instance, fake_turns
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.recording.records import TurnChunk
from penstock.rendering import heartbeat
from penstock.rendering.heartbeat import HeartbeatLog
from penstock.spec.options import SchedulerOptions

S = 1_000_000_000
WAKEFUL = SchedulerOptions(engine_idle_sleep_ns=0, max_in_flight=3)


def lines_of(
    chunks: list[TurnChunk], end_ns: int, interval_ns: int = S, scheduler: SchedulerOptions | None = None
) -> list[str]:
    lines: list[str] = []
    deployment = fake_deployment()
    instances = [fake_instance(deployment, scheduler)] if scheduler else None
    log = HeartbeatLog([deployment], interval_ns, lines.append, instances=instances)
    for chunk in chunks:
        log.accept(chunk)
    log.finish(end_ns)
    return lines


def step(schedule_s: float, tokens: int = 1, **columns: int) -> dict[str, int]:
    return {"schedule_ns": round(schedule_s * S), "tokens": tokens} | columns


def way(*times_s: tuple[float, float]) -> list[tuple[int, int]]:
    return [(round(start * S), round(end * S)) for start, end in times_s]


def test_a_line_says_what_the_docstring_defines():
    full = fake_deployment().memory.num_gpu_blocks - 1
    chunk = fake_turns(
        [
            step(0.0, 1400, prefill_tokens=1400, sampled=8, running=8, waiting=5, free_blocks=full - 1024),
            step(0.25, 8, decodes=8, sampled=532, running=8, waiting=3, free_blocks=full - 2048),
            step(1.0, 1, decodes=1, sampled=1, running=1, waiting=0, free_blocks=full),
        ],
        [way((0.0, 0.5), (0.5, 1.0)), way((0.5, 1.25), (1.25, 1.5)), way((1.5, 1.6), (1.6, 1.7))],
    )
    lines = lines_of([chunk], round(1.7 * S))
    # busy in the first second: 0.5 + 0.5 on the first stage, 0.5 on the second; 9 GiB weights + 2 GiB KV
    assert lines[0] == (
        "[INFO] step=2 batch=8 prompt_t=1.4k tok/s decode_t=540 tok/s npu_mem=11.0 GB "
        "in_flight=2/2 waiting=3 bubble=25%"
    )
    # 0.7 s left: busy 0.25 + 0.1 and 0.25 + 0.1; one token over 0.7 s; its result comes with the end itself
    assert len(lines) == 2
    assert lines[1] == (
        "[INFO] step=3 batch=1 prompt_t=0 tok/s decode_t=1 tok/s npu_mem=9.0 GB "
        "in_flight=1/2 waiting=0 bubble=50%"
    )


def test_intervals_without_a_turn_have_a_line_too():
    turns = [step(0.1, 4, running=1, sampled=1, free_blocks=5), step(4.5, 1, running=1, sampled=1)]
    chunk = fake_turns(turns, [way((0.1, 1.2), (1.2, 1.4)), way((4.5, 4.6), (4.6, 4.7))])
    lines = lines_of([chunk], 5 * S)
    assert len(lines) == 5
    assert [int(re.findall(r"batch=(\d+)", line)[0]) for line in lines] == [1, 0, 0, 0, 0]
    assert [re.findall(r"bubble=(\d+)%", line)[0] for line in lines] == ["50", "50", "0", "0", "50"]
    assert "npu_mem=9.0 GB in_flight=0/2" in lines[2]


def test_a_run_shorter_than_the_interval_has_one_line_and_no_run_has_none():
    chunk = fake_turns([step(0.0, 10, prefill_tokens=10)], [way((0.0, 0.1), (0.1, 0.2))])
    assert len(lines_of([chunk], S // 5)) == 1
    assert "prompt_t=50 tok/s" in lines_of([chunk], S // 5)[0]
    assert lines_of([], 0) == []


def test_lines_of_several_instances_are_merged_by_time():
    def chunk(instance: int, times: list[float]) -> TurnChunk:
        ways = [way((time, time + 0.1), (time + 0.1, time + 0.2)) for time in times]
        return fake_turns([step(time) for time in times], ways, instance=instance)

    lines: list[str] = []
    log = HeartbeatLog([fake_deployment(0), fake_deployment(1)], S, lines.append)
    log.accept(chunk(1, [0.0, 1.0, 2.5]))
    assert lines == []  # the other instance may still have something to say of the first second
    log.accept(chunk(0, [0.5, 1.5]))
    assert [line.split()[1] for line in lines] == ["instance=0", "instance=1"]
    log.accept(chunk(0, [3.5]))
    assert [line.split()[1] for line in lines] == ["instance=0", "instance=1"] * 2
    log.finish(4 * S)
    assert [line.split()[1] for line in lines] == ["instance=0", "instance=1"] * 4


def test_a_long_idle_stretch_does_not_flood_the_log():
    times = [0.0, 5e9]  # 158 years apart: arrivals in a wrong unit
    ways = [way((time, time + 0.1), (time + 0.1, time + 0.2)) for time in times]
    lines = lines_of([fake_turns([step(time, running=1) for time in times], ways)], 5 * 10**18 + S)
    assert len(lines) == 1 + 1000 + 1 + 1
    assert "no line until a request arrives" in lines[-2]
    assert "step=2 batch=0" in lines[-1]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 400), st.integers(0, 300), st.integers(0, 300), st.integers(0, 3)),
        min_size=1,
        max_size=40,
    ),
    st.integers(50, 700),
    st.integers(1, 7),
)
def test_chunks_change_no_line_and_sums_are_those_of_the_run(
    plan: list[tuple[int, int, int, int]], interval_ns: int, cut: int
):
    turns: list[dict[str, int]] = []
    ways: list[list[tuple[int, int]]] = []
    now = free_0 = free_1 = 0
    for wait, first, second, tokens in plan:
        now += wait
        turns.append({"schedule_ns": now, "tokens": tokens, "sampled": tokens, "prefill_tokens": tokens})
        turns[-1]["running"] = int(wait > 100)
        if tokens:
            start_0 = max(now, free_0)
            free_0 = start_0 + first
            start_1 = max(free_0, free_1)
            free_1 = start_1 + second
            ways.append([(start_0, free_0), (start_1, free_1)])
        else:
            ways.append([])
        turns[-1]["update_ns"] = max(now, free_1)
    if not any(ways):
        return
    whole = fake_turns(turns, ways)
    end = int(whole.column("update_ns").max())
    parts = [TurnChunk(0, 2, first, whole.values[first : first + cut]) for first in range(0, len(turns), cut)]
    lines = lines_of([whole], end, interval_ns, WAKEFUL)
    assert lines_of(parts, end, interval_ns, WAKEFUL) == lines
    with patch.object(heartbeat, "_TURNS_KEPT_MAX", cut):
        assert lines_of(parts, end, interval_ns, WAKEFUL) == lines
    assert len(lines) == -(-end // interval_ns)
    if lines:
        assert int(re.findall(r"step=(\d+)", lines[-1])[0]) == sum(
            1 for turn in turns if turn["tokens"] and turn["schedule_ns"] < end
        )
    assert_busy_by_counting(whole, interval_ns, end, lines)


def assert_busy_by_counting(chunk: TurnChunk, interval_ns: int, end: int, lines: list[str]) -> None:
    """Paint every nanosecond of both stages and count."""
    busy = np.zeros((2, end + 1), dtype=bool)
    active = np.zeros(end + 1, dtype=bool)
    steps = chunk.column("tokens") > 0
    schedule, update = chunk.column("schedule_ns"), chunk.column("update_ns")
    for stage in range(2):
        for start, stop in zip(
            chunk.stage(stage, "start")[steps], chunk.stage(stage, "end")[steps], strict=True
        ):
            assert not busy[stage, start:stop].any()
            busy[stage, start:stop] = True
    for turn, start in enumerate(schedule):
        result = max(update[: turn + 1][steps[: turn + 1]], default=0)
        following = schedule[turn + 1] if turn + 1 < len(schedule) else end
        if result > start or chunk.column("running")[turn] == 0:
            active[start : min(following, max(start, result))] = True
        else:
            active[start:following] = True
    for k, line in enumerate(lines):
        window = slice(k * interval_ns, min((k + 1) * interval_ns, end))
        stage_ns = 2 * active[window].sum()
        share = 100 * (1 - busy[:, window].sum() / stage_ns) if stage_ns else 0.0
        shown = int(re.findall(r"in_flight=\d+/3 waiting=\d+ bubble=(\d+)%", line)[0])
        assert abs(shown - share) <= 0.5 + 1e-9


def test_memory_does_not_depend_on_the_interval():
    ways = [way((0.0, 0.001), (0.001, 0.002))] * 1000
    turns = fake_turns([step(0.002 * place, sampled=1, running=1) for place in range(1000)], ways).values
    lines: list[str] = []
    log = HeartbeatLog([fake_deployment()], 10**6 * S, lines.append)
    tracemalloc.start()
    for number in range(200):
        times = turns.copy()
        times[:, [0, 1, 13, 14, *range(15, turns.shape[1])]] += number * 2 * S
        log.accept(TurnChunk(0, 2, 1000 * number, times))
    log.finish(400 * S)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(lines) == 1
    assert lines[0].startswith("[INFO] step=200000 batch=1 prompt_t=0 tok/s decode_t=500 tok/s")
    assert peak < 20 << 20  # all turns together are 34 MB


def test_an_interval_must_have_a_length():
    with pytest.raises(ValueError, match="must be positive"):
        HeartbeatLog([fake_deployment()], 0, print)
