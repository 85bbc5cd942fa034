"""All measured data at hand, calibrated and left out one by one: ``penstock profile calibrate``."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from penstock.errors import Problem, UserError
from penstock.files.place import Place
from penstock.files.writing import atomic_write
from penstock.profiling.calibrate import (
    MixedSample,
    Sample,
    TransferLine,
    calibrate,
    leave_one_out,
    missing_families,
    summary,
)
from penstock.profiling.calibration_data import (
    bundle_samples,
    known_hardware,
    old_layout_samples,
    vidur_samples,
)
from penstock.spec.model import ModelSpec
from penstock.spec.model_files import ModelLibrary, load_model

_VIDUR = (("a100/meta-llama/Meta-Llama-3-8B", "A100-80GB"), ("h100/meta-llama/Llama-2-70b-hf", "H100"))


def run_calibration(llmservingsim: Path, vidur: Path | None) -> tuple[dict[str, Any], list[TransferLine]]:
    """Calibrate on every bundle under ``llmservingsim/perf``, the matrix multiplications under
    ``llmservingsim/perf_v0`` and those of Vidur's ``compute``; returns the JSON and the leave-one-out table.

    Raises:
        UserError: nothing measured there, or a model without a config.
    """
    samples: list[Sample] = []
    mixes: list[MixedSample] = []
    for meta in sorted((llmservingsim / "perf").glob("*/*/*/*/meta.yaml")):
        hardware, model = meta.parts[-5], "/".join(meta.parts[-4:-2])
        own, mixed = bundle_samples(meta.parent, known_hardware(hardware), named_model(model))
        samples += own
        mixes += mixed
    for directory in sorted(
        {path.parents[1] for path in (llmservingsim / "perf_v0").glob("*/*/*/tp*/layers.csv")}
    ):
        hardware, model = directory.parts[-3], "/".join(directory.parts[-2:])
        samples += old_layout_samples(directory, known_hardware(hardware), named_model(model))
    for place, label in _VIDUR if vidur is not None else ():
        path = (vidur or Path()) / "compute" / place / "mlp.csv"
        if path.is_file():
            samples += vidur_samples(path, known_hardware(label), named_model(place.partition("/")[2]))
    if not samples or not mixes:
        raise UserError([Problem(str(llmservingsim), "holds no profile bundles under perf/")])
    missing = missing_families(samples)
    if missing:
        raise UserError(
            [Problem(str(llmservingsim), f"holds no measured {name} kernels") for name in missing]
        )
    chips = ", ".join(sorted({sample.hardware for sample in samples}))
    data = calibrate(samples, mixes, f"measured kernels of {chips}")
    lines = leave_one_out(samples, mixes)
    data["errors"] = summary(lines)
    return data, lines


def write_calibration(data: dict[str, Any], path: Path) -> None:
    """The JSON, one curve per line."""
    text = re.sub(
        r"\[\s+([^\[\]]*?)\s+\]",
        lambda found: "[" + re.sub(r"\s+", " ", found.group(1)) + "]",
        json.dumps(data, indent=1),
    )
    with atomic_write(path) as file:
        file.write(text + "\n")


def transfer_report(lines: Sequence[TransferLine]) -> str:
    """What was left out, and how its kernels were missed."""
    rows = [f"{'left out':<42}{'kernels':<9}{'points':>7}{'p50':>7}{'p90':>7}{'bias':>8}"]
    rows += [
        f"{line.kind + ' ' + line.left_out:<42}{line.family:<9}{line.points:>7}"
        f"{line.p50:>7.0%}{line.p90:>7.0%}{line.bias:>+8.0%}"
        for line in lines
    ]
    return "\n".join(rows)


def named_model(name: str) -> ModelSpec:
    """A model by name or by the path of its config.

    Raises:
        UserError: there is none, or it is broken.
    """
    problems: list[Problem] = []
    model = load_model(name, ModelLibrary.near(None), None, Place(name), problems)
    if model is None:
        raise UserError(problems)
    return model
