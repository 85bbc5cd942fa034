"""A run that no file describes: a deployment and chat requests from a few options."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from penstock.errors import Problem, nearest
from penstock.files.place import Place
from penstock.spec.hardware import find_hardware, hardware_labels
from penstock.spec.model_files import ModelLibrary, load_model
from penstock.workload.workload import Workload

CHAT_PRESET = "sharegpt"
CHAT_REQUESTS = 300
"""Served where neither a workload nor ``--num-reqs`` says how many."""

DEFAULT_GPUS_PER_NODE = 8
_MEMBER = re.compile(r"cluster: nodes\[\d+\]\.instances\[\d+\](?:\.(?P<member>\w+))?.*")
_FLAGS = {
    "model_name": "--model",
    "hardware": "--hardware",
    "tp_size": "--tp",
    "pp_size": "--pp",
    "num_npus": "--tp",
    "policy": "--policy",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """What the options say of it; None = not given, a text where a number should stand = a mistake."""

    model: str | None = None
    hardware: str | None = None
    tp: Any = None
    pp: Any = None
    replicas: Any = None
    gpus_per_node: Any = None

    def given(self) -> list[str]:
        """The options that were given, as the command line writes them."""
        return [
            f"--{field.name.replace('_', '-')}"
            for field in fields(self)
            if getattr(self, field.name) is not None
        ]

    def check(self, problems: list[Problem]) -> tuple[dict[str, Any], str] | None:
        """The cluster config that they describe and what to call it; None after adding to ``problems``."""
        from penstock.explore.design_point import DesignPoint, Site, cluster_config, misplaced

        before = len(problems)
        numbers = {
            name: self._count(name, default, problems)
            for name, default in (
                ("tp", 1),
                ("pp", 1),
                ("replicas", 1),
                ("gpus_per_node", DEFAULT_GPUS_PER_NODE),
            )
        }
        problems += [
            Problem(f"--{name}", "is required without a cluster config")
            for name in ("model", "hardware")
            if not getattr(self, name)
        ]
        if self.model:
            load_model(self.model, ModelLibrary.near(None), None, Place("--model"), problems)
        chip = find_hardware(self.hardware) if self.hardware else None
        if self.hardware and chip is None:
            hint = nearest(self.hardware, hardware_labels())
            problems.append(
                Problem("--hardware", f"unknown hardware '{self.hardware}'{hint}; penstock hardware lists it")
            )
        if len(problems) > before or chip is None or self.model is None:
            return None
        point = DesignPoint(
            hardware=chip.label, tp=numbers["tp"], pp=numbers["pp"], replicas=numbers["replicas"]
        )
        site = Site(
            model=self.model, gpus_per_node=numbers["gpus_per_node"], networks={}, npu_mem={}, engine={}
        )
        obstacle = misplaced(point, site)
        if obstacle is not None:
            problems.append(Problem("--tp", obstacle))
            return None
        cut = f"tp {point.tp} x pp {point.pp}"
        several = f"{point.replicas} instances of " if point.replicas > 1 else ""
        return cluster_config(point, site), f"{point.gpus} {chip.label} ({several}{cut})"

    def _count(self, name: str, default: int, problems: list[Problem]) -> int:
        value = getattr(self, name)
        if value is None:
            return default
        if not isinstance(value, int) or not 1 <= value <= 100_000:
            where = f"--{name.replace('_', '-')}"
            problems.append(Problem(where, f"must be a number from 1 to 100000, not '{value}'"))
            return default
        return value


def in_flags(problem: Problem) -> Problem:
    """A mistake of a described cluster, placed at the option that made it."""
    match = _MEMBER.fullmatch(problem.where)
    if match is None:
        return problem
    return Problem(_FLAGS.get(match["member"] or "", "--model"), problem.message)


def chat_requests(options: Mapping[str, Any], problems: list[Problem]) -> Workload | None:
    """Requests like a chat's, drawn by ``request_rate``, ``num_reqs`` and ``seed`` of a run's ``options``; None after
    adding to ``problems``. Values that are wrong in themselves are left to the options' own check."""
    rate, count, seed = (options.get(name) for name in ("request_rate", "num_reqs", "seed"))
    if rate is None:
        problems.append(
            Problem("--dataset", "is required, or --rate: so many chat requests a second, drawn by the seed")
        )
        return None
    try:
        number = float(rate)
    except ValueError:
        return None
    if not number > 0 or not all(value is None or isinstance(value, int) for value in (count, seed)):
        return None
    from penstock.workload.generate import PRESETS, Recipe, generate

    preset = PRESETS[CHAT_PRESET]
    all_at_once = number == float("inf")
    drawn = generate(
        Recipe(
            num_requests=count or CHAT_REQUESTS,
            arrivals="burst" if all_at_once else "poisson",
            rate_per_s=1.0 if all_at_once else number,
            input_tokens=preset.input_tokens,
            output_tokens=preset.output_tokens,
            seed=seed or 0,
        )
    )
    how = "all at once" if all_at_once else f"{number:g} a second"
    return drawn.renamed(f"{len(drawn)} chat requests, {how}")
