"""A calibration: what a benchmark of a real server says about its host, kernels and client, as a frozen Spec.

``penstock calibrate`` writes the file, ``--calibration`` reads it. Its form is in docs/calibration.md.
"""

from __future__ import annotations

import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StrictStr

from penstock.errors import Problem, UserError
from penstock.files.json_text import read_json
from penstock.files.place import Place
from penstock.spec.check import Raw, check, shown
from penstock.spec.cluster import Calibration, ClusterSpec, InstanceSpec, StepNoise, StepTerms
from penstock.spec.hardware import find_hardware
from penstock.spec.layers import DenseMlp, GroupedAttention, LayerKind
from penstock.spec.model import ModelSpec
from penstock.spec.options import EngineOverhead
from penstock.spec.raw import Count, Name, NonNegative

FORMAT = 1


class RawParameter(Raw):
    """An entry of ``parameters``: its value, the 95% interval, the prior, and whether the files identify it."""

    value: NonNegative | None = None
    low: NonNegative | None = None
    high: NonNegative | None = None
    prior: NonNegative | None = None
    identified: bool = True


class RawNoise(Raw):
    """``noise``: the spread of a step's time over its fit, and its correlation from step to step."""

    sigma: Annotated[float, Field(ge=0, le=2)] | None = None
    correlation: Annotated[float, Field(ge=0, lt=1)] | None = None


class RawDeployment(Raw):
    """``deployment``: what was benchmarked."""

    hardware: Name | None = None
    model: Name | None = None
    model_shape: StrictStr | None = None
    dtype: Name | None = None
    tp_size: Count | None = None
    pp_size: Count | None = None


class RawCalibration(Raw):
    """The top of the file."""

    format: Literal[1] | None = None
    penstock: StrictStr = ""
    source: StrictStr | None = None
    date: StrictStr = ""
    method: StrictStr = ""
    cost: Literal["kernels", "fitted"] | None = None
    cost_basis: list[StrictStr] = Field(default_factory=list[str])
    deployment: RawDeployment | None = None
    parameters: dict[str, RawParameter] | None = None
    noise: RawNoise | None = None
    error: StrictStr = ""
    held_out: dict[str, Any] = Field(default_factory=dict[str, Any])
    notes: list[StrictStr] = Field(default_factory=list[str])


_HOST = ("host_step_ns", "host_to_stage_ns", "request_ns")
_KERNELS = ("prefill_factor", "decode_factor", "prefill_step_ns")
_TERMS = tuple(field.name for field in fields(StepTerms))


def parameter_names(cost: str) -> tuple[str, ...]:
    """The parameters of a calibration of a cost source (``kernels``) or of its own (``fitted``)."""
    return (*_HOST, *(_KERNELS if cost == "kernels" else _TERMS))


def load_calibration(path: str | os.PathLike[str]) -> Calibration:
    """Read and check a calibration file.

    Raises:
        UserError: with every mistake found.
    """
    problems: list[Problem] = []
    place = Place(os.fspath(path))
    if not place.file:
        raise UserError([Problem("--calibration", "must not be empty")])
    data = read_json(Path(path), problems)
    checked = None if data is None else check(RawCalibration, data, place, problems)
    if checked is not None:
        raw = checked.value
        problems += [
            Problem(str(place), f"missing key '{name}': not a file of penstock calibrate")
            for name in ("format", "source", "cost", "deployment", "parameters")
            if getattr(raw, name) is None and checked.sound(name)
        ]
        if not problems:
            found = _from_raw(raw, place, problems)
            if found is not None and not problems:
                return found
    raise UserError(problems)


def _from_raw(raw: RawCalibration, place: Place, problems: list[Problem]) -> Calibration | None:
    deployment, given = raw.deployment, raw.parameters
    assert deployment is not None
    assert given is not None
    assert raw.cost is not None
    spot = place.key("deployment")
    problems += [
        Problem(str(spot), f"missing key '{name}'")
        for name in ("hardware", "model", "model_shape", "dtype", "tp_size", "pp_size")
        if getattr(deployment, name) is None
    ]
    names = parameter_names(raw.cost)
    spot = place.key("parameters")
    problems += [
        Problem(str(spot), f"missing key '{name}'" if name not in given else f"'{name}' has no value")
        for name in names
        if name not in given or given[name].value is None
    ]
    problems += [
        Problem(str(spot), f"unknown key '{name}' in a calibration whose cost is {shown(raw.cost)}")
        for name in given
        if name not in names
    ]
    noise = raw.noise
    if noise is not None and (noise.sigma is None or noise.correlation is None):
        problems.append(Problem(str(place.key("noise")), "needs both 'sigma' and 'correlation'"))
    if problems:
        return None
    values = {name: float(given[name].value or 0.0) for name in names}
    terms = None if raw.cost == "kernels" else StepTerms(**{name: values[name] for name in _TERMS})
    return Calibration(
        name=place.file,
        source=raw.source or "",
        date=raw.date,
        error=raw.error,
        hardware=deployment.hardware or "",
        model=deployment.model or "",
        model_shape=deployment.model_shape or "",
        dtype=deployment.dtype or "",
        tp_size=deployment.tp_size or 1,
        host_step_ns=round(values["host_step_ns"]),
        host_to_stage_ns=round(values["host_to_stage_ns"]),
        request_ns=round(values["request_ns"]),
        prefill_step_ns=round(values.get("prefill_step_ns", 0)),
        prefill_factor=values.get("prefill_factor", 1.0),
        decode_factor=values.get("decode_factor", 1.0),
        step=terms,
        noise=None
        if noise is None
        else StepNoise(sigma=noise.sigma or 0.0, correlation=noise.correlation or 0.0),
    )


