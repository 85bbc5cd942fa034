"""Command lines from the option table: a command says which options it takes, the table says what they are."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from penstock.spec.option_table import Option

CommandT = TypeVar("CommandT", bound=Callable[..., None])

PANELS = {
    "requests": "Workload",
    "records": "Output",
    "costs": "Costs and memory",
    "engine": "Engine",
    "routing": "Routing",
    "llmservingsim": "LLMServingSim compatibility",
}
"""The help's section for each group of the option table."""


def flag_name(option: str) -> str:
    """How the command line writes an option."""
    return f"--{option.replace('_', '-')}"


def with_options(options: Sequence[Option]) -> Callable[[CommandT], CommandT]:
    """Give a command the ``options`` in the place of its ``**options``; those not given arrive as None.

    A number that is none arrives as the text itself, so that all mistakes are reported together.
    """

    def decorate(command: CommandT) -> CommandT:
        hints = get_type_hints(command, include_extras=True)
        own = [
            parameter.replace(annotation=hints[parameter.name])
            for parameter in inspect.signature(command).parameters.values()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        added = [
            inspect.Parameter(
                option.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_annotation(option)
            )
            for option in options
            if option.about.on != "python"
        ]
        parameters = [*own, *added]
        command.__annotations__ = {one.name: one.annotation for one in parameters} | {"return": None}
        command.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
        return command

    return decorate


def _annotation(option: Option) -> Any:
    panel = PANELS[option.about.group]
    flags = (option.flag, *option.about.flags)
    if option.kind == "switch":
        name = option.flag.removeprefix("--")
        return Annotated[
            bool | None,
            typer.Option(
                f"--{name}/--no-{name}", help=option.help, show_default=False, rich_help_panel=panel
            ),
        ]
    if option.kind in ("integer", "number"):
        parser = integer_or_text if option.kind == "integer" else _number
        return Annotated[
            Any,
            typer.Option(
                *flags, parser=parser, metavar=option.metavar, help=option.help, rich_help_panel=panel
            ),
        ]
    return Annotated[
        str | None,
        typer.Option(*flags, metavar=option.metavar, help=option.help, rich_help_panel=panel),
    ]


def integer_or_text(text: str) -> int | str:
    """The number, or what stands there instead of one, so that it is reported with the other mistakes."""
    try:
        return int(text)
    except ValueError:
        return text


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
