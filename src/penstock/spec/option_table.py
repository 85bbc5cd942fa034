"""The options of a run: one field each, with its type and range, its meaning and its default.

The command lines, the checks, the fields that an instance of a cluster config may have, and the table in
``docs/options.md`` all come from here; :class:`penstock.spec.given.SimulateOptions`, which type checkers need in
writing, is held equal by a test. A field says its meaning as :class:`About`. Three shapes tell whom an option
concerns: :class:`RawEngine` (an instance of the cluster config can say it too), :class:`RawFlags` (all
instances), :class:`RawRun` (the run).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import AfterValidator, BeforeValidator, Field

from penstock.spec.check import Raw, shown
from penstock.spec.choice import PolicyChoice, RouterChoice
from penstock.spec.options import RunOptions, SchedulerOptions
from penstock.spec.ranges import Count, Counter, Dtype, Fraction, KvDtype, Name, Nanoseconds, Seconds

SHORTEST_LOG_INTERVAL_S = 1e-3
"""A line per interval and instance: shorter ones fill a disk and say nothing."""

GROUPS = ("requests", "records", "costs", "engine", "routing", "llmservingsim")
"""In the order of the help and of the documentation; the last one is the adapter's in ``serving``."""


def _not_too_short(interval_s: float) -> float:
    if 0 < interval_s < SHORTEST_LOG_INTERVAL_S:
        raise ValueError(f"must be 0 (no log) or >= {SHORTEST_LOG_INTERVAL_S:g} seconds, not {interval_s:g}")
    return interval_s


def _request_rate(value: Any) -> float | None:
    if value is None:
        return None
    try:
        rate = float(value)
    except (TypeError, ValueError):
        rate = math.nan
    if isinstance(value, bool) or not rate > 0:
        raise ValueError(f"must be a number > 0, or inf, not {shown(value)}")
    return rate


@dataclass(frozen=True, slots=True)
class About:
    """What an option means. ``default`` is said where the dataclasses of ``options.py`` do not hold it, or not in a
    user's words; ``metavar`` where the type does not say it. ``on`` names where it can be given besides checks;
    ``flags`` are other names of it on the command line."""

    group: str
    text: str
    default: str | None = None
    metavar: str | None = None
    on: Literal["everywhere", "command line", "python"] = "everywhere"
    flags: tuple[str, ...] = ()


class RawEngine(Raw):
    """What an instance's fields and the options both can say; None = not said."""

    engine: Annotated[
        Name | None,
        About(
            "engine",
            "Take what an engine runs by default: vllm-0.32.0, vllm-0.19.0, sglang, llmservingsim",
            "",
            "NAME",
        ),
    ] = None
    dtype: Annotated[Dtype | None, About("costs", "Of weights and activations", "the model's")] = None
    kv_cache_dtype: Annotated[KvDtype | None, About("costs", "Of the KV cache; auto: as dtype", "auto")] = (
        None
    )
    block_size: Annotated[Count | None, About("engine", "Tokens in a KV block")] = None
    max_num_seqs: Annotated[Counter | None, About("engine", "Requests running at once; 0 = any")] = None
    max_num_batched_tokens: Annotated[
        Counter | None, About("engine", "Tokens in a step; 0 = the model's longest context")
    ] = None
    long_prefill_token_threshold: Annotated[
        Counter | None, About("engine", "Tokens of one prompt in a step; 0 = any")
    ] = None
    enable_chunked_prefill: Annotated[bool | None, About("engine", "Cut long prompts")] = None
    enable_prefix_caching: Annotated[bool | None, About("engine", "Share KV blocks of equal prefixes")] = None
    reserve_full_isl: Annotated[
        bool | None, About("engine", "Admit a request only if its whole prompt fits")
    ] = None
    async_scheduling: Annotated[bool | None, About("engine", "Schedule ahead of the sampled tokens")] = None
    v2_model_runner: Annotated[
        bool | None,
        About(
            "engine",
            "With async scheduling over stages: vLLM's second model runner, one step more in flight",
            "on",
        ),
    ] = None
    scheduling_policy: Annotated[
        Literal["fcfs", "priority"] | None,
        About(
            "engine",
            "The order in which requests wait and lose their blocks: by arrival or by their own priority",
        ),
    ] = None
    policy: Annotated[
        PolicyChoice,
        About(
            "engine",
            "How a step is filled: vllm, decode-cap, all-cap, gllm, sglang, sglang-dynamic or a class of yours",
            metavar="NAME|module:Class",
        ),
    ] = None
    engine_idle_sleep_ns: Annotated[
        Nanoseconds | None, About("engine", "The engine's sleep after an empty schedule")
    ] = None
    enable_attn_offloading: Annotated[
        bool | None, About("costs", "Decodes attend in the node's memory, by its pim_config", "off")
    ] = None
    enable_sub_batch_interleaving: Annotated[
        bool | None,
        About("costs", "With that, two halves of a step in turns, one in memory, one on the NPU", "off"),
    ] = None


class RawFlags(RawEngine):
    """Options that hold for all instances."""

    npu_memory_utilization: Annotated[
        Fraction | None, About("costs", "Share of a device's memory to use", "0.9")
    ] = None
    engine_overhead: Annotated[
        Literal["default", "none"] | None,
        About("costs", "The engine's own time per step", "default, none with a profile root"),
    ] = None

    prefix_storage: Annotated[
        Literal["CPU", "CXL", "None"] | None,
        About(
            "engine",
            "Keep prefixes below the GPU, in host or CXL memory, at instances without kv_offloading",
            "None",
        ),
    ] = None
    enable_prefix_sharing: Annotated[
        bool | None,
        About("engine", "With --prefix-storage: one tier for a node's instances (CPU), for all (CXL)", "off"),
    ] = None


