"""The shapes of a search's YAML file: types and ranges of single members."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from penstock.explore.space import FILL, MAX_GPUS
from penstock.spec.check import Raw, shown
from penstock.spec.ranges import Count, Counter, Dtype, Fraction, KvDtype, Name, Positive

_DEPTH = re.compile(r"pp(\+[0-9]{1,4})?")

MAX_DEGREE = 1024


def _listed(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _partition(value: Any) -> Any:
    if value in ("even", "balanced"):
        return value
    if isinstance(value, list) and value and all(type(n) is int and n >= 1 for n in value):
        return tuple(value)
    raise ValueError(f'must be "even", "balanced" or a list of layer counts, not {shown(value)}')


def _replicas(value: Any) -> Any:
    if value == FILL or (type(value) is int and 1 <= value <= MAX_GPUS):
        return value
    raise ValueError(f'must be a number from 1 to {MAX_GPUS:,} or "fill", not {shown(value)}')


def _depth(value: Any) -> Any:
    if (type(value) is int and 1 <= value <= MAX_DEGREE) or (
        isinstance(value, str) and _DEPTH.fullmatch(value)
    ):
        return value
    raise ValueError(f'must be a number from 1 to {MAX_DEGREE}, "pp" or "pp+N", not {shown(value)}')


Many = BeforeValidator(_listed)
NotEmpty = Field(min_length=1)
Counts = Annotated[list[Count], NotEmpty, Many]
Degrees = Annotated[list[Annotated[int, Field(ge=1, le=MAX_DEGREE)]], NotEmpty, Many]
Gpus = Annotated[list[Annotated[int, Field(ge=1, le=MAX_GPUS)]], NotEmpty, Many]
Names = Annotated[list[Name], NotEmpty, Many]


class RawSpace(Raw):
    """``space``: each member one value or a list of them."""

    hardware: Names | None = None
    gpus: Gpus | None = None
    tp: Degrees | None = None
    pp: Degrees | None = None
    dp: Degrees | None = None
    ep: Degrees | None = None
    replicas: Annotated[list[Annotated[Any, BeforeValidator(_replicas)]], NotEmpty, Many] | None = None
    prefill_replicas: Annotated[list[Counter], NotEmpty, Many] | None = None
    prefill_hardware: Names | None = None
    prefill_tp: Degrees | None = None
    prefill_pp: Degrees | None = None
    partition: Annotated[list[Annotated[Any, BeforeValidator(_partition)]], NotEmpty, Many] | None = None
    max_num_seqs: Counts | None = None
    max_num_batched_tokens: Counts | None = None
    max_in_flight: Annotated[list[Annotated[Any, BeforeValidator(_depth)]], NotEmpty, Many] | None = None
    policy: Names | None = None
    dtype: Annotated[list[Dtype], NotEmpty, Many] | None = None
    kv_cache_dtype: Annotated[list[KvDtype], NotEmpty, Many] | None = None
    async_scheduling: Annotated[list[bool], NotEmpty, Many] | None = None
    router: Names | None = None
    network: Names | None = None


class RawNetwork(Raw):
    """An entry of ``networks``: GB/s of 2**30 bytes per GPU, and ns."""

    inside_gb_per_s: Positive | None = None
    inside_latency_ns: Annotated[float, Field(ge=0, le=1e12)] = 1000.0
    between_gb_per_s: Positive | None = None
    between_latency_ns: Annotated[float, Field(ge=0, le=1e12)] = 5000.0


class RawSearch(Raw):
    """``search``. ``early_stop`` is the factor by which a pilot must be beaten on every objective to be stopped;
    null never stops. ``exhaustive_up_to`` points are all tried; of more, ``trials`` by Optuna."""

    method: Literal["auto", "exhaustive", "optuna"] = "auto"
    trials: Count = 200
    seed: Counter = 0
    exhaustive_up_to: Count = 500
    early_stop: Annotated[float, Field(ge=1, le=1e6)] | None = 1.5
    pilot_requests: Count | None = None


class RawGenerate(Raw):
    """``generate``: a workload instead of a file."""

    num_requests: Annotated[int, Field(ge=1, le=10_000_000)] = 1000
    preset: Name | None = None
    input_toks: Name | None = None
    output_toks: Name | None = None
    prefix_groups: Counter = 0
    prefix_tokens: Counter = 0
    max_input: Count | None = None
    max_output: Count | None = None
    seed: Counter = 0


class RawStudy(Raw):
    """The top of the file."""

    model: Name | None = None
    dataset: Name | None = None
    generate: RawGenerate | None = None
    num_requests: Counter = 0
    arrivals: Name = "poisson"
    burstiness: Positive = 1.0
    slo: Annotated[list[Name], NotEmpty, Many] | None = None
    rate: Any = "max"
    seeds: Annotated[int, Field(ge=1, le=1000)] = 1
    tolerance: Annotated[float, Field(ge=0.001, le=0.5)] = 0.1
    max_requests: Annotated[int, Field(ge=100, le=10_000_000)] = 8_000
    objectives: Names | None = None
    search: RawSearch = RawSearch()
    gpus_per_node: Annotated[int, Field(ge=1, le=MAX_GPUS)] = 8
    memory_utilization: Fraction | None = None
    networks: dict[str, RawNetwork] = Field(default_factory=dict[str, RawNetwork])
    prices: dict[str, Positive] = Field(default_factory=dict[str, float])
    npu_mem: dict[str, dict[str, Any]] = Field(default_factory=dict[str, dict[str, Any]])
    instance: dict[str, Any] = Field(default_factory=dict[str, Any])
    profile_root: Name | None = None
    calibration: Name | None = None
    constraints: Names | None = None
    space: Annotated[list[RawSpace], NotEmpty, Many] | None = None
