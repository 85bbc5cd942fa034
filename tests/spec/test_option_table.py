"""One declaration per option: everything that names options agrees with the table."""

from __future__ import annotations

import ast
import importlib.util
import inspect
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

import penstock
from penstock.api import option_names
from penstock.cli.registry import load_command
from penstock.spec import given
from penstock.spec.check import Raw
from penstock.spec.option_table import About, Option, described, run_options, search_options
from penstock.spec.raw import RawInstance

PYTHON_TYPES = {"integer": int, "number": float, "switch": bool, "text": str}


def docstrings_of(source: str) -> dict[str, str]:
    """What stands below each member of the one class."""
    (shape,) = (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    found: dict[str, str] = {}
    for member, text in zip(shape.body, shape.body[1:], strict=False):
        if isinstance(member, ast.AnnAssign) and isinstance(member.target, ast.Name):
            assert isinstance(text, ast.Expr), member.target.id
            assert isinstance(text.value, ast.Constant)
            found[member.target.id] = " ".join(str(text.value.value).split())
    return found


def parts_of(annotation: Any) -> set[Any]:
    """The types, or the choices, that an annotation allows beside None."""
    found: set[Any] = set()
    for part in get_args(annotation):
        found |= set(get_args(part)) if get_origin(part) is Literal else {part}
    return found - {type(None)}


def test_the_typed_options_are_those_of_the_table_in_its_order_and_words() -> None:
    options = [option for option in run_options() if option.about.on != "command line"]
    assert docstrings_of(inspect.getsource(given)) == {option.name: option.help for option in options}
    assert list(penstock.SimulateOptions.__annotations__) == [option.name for option in options]


@pytest.mark.parametrize("option", run_options(), ids=lambda option: option.name)
def test_the_typed_options_take_what_the_checks_take(option: Option) -> None:
    if option.about.on == "command line":
        return
    parts = parts_of(get_type_hints(penstock.SimulateOptions)[option.name])
    assert parts >= (set(option.choices) or {PYTHON_TYPES[option.kind]})
    assert bool(option.choices) == all(isinstance(part, str) for part in parts)


def test_every_option_is_checked_and_every_instance_option_is_a_field() -> None:
    assert set(option_names()) == {option.name for option in run_options()}
    fields = {option.name for option in run_options() if option.per_instance}
    assert fields <= set(RawInstance.model_fields)


@pytest.mark.parametrize(
    ("command", "options"),
    [("run", run_options()), ("capacity", search_options()), ("advise", search_options())],
)
def test_the_commands_take_them_all(command: str, options: tuple[Option, ...]) -> None:
    flags = {flag: one.help for one in load_command(command).params for flag in getattr(one, "opts", ())}
    wanted = {option.flag: option.help for option in options if option.about.on != "python"}
    assert {flag: flags.get(flag) for flag in wanted} == wanted


def test_the_page_shows_the_table(repository: Path) -> None:
    spec = importlib.util.spec_from_file_location("update", repository / "tools" / "update_options_page.py")
    assert spec is not None
    assert spec.loader is not None
    update = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(update)
    text = (repository / "docs" / "options.md").read_text("utf-8")
    assert update.page(text) == text, "run: python tools/update_options_page.py"


def test_a_field_without_a_meaning_or_a_default_is_found_out() -> None:
    class Bare(Raw):
        speed: int | None = None

    with pytest.raises(LookupError, match=r"Bare\.speed is not described"):
        described(Bare)
    option = Option(
        name="speed", kind="integer", choices=(), about=About("engine", "How fast"), per_instance=False
    )
    with pytest.raises(LookupError, match="speed has no default"):
        _ = option.help