class RawRun(Raw):
    """Options of the run, as :class:`RunOptions`; None = not given."""

    num_reqs: Annotated[
        Counter | None, About("requests", "Serve the first N only; a session is one; 0 = all", "0", "N")
    ] = None
    request_rate: Annotated[
        Annotated[Any, BeforeValidator(_request_rate)],
        About(
            "requests",
            "Send the requests at random, so many a second on average (Poisson), by the seed; inf = all at once",
            "as in the dataset",
            "R",
            flags=("--rate",),
        ),
    ] = None
    max_concurrency: Annotated[
        Counter | None,
        About(
            "requests",
            "Send at most N at a time, the next when one ends; a session is one; 0 = any",
            "0",
            "N",
        ),
    ] = None
    think_time: Annotated[
        Seconds | None,
        About(
            "requests",
            "With max_concurrency: N users, each thinking S seconds on average before each request",
            "0",
            "S",
        ),
    ] = None
    record: Annotated[
        Literal["requests", "steps", "stages"] | None,
        About("records", "The tables to keep: each includes those before it"),
    ] = None
    keep_token_times: Annotated[
        bool | None, About("records", "Keep the time of every token", on="python")
    ] = None
    log_interval: Annotated[
        Annotated[float, Field(ge=0, le=1e9), AfterValidator(_not_too_short)] | None,
        About(
            "records",
            "Simulated seconds between lines of the throughput log; 0 = none",
            "1",
            on="command line",
        ),
    ] = None
    profile_root: Annotated[
        Any,
        About(
            "costs",
            "Directory of profile bundles in LLMServingSim's layout",
            "the packaged fits, else a roofline",
            "PATH",
        ),
    ] = None
    calibration: Annotated[
        Any,
        About("costs", "What penstock calibrate wrote for this hardware and engine", "none", "PATH"),
    ] = None
    router: Annotated[
        RouterChoice,
        About(
            "routing",
            "Who serves a request: LOAD, RR, RAND, P2C, LOT, PREFIX or a class of yours as module:Class",
            metavar="NAME|module:Class",
        ),
    ] = None
    seed: Annotated[Counter | None, About("routing", "Of random routing")] = None
    check_memory: Annotated[
        bool | None,
        About("requests", "Refuse a run that takes more memory than this machine has", "on"),
    ] = None
    exact_only: Annotated[
        bool | None,
        About(
            "engine", "Take every turn one by one, no short cut: the same result, more slowly", on="python"
        ),
    ] = None


Kind = Literal["integer", "number", "switch", "choice", "text"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """A field of the table, as help and documentation need it. ``per_instance``: a cluster config may say it for
    one instance."""

    name: str
    kind: Kind
    choices: tuple[str, ...]
    about: About
    per_instance: bool

    @property
    def flag(self) -> str:
        """As the command line writes it."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def help(self) -> str:
        """The meaning, and the default in brackets."""
        default = self.default
        return f"{self.about.text} [{default}]." if default else f"{self.about.text}."

    @property
    def default(self) -> str:
        """As users write it; empty where there is none to speak of."""
        if self.about.default is not None:
            return self.about.default
        for defaults in (SchedulerOptions(), RunOptions()):
            value = getattr(defaults, self.name, None)
            if value is not None:
                return ("on" if value else "off") if isinstance(value, bool) else str(value)
        raise LookupError(f"{self.name} has no default in options.py: About must say it")

    @property
    def metavar(self) -> str:
        """What stands for the value in the help."""
        return self.about.metavar or "|".join(self.choices) or self.kind.upper()


def described(*shapes: type[Raw]) -> tuple[Option, ...]:
    """The options that the fields of ``shapes`` describe, by group.

    Raises:
        LookupError: a field without an :class:`About`.
    """
    found = {option.name: option for shape in shapes for option in _fields(shape)}
    return tuple(sorted(found.values(), key=lambda option: GROUPS.index(option.about.group)))


@cache
def run_options() -> tuple[Option, ...]:
    """All options of a run."""
    return described(RawFlags, RawRun)


def search_options() -> tuple[Option, ...]:
    """Those of the commands that make many runs of their own: all but what a run keeps and logs."""
    return tuple(option for option in run_options() if option.about.group != "records")


def _fields(shape: type[Raw]) -> Iterator[Option]:
    for name, field in shape.model_fields.items():
        about = next((entry for entry in field.metadata if isinstance(entry, About)), None)
        if about is None:
            raise LookupError(f"{shape.__name__}.{name} is not described")
        kind, choices = _kind(field.annotation)
        yield Option(
            name=name,
            kind=kind,
            choices=choices,
            about=about,
            per_instance=name in RawEngine.model_fields,
        )


def _kind(annotation: Any) -> tuple[Kind, tuple[str, ...]]:
    """What a field takes, without None and ranges."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kind(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return _kind(next(part for part in get_args(annotation) if part is not type(None)))
    if origin is Literal:
        return "choice", get_args(annotation)
    kinds: dict[Any, Kind] = {int: "integer", float: "number", bool: "switch"}
    return kinds.get(annotation, "text"), ()
