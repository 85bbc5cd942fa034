"""``penstock hardware``: what can be named as hardware, and what its costs rest on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli.registry import GuardedCommand

if TYPE_CHECKING:
    from penstock.spec.hardware import HardwareSpec

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command(cls=GuardedCommand)
def hardware(
    *,
    search: Annotated[
        str, typer.Argument(metavar="[SEARCH]", help="Part of a name; without, all.", show_default=False)
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """List the hardware of the catalogue. A search with one hit shows all that is known of it."""
    from penstock.errors import Problem, UserError, nearest
    from penstock.spec.catalogue import CATALOGUE
    from penstock.spec.hardware import hardware_key, hardware_labels

    key = hardware_key(search)
    chosen = [
        chip
        for chip in CATALOGUE
        if any(key in hardware_key(name) for name in (chip.label, chip.name, *chip.aliases))
    ]
    if not chosen:
        hint = nearest(search, hardware_labels())
        raise UserError([Problem("SEARCH", f"no hardware has '{search}' in its name{hint}")])
    rows = [_row(chip) for chip in chosen]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    elif len(rows) == 1:
        typer.echo(_detail(rows[0]))
    else:
        typer.echo(_table(rows))


def _row(chip: HardwareSpec) -> dict[str, Any]:
    from penstock.cost.efficiency import packaged_efficiency
    from penstock.cost.fitted import packaged_fits
    from penstock.spec.hardware import hardware_key
    from penstock.spec.prices import find_price, listed_prices

    names = {hardware_key(name) for name in (chip.label, *chip.aliases)}
    fits = [
        f"{model} ({variant})" for label, model, variant in packaged_fits() if hardware_key(label) in names
    ]
    price = find_price(chip.label, {}, listed_prices())
    return {
        "label": chip.label,
        "name": chip.name,
        "aliases": list(chip.aliases),
        "memory_gib": chip.capacity_bytes / 2**30,
        "memory_tb_per_s": chip.memory_bytes_per_s / 1e12,
        "dense_tflops": {dtype: rate / 1e12 for dtype, rate in chip.flops_per_s.items()},
        "link": chip.link.kind,
        "link_gb_per_s": chip.link.bytes_per_s / 1e9,
        "usd_per_hour": None if price is None else price.usd_per_hour,
        "price_source": None if price is None else price.source,
        "data_sheet": chip.source,
        "measured": fits,
        "estimate": packaged_efficiency().source,
    }


def _table(rows: list[dict[str, Any]]) -> str:
    from penstock.explore.tables import text_table

    table = [["hardware", "GiB", "TB/s", "fp16 TFLOPS", "fp8", "link GB/s", "$/hour", "kernels measured of"]]
    for row in rows:
        rates, usd = row["dense_tflops"], row["usd_per_hour"]
        table.append(
            [
                row["label"],
                f"{row['memory_gib']:g}",
                f"{row['memory_tb_per_s']:.2f}",
                f"{rates['float16']:,.0f}",
                f"{rates['fp8']:,.0f}" if "fp8" in rates else "-",
                f"{row['link_gb_per_s']:g} {row['link']}",
                "-" if usd is None else f"{usd:g}",
                _models(row["measured"]),
            ]
        )
    return (
        text_table(table, left=(0, 7))
        + "\n\n-: no kernel of it was measured; times are estimated from this data sheet and the model's shapes\n"
        "one of them in full: penstock hardware LABEL"
    )


def _models(measured: list[str]) -> str:
    return ", ".join(dict.fromkeys(one.split(" ")[0].rpartition("/")[2] for one in measured)) or "-"


def _detail(row: dict[str, Any]) -> str:
    rates = ", ".join(f"{dtype} {rate:,.0f}" for dtype, rate in row["dense_tflops"].items())
    usd = row["usd_per_hour"]
    lines = [
        ("name", row["name"]),
        ("also", ", ".join(row["aliases"]) or "-"),
        ("memory", f"{row['memory_gib']:g} GiB, {row['memory_tb_per_s']:g} TB/s"),
        ("dense", f"{rates} TFLOPS"),
        ("link", f"{row['link']}, {row['link_gb_per_s']:g} GB/s one way"),
        ("price", "-" if usd is None else f"{usd:g} USD an hour ({row['price_source']})"),
        ("data sheet", row["data_sheet"]),
        ("measured", "; ".join(row["measured"]) or "no kernel"),
        ("else", f"estimated from the data sheet; efficiency of kernels: {row['estimate']}"),
    ]
    return "\n".join([row["label"], *(f"  {name:<11}{text}" for name, text in lines)])
