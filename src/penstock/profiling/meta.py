"""What a bundle is of: hardware, model and variant, from its ``meta.yaml`` or its path."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from penstock.errors import Problem, UserError


@dataclass(frozen=True, slots=True)
class BundleIdentity:
    """``variant`` names the dtypes, such as ``bf16`` or ``fp8-kvfp8``."""

    hardware: str
    model: str
    variant: str


def bundle_identity(
    directory: Path, *, hardware: str | None = None, model: str | None = None
) -> BundleIdentity:
    """What is given holds, then ``meta.yaml``, then the path ``<hardware>/<owner>/<model>/<variant>``.

    Raises:
        UserError: neither says it, or ``meta.yaml`` is broken.
    """
    meta = _read_meta(directory / "meta.yaml")
    path = directory.resolve()
    hardware = hardware or meta.get("hardware") or (path.parents[2].name if len(path.parents) > 2 else None)
    model = model or meta.get("model") or "/".join(path.parts[-3:-1])
    if not hardware or not model:
        raise UserError(
            [Problem(str(directory), "give --hardware and --model: neither path nor meta.yaml has them")]
        )
    return BundleIdentity(str(hardware), str(model), str(meta.get("variant") or path.name))


def _read_meta(path: Path) -> dict[str, Any]:
    import yaml

    if not path.is_file():
        return {}
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise UserError([Problem(str(path), f"cannot be read: {error}")]) from error
    return cast("dict[str, Any]", loaded) if isinstance(loaded, dict) else {}
