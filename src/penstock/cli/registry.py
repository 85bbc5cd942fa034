"""The sub-commands, and a group that imports one only when it is called."""

from __future__ import annotations

import importlib
from typing import Any

import typer
import typer.core
import typer.main

from penstock.cli.guard import exit_codes
from penstock.errors import nearest

COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("penstock.cli.run:app", "Serve a workload on a cluster and report what happened."),
    "workload": ("penstock.cli.workload:app", "Generate, inspect and convert workload files."),
    "validate": ("penstock.cli.validate:app", "Compare with recordings and measured runs."),
    "profile": ("penstock.cli.profile:app", "Fit, import or measure kernel profiles."),
    "calibrate": ("penstock.cli.calibrate:app", "Fit a deployment to a benchmark of it."),
    "compare": ("penstock.cli.compare:app", "Set runs side by side."),
    "advise": ("penstock.cli.advise:app", "Simulate single changes and rank what they gain."),
    "capacity": ("penstock.cli.capacity:app", "Find the highest request rate that holds an SLO."),
    "size": ("penstock.cli.size:app", "Say how many GPUs, cut how, serve a load within an SLO."),
    "explore": ("penstock.cli.explore:app", "Search deployments for the best ones."),
}
"""Name -> (module:typer app, one line of help). Where the module is not installed the command is not offered."""


class LazyGroup(typer.core.TyperGroup):
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
        """Write the list of commands."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in available()])

    def invoke(self, ctx: typer.Context) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Run the command with errors turned into exit codes."""
        with exit_codes():
            return super().invoke(ctx)


class GuardedCommand(typer.core.TyperCommand):
    """A command that can also stand alone, with its own errors turned into exit codes."""

    def invoke(self, ctx: typer.Context) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Run the command."""
        with exit_codes():
            return super().invoke(ctx)


def available() -> list[str]:
    """Commands whose module is there."""
    from importlib.util import find_spec

    return [name for name, (target, _) in COMMANDS.items() if find_spec(target.partition(":")[0]) is not None]


def load_command(name: str) -> Any:
    """Import a command of the table."""
    module, _, attribute = COMMANDS[name][0].partition(":")
    return typer.main.get_command(getattr(importlib.import_module(module), attribute))
