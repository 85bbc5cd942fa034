"""What a bundle is of: hardware, model and variant, from its ``meta.yaml`` or its path."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from penstock.errors import Problem, UserError
from penstock.files.reading import MAX_CONFIG_BYTES, read_text
from penstock.files.yaml_text import parse_measured


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
    if not path.is_file():
        return {}
    loaded = parse_measured(read_text(path, MAX_CONFIG_BYTES), str(path))
    if not isinstance(loaded, dict):
        raise UserError([Problem(str(path), "must be an object")])
    return cast("dict[str, Any]", loaded)
