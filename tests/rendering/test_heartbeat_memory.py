"""What the throughput log keeps depends neither on its interval nor on instances that have nothing to do."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from fuzz import clusters
from fuzz.kind import lines
from penstock.api import Run, load_scenario
from penstock.recording.records import TurnChunk
from penstock.rendering import heartbeat
from penstock.rendering.heartbeat import HeartbeatLog
from penstock.units import NS_PER_S

ANSWER = 60


def prepared(place: Path, requests: int, *, power: bool = False) -> Run:
    """Requests one after the other, all of them at the first instance: the second serves another model."""
    instances = clusters.instance(pp_size=2, num_npus=2), clusters.instance(model_name="Qwen/Qwen3-32B")
    config = clusters.cluster(*instances, node={"power": clusters.POWER} if power else None)
    row = {"input_toks": 64, "output_toks": ANSWER, "model": "meta-llama/Llama-3.1-8B"}
    path = place / "w.jsonl"
    path.write_bytes(lines([{**row, "arrival_time_ns": 5 * n * NS_PER_S} for n in range(requests)]))
    return Run(load_scenario(config, path, {"record": "requests"}), keep_turns=False)


class Kept:
    """How many lines waited at most, and how many turns."""

    def __init__(self, log: HeartbeatLog) -> None:
        self.lines = self.turns = 0
        self._log = log

    def accept(self, chunk: TurnChunk) -> None:
        """Look, after the log has taken the chunk."""
        del chunk
        logs = self._log._logs.values()
        self.lines = max(self.lines, sum(log.lines_kept for log in logs))
        self.turns = max(self.turns, sum(log._turns_pending for log in logs))


def logged(run: Run, interval_s: float, *, asks: bool = True) -> tuple[list[str], Kept]:
    written: list[str] = []
    interval_ns = round(interval_s * NS_PER_S)
    power_w = None
    if run.energy is not None and any(run.scenario.cluster.power):
        run.energy.follow(interval_ns)
        power_w = run.energy.npu_power_w
    log = HeartbeatLog(
        run.deployments,
        interval_ns,
        written.append,
        instances=run.scenario.cluster.instances,
        power_w=power_w,
        known_until_ns=run.known_until_ns if asks else None,
    )
    kept = Kept(log)
    run.listen(log)
    run.listen(kept)
    log.finish(run.run().record.end_ns)
    return written, kept


@pytest.mark.parametrize("power", [False, True])
def test_an_idle_instance_keeps_no_lines_waiting(
    power: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "_LINES_KEPT_MAX", 64)
    monkeypatch.setattr("penstock.recording.turn_log.CHUNK_TURNS", 64)
    once, twice = (logged(prepared(tmp_path, count, power=power), 0.1)[1].lines for count in (12, 36))
    assert max(once, twice) <= 128
    written, _ = logged(prepared(tmp_path, 36, power=power), 0.1)
    waiting, kept = logged(prepared(tmp_path, 36, power=power), 0.1, asks=False)
    assert written == waiting
    assert kept.lines > 5 * once


@pytest.mark.parametrize("power", [False, True])
def test_a_long_interval_keeps_no_turns(power: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "_TURNS_KEPT_MAX", 128)
    monkeypatch.setattr("penstock.recording.turn_log.CHUNK_TURNS", 32)
    kept = [logged(prepared(tmp_path, count, power=power), 1e6)[1].turns for count in (10, 40)]
    assert kept[0] == kept[1] <= 160
    assert kept[0] < 10 * ANSWER


@pytest.mark.parametrize(("pure", "counts"), [("1", (10, 40)), ("0", (40, 160))])
def test_memory_grows_no_faster_with_a_log_than_without(
    pure: str, counts: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Machine code hands on 2,048 turns at once, so both runs have more than that there."""
    monkeypatch.setenv("PENSTOCK_PURE", pure)
    monkeypatch.setattr(heartbeat, "_TURNS_KEPT_MAX", 128)
    monkeypatch.setattr("penstock.recording.turn_log.CHUNK_TURNS", 32)

    def peak(count: int, interval_s: float | None) -> int:
        run = prepared(tmp_path, count, power=True)
        tracemalloc.start()
        if interval_s is None:
            run.run()
        else:
            logged(run, interval_s)
        _, found = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return found

    more = [peak(count, 1e6) - peak(count, None) for count in counts]
    assert more[1] < more[0] + 50_000  # 1,800 turns more are 300 kB, 7,200 in machine code four times that
