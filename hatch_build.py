"""Builds ``penstock._core``, the engine in machine code, where there is a C++ compiler; without one, plain Python is
installed and does the same, more slowly.

``PENSTOCK_REQUIRE_NATIVE=1`` makes a build without it an error, ``PENSTOCK_PURE=1`` does not try.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

OLDEST_ABI = "0x030B0000"


def is_set(name: str) -> bool:
    """Whether a switch in the environment is on."""
    return os.environ.get(name, "0") not in ("", "0")


class CoreBuildHook(BuildHookInterface[Any]):
    """Compiles ``native/`` into ``src/penstock/``, from where a wheel takes it and an editable installation uses it."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """See :class:`BuildHookInterface`."""
        if is_set("PENSTOCK_PURE"):
            return
        try:
            built = compile_core(Path(self.root))
        except Exception as error:  # whatever is missing or wrong with a compiler, Python does without
            if is_set("PENSTOCK_REQUIRE_NATIVE"):
                raise
            print(
                f"penstock: no engine in machine code ({error}): plain Python does the same", file=sys.stderr
            )
            return
        build_data["pure_python"] = False
        build_data["artifacts"].append(f"/src/penstock/{built.name}")
        if has_stable_abi():
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["tag"] = f"cp311-abi3-{platform}"
        else:
            build_data["infer_tag"] = True


def has_stable_abi() -> bool:
    """Whether one extension serves all versions; not yet without the global lock."""
    return not sysconfig.get_config_var("Py_GIL_DISABLED")


def compile_core(root: Path) -> Path:
    """Compile the sources below ``root``; returns the extension module."""
    from setuptools import Distribution, Extension

    sys.path.insert(0, str(root / "src"))
    from penstock.machine_code import hash_of_sources

    is_msvc = sys.platform == "win32"
    unix = ["-std=c++17", "-O3", "-ffp-contract=off", "-fvisibility=hidden", "-Wall", "-Wextra", "-g0"]
    macros: list[tuple[str, str | None]] = [("PENSTOCK_SOURCES", f'"{hash_of_sources(root / "native")}"')]
    if has_stable_abi():
        macros.append(("Py_LIMITED_API", OLDEST_ABI))
    extension = Extension(
        "penstock._core",
        [str(root / "native" / "module.cpp")],
        language="c++",
        define_macros=macros,
        extra_compile_args=["/std:c++17", "/O2", "/fp:precise"] if is_msvc else unix,
        py_limited_api=has_stable_abi(),
    )
    with tempfile.TemporaryDirectory(prefix="penstock-core-") as folder:
        command: Any = Distribution({"name": "penstock", "ext_modules": [extension]}).get_command_obj(
            "build_ext"
        )
        command.build_lib = command.build_temp = folder
        command.ensure_finalized()
        command.run()
        made = Path(command.get_ext_fullpath("penstock._core"))
        for old in (root / "src" / "penstock").glob("_core.*"):
            if old.suffix in (".so", ".pyd"):
                old.unlink()
        return Path(shutil.copy(made, root / "src" / "penstock" / made.name))
