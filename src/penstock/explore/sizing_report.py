"""The answer to ``penstock size``: one table, what rules the others out, and the files of each deployment."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from penstock.explore.design_point import DesignPoint, cluster_config
from penstock.explore.evaluate import Evaluator
from penstock.explore.result import PointResult
from penstock.explore.sizing import OBJECTIVES, Choice, HardwareAnswer, SizeQuestion, total_candidates
from penstock.explore.slo import shown_ns
from penstock.explore.tables import text_table
from penstock.files.writing import all_or_nothing, atomic_write
from penstock.rendering.statements import rests_on
from penstock.spec.prices import listed_watts
from penstock.workload.writer import lines

HOURS_PER_MONTH = 730

UNSURE = " ?"
"""Behind a deployment that holds by its estimates, and is not sure to."""


def stem_of(choice: Choice, directory: Path) -> Path:
    """Of a deployment's files: ``H100-2xtp4-pp1``."""
    point = choice.point
    prefill = point.prefill_pool
    apart = f"-prefill-{prefill.replicas}xtp{prefill.tp}-pp{prefill.pp}" if prefill is not None else ""
    ranks = f"-dp{point.dp}" if point.dp > 1 else ""
    options = f"-seqs{point.max_num_seqs}-tokens{point.max_num_batched_tokens}"
    return directory / f"{point.hardware}-{point.replicas}xtp{point.tp}-pp{point.pp}{ranks}{apart}{options}"


def write_choices(answers: Sequence[HardwareAnswer], evaluator: Evaluator, directory: Path) -> list[Path]:
    """A cluster config for every deployment, and the requests that all of them served; all files or none.

    Raises:
        UserError: a file cannot be written.
    """
    with all_or_nothing():
        return _write_choices(answers, evaluator, directory)


def _write_choices(answers: Sequence[HardwareAnswer], evaluator: Evaluator, directory: Path) -> list[Path]:
    written: list[Path] = []
    for choice in (choice for answer in answers for choice in answer.choices):
        written.append(stem_of(choice, directory).with_suffix(".json"))
        with atomic_write(written[-1]) as file:
            json.dump(cluster_config(choice.point, evaluator.site), file, indent=2)
            file.write("\n")
        count = choice.at_rate.requests
        path = requests_file(choice, directory)
        if path not in written:
            written.append(path)
            rate = choice.at_rate.rate_per_s or 1.0
            with atomic_write(path) as file:
                file.writelines(lines(evaluator.offered_load.at(rate, 0, count)))
    return written


def requests_file(choice: Choice, directory: Path) -> Path:
    """The requests of a deployment's run: the same for all whose runs are as long."""
    return directory / f"requests-{choice.at_rate.requests}.jsonl"


def run_command(question: SizeQuestion, choice: Choice, directory: Path) -> str:
    """The run behind a row of the table."""
    config = stem_of(choice, directory).with_suffix(".json")
    dataset = requests_file(choice, directory)
    parts = ["penstock", "run", "--cluster-config", str(config), "--dataset", str(dataset)]
    if question.profile_root is not None:
        parts += ["--profile-root", question.profile_root]
    return shlex.join(parts)


def text_report(
    question: SizeQuestion, answers: Sequence[HardwareAnswer], evaluator: Evaluator, directory: Path
) -> str:
    """Everything, for a terminal."""
    thought, ruled_out = total_candidates(answers)
    choices = in_order(question, answers)
    fitting = [choice for choice in choices if choice.fits]
    larger = [choice for choice in choices if not choice.fits]
    parts = [
        f"{question.model} at {question.rate_per_s:g} requests/s, {question.slo}",
        f"{thought:,} candidates, {ruled_out:,} of them ruled out by rules, memory and bounds"
        + _set_aside(answers),
        _table(question, fitting) if fitting else "no deployment holds it on the GPUs that there are",
        *(cannot(question, answer) for answer in answers if not answer.fits),
        f"what would do, with more GPUs:\n\n{_table(question, larger)}" if larger else "",
        "\n".join(doubts(question, answers)),
        _commands(question, answers, directory),
        rests_on(basis_lines(question, answers, evaluator)),
    ]
    return "\n\n".join(part for part in parts if part)


