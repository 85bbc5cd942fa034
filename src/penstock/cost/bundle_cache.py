"""The tables of a bundle, kept by the contents of its files and of the modules that read them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from penstock.cost import bundle, tables
from penstock.cost.bundle import BundleAddress, files_of, read_bundle
from penstock.cost.tables import AttentionGrid, Curve, FloatArray, KernelTables, SkewTable
from penstock.files import csv_text, document, json_text
from penstock.files.cache import keep_arrays, kept_arrays, key_of
from penstock.files.reading import read_bytes

_GRID = ("chunks", "decodes", "prefill_contexts", "decode_contexts", "us")
_SKEW = ("chunks", "decode_edges", "rate_edges", "longest_edges", "prefill_edges", "alpha", "default")


def cached_bundle(address: BundleAddress, *, hardware: str, model: str) -> KernelTables:
    """As :func:`~penstock.cost.bundle.read_bundle`; tables read once are taken from the cache.

    Raises:
        UserError: as there.
    """
    files = files_of(address)
    if not all(path.is_file() for path in files[:3]):
        return read_bundle(address, hardware=hardware, model=model)
    contents = [read_bytes(path) if path.is_file() else b"" for path in files]
    key = key_of([_readers(), str(address.tp_size).encode(), *contents])
    kept = kept_arrays(key)
    if kept is not None:
        return _from_arrays(kept, address, hardware, model)
    found = read_bundle(address, hardware=hardware, model=model)
    keep_arrays(key, _as_arrays(found))
    return found


@cache
def _readers() -> bytes:
    """What makes the tables what they are."""
    sources = [Path(str(module.__file__)) for module in (bundle, tables, csv_text, document, json_text)]
    sources += [sources[2].with_name("yaml_text.py"), Path(__file__)]
    return key_of(path.read_bytes() for path in sources).encode()


def _as_arrays(found: KernelTables) -> dict[str, FloatArray]:
    arrays: dict[str, FloatArray] = {}
    for kind, curves in (("dense", found.dense), ("per_sequence", found.per_sequence)):
        for layer, curve in curves.items():
            arrays[f"{kind}/{layer}/sizes"] = curve.sizes
            arrays[f"{kind}/{layer}/us"] = curve.us
    arrays |= {f"attention/{name}": getattr(found.attention, name) for name in _GRID}
    if found.skew is not None:
        arrays |= {f"skew/{name}": np.asarray(getattr(found.skew, name), dtype=np.float64) for name in _SKEW}
    return arrays


def _from_arrays(
    arrays: dict[str, FloatArray], address: BundleAddress, hardware: str, model: str
) -> KernelTables:
    curves: dict[str, dict[str, Curve]] = {"dense": {}, "per_sequence": {}}
    for name in arrays:
        kind, _, rest = name.partition("/")
        layer, _, column = rest.rpartition("/")
        if kind in curves and column == "sizes":
            curves[kind][layer] = Curve(arrays[name], arrays[f"{kind}/{layer}/us"])
    skew = None
    if "skew/alpha" in arrays:
        *edges, default = (arrays[f"skew/{name}"] for name in _SKEW)
        skew = SkewTable(*edges, default=float(default))
    return KernelTables(
        hardware=hardware,
        model=model,
        tp_size=address.tp_size,
        dense=curves["dense"],
        per_sequence=curves["per_sequence"],
        attention=AttentionGrid(*(arrays[f"attention/{name}"] for name in _GRID)),
        skew=skew,
    )