def calibrated(cluster: ClusterSpec, calibration: Calibration) -> ClusterSpec:
    """The cluster with the calibration in every instance; it takes the place of their ``engine_overhead``.

    Raises:
        UserError: an instance on other hardware, or one that a fitted step cost says nothing about.
    """
    problems = [
        Problem(instance.where, why)
        for instance in cluster.instances
        for why in obstacles(instance, calibration)
    ]
    if problems:
        raise UserError(problems)
    notices = [note for instance in cluster.instances for note in _doubts(instance, calibration)]
    return replace(
        cluster,
        instances=tuple(with_calibration(instance, calibration) for instance in cluster.instances),
        notices=tuple(dict.fromkeys((*cluster.notices, *notices))),
    )


def with_calibration(instance: InstanceSpec, calibration: Calibration) -> InstanceSpec:
    """The instance with its host terms taken from the calibration."""
    overhead = EngineOverhead(
        update_ns=calibration.host_step_ns,
        ipc_to_first_stage_ns=calibration.host_to_stage_ns,
        prefill_step_ns=calibration.prefill_step_ns,
        source=f"calibration {calibration.name}",
    )
    return replace(instance, overhead=overhead, calibration=calibration)


def obstacles(instance: InstanceSpec, calibration: Calibration) -> list[str]:
    """Why the calibration cannot hold for the instance; empty where it can."""
    name = calibration.name
    found = [
        f"hardware '{label}', but {name} was measured on '{calibration.hardware}': "
        "a calibration does not move to another card"
        for label in dict.fromkeys(instance.stage_hardware or (instance.hardware,))
        if _chip(label) != _chip(calibration.hardware)
    ]
    if calibration.step is None:
        return found
    if model_shape(instance.model) != calibration.model_shape:
        found.append(
            f"model {instance.model.name} has other dimensions than {calibration.model}, to which the step cost of "
            f"{name} was fitted: without a cost source it holds for no other model"
        )
    if instance.tp_size != calibration.tp_size:
        found.append(
            f"tp_size {instance.tp_size}, but the step cost of {name} was fitted at tp {calibration.tp_size}: "
            "without a cost source it cannot be scaled"
        )
    return found


def model_shape(model: ModelSpec) -> str:
    """The dimensions by which models are compared: their names are files and folders.

    Of Llama-3.1-8B: ``hidden 4096, vocabulary 128256, 32 layers of 32 heads (8 KV) x 128, MLP 14336``.
    """
    groups = [f"{group.count} layers of {_kind(group.kind)}" for group in model.layers]
    return ", ".join([f"hidden {model.hidden_size}, vocabulary {model.vocab_size}", *groups])


def _kind(kind: LayerKind) -> str:
    attention, mlp = kind.attention, kind.mlp
    if isinstance(attention, GroupedAttention):
        heads = f"{attention.num_heads} heads ({attention.num_kv_heads} KV) x {attention.head_dim}"
    else:
        heads = f"{type(attention).__name__} {attention}"
    if isinstance(mlp, DenseMlp):
        return f"{heads}, MLP {mlp.intermediate_size}"
    return f"{heads}, {mlp.num_experts} experts of {mlp.intermediate_size}, {mlp.experts_per_token} a token"


def _doubts(instance: InstanceSpec, calibration: Calibration) -> list[str]:
    found: list[str] = []
    if calibration.step is None and model_shape(instance.model) != calibration.model_shape:
        found.append(
            f"{calibration.name} was fitted with {calibration.model}: its factors on kernel times are assumed to hold "
            f"for {instance.model.name}"
        )
    if instance.dtype != calibration.dtype:
        found.append(
            f"{calibration.name} was fitted with {calibration.dtype}, this instance is {instance.dtype}"
        )
    return found


def _chip(label: str) -> str:
    known = find_hardware(label)
    return label if known is None else known.label
