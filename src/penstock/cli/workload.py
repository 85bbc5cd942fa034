"""``penstock workload``: generate, inspect and convert workload files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from penstock.cli.registry import GuardedCommand, GuardedGroup

if TYPE_CHECKING:
    from penstock.files.use import FileUse
    from penstock.workload.generate import Preset
    from penstock.workload.lengths import Lengths
    from penstock.workload.mix import Part
    from penstock.workload.workload import Workload

app = typer.Typer(
    cls=GuardedGroup,
    help="Generate, inspect and convert workload files.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

_LENGTHS = (
    "fixed:N | uniform:LOW,HIGH | lognormal:MEAN[,CV] | zipf:LOW,HIGH[,THETA] (or zipf:LOW,HIGH,mean=M)"
)


@app.command("generate", cls=GuardedCommand)
def generate_command(
    *,
    num_requests: Annotated[int, typer.Option("--num-requests", "-n", help="A session counts as one.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSONL file; default stdout.")] = None,
    arrivals: Annotated[
        str, typer.Option(help="poisson | gamma | constant | mmpp | burst (all at 0).")
    ] = "poisson",
    rate: Annotated[float, typer.Option(help="Requests per second of simulated time.")] = 1.0,
    burstiness: Annotated[float, typer.Option(help="Shape of gamma arrivals; cv = burstiness^-0.5.")] = 1.0,
    bursts: Annotated[
        str, typer.Option(help="Of mmpp: FACTOR,SHARE,SECONDS: how much, how much of the time, how long.")
    ] = "4,0.1,30",
    rate_curve: Annotated[
        str | None,
        typer.Option(help="day[:SECONDS] | ramp:FROM,TO | points:T,F;T,F;...: the rate over time."),
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Lengths by name: sharegpt.")] = None,
    input_toks: Annotated[str | None, typer.Option(help=_LENGTHS)] = None,
    output_toks: Annotated[str | None, typer.Option(help="The same kinds.")] = None,
    lengths_from: Annotated[
        Path | None, typer.Option(help="Draw (input, output) pairs from a workload file of any known format.")
    ] = None,
    max_input: Annotated[int | None, typer.Option(help="Cut longer prompts, prefix included.")] = None,
    max_output: Annotated[int | None, typer.Option(help="Cut longer answers.")] = None,
    prefix_groups: Annotated[int, typer.Option(help="Groups of requests that share a prefix.")] = 0,
    prefix_tokens: Annotated[int, typer.Option(help="Tokens of the shared prefix, before the prompt.")] = 0,
    token_ids: Annotated[bool, typer.Option("--token-ids", help="Write random token ids.")] = False,
    turns: Annotated[str | None, typer.Option(help="Make sessions of so many calls: N or a kind.")] = None,
    tool_duration_ms: Annotated[float, typer.Option(help="Between a session's calls.")] = 0.0,
    priorities: Annotated[
        str | None, typer.Option(help="Shares by priority, lower is more urgent: 0:20,5:80 [all 0].")
    ] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 0,
) -> None:
    """Make a workload: arrivals x lengths, from a seed."""
    from penstock.workload.generate import Recipe, generate
    from penstock.workload.lengths import parse_lengths
    from penstock.workload.priorities import parse_priorities
    from penstock.workload.traffic import parse_bursts, parse_curve

    files = _files({"--lengths-from": lengths_from}, output)
    chosen = _preset(preset)
    recipe = Recipe(
        num_requests=num_requests,
        arrivals=arrivals,
        rate_per_s=rate,
        burstiness=burstiness,
        bursts=parse_bursts(bursts),
        curve=parse_curve(rate_curve) if rate_curve is not None else None,
        input_tokens=_lengths(input_toks, "--input-toks", chosen.input_tokens if chosen else None),
        output_tokens=_lengths(output_toks, "--output-toks", chosen.output_tokens if chosen else None),
        sample_from=_load(lengths_from) if lengths_from else None,
        max_input=max_input,
        max_output=max_output,
        prefix_groups=prefix_groups,
        prefix_tokens=prefix_tokens,
        token_ids=token_ids,
        turns=parse_lengths(f"fixed:{turns}" if turns.isdigit() else turns, "--turns") if turns else None,
        tool_duration_ns=_ns_of_ms(tool_duration_ms),
        priorities=parse_priorities(priorities, "--priorities") if priorities is not None else None,
        seed=seed,
    )
    files.check()
    _write(generate(recipe), output, token_ids=True)


@app.command("mix", cls=GuardedCommand)
def mix_command(
    *,
    part: Annotated[list[str], typer.Option(help="FILE:SHARE[:PRIORITY], several times.")],
    num_requests: Annotated[int, typer.Option("--num-requests", "-n", min=1, help="Of all parts together.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSONL file; default stdout.")] = None,
    arrivals: Annotated[str, typer.Option(help="poisson | gamma | constant | mmpp | burst.")] = "poisson",
    rate: Annotated[float, typer.Option(help="Requests per second of all parts together.")] = 1.0,
    burstiness: Annotated[float, typer.Option(help="Shape of gamma arrivals.")] = 1.0,
    bursts: Annotated[str, typer.Option(help="Of mmpp: FACTOR,SHARE,SECONDS.")] = "4,0.1,30",
    rate_curve: Annotated[str | None, typer.Option(help="As generate.")] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 0,
) -> None:
    """Mix workloads by shares, each with a priority of its own."""
    from penstock.workload.generate import Recipe, generate
    from penstock.workload.lengths import Lengths
    from penstock.workload.mix import mixed
    from penstock.workload.traffic import parse_bursts, parse_curve

    files = _files({}, output)
    one = Lengths("fixed", {"tokens": 1})
    times = generate(
        Recipe(
            num_requests=num_requests,
            arrivals=arrivals,
            rate_per_s=rate,
            burstiness=burstiness,
            bursts=parse_bursts(bursts),
            curve=parse_curve(rate_curve) if rate_curve is not None else None,
            input_tokens=one,
            output_tokens=one,
            seed=seed,
        )
    )
    mix = mixed([_part(text) for text in part], times.arrival_ns.tolist(), seed)
    files.check()
    _write(mix, output, token_ids=True)


@app.command("info", cls=GuardedCommand)
def info_command(
    dataset: Annotated[Path, typer.Argument(help="A workload file of any known format.")],
    num_reqs: Annotated[int, typer.Option(help="Only the first so many; 0 is all.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Say what a workload file holds."""
    from penstock.workload.describe import describe, table

    facts = describe(_load(dataset, num_reqs))
    typer.echo(json.dumps(facts, indent=2) if as_json else table(facts))


