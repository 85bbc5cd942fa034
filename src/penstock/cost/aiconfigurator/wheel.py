"""The installed wheel ``aiconfigurator-core``: where its tables are, and their rows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from penstock.errors import Problem, UserError

if TYPE_CHECKING:
    import polars as pl

PACKAGE = "aiconfigurator-core"
VERSION = "0.12.0"
EXTRA = "pip install 'penstock[aiconfigurator]'"
ENGINES = ("vllm", "sglang", "trtllm")


@dataclass(frozen=True, slots=True)
class Wheel:
    """``systems`` is the directory ``aiconfigurator_core/systems``."""

    systems: Path

    def engine_version(self, system: str, engine: str) -> str:
        """The version of the engine whose tables are current for a system (``query_versions.yaml``).

        Raises:
            UserError: the wheel does not say.
        """
        versions = _versions(self.systems / "query_versions.yaml")
        try:
            entry = versions.get("overrides", {}).get(system, {}).get(engine) or versions["defaults"][engine]
            return str(entry["current"])
        except (KeyError, TypeError, AttributeError) as error:
            raise broken(self.systems / "query_versions.yaml", f"no version of {engine}") from error

    def table(self, system: str, family: str, engine: str, name: str) -> Path:
        """``data/<system>/<family>/<engine>/<version>/<name>_perf.parquet`` of the current version, or, where that was
        not measured, of the newest before it (the wheel's rule of filling backward); may be absent."""
        folder = self.systems / "data" / system / family / engine
        current = self.engine_version(system, engine)
        file = f"{name}_perf.parquet"
        older = [path for path in folder.glob(f"*/{file}") if _order(path.parent.name) <= _order(current)]
        return max(older, key=lambda path: _order(path.parent.name), default=folder / current / file)


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))


def find_wheel() -> Wheel | None:
    """The installed wheel, None where there is none.

    Raises:
        UserError: another version, or one without its tables.
    """
    try:
        distribution = metadata.distribution(PACKAGE)
    except metadata.PackageNotFoundError:
        return None
    if distribution.version != VERSION:
        raise UserError(
            [
                Problem(
                    f"{PACKAGE} {distribution.version}",
                    f"is installed, but kernel times are read from {VERSION}: {EXTRA}, or uninstall it",
                )
            ]
        )
    systems = Path(str(distribution.locate_file("aiconfigurator_core"))) / "systems"
    if not systems.is_dir():
        raise broken(systems, "no such directory")
    return Wheel(systems)


def broken(path: Path, why: str) -> UserError:
    """The error of a wheel that is not what its version says."""
    return UserError([Problem(str(path), f"{why}: {PACKAGE} is broken, install it anew: {EXTRA}")])


def read_rows(path: Path, columns: Sequence[str], where: Mapping[str, Any]) -> pl.DataFrame:
    """``columns`` of the rows whose members equal ``where``; a member that the table has no column for holds.

    Raises:
        UserError: the file cannot be read, or lacks a column.
    """
    table = _table(path)
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise broken(path, f"no column {', '.join(missing)}")
    return table.filter(**{name: value for name, value in where.items() if name in table.columns}).select(
        columns
    )


@lru_cache(maxsize=12)
def _table(path: Path) -> pl.DataFrame:
    import polars as pl  # half a second that a run without this wheel need not spend

    try:
        return pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise broken(path, f"cannot be read ({type(error).__name__})") from error


@lru_cache(maxsize=4)
def _versions(path: Path) -> Mapping[str, Any]:
    import yaml

    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise broken(path, f"cannot be read ({type(error).__name__})") from error
    return cast("Mapping[str, Any]", loaded)
