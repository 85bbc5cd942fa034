"""The sub-commands, and a group that imports one only when it is called."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import typer
import typer.core
import typer.main

from penstock.cli.guard import exit_codes
from penstock.errors import nearest

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("penstock.cli.demo:app", "Simulate a packaged example and write its report."),
    "init": ("penstock.cli.init:app", "Write an example cluster, workload and search, to change."),
    "models": ("penstock.cli.models:app", "List the models that are known by name."),
    "hardware": ("penstock.cli.hardware:app", "List the hardware that is known, and what its costs rest on."),
    "run": ("penstock.cli.run:app", "Serve a workload on a cluster and report what happened."),
    "serve": ("penstock.cli.serve:app", "Answer vLLM's API in the time of a simulated cluster."),
    "workload": ("penstock.cli.workload:app", "Generate, inspect and convert workload files."),
    "validate": ("penstock.cli.validate:app", "Compare with recordings and measured runs."),
    "profile": ("penstock.cli.profile:app", "Fit, import or measure kernel profiles."),
    "calibrate": ("penstock.cli.calibrate:app", "Fit a deployment to a benchmark of it."),
    "compare": ("penstock.cli.compare:app", "Set runs side by side."),
    "advise": ("penstock.cli.advise:app", "Simulate single changes and rank what they gain."),
    "capacity": ("penstock.cli.capacity:app", "Find the highest request rate that holds an SLO."),
    "size": ("penstock.cli.size:app", "Say how many GPUs, cut how, serve a load within an SLO."),
    "export": ("penstock.cli.export:app", "Write a run for other simulators."),
    "explore": ("penstock.cli.explore:app", "Search deployments for the best ones."),
    "llmservingsim": ("serving.tools:app", "LLMServingSim's bench, profiler and generators."),
}
"""Name -> (module:typer app, one line of help). Where the module is not installed the command is not offered."""

SECTIONS: Mapping[str, Sequence[str]] = {
    "To begin": ("demo", "init", "models", "hardware"),
    "To see a run": ("run", "compare", "advise", "workload", "export"),
    "To choose a deployment": ("capacity", "size", "explore"),
    "To develop against a deployment": ("serve",),
    "To trust the numbers": ("validate", "calibrate", "profile"),
    "To come from LLMServingSim": ("llmservingsim",),
}
"""How the help arranges the commands; what stands in none comes last."""

DEFAULT_PANEL = "Options"
_EXTRAS = re.compile(r"\s*\[((?:[^\[\]]|\[[^\[\]]*\])*)\]$")


class GuardedGroup(typer.core.TyperGroup):
    """Commands whose errors are turned into exit codes, those of their help included."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """Read the arguments."""
        with exit_codes():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: typer.Context) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Run the command."""
        with exit_codes():
            return super().invoke(ctx)


class LazyGroup(GuardedGroup):
    """The commands of ``COMMANDS``; the help shows their lines from there, without importing them."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Names in the order of the table."""
        return available()

    def get_command(self, ctx: typer.Context, cmd_name: str) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Import the command; an unknown one is refused with the nearest name."""
        if cmd_name in available():
            return load_command(cmd_name)
        if not cmd_name.startswith("-"):
            ctx.fail(f"No such command '{cmd_name}'{nearest(cmd_name, available())}")
        return None

    def format_commands(self, ctx: typer.Context, formatter: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Write the list of commands, by what they are for."""
        there = available()
        arranged = {name for names in SECTIONS.values() for name in names}
        rest = [name for name in there if name not in arranged]
        for title, names in (*SECTIONS.items(), ("Further", rest)):
            rows = [(name, COMMANDS[name][1]) for name in names if name in there]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


class GuardedCommand(typer.core.TyperCommand):
    """A command that can also stand alone, with its own errors turned into exit codes. Its help has a section for each
    panel of its options, and says every default as ``[value].``"""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """Read the arguments."""
        with exit_codes():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: typer.Context) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Run the command."""
        with exit_codes():
            return super().invoke(ctx)

    def format_options(self, ctx: typer.Context, formatter: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Write the arguments, then the options by panel."""
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], DEFAULT_PANEL: []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            is_argument = parameter.param_type_name == "argument"
            panel = "Arguments" if is_argument else getattr(parameter, "rich_help_panel", None)
            if not isinstance(panel, str):
                panel = DEFAULT_PANEL
            sections.setdefault(panel, []).append((record[0], in_one_style(record[1])))
        if list(sections.values())[2:]:
            sections[DEFAULT_PANEL] = sections.pop(DEFAULT_PANEL)
        for title, rows in sections.items():
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


def in_one_style(text: str) -> str:
    """Typer's ``Text.  [default: 5; 1<=x<=9]`` as ``Text [5; 1<=x<=9].``, as the option table writes it."""
    match = _EXTRAS.search(text)
    if match is None:
        return text
    extras = "; ".join(part.removeprefix("default: ") for part in match[1].split("; "))
    return f"{text[: match.start()].rstrip().rstrip('.')} [{extras}]."


def available() -> list[str]:
    """Commands whose module is there."""
    from importlib.util import find_spec

    return [name for name, (target, _) in COMMANDS.items() if find_spec(target.partition(":")[0]) is not None]


def load_command(name: str) -> Any:
    """Import a command of the table."""
    module, _, attribute = COMMANDS[name][0].partition(":")
    return typer.main.get_command(getattr(importlib.import_module(module), attribute))
