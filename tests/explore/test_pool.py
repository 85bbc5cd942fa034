"""Executors: the same outcomes whoever works, and whatever happens to the workers."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from explore.pool_jobs import Square
from penstock.explore.pool import DIED, Executor, InProcess, LocalPool, Lost

JOBS = list(range(12))


def outcomes(executor: Executor[int, int], jobs: list[int] = JOBS) -> dict[int, int | Lost]:
    with executor as running:
        return dict(running.run(jobs))


@pytest.mark.parametrize("make", [InProcess, lambda evaluate: LocalPool(evaluate, 2)])
def test_every_job_has_its_outcome(make: Callable[[Any], Executor[int, int]], tmp_path: Path) -> None:
    assert outcomes(make(Square(str(tmp_path)))) == {n: n * n for n in JOBS}


@pytest.mark.parametrize("make", [InProcess, lambda evaluate: LocalPool(evaluate, 2)])
def test_outcomes_may_lead_to_further_jobs(make: Callable[[Any], Executor[int, int]], tmp_path: Path) -> None:
    jobs = [0, 1]
    found: dict[int, int | Lost] = {}
    with make(Square(str(tmp_path))) as running:
        for index, outcome in running.run(jobs):
            found[jobs[index]] = outcome
            if jobs[index] < 6:
                jobs.append(jobs[index] + 2)
    assert found == {n: n * n for n in range(8)}


@pytest.mark.parametrize("make", [InProcess, lambda evaluate: LocalPool(evaluate, 2)])
def test_a_job_that_raises_is_reported_and_the_others_go_on(
    make: Callable[[Any], Executor[int, int]], tmp_path: Path
) -> None:
    found = outcomes(make(Square(str(tmp_path), raises=(3,))))
    lost = found.pop(3)
    assert isinstance(lost, Lost)
    assert lost.reason.startswith("ValueError: cannot square 3 (pool_jobs.py:")
    assert found == {n: n * n for n in JOBS if n != 3}


def test_a_dead_workers_job_is_tried_again(tmp_path: Path) -> None:
    found = outcomes(LocalPool(Square(str(tmp_path), dies_once=(0, 5)), 2))
    assert found == {n: n * n for n in JOBS}
    assert {path.name for path in tmp_path.iterdir()} == {"0", "5"}


def test_a_poisoned_job_is_given_up_and_the_others_go_on(tmp_path: Path) -> None:
    found = outcomes(LocalPool(Square(str(tmp_path), always_dies=(4,)), 2))
    assert found.pop(4) == DIED
    assert found == {n: n * n for n in JOBS if n != 4}


def test_a_pool_serves_several_rounds_and_leaves_no_process(tmp_path: Path) -> None:
    with LocalPool(Square(str(tmp_path)), 2) as pool:
        assert dict(pool.run([2])) == {0: 4}
        pids = {worker.process.pid for worker in pool._workers}
        assert dict(pool.run([5, 6])) == {0: 25, 1: 36}
        assert pids <= {worker.process.pid for worker in pool._workers}
        assert len(pool._workers) == 2
    assert not multiprocessing.active_children()


def test_leaving_early_ends_workers_that_are_busy(tmp_path: Path) -> None:
    with LocalPool(Square(str(tmp_path), sleep_s=0.05), 2) as pool:
        next(iter(pool.run(JOBS)))
    assert not multiprocessing.active_children()


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    script = (
        "import os, signal\n"
        "from explore.pool_jobs import Square\n"
        "from penstock.explore.pool import LocalPool\n"
        "if __name__ == '__main__':\n"
        f"    with LocalPool(Square({str(tmp_path)!r}), 1) as pool:\n"
        "        list(pool.run([1]))\n"
        "        print(pool._workers[0].process.pid, flush=True)\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    main = tmp_path / "main.py"
    main.write_text(script)
    environment = {"PYTHONPATH": str(Path(__file__).parents[1]), "PATH": ""}
    done = subprocess.run([sys.executable, main], capture_output=True, text=True, env=environment, timeout=60)
    # The worker held the other end of stdout: that run() returned says that it is gone.
    assert done.returncode == -9
    assert int(done.stdout) > 0