@app.command("convert", cls=GuardedCommand)
def convert_command(
    dataset: Annotated[Path, typer.Argument(help="A workload file of any known format.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSONL file; default stdout.")] = None,
    num_reqs: Annotated[int, typer.Option(help="Only the first so many; 0 is all.")] = 0,
    token_ids: Annotated[bool, typer.Option(help="Keep token ids (Mooncake's become long lists).")] = True,
) -> None:
    """Rewrite a workload as LLMServingSim JSONL, by arrival."""
    _files({"DATASET": dataset}, output)
    _write(_load(dataset, num_reqs), output, token_ids=token_ids)


def _files(reads: dict[str, Path | None], output: Path | None) -> FileUse:
    """The files of a command, checked."""
    from penstock.files.use import FileUse

    files = FileUse(reads=reads, writes={"--output": output})
    files.check()
    return files


def _part(text: str) -> Part:
    """``FILE:SHARE[:PRIORITY]``; colons in the file's name are its own."""
    from penstock.errors import Problem, UserError
    from penstock.workload.mix import Part

    pieces = text.rsplit(":", 2)
    if len(pieces) == 3 and not _is_number(pieces[1]):
        pieces = [":".join(pieces[:2]), pieces[2]]
    whole = len(pieces) < 3 or pieces[2].lstrip("-").isdigit()
    if len(pieces) < 2 or not _is_number(pieces[1]) or not whole:
        raise UserError([Problem("--part", f"'{text}' is not FILE:SHARE[:PRIORITY], as chat.jsonl:0.7:0")])
    return Part(_load(Path(pieces[0])), float(pieces[1]), int(pieces[2]) if len(pieces) == 3 else None)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _load(path: Path, num_requests: int = 0) -> Workload:
    from penstock.workload.formats import load_workload

    return load_workload(path, num_requests)


def _write(workload: Workload, output: Path | None, *, token_ids: bool) -> None:
    from penstock.files.writing import atomic_write
    from penstock.workload.writer import lines

    if output is None:
        sys.stdout.writelines(lines(workload, token_ids=token_ids))
        return
    with atomic_write(output) as file:
        file.writelines(lines(workload, token_ids=token_ids))
    typer.echo(f"wrote {len(workload)} requests to {output}", err=True)


def _ns_of_ms(milliseconds: float) -> int:
    """In whole nanoseconds; what is no time is -1, which is refused with the rest."""
    nanoseconds = milliseconds * 1e6
    return round(nanoseconds) if 0 <= nanoseconds < 2**63 else -1


def _preset(name: str | None) -> Preset | None:
    from penstock.errors import Problem, UserError, nearest
    from penstock.workload.generate import PRESETS

    if name is None:
        return None
    if name not in PRESETS:
        known = f"{nearest(name, PRESETS)} ({', '.join(PRESETS)})"
        raise UserError([Problem("--preset", f"unknown preset '{name}'{known}")])
    return PRESETS[name]


def _lengths(text: str | None, option: str, default: Lengths | None) -> Lengths | None:
    from penstock.workload.lengths import parse_lengths

    return parse_lengths(text, option) if text is not None else default