def doubts(question: SizeQuestion, answers: Sequence[HardwareAnswer]) -> list[str]:
    """A line for each deployment that is not sure to hold: why, and which larger one of its cut is."""
    lines: list[str] = []
    for choice in (one for one in in_order(question, answers) if not one.sure):
        line = f"{choice.point.label}{UNSURE} is {choice.at_rate.why_wide}"
        if choice.safe is not None:
            line += f"; {_pools(choice.safe.point)}, on {choice.safe.gpus} GPUs, holds for sure"
        lines.append(line)
    return lines


def _set_aside(answers: Sequence[HardwareAnswer]) -> str:
    cuts = sum(answer.set_aside for answer in answers)
    return (
        f"; {cuts} cuts not simulated, as by estimate they need more GPUs than those that were"
        if cuts
        else ""
    )


def _table(question: SizeQuestion, choices: Sequence[Choice]) -> str:
    metrics = metrics_of(question)
    head = [
        "deployment",
        "GPUs",
        "headroom",
        *metrics,
        "$/hour",
        "$/month",
        "$/M tokens",
        "GPU watts",
        "J/token",
    ]
    rows = [[*head, "limited by"]]
    for choice in choices:
        result, usd = choice.at_rate, usd_per_hour(question, choice)
        watts = listed_watts(choice.point.hardware)
        rows.append(
            [
                choice.point.label + ("" if choice.sure else UNSURE),
                f"{result.gpus} of {question.hardware[choice.point.hardware]}",
                "-" if choice.headroom is None else f"{choice.headroom:.0%}",
                *(shown_ns(result.statistics_ns.get(name)) for name in metrics),
                "-" if usd is None else f"{usd:.2f}",
                "-" if usd is None else f"{usd * HOURS_PER_MONTH:,.0f}",
                "-" if result.usd_per_million_tokens is None else f"{result.usd_per_million_tokens:.3f}",
                "-" if watts is None else f"{watts * result.gpus:,.0f}",
                "-" if result.joules_per_token is None else f"{result.joules_per_token:.3f}",
                limit_of(choice),
            ]
        )
    return text_table(rows, left=(0,))


def metrics_of(question: SizeQuestion) -> list[str]:
    """The latencies that are shown: the usual ones, then those of the SLO."""
    bounds = (bound.name for bound in question.slo.bounds)
    return list(dict.fromkeys(["ttft_p50", "ttft_p99", "tpot_p50", "tpot_p99", *bounds]))


def in_order(question: SizeQuestion, answers: Sequence[HardwareAnswer]) -> list[Choice]:
    """All choices: those that the GPUs suffice for first, the best by the objective first among each; the cheapest
    where the objective is GPUs."""

    def order(choice: Choice) -> tuple[bool, float, float]:
        if question.objective != "gpus":
            return not choice.fits, *OBJECTIVES[question.objective](choice.at_rate)
        return not choice.fits, usd_per_hour(question, choice) or 0.0, choice.at_rate.gpus

    return sorted(_all(answers), key=order)


def limit_of(choice: Choice) -> str:
    """What breaks first as the load grows, and why."""
    edge = choice.edge
    return "-" if edge is None else f"{edge.limiting_metric or '-'}: {edge.limiting_cause or '-'}"


def _all(answers: Sequence[HardwareAnswer]) -> list[Choice]:
    return [choice for answer in answers for choice in answer.choices]


def usd_per_hour(question: SizeQuestion, choice: Choice) -> float | None:
    """None where a price is missing."""
    return choice.point.usd_per_hour(question.prices)


