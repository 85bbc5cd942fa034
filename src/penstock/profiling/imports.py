"""Profiles of other layouts written under a profile root, whatever layout they have."""

from __future__ import annotations

from pathlib import Path

from penstock.errors import Problem, UserError
from penstock.profiling.old_layout import read_old_layout, write_bundle
from penstock.profiling.vidur import read_vidur_mlp


def import_profile(source: Path, root: Path, *, hardware: str, model: str) -> tuple[Path, str]:
    """Read ``source`` (a directory of LLMServingSim's old layout, or Vidur's ``mlp.csv``) and write
    ``root/hardware/model/bf16``; returns that directory and a note on what was derived.

    Raises:
        UserError: not such a profile, or it cannot be written.
    """
    if source.is_dir():
        profiles, note = read_old_layout(source)
    elif source.suffix == ".csv":
        profiles, note = read_vidur_mlp(source, hardware=hardware, model=model)
    else:
        raise UserError([Problem(str(source), "is neither a directory nor a CSV file")])
    directory = root / hardware / model / "bf16"
    write_bundle(
        directory,
        profiles,
        {"hardware": hardware, "model": model, "variant": "bf16", "imported_from": str(source), "note": note},
    )
    return directory, note
