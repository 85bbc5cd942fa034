"""``penstock advise``: simulate single changes and rank what they gain."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli.described import flag_name, with_options
from penstock.cli.progress import progress_line
from penstock.cli.registry import GuardedCommand
from penstock.spec.option_table import search_options

if TYPE_CHECKING:
    from penstock.explore.advise import Advice, AdviceTable, Outcome
    from penstock.statistics.intervals import Interval

from penstock.explore.slo import shown_ns

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command(cls=GuardedCommand)
@with_options(search_options())
def advise_command(
    cluster: Annotated[str, typer.Argument(help="Cluster config (JSON).")],
    *,
    dataset: Annotated[str, typer.Option(help="Workload (JSONL, CSV).")],
    option: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE, an option of penstock run, e.g. max_num_seqs=64.")
    ] = None,
    objective: Annotated[
        str, typer.Option(help="Rank by speed (tokens/s, TTFT and TPOT) or joules_per_token.")
    ] = "speed",
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
    report: Annotated[str | None, typer.Option(help="Write an HTML page here.")] = None,
    **options: Any,
) -> None:
    """Simulate the cluster as it is and after single changes; what helps most comes first."""
    from penstock.api import load_scenario
    from penstock.errors import Problem, UserError, nearest
    from penstock.explore.advise import SCORES, advise
    from penstock.files.use import FileUse
    from penstock.files.writing import atomic_write

    if objective not in SCORES:
        known = f"{nearest(objective, SCORES)} ({', '.join(SCORES)})"
        raise UserError([Problem("--objective", f"unknown objective '{objective}'{known}")])
    files = FileUse(reads={"CLUSTER": cluster, "--dataset": dataset}, writes={"--report": report})
    files.check()
    scenario = load_scenario(cluster, dataset, options | _options(option or []), flag_name)
    files.check()
    tell = progress_line()
    table = advise(
        scenario.cluster,
        scenario.workload,
        scenario.options,
        objective=objective,
        progress=lambda text: tell(f"simulating {text}"),
    )
    tell("")
    typer.echo(json.dumps(_plain(table), indent=2) if as_json else _text(table))
    if report is not None:
        from penstock.explore.advise_page import advice_page

        with atomic_write(report) as file:
            file.write(advice_page(table, f"Advice for {Path(cluster).name} under {Path(dataset).name}"))
        typer.echo(f"\nwrote {report}", err=as_json)


def _options(given: list[str]) -> dict[str, Any]:
    from penstock.errors import Problem, UserError

    options: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError([Problem("--option", f"'{text}' is not NAME=VALUE")])
        try:
            options[name.replace("-", "_")] = json.loads(value)
        except (ValueError, RecursionError):
            options[name.replace("-", "_")] = value
    return options


def _text(table: AdviceTable) -> str:
    base = table.baseline
    tpot = f", p99 TPOT {shown_ns(base.tpot_p99_ns)}" if base.tpot_p99_ns is not None else ""
    joules = f", {base.joules_per_token:.3f} J per token" if base.joules_per_token is not None else ""
    rates = f"{base.requests_per_s:,.3f} requests/s, {base.generated_tokens_per_s:,.1f} generated tokens/s"
    lines = [
        f"as it is: {rates}, p99 TTFT {shown_ns(base.ttft_p99_ns)}{tpot}{joules}",
        "",
        "where the stages' time goes while there are requests, and the knobs tried against it:",
        f"  busy {1 - base.bubbles.bubble_share():.1%}",
    ]
    for cause, share, knobs in table.shares():
        if share >= 0.0005:
            lines.append(f"  {cause} {share:.1%}" + (f": {', '.join(knobs)}" if knobs else ""))
    rows = [["", "tokens/s", "p99 TTFT", "p99 TPOT", "J/token", "change"]]
    ran = [row for row in table.rows if row.failure is None]
    rows += [_shown_row(group, base) for group in table.alike() if not _is_same(group[0])]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines += ["", "single changes, best first:"]
    for row in rows:
        cells = [row[column].ljust(widths[column]) for column in range(5)]
        lines.append("  " + "  ".join([*cells, row[5]]))
    same = [row.change for row in ran if _is_same(row)]
    if same:
        lines.append(f"  no difference: {'; '.join(same)}")
    lines.append("  ~: the 95% intervals of the two overlap, so chance may explain the difference")
    for row in table.rows:
        if row.failure is not None:
            lines.append(f"  {row.knob}: {row.change}: cannot run: {row.failure}")
    return "\n".join(lines)


def _shown_row(group: list[Advice], base: Outcome) -> list[str]:
    from penstock.explore.advise import shifts
    from penstock.explore.tables import shift

    first = group[0].outcome
    assert first is not None
    tokens, ttft, tpot = shifts(base, first)
    if base.tpot_ns is not None and first.tpot_ns is not None:
        tpot += _doubt(base.tpot_ns, first.tpot_ns)
    ttft += _doubt(base.ttft_ns, first.ttft_ns)
    joules = "-"
    if base.joules_per_token is not None and first.joules_per_token is not None:
        joules = shift(
            base.joules_per_token,
            first.joules_per_token,
            more_is_better=False,
            shown=lambda value: f"{value:.3f}",
        )
    knobs = " or ".join(dict.fromkeys(row.knob for row in group))
    return [knobs, tokens, ttft, tpot, joules, "; or ".join(row.change for row in group)]


def _doubt(before: Interval, after: Interval) -> str:
    overlap = before.low <= after.high and after.low <= before.high
    return " ~" if overlap and before.estimate != after.estimate else ""


def _is_same(row: Advice) -> bool:
    """Whether nothing would show in the table."""
    return all(gain is None or abs(gain) < 0.0005 for gain in row.gains)


def _plain(table: AdviceTable) -> dict[str, Any]:
    base = table.baseline
    return {
        "baseline": {
            "requests_per_s": base.requests_per_s,
            "generated_tokens_per_s": base.generated_tokens_per_s,
            "ttft_p99_ns": base.ttft_p99_ns,
            "tpot_p99_ns": base.tpot_p99_ns,
            "joules_per_token": base.joules_per_token,
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
    figures = row.outcome.figures if row.outcome is not None else (None, None, None)
    return {
        "knob": row.knob,
        "change": row.change,
        "generated_tokens_per_s": figures[0],
        "ttft_p99_ns": figures[1],
        "tpot_p99_ns": figures[2],
        "joules_per_token": None if row.outcome is None else row.outcome.joules_per_token,
        "gains": gains,
        "failure": row.failure,
    }
