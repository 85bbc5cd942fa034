"""A search as its YAML file describes it, checked: every mistake at once, each with its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.engine.router import make_router
from penstock.errors import Problem, UserError, nearest
from penstock.explore.constraints import Constraint, parse_constraint
from penstock.explore.design_point import DEFAULT_BETWEEN, Network, Site
from penstock.explore.objectives import OBJECTIVES, Objective, find_objective
from penstock.explore.slo import Slo, check_priorities, parse_slo
from penstock.explore.space import FILL, Dimension, Space, Spaces
from penstock.explore.study_schema import RawNetwork, RawSpace, RawStudy
from penstock.files.place import Place, home_expanded
from penstock.files.yaml_text import read_yaml
from penstock.scheduler.policies.make import make_policy
from penstock.spec.calibration import load_calibration
from penstock.spec.check import Checked, check, shown
from penstock.spec.cluster import Calibration
from penstock.spec.hardware import find_hardware, hardware_labels
from penstock.spec.prices import find_price, listed_prices
from penstock.spec.raw import REQUIRED, RawInstance, RawMemory
from penstock.units import GIB
from penstock.workload.formats import load_workload
from penstock.workload.generate import PRESETS, Recipe, generate
from penstock.workload.lengths import parse_lengths
from penstock.workload.offered_load import ARRIVALS, Arrivals
from penstock.workload.workload import Workload

_DECIDED = ("model_name", "hardware", "npu_mem", "num_npus", "tp_size", "pp_size", "placement_nodes")
_OF_DIMENSIONS = {
    "pp_layer_partition": "partition",
    "max_num_seqs": "max_num_seqs",
    "max_num_batched_tokens": "max_num_batched_tokens",
    "max_in_flight": "max_in_flight",
    "policy": "policy",
    "dtype": "dtype",
    "kv_cache_dtype": "kv_cache_dtype",
    "async_scheduling": "async_scheduling",
}
"""Members of an instance that a dimension of the space chooses."""

PILOT_SHARE = 8
MIN_PILOT_REQUESTS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPlan:
    """How to go through the space; see :class:`penstock.explore.study_schema.RawSearch`."""

    method: str
    trials: int
    seed: int
    exhaustive_up_to: int
    early_stop: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """What every point is loaded with. ``rate`` is None for the capacity, "trace" for the workload's own arrivals.
    ``recipe`` draws more requests where the workload was generated. ``pilot`` is how many requests the runs of a
    first look serve, None where there is no such look; ``requests`` with how many the others begin, ``max_requests``
    how many they may grow to."""

    workload: Workload
    recipe: Recipe | None
    pilot: int | None
    arrivals: Arrivals
    slo: Slo | None
    rate: float | str | None
    seeds: int
    tolerance: float
    requests: int
    max_requests: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySpec:
    """A checked search. ``prices`` are US dollars per GPU and hour by hardware label."""

    source: str
    site: Site
    space: Spaces
    load: LoadPlan
    search: SearchPlan
    objectives: tuple[Objective, ...]
    prices: Mapping[str, float]
    price_sources: Mapping[str, str]
    profile_root: str | None
    calibration: Calibration | None = None


def load_study(path: Path, calibration: Path | None = None) -> StudySpec:
    """Read and check a search's file. ``calibration`` is a file that goes before the one that it names.

    Raises:
        UserError: with every mistake found.
    """
    problems: list[Problem] = []
    data = read_yaml(path, problems)
    checked = None if data is None else check(RawStudy, data, Place(str(path)), problems)
    if checked is None:
        raise UserError(problems)
    reader = _Reader(path, checked, problems, calibration)
    spec = reader.read()
    if problems or spec is None:
        raise UserError(problems)
    return spec


class _Reader:
    """The rules between members; mistakes go to ``problems``."""

    def __init__(
        self, path: Path, checked: Checked[RawStudy], problems: list[Problem], calibration: Path | None
    ) -> None:
        self._path = path
        self._calibration_file = calibration
        self._calibration: Calibration | None = None
        self._place = Place(str(path))
        self._checked = checked
        self._raw = checked.value
        self._problems = problems

    def read(self) -> StudySpec | None:
        """The search, complete only if nothing was added to the problems."""
        raw = self._raw
        root = self._beside(raw.profile_root) if raw.profile_root else None
        if root is not None and not Path(root).is_dir():
            self._blame("profile_root", f"{root} is not a directory")
        self._read_calibration()
        for name in ("model", "space"):
            if getattr(raw, name) is None and self._checked.sound(name):
                self._blame("", f"missing key '{name}'")
        self._check_instance()
        self._check_labels(root)
        self._check_networks()
        parts = [self._space(one, self._of_space(place)) for place, one in enumerate(self._spaces)]
        for place, one in enumerate(self._spaces):
            self._check_hardware(one, root, self._of_space(place))
        constraints = self._constraints()
        slo = self._slo()
        objectives = self._objectives()
        prices, sources = self._prices(objectives, constraints)
        rate = self._rate(slo)
        load = self._load(slo, rate)
        if self._problems or load is None:
            return None
        return StudySpec(
            source=str(self._path),
            site=self._site(),
            space=Spaces(tuple(parts), constraints, prices),
            load=load,
            search=SearchPlan(
                **{name: getattr(raw.search, name) for name in SearchPlan.__dataclass_fields__}
            ),
            objectives=objectives,
            prices=prices,
            price_sources=sources,
            profile_root=root,
            calibration=self._calibration,
        )

    @property
    def _spaces(self) -> list[RawSpace]:
        return self._raw.space or []

    def _of_space(self, place: int) -> str:
        """Where a space stands in the file."""
        return f"space[{place}]" if len(self._spaces) > 1 else "space"

    def _hardware(self) -> list[str]:
        """Of all spaces, each label once."""
        named = [[*(one.hardware or []), *(one.prefill_hardware or [])] for one in self._spaces]
        return list(dict.fromkeys(label for labels in named for label in labels))

    def _constraints(self) -> tuple[Constraint, ...]:
        found: list[Constraint] = []
        for place, text in enumerate(self._raw.constraints or []):
            where = str(self._place.key(f"constraints[{place}]"))
            constraint = parse_constraint(text, where, self._problems)
            if constraint is not None:
                found.append(constraint)
        return tuple(found)

    def _read_calibration(self) -> None:
        named = self._beside(self._raw.calibration) if self._raw.calibration else None
        path = self._calibration_file or named
        if path is None:
            return
        try:
            self._calibration = load_calibration(path)
        except UserError as error:
            self._problems += error.problems

    # --- the site -------------------------------------------------------------------------------------------

    def _site(self) -> Site:
        raw = self._raw
        model = raw.model or ""
        beside = self._path.parent / model
        engine = dict(raw.instance)
        npu_mem = {label: dict(memory) for label, memory in raw.npu_mem.items()}
        if raw.memory_utilization is not None:
            for label in self._hardware():
                hardware = find_hardware(label)
                memory = npu_mem.setdefault(label, {})
                if hardware is not None and not memory:
                    memory.update(
                        mem_size=hardware.capacity_bytes / GIB,
                        mem_bw=hardware.memory_bytes_per_s / 1e9,
                        mem_latency=0,
                    )
                memory["mem_util"] = raw.memory_utilization
        return Site(
            model=str(beside.resolve()) if beside.is_file() else model,
            gpus_per_node=raw.gpus_per_node,
            networks={name: _network(entry) for name, entry in raw.networks.items()},
            npu_mem=npu_mem,
            engine=engine,
        )

    def _check_instance(self) -> None:
        """Members of every instance: none that the search decides, each with a value that it can have."""
        for name in self._raw.instance:
            if name in _DECIDED:
                self._blame(f"instance.{name}", "is decided by the search: give it in the space")
        for place, space in enumerate(self._spaces):
            for member, dimension in _OF_DIMENSIONS.items():
                if member in self._raw.instance and getattr(space, dimension) is not None:
                    where = self._place.key(self._of_space(place)).key(dimension)
                    self._blame(f"instance.{member}", f"is set by {where.path} too: give it in one of them")
        rest = {name: value for name, value in self._raw.instance.items() if name not in _DECIDED}
        check(RawInstance, rest, self._place.key("instance"), self._problems)

    def _check_labels(self, root: str | None) -> None:
        """``prices`` and ``npu_mem``: of hardware that there is."""
        spoken = [*self._hardware(), *hardware_labels()]
        for member, labels in (("prices", self._raw.prices), ("npu_mem", self._raw.npu_mem)):
            for label in labels:
                known = find_hardware(label) is not None or label in self._hardware()
                if not known and not (root is not None and (Path(root) / label).is_dir()):
                    hint = nearest(label, spoken)
                    self._blame(f"{member}.{label}", f"unknown hardware {shown(label)}{hint}")
        for label, memory in self._raw.npu_mem.items():
            where = self._place.key("npu_mem").key(label)
            checked = check(RawMemory, memory, where, self._problems)
            for name in REQUIRED[RawMemory]:
                if checked is not None and checked.sound(name) and getattr(checked.value, name) is None:
                    self._problems.append(Problem(str(where), f"missing key '{name}'"))

    def _check_hardware(self, space: RawSpace, root: str | None, where: str) -> None:
        if not self._checked.sound("space"):
            return
        if space.hardware is None:
            self._blame(where, "missing key 'hardware'")
        for member in ("hardware", "prefill_hardware"):
            for index, label in enumerate(getattr(space, member) or []):
                calibrated = self._calibration is not None and self._calibration.hardware == label
                profiled = calibrated or (root is not None and (Path(root) / label).is_dir())
                if find_hardware(label) is None and not (profiled and label in self._raw.npu_mem):
                    hint = nearest(label, hardware_labels())
                    message = (
                        f"unknown hardware {shown(label)}{hint}; hardware with a profile alone needs "
                        f"npu_mem.{label}"
                    )
                    self._blame(f"{where}.{member}[{index}]", message)
        for member in ("prefill_hardware", "prefill_tp", "prefill_pp"):
            if getattr(space, member) is not None and not any(space.prefill_replicas or []):
                self._blame(f"{where}.{member}", "says nothing without prefill_replicas above 0")
        for index, name in enumerate(space.network or []):
            if name != "default" and name not in self._raw.networks:
                hint = nearest(name, self._raw.networks)
                self._blame(f"{where}.network[{index}]", f"no network '{name}' in networks{hint}")

    def _check_networks(self) -> None:
        for name, entry in self._raw.networks.items():
            if entry.inside_gb_per_s is None:
                self._blame(f"networks.{name}", "missing key 'inside_gb_per_s'")

    # --- the space ------------------------------------------------------------------------------------------

    def _space(self, raw: RawSpace, where: str) -> Space:
        replicas: list[Any] = raw.replicas or ([FILL] if raw.gpus else [1])
        if FILL in replicas and raw.gpus is None:
            self._blame(f"{where}.replicas", "'fill' needs the numbers of GPUs to fill: give space.gpus")
        self._check_names(f"{where}.router", raw.router, lambda name: make_router(name, 0))
        self._check_names(
            f"{where}.policy", raw.policy, lambda name: make_policy(name, 2, lambda tokens, context: tokens)
        )
        members: dict[str, list[Any] | None] = {
            "hardware": raw.hardware or [""],
            "gpus": raw.gpus,
            "tp": raw.tp or [1],
            "pp": raw.pp or [1],
            "dp": raw.dp or [1],
            "ep": raw.ep or [None],
            "replicas": replicas,
            "prefill_replicas": raw.prefill_replicas or [0],
            "prefill_hardware": raw.prefill_hardware or [None],
            "prefill_tp": raw.prefill_tp or [None],
            "prefill_pp": raw.prefill_pp or [None],
            "partition": raw.partition or ["even"],
            "max_num_seqs": raw.max_num_seqs or [None],
            "max_num_batched_tokens": raw.max_num_batched_tokens or [None],
            "max_in_flight": raw.max_in_flight or [None],
            "policy": raw.policy or ["vllm"],
            "dtype": raw.dtype or [None],
            "kv_cache_dtype": raw.kv_cache_dtype or [None],
            "async_scheduling": raw.async_scheduling or [False],
            "router": raw.router or ["LOAD"],
            "network": raw.network or ["default"],
        }
        return Space(
            tuple(Dimension(name, tuple(dict.fromkeys(values))) for name, values in members.items() if values)
        )

    def _check_names(self, member: str, names: list[str] | None, make: Callable[[str], object]) -> None:
        for index, name in enumerate(names or []):
            try:
                make(name)
            except UserError as error:
                self._blame(f"{member}[{index}]", error.problems[0].message)

    # --- the load -------------------------------------------------------------------------------------------

    def _slo(self) -> Slo | None:
        if self._raw.slo is None:
            return None
        try:
            return parse_slo(",".join(self._raw.slo), str(self._place.key("slo")))
        except UserError as error:
            self._problems += error.problems
            return None

    def _check_priorities(self, slo: Slo, workload: Workload) -> None:
        try:
            check_priorities(slo, workload, str(self._place.key("slo")))
        except UserError as error:
            self._problems += error.problems

    def _rate(self, slo: Slo | None) -> float | str | None:
        rate = self._raw.rate
        if rate == "max":
            if slo is None and self._raw.slo is None and self._checked.sound("slo"):
                self._blame(
                    "", "missing key 'slo': the highest rate is the one that holds it (or give a rate)"
                )
            return None
        if rate == "trace":
            return "trace"
        if isinstance(rate, int | float) and not isinstance(rate, bool) and 1e-6 <= rate <= 1e9:
            return float(rate)
        self._blame("rate", f'must be "max", "trace" or requests per second, not {shown(rate)}')
        return None

    def _load(self, slo: Slo | None, rate: float | str | None) -> LoadPlan | None:
        raw = self._raw
        if raw.arrivals not in ARRIVALS:
            hint = nearest(raw.arrivals, ARRIVALS)
            self._blame("arrivals", f"unknown kind '{raw.arrivals}'{hint} ({', '.join(ARRIVALS)})")
        if (raw.dataset is None) == (raw.generate is None):
            if self._checked.sound("dataset", "generate"):
                self._blame("", "needs 'dataset' or 'generate', one of them, to say what is served")
            return None
        workload = self._workload(raw.num_requests)
        if workload is None or self._problems:
            return None
        if slo is not None:
            self._check_priorities(slo, workload)
        arrivals = Arrivals(raw.arrivals, raw.burstiness)
        if arrivals.kind == "scaled" and rate != "trace" and len(set(workload.arrival_ns.tolist())) < 2:
            self._blame(
                "arrivals", "'scaled' needs arrivals to scale, but all requests come at the same time"
            )
        return LoadPlan(
            workload=workload,
            recipe=self._recipe(raw.num_requests) if raw.generate is not None else None,
            pilot=self._pilot(workload, rate),
            arrivals=arrivals,
            slo=slo,
            rate=rate,
            seeds=raw.seeds,
            tolerance=raw.tolerance,
            requests=min(len(workload), raw.max_requests),
            max_requests=raw.max_requests,
        )

    def _pilot(self, workload: Workload, rate: float | str | None) -> int | None:
        """A first look pays where a point takes several runs, and can be stopped."""
        search = self._raw.search
        if search.early_stop is None or rate is not None:
            return None
        requests = search.pilot_requests or max(len(workload) // PILOT_SHARE, MIN_PILOT_REQUESTS)
        return requests if requests * 2 <= len(workload) else None

    def _workload(self, limit: int) -> Workload | None:
        raw = self._raw
        try:
            if raw.dataset is not None:
                return load_workload(self._beside(raw.dataset), limit)
            return generate(self._recipe(limit))
        except UserError as error:
            place = self._place.key("generate" if raw.dataset is None else "dataset")
            self._problems += [
                Problem(f"{place}: {one.where}" if raw.dataset is None else one.where, one.message)
                for one in error.problems
            ]
            return None

    def _recipe(self, limit: int) -> Recipe:
        raw = self._raw.generate
        assert raw is not None
        if raw.preset is not None and raw.preset not in PRESETS:
            message = f"unknown preset '{raw.preset}'{nearest(raw.preset, PRESETS)} ({', '.join(PRESETS)})"
            raise UserError([Problem("preset", message)])
        preset = PRESETS[raw.preset] if raw.preset is not None else None
        inputs = parse_lengths(raw.input_toks, "input_toks") if raw.input_toks else None
        outputs = parse_lengths(raw.output_toks, "output_toks") if raw.output_toks else None
        return Recipe(
            num_requests=min(raw.num_requests, limit) if limit else raw.num_requests,
            input_tokens=inputs or (preset.input_tokens if preset else None),
            output_tokens=outputs or (preset.output_tokens if preset else None),
            prefix_groups=raw.prefix_groups,
            prefix_tokens=raw.prefix_tokens,
            max_input=raw.max_input,
            max_output=raw.max_output,
            seed=raw.seed,
        )

    # --- objectives and prices --------------------------------------------------------------------------------

    def _objectives(self) -> tuple[Objective, ...]:
        found: dict[str, Objective] = {}
        known = [objective.name for objective in OBJECTIVES]
        for index, name in enumerate(self._raw.objectives or ["goodput_per_gpu"]):
            objective = find_objective(name)
            if objective is None:
                message = f"unknown objective '{name}'{nearest(name, known)} ({', '.join(known)})"
                self._blame(f"objectives[{index}]", message)
            else:
                found[name] = objective
        return tuple(found.values())

    def _prices(
        self, objectives: tuple[Objective, ...], constraints: tuple[Constraint, ...]
    ) -> tuple[dict[str, float], dict[str, str]]:
        listed = listed_prices()
        prices: dict[str, float] = {}
        sources: dict[str, str] = {}
        wanted = any(objective.name == "cost_per_million_tokens" for objective in objectives)
        wanted = wanted or any("usd_per_hour" in constraint.names for constraint in constraints)
        for label in self._hardware():
            price = find_price(label, self._raw.prices, listed)
            if price is not None:
                prices[label], sources[label] = price.usd_per_hour, price.source
            elif wanted:
                self._blame(
                    "prices", f"no price for {label} in the list: give USD per GPU hour, {label}: 2.5"
                )
        return prices, sources

    def _beside(self, name: str) -> str:
        """Paths in the file are relative to it."""
        return str(self._path.parent / home_expanded(name))

    def _blame(self, path: str, message: str) -> None:
        self._problems.append(Problem(str(self._place.key(path)) if path else str(self._place), message))


def _network(raw: RawNetwork) -> Network:
    between = DEFAULT_BETWEEN[0] if raw.between_gb_per_s is None else raw.between_gb_per_s
    return Network((raw.inside_gb_per_s or 1.0, raw.inside_latency_ns), (between, raw.between_latency_ns))
