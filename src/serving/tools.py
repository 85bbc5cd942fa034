"""``penstock llmservingsim``: the commands of LLMServingSim beside ``serving``, with their options."""

from __future__ import annotations

import typer

from penstock.cli.registry import GuardedCommand, GuardedGroup
from serving.bench import run_command, validate_command
from serving.generators import sharegpt_command
from serving.profiler import profile_command, slice_command


def _group(text: str) -> typer.Typer:
    return typer.Typer(
        cls=GuardedGroup,
        help=text,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )


app = _group("The commands of LLMServingSim beside serving, with their options.")
bench = _group("python -m bench: a measured run, and a simulation of it beside.")
profiler = _group("python -m profiler: measure a model's kernels.")
generators = _group("python -m workloads.generators: make a workload.")

_ANYTHING = {"ignore_unknown_options": True, "allow_extra_args": True}

bench.command("validate", cls=GuardedCommand)(validate_command)
bench.command("run", cls=GuardedCommand, context_settings=_ANYTHING)(run_command)
profiler.command("profile", cls=GuardedCommand)(profile_command)
profiler.command("slice", cls=GuardedCommand, context_settings=_ANYTHING)(slice_command)
generators.command("sharegpt", cls=GuardedCommand)(sharegpt_command)
app.add_typer(bench, name="bench")
app.add_typer(profiler, name="profiler")
app.add_typer(generators, name="generators")
