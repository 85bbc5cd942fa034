"""A question of size from options to text and files."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from penstock.cli.progress import progress_line
from penstock.errors import Problem, UserError, nearest
from penstock.explore.pool import Executor, InProcess, LocalPool
from penstock.explore.result import PointResult
from penstock.explore.size_evaluate import SizeJob
from penstock.explore.sizing import OBJECTIVES, SizeQuestion, size
from penstock.explore.sizing_report import as_json, text_report, write_choices
from penstock.explore.slo import Slo, check_priorities, parse_slo
from penstock.files.place import Place
from penstock.files.use import FileUse
from penstock.files.writing import all_or_nothing, atomic_write
from penstock.spec.hardware import find_hardware, hardware_labels
from penstock.spec.model_files import ModelLibrary, load_model
from penstock.spec.prices import find_price, listed_prices
from penstock.workload.formats import load_workload
from penstock.workload.generate import PRESETS, Recipe, generate
from penstock.workload.offered_load import Arrivals, check_arrivals
from penstock.workload.workload import Workload

CHAT = "chat"
CHAT_PRESET = "sharegpt"
CHAT_REQUESTS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeOptions:
    """The command line's."""

    model: str
    rate: float
    slo: str
    hardware: str
    workload: str
    arrivals: str
    burstiness: float
    gpus_per_node: int
    prices: Sequence[str]
    objective: str
    max_requests: int
    output: Path
    report: Path | None
    workers: int
    profile_root: str | None
    as_json: bool


def run_size(options: SizeOptions) -> None:
    """Check everything, answer, write.

    Raises:
        UserError: mistakes in the options.
    """
    question = _question(options)

    def make_executor(evaluate: Callable[[SizeJob], PointResult]) -> Executor[SizeJob, PointResult]:
        return InProcess(evaluate) if options.workers == 1 else LocalPool(evaluate, options.workers)

    tell = progress_line()
    answers, evaluator = size(question, make_executor, tell)
    tell("")
    with all_or_nothing():
        written = write_choices(answers, evaluator, options.output)
        if options.report is not None:
            from penstock.explore.sizing_page import sizing_page

            with atomic_write(options.report) as file:
                file.write(sizing_page(question, answers, evaluator, options.output))
    if options.as_json:
        typer.echo(json.dumps(as_json(question, answers), indent=2))
    else:
        typer.echo(text_report(question, answers, evaluator, options.output))
    if written:
        typer.echo(f"wrote {len(written)} files to {options.output}", err=True)
    if options.report is not None:
        typer.echo(f"wrote {options.report}", err=True)


def _question(options: SizeOptions) -> SizeQuestion:
    problems: list[Problem] = []
    hardware = _hardware(options.hardware, problems)
    prices = _prices(options.prices, list(hardware), problems)
    slo: Slo | None = None
    workload: Workload | None = None
    recipe: Recipe | None = None
    arrivals = Arrivals(options.arrivals, options.burstiness)
    try:
        slo = parse_slo(options.slo)
    except UserError as error:
        problems += error.problems
    try:
        workload, recipe = _workload(options.workload)
        check_arrivals(arrivals, workload)
        if slo is not None:
            check_priorities(slo, workload)
    except UserError as error:
        problems += error.problems
    load_model(options.model, ModelLibrary.near(None), None, Place("--model"), problems)
    if not 1e-6 <= options.rate <= 1e9:
        problems.append(Problem("--rate", "must be a number from 1e-6 to 1e9, requests per second"))
    if options.objective not in OBJECTIVES:
        known = f"{nearest(options.objective, OBJECTIVES)} ({', '.join(OBJECTIVES)})"
        problems.append(Problem("--objective", f"unknown objective '{options.objective}'{known}"))
    # Its files are named after what is found; one of them stands for the directory.
    reads = {"--workload": None if workload is None or recipe is not None else options.workload}
    writes = {"--output": options.output / "requests.jsonl", "--report": options.report}
    problems += FileUse(reads=reads, writes=writes).problems()
    if options.profile_root is not None and not Path(options.profile_root).is_dir():
        problems.append(Problem("--profile-root", f"{options.profile_root} is not a directory"))
    if problems or slo is None or workload is None:
        raise UserError(problems)
    return SizeQuestion(
        model=options.model,
        rate_per_s=options.rate,
        slo=slo,
        hardware=hardware,
        workload=workload,
        recipe=recipe,
        arrivals=arrivals,
        prices=prices,
        gpus_per_node=options.gpus_per_node,
        requests=min(1000, options.max_requests),
        max_requests=options.max_requests,
        profile_root=options.profile_root,
        objective=options.objective,
    )


def _hardware(text: str, problems: list[Problem]) -> dict[str, int]:
    """``H100:8,L4:16``; a label without a number is one node of eight."""
    found: dict[str, int] = {}
    for part in text.split(","):
        label, colon, number = part.strip().partition(":")
        entry = find_hardware(label)
        if entry is None:
            hint = nearest(label, hardware_labels())
            problems.append(Problem("--hardware", f"unknown hardware '{label}'{hint}"))
        elif colon and not (number.isdigit() and int(number) >= 1):
            problems.append(Problem("--hardware", f"'{part.strip()}' is not LABEL:GPUS, as H100:8"))
        elif entry.label in found:
            problems.append(Problem("--hardware", f"names {entry.label} twice"))
        else:
            found[entry.label] = int(number) if colon else 8
    return found


def _prices(given: Sequence[str], labels: Sequence[str], problems: list[Problem]) -> dict[str, float]:
    own: dict[str, float] = {}
    for text in given:
        label, equals, usd = text.partition("=")
        try:
            own[label] = float(usd)
        except ValueError:
            equals = ""
        if not equals or find_hardware(label) is None or not 0 < own[label] < 1e6:
            problems.append(Problem("--price", f"'{text}' is not LABEL=USD, as H100=2.5"))
    listed = listed_prices()
    found = {label: find_price(label, own, listed) for label in labels}
    return {label: price.usd_per_hour for label, price in found.items() if price is not None}


def _workload(text: str) -> tuple[Workload, Recipe | None]:
    """A preset by name, or a file."""
    preset = PRESETS.get(CHAT_PRESET if text == CHAT else text)
    if preset is None:
        if not Path(text).exists():
            known = (CHAT, *PRESETS)
            message = f"'{text}' is neither a file nor one of {', '.join(known)}{nearest(text, known)}"
            raise UserError([Problem("--workload", message)])
        return load_workload(text, 0), None
    recipe = Recipe(
        num_requests=CHAT_REQUESTS, input_tokens=preset.input_tokens, output_tokens=preset.output_tokens
    )
    return generate(recipe), recipe
