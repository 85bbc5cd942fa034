"""Plain Python where compiled modules are installed too: with ``PENSTOCK_PURE=1`` in the environment.

A build with ``HATCH_BUILD_HOOK_ENABLE_MYPYC=1`` puts extension modules beside the sources, and Python takes those
first. This finder goes before Python's own and sees sources alone.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import SOURCE_SUFFIXES, FileFinder, ModuleSpec, SourceFileLoader
from types import ModuleType


class _Sources(MetaPathFinder):
    def __init__(self, package: str) -> None:
        self._prefix = f"{package}."

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(self._prefix):
            return None
        for folder in path or ():
            found = FileFinder(folder, (SourceFileLoader, SOURCE_SUFFIXES)).find_spec(fullname, target)
            if found is not None:
                return found
        return None


def use_sources(package: str) -> None:
    """Import modules of ``package`` from their sources from now on."""
    sys.meta_path.insert(0, _Sources(package))
