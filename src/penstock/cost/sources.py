"""Which kernel times to use, and what they rest on: the first source that has an answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from penstock.cost.aiconfigurator.wheel import EXTRA, find_wheel
from penstock.cost.architecture import Architecture
from penstock.cost.bundle import BundleAddress, tp_degrees
from penstock.cost.bundle_cache import cached_bundle
from penstock.cost.fitted import find_fit, fit_degrees, tables_from_fit
from penstock.cost.question import CostQuestion
from penstock.cost.tables import KernelTables
from penstock.cost.tp_scaling import scale_to_tp
from penstock.cost.whole_nanoseconds import in_whole_nanoseconds
from penstock.errors import UserError
from penstock.spec.hardware import find_hardware
from penstock.spec.layers import MoeMlp

_MLP_LAYERS = ("gate_up_proj", "act_fn", "down_proj")


def kernel_tables(question: CostQuestion, profile_root: Path | None) -> KernelTables:
    """The best source's, read between its points as the question says.

    Raises:
        UserError: as :func:`_best_tables`.
    """
    tables = _best_tables(question, profile_root)
    return in_whole_nanoseconds(tables) if question.lookup == "llmservingsim" else tables


def _best_tables(question: CostQuestion, profile_root: Path | None) -> KernelTables:
    """The best source at hand: a bundle under ``profile_root``, a packaged fit, AIConfigurator's measurements where
    they are installed, the calibrated roofline.

    Raises:
        UserError: the hardware is unknown and has no profile, the profile root is missing, a bundle or the installed
            wheel is broken.
    """
    if profile_root is not None and not profile_root.is_dir():
        raise UserError(f"--profile-root {profile_root}: no such directory")
    for tables in _measured(question, profile_root):
        return _of_kind(tables, question)
    absent = _absent(question, profile_root)
    for tables in _packaged(question):
        return _of_kind(replace(tables, basis=(*tables.basis, *absent)), question)
    from penstock.cost.aiconfigurator.source import covered, measured_tables

    found = covered(question)
    wheel = None if found is None else find_wheel()
    if found is not None and wheel is not None:
        tables = measured_tables(question, found, wheel)
        if tables is not None:
            return _of_kind(replace(tables, basis=(*tables.basis, *absent)), question)
    tables = _estimate(question, profile_root)
    hint = () if found is None or wheel is not None else (f"{EXTRA} has measured kernels of this chip",)
    return replace(tables, basis=(*tables.basis, *hint, *absent))


def _estimate(question: CostQuestion, profile_root: Path | None = None) -> KernelTables:
    """The roofline of a catalogued chip.

    Raises:
        UserError: the chip is not catalogued; says where a profile was looked for.
    """
    from penstock.cost.roofline import roofline_tables

    hardware = find_hardware(question.hardware)
    if hardware is None:
        looked = f"{profile_root or '(no --profile-root)'}/{question.hardware}/{question.model.name}"
        raise UserError(
            f"no profile for '{question.hardware}' / {question.model.name} ({looked}/{question.variants()[0]}), and "
            "the hardware is not in the catalogue, so there is nothing to estimate from"
        )
    return roofline_tables(
        hardware,
        question.model,
        kind=question.kind,
        tp_size=question.tp_size,
        dtypes=(question.dtype, question.kv_cache_dtype),
        max_tokens=question.max_tokens,
    )


def _of_kind(tables: KernelTables, question: CostQuestion) -> KernelTables:
    """Measured tables, which know one kind of layer, for layers of the question's.

    Raises:
        UserError: a dense layer of a mixture of experts, which was not measured, on a chip that is not catalogued.
    """
    model, mlp = question.model, question.kind.mlp
    notes: list[str] = []
    if len({kind.attention for kind in model.kinds}) > 1:
        notes.append("attention: the profile does not tell kinds of layers apart, all cost the same")
    dense = dict(tables.dense)
    if isinstance(mlp, MoeMlp):
        dense = {name: curve for name, curve in dense.items() if name not in _MLP_LAYERS}
    elif model.moe is not None and any(name not in dense for name in _MLP_LAYERS):
        estimate = _estimate(question)
        dense |= {name: estimate.dense[name] for name in _MLP_LAYERS}
        notes.append(f"dense layers' MLP: not in the profile, {estimate.basis[0].removeprefix('compute: ')}")
    return replace(tables, dense=dense, basis=(*tables.basis, *notes))


def bundle_directory(question: CostQuestion, profile_root: Path) -> Path | None:
    """The bundle that answers ``question``, in the variant that fits best, or None."""
    for variant in question.variants():
        directory = profile_root / question.hardware / question.model.name / variant
        if tp_degrees(directory):
            return directory
    return None


def _absent(question: CostQuestion, profile_root: Path | None) -> tuple[str, ...]:
    """Says that a profile root was given in vain, and what it has instead."""
    if profile_root is None:
        return ()
    directory = profile_root / question.hardware / question.model.name
    wanted = " or ".join(question.variants())
    found = ", ".join(sorted(path.name for path in directory.glob("*") if tp_degrees(path)))
    return (f"profile root: no {wanted} in {directory}" + (f", which has {found}" if found else ""),)


def _measured(question: CostQuestion, profile_root: Path | None) -> Iterator[KernelTables]:
    directory = None if profile_root is None else bundle_directory(question, profile_root)
    if directory is None:
        return
    degrees = tp_degrees(directory)
    tp_size = question.tp_size if question.tp_size in degrees else _nearest_degree(degrees, question.tp_size)
    address = BundleAddress(directory, tp_size)
    stamp = (address.tables / "attention.csv").stat().st_mtime_ns if address.tables.is_dir() else 0
    tables = _read(address, question.hardware, question.model.name, stamp)
    yield _adapted(tables, question, directory.name, f"measured profile {directory}, tp {tp_size}")


def _packaged(question: CostQuestion) -> Iterator[KernelTables]:
    model, kind = question.model, question.kind
    wanted = Architecture.of(model, kind)
    if wanted is None:
        return
    known = find_hardware(question.hardware)
    labels = (question.hardware,) if known is None else (question.hardware, known.label)
    found = find_fit(labels, wanted, question.variants(), without_mlp=model.moe is not None)
    if found is None:
        return
    fit = found.data
    tp_size = _nearest_degree(fit_degrees(fit), question.tp_size)
    p50, p90, _ = fit["error"][f"tp{tp_size} attention"]
    same = f"; layers like those of {fit['model']}: {found.architecture.describe()}"
    origin = (
        f"packaged fit {found.path.name}, tp {tp_size}, of {fit['source']}; attention within {p50:.1%} at the median "
        f"and {p90:.1%} at the 90th percentile of the measured points{'' if fit['model'] == model.name else same}"
    )
    yield _adapted(tables_from_fit(fit, tp_size), question, found.variant, origin)


def _adapted(tables: KernelTables, question: CostQuestion, variant: str, origin: str) -> KernelTables:
    """The tables at the question's tp degree, with what they rest on."""
    notes = [f"compute: {origin}"]
    if variant != question.variants()[0]:
        notes.append(f"dtype {question.dtype}: times of {variant}, the bytes are the same")
    if tables.tp_size != question.tp_size:
        notes.append(
            f"tp {question.tp_size}: not profiled, derived from tp {tables.tp_size} (split kernels scaled by their "
            "share of the work, the others as measured)"
        )
        tables = scale_to_tp(tables, question.model, question.kind, question.tp_size)
    return replace(tables, basis=tuple(notes))


def _nearest_degree(degrees: tuple[int, ...], wanted: int) -> int:
    """The profiled degree closest in ratio, the larger of two equally close."""
    return min(degrees, key=lambda degree: (max(degree, wanted) / min(degree, wanted), -degree))


@lru_cache(maxsize=8)
def _read(address: BundleAddress, hardware: str, model: str, stamp: int) -> KernelTables:
    """Cached by the time the bundle was written: an automatic partition asks several times."""
    del stamp
    return cached_bundle(address, hardware=hardware, model=model)