def cannot(question: SizeQuestion, answer: HardwareAnswer) -> str:
    """Why a hardware has no row, and how many GPUs would do."""
    text = f"{answer.available} {answer.hardware} cannot:"
    reasons = [f"  {reason}" for reason in _told(answer)]
    if answer.choices:
        best = answer.choices[0]
        text += f" {question.rate_per_s:g} requests/s take {best.at_rate.gpus}, as {_pools(best.point)}"
        least = answer.cuts.needs_at_least
        if least is not None and least > answer.available:
            text += f"; by data sheet alone {least} or more"
        return text
    return "\n".join([f"{text} no number of them would", *(reasons or ["  no cut of the model can run"])])


def _pools(point: DesignPoint) -> str:
    """``decode 2 x TP4 + prefill 3 x TP2``, or ``4 x TP4``."""
    prefill = point.prefill_pool
    return point.pool.label if prefill is None else f"decode {point.pool.label} + prefill {prefill.label}"


def _told(answer: HardwareAnswer) -> list[str]:
    """The reasons of the cuts that were simulated, else of those that were not; a few, each once."""
    return list(dict.fromkeys(answer.reasons or answer.cuts.reasons))[:3]


def _commands(question: SizeQuestion, answers: Sequence[HardwareAnswer], directory: Path) -> str:
    best = [answer.choices[0] for answer in answers if answer.choices]
    return (
        "\n".join(
            ["the best of each, in full:", *(f"  {run_command(question, one, directory)}" for one in best)]
        )
        if best
        else ""
    )


def basis_lines(question: SizeQuestion, answers: Sequence[HardwareAnswer], evaluator: Evaluator) -> list[str]:
    """What the figures rest on, how they were measured, and what prices and watts are."""
    results: list[PointResult] = [choice.at_rate for choice in _all(answers)]
    statements = list(dict.fromkeys(line for result in results for line in result.basis))
    told = statements
    if results:
        longest = max(result.requests or 0 for result in results)
        how = evaluator.offered_load.how(longest)
        runs = max(len(result.trials) for result in results)
        several = f", up to {runs} runs" if runs > 1 else ""
        told.append(f"measured: up to {longest:,} requests a run ({how}){several}, between warm-up and drain")
        sure = all(choice.sure for choice in _all(answers))
        which = "all of them" if sure else f"those without{UNSURE}"
        told.append(f"{which} hold it at the upper ends of their 95% intervals")
    prices = [f"{label} {usd:g}" for label, usd in question.prices.items()]
    if prices:
        told.append(
            f"prices: US dollars per GPU and hour, {', '.join(prices)}; a month is {HOURS_PER_MONTH} hours"
        )
    if any(listed_watts(label) for label in question.hardware):
        told.append("watts: the makers' maximum board power of the GPUs alone")
    return told


def as_json(question: SizeQuestion, answers: Sequence[HardwareAnswer]) -> dict[str, Any]:
    """The table and the reasons as plain values."""
    return {
        "model": question.model,
        "rate_per_s": question.rate_per_s,
        "slo": str(question.slo),
        "hardware": [
            {
                "hardware": answer.hardware,
                "available": answer.available,
                "candidates": answer.cuts.candidates,
                "ruled_out": answer.cuts.ruled_out,
                "set_aside": answer.set_aside,
                "needs_at_least": answer.cuts.needs_at_least,
                "fits": answer.fits,
                "reasons": _told(answer),
                "choices": [
                    {
                        **choice.point.to_json(),
                        "gpus": choice.at_rate.gpus,
                        "fits": choice.fits,
                        "sure": choice.sure,
                        "not_sure": choice.at_rate.why_wide,
                        "safe": None if choice.safe is None else choice.safe.point.to_json(),
                        "headroom": choice.headroom,
                        "usd_per_hour": usd_per_hour(question, choice),
                        "usd_per_million_tokens": choice.at_rate.usd_per_million_tokens,
                        "joules_per_token": choice.at_rate.joules_per_token,
                        "statistics_ns": dict(choice.at_rate.statistics_ns),
                        "limited_by": None if choice.edge is None else choice.edge.limiting_text,
                    }
                    for choice in answer.choices
                ],
            }
            for answer in answers
        ],
    }
