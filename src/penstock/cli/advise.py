"""``penstock advise``: simulate single changes and rank what they gain."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli.described import flag_name, with_options
from penstock.spec.option_table import search_options

if TYPE_CHECKING:
    from penstock.explore.advise import Advice, AdviceTable

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
@with_options(search_options())
def advise_command(
    cluster: Annotated[str, typer.Argument(help="Cluster config (JSON).")],
    *,
    dataset: Annotated[str, typer.Option(help="Workload (JSONL, CSV).")],
    option: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE, an option of penstock run, e.g. max_num_seqs=64.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
    **options: Any,
) -> None:
    """Simulate the cluster as it is and after single changes; what helps most comes first."""
    from penstock.api import load_scenario
    from penstock.explore.advise import advise

    scenario = load_scenario(cluster, dataset, options | _options(option or []), flag_name)
    shows = sys.stderr.isatty()

    def tell(text: str) -> None:
        if shows:
            print(f"\rsimulating {text[:100]}\033[K", end="", file=sys.stderr, flush=True)

    table = advise(scenario.cluster, scenario.workload, scenario.options, progress=tell)
    if shows:
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    typer.echo(json.dumps(_plain(table), indent=2) if as_json else _text(table))


def _options(given: list[str]) -> dict[str, Any]:
    from penstock.errors import Problem, UserError

    options: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError([Problem("--option", f"'{text}' is not NAME=VALUE")])
        try:
            options[name.replace("-", "_")] = json.loads(value)
        except ValueError:
            options[name.replace("-", "_")] = value
    return options


def _text(table: AdviceTable) -> str:
    base = table.baseline
    tpot = f", p99 TPOT {base.tpot_p99_ns / 1e6:,.2f} ms" if base.tpot_p99_ns is not None else ""
    rates = f"{base.requests_per_s:,.3f} requests/s, {base.generated_tokens_per_s:,.1f} generated tokens/s"
    lines = [
        f"as it is: {rates}, p99 TTFT {base.ttft_p99_ns / 1e6:,.2f} ms{tpot}",
        "",
        "where the stages' time goes while there are requests, and the knobs tried against it:",
        f"  busy {1 - base.bubbles.bubble_share():.1%}",
    ]
    for cause, share, knobs in table.shares():
        if share >= 0.0005:
            lines.append(f"  {cause} {share:.1%}" + (f": {', '.join(knobs)}" if knobs else ""))
    rows = [["", "tokens/s", "p99 TTFT", "p99 TPOT", "change"]]
    ran = [row for row in table.rows if row.failure is None]
    rows += [[row.knob, *map(_percent, row.gains), row.change] for row in ran if not _is_same(row)]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines += ["", "single changes, best first (+ is better: more tokens/s, shorter latency):"]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(row[column].rjust(widths[column]) for column in (1, 2, 3))]
        lines.append("  " + "  ".join([*cells, row[4]]))
    same = [row.change for row in ran if _is_same(row)]
    if same:
        lines.append(f"  no difference: {'; '.join(same)}")
    for row in table.rows:
        if row.failure is not None:
            lines.append(f"  {row.knob}: {row.change}: cannot run: {row.failure}")
    return "\n".join(lines)


def _is_same(row: Advice) -> bool:
    """Whether nothing would show in the table."""
    return all(gain is None or abs(gain) < 0.0005 for gain in row.gains)


def _percent(gain: float | None) -> str:
    return "-" if gain is None else f"{gain:+.1%}"


def _plain(table: AdviceTable) -> dict[str, Any]:
    base = table.baseline
    return {
        "baseline": {
            "requests_per_s": base.requests_per_s,
            "generated_tokens_per_s": base.generated_tokens_per_s,
            "ttft_p99_ns": base.ttft_p99_ns,
            "tpot_p99_ns": base.tpot_p99_ns,
            "stages": list(base.bubbles.rows()),
        },
        "shares": [
            {"cause": cause, "share": share, "knobs": list(knobs)} for cause, share, knobs in table.shares()
        ],
        "changes": [_plain_row(row) for row in table.rows],
    }


def _plain_row(row: Advice) -> dict[str, Any]:
    names = ("generated_tokens_per_s", "ttft_p99", "tpot_p99")
    gains = dict(zip(names, row.gains, strict=True))
    return {"knob": row.knob, "change": row.change, "gains": gains, "failure": row.failure}
