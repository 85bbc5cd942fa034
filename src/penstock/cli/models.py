"""``penstock models``: what can be named as a model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli.registry import GuardedCommand

if TYPE_CHECKING:
    from penstock.spec.model import ModelSpec

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command(cls=GuardedCommand)
def models(
    *,
    search: Annotated[
        str, typer.Argument(metavar="[SEARCH]", help="Part of a name; without, all.", show_default=False)
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """List the models that are known by name, and the hardware on which kernels of each were measured."""
    from penstock.cost.fitted import packaged_fits
    from penstock.errors import Problem, UserError, nearest
    from penstock.explore.tables import text_table
    from penstock.files.place import Place
    from penstock.spec.model_files import HOW_TO_GET, ModelLibrary, load_model

    library = ModelLibrary.near(None)
    names = sorted(set(library.names()), key=str.lower)
    chosen = [name for name in names if search.lower() in name.lower()]
    if not chosen:
        raise UserError([Problem("SEARCH", f"no model has '{search}' in its name{nearest(search, names)}")])
    measured: dict[str, list[str]] = {}
    for hardware, model, _ in packaged_fits():
        measured.setdefault(model, []).append(hardware)
    rows: list[dict[str, Any]] = []
    for name in chosen:
        problems: list[Problem] = []
        spec = load_model(name, library, None, Place(name), problems)
        if spec is not None:
            rows.append(_row(name, spec, measured.get(name, [])))
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = [["model", "parameters", "active", "layers", "context", "dtype", "kernels measured on"]]
    table += [
        [
            row["model"],
            f"{row['parameters'] / 1e9:.2f} B",
            f"{row['active_parameters'] / 1e9:.2f} B",
            str(row["layers"]),
            f"{row['context_tokens']:,}",
            row["dtype"],
            ", ".join(row["measured_on"]) or "-",
        ]
        for row in rows
    ]
    typer.echo(text_table(table, left=(0, 5, 6)))
    typer.echo(
        "\n-: times are estimated from the model's shapes and the hardware's data sheet (penstock hardware)\n"
        f"another model: {HOW_TO_GET}"
    )


def _row(name: str, spec: ModelSpec, measured_on: list[str]) -> dict[str, Any]:
    return {
        "model": name,
        "parameters": spec.parameters,
        "active_parameters": spec.active_parameters,
        "layers": spec.num_layers,
        "context_tokens": spec.max_position_embeddings,
        "dtype": spec.dtype,
        "measured_on": sorted(set(measured_on)),
    }
