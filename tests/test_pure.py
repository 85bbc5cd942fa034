from __future__ import annotations

import importlib
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from penstock.pure import use_sources


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package with a module that stands there as a source and as an extension, which cannot be loaded."""
    name = "half_compiled"
    folder = tmp_path / name
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "module.py").write_text("answer = 42\n")
    (folder / f"module{EXTENSION_SUFFIXES[0]}").write_bytes(b"no extension")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    return name


def test_python_takes_the_extension_first(package: str) -> None:
    with pytest.raises(ImportError):
        importlib.import_module(f"{package}.module")


def test_sources_are_taken_on_demand(package: str) -> None:
    use_sources(package)
    assert importlib.import_module(f"{package}.module").answer == 42
