"""The same on Ray, one worker killed on the way. Needs ray, of the extra penstock[ray]."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from explore.pool_jobs import Square
from explore.studies import write_study
from penstock.errors import UserError
from penstock.explore.evaluate import Evaluator, PointJob
from penstock.explore.pool import DIED, InProcess, LocalPool, Lost
from penstock.explore.ray_pool import RayPool, check_ray
from penstock.explore.report import write_outputs
from penstock.explore.result import PointResult
from penstock.explore.study import run_study
from penstock.explore.study_spec import load_study

HAS_RAY = importlib.util.find_spec("ray") is not None
needs_ray = [
    pytest.mark.ray,
    pytest.mark.skipif(not HAS_RAY, reason='ray is not installed: pip install "penstock[ray]"'),
    pytest.mark.filterwarnings("ignore"),  # Ray's own
]


@dataclass(frozen=True, slots=True)
class KilledOnce:
    """An evaluator whose worker is killed at the third point, the first time somebody takes it."""

    inner: Evaluator
    bomb: Square
    key: str

    def __call__(self, job: PointJob) -> PointResult:
        if job.key == self.key:
            self.bomb(0)
        return self.inner(job)


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    """One Ray for all tests here, whose workers find this directory."""
    import ray

    tests = str(Path(__file__).parents[1])
    try:
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            runtime_env={"env_vars": {"PYTHONPATH": tests}},
        )
    except Exception as error:  # Ray gives its daemons 30 s, whatever else the machine does
        ray.shutdown()
        if "timed out during startup" not in str(error):
            raise
        pytest.skip("Ray did not start within its 30 s")
    yield
    ray.shutdown()


class TestOnRay:
    pytestmark = needs_ray

    def test_outcomes_are_those_of_local_processes(self, ray_cluster: None, tmp_path: Path) -> None:
        jobs = list(range(8))
        evaluate = Square(str(tmp_path / "ray"), dies_once=(2,), always_dies=(5,), raises=(6,))
        local = Square(str(tmp_path / "local"), dies_once=(2,), always_dies=(5,), raises=(6,))
        for directory in ("ray", "local"):
            (tmp_path / directory).mkdir()
        with RayPool(evaluate, workers=2) as pool:
            found = dict(pool.run(jobs))
        with LocalPool(local, 2) as pool:
            assert dict(pool.run(jobs)) == found
        assert found[5] == DIED
        assert isinstance(found[6], Lost)
        assert found[2] == 4

    def test_a_search_with_a_killed_worker_gives_the_same_table(
        self, ray_cluster: None, tmp_path: Path
    ) -> None:
        spec = load_study(write_study(tmp_path))
        calm = run_study(spec, tmp_path / "calm", InProcess, lambda step: None)
        bomb = Square(str(tmp_path), dies_once=(0,))

        def on_ray(evaluate: Evaluator) -> RayPool[PointJob, PointResult]:
            return RayPool(KilledOnce(evaluate, bomb, calm.results[2].key), workers=2)

        rough = run_study(spec, tmp_path / "rough", on_ray, lambda step: None)
        assert (tmp_path / "0").exists()  # it did go off
        assert rough.results == calm.results
        for outcome, name in ((calm, "calm"), (rough, "rough")):
            write_outputs(outcome, tmp_path / name)
        for file in ("table.csv", "table.parquet", "best.json"):
            assert (tmp_path / "calm" / file).read_bytes() == (tmp_path / "rough" / file).read_bytes()
        pages = [(tmp_path / name / "report.html").read_text() for name in ("calm", "rough")]
        # The page shows commands with its own directory.
        assert pages[0].replace(str(tmp_path / "calm"), str(tmp_path / "rough")) == pages[1]


@pytest.mark.skipif(HAS_RAY, reason="ray is installed")
def test_without_ray_the_user_is_told_how_to_get_it() -> None:
    with pytest.raises(UserError, match=r"pip install .penstock\[ray\]"):
        check_ray()
