"""The answer to ``penstock size``: one table, what rules the others out, and the files of each deployment."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from penstock.explore.design_point import cluster_config
from penstock.explore.evaluate import Evaluator
from penstock.explore.result import PointResult
from penstock.explore.sizing import Choice, HardwareAnswer, SizeQuestion, total_candidates
from penstock.explore.slo import shown_ns
from penstock.explore.tables import text_table
from penstock.files.writing import all_or_nothing, atomic_write
from penstock.spec.prices import listed_watts
from penstock.workload.writer import lines

HOURS_PER_MONTH = 730


def stem_of(choice: Choice, directory: Path) -> Path:
    """Of a deployment's files: ``H100-2xtp4-pp1``."""
    point = choice.point
    options = f"-seqs{point.max_num_seqs}-tokens{point.max_num_batched_tokens}"
    return directory / f"{point.hardware}-{point.replicas}xtp{point.tp}-pp{point.pp}{options}"


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
                file.writelines(lines(evaluator.offered_load().at(rate, 0, count)))
    return written


def requests_file(choice: Choice, directory: Path) -> Path:
    """The requests of a deployment's run: the same for all whose runs are as long."""
    return directory / f"requests-{choice.at_rate.requests}.jsonl"


def run_command(choice: Choice, directory: Path) -> str:
    """The run behind a row of the table."""
    config = stem_of(choice, directory).with_suffix(".json")
    dataset = requests_file(choice, directory)
    return shlex.join(["penstock", "run", "--cluster-config", str(config), "--dataset", str(dataset)])


def text_report(
    question: SizeQuestion, answers: Sequence[HardwareAnswer], evaluator: Evaluator, directory: Path
) -> str:
    """Everything, for a terminal."""
    thought, ruled_out = total_candidates(answers)
    parts = [
        f"{question.model} at {question.rate_per_s:g} requests/s, {question.slo}",
        f"{thought:,} candidates, {ruled_out:,} of them ruled out by rules, memory and bounds",
        _table(question, answers),
        *(_cannot(question, answer) for answer in answers if not answer.choices),
        _commands(answers, directory),
        _basis(question, answers, evaluator),
    ]
    return "\n\n".join(part for part in parts if part)


def _table(question: SizeQuestion, answers: Sequence[HardwareAnswer]) -> str:
    metrics = list(dict.fromkeys(["ttft_p50", "ttft_p99", "tpot_p50", "tpot_p99"]))
    metrics += [bound.name for bound in question.slo.bounds if bound.name not in metrics]
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
    for choice in sorted(
        _all(answers), key=lambda one: (_usd_per_hour(question, one) or 0.0, one.at_rate.gpus)
    ):
        result, usd = choice.at_rate, _usd_per_hour(question, choice)
        watts = listed_watts(choice.point.hardware)
        rows.append(
            [
                choice.point.label,
                f"{result.gpus} of {question.hardware[choice.point.hardware]}",
                "-" if choice.headroom is None else f"{choice.headroom:.0%}",
                *(shown_ns(result.statistics_ns.get(name)) for name in metrics),
                "-" if usd is None else f"{usd:.2f}",
                "-" if usd is None else f"{usd * HOURS_PER_MONTH:,.0f}",
                "-" if result.usd_per_million_tokens is None else f"{result.usd_per_million_tokens:.3f}",
                "-" if watts is None else f"{watts * result.gpus:,.0f}",
                "-" if result.joules_per_token is None else f"{result.joules_per_token:.3f}",
                f"{result.limiting_metric or '-'}: {result.limiting_cause or '-'}",
            ]
        )
    return text_table(rows, left=(0,)) if len(rows) > 1 else "no deployment holds it"


def _all(answers: Sequence[HardwareAnswer]) -> list[Choice]:
    return [choice for answer in answers for choice in answer.choices]


def _usd_per_hour(question: SizeQuestion, choice: Choice) -> float | None:
    usd = question.prices.get(choice.point.hardware)
    return None if usd is None else usd * choice.at_rate.gpus


def _cannot(question: SizeQuestion, answer: HardwareAnswer) -> str:
    """Why a hardware has no row, and how many GPUs would do."""
    text = f"{answer.available} {answer.hardware} cannot:"
    if answer.needs_at_least is None:
        reasons = "; ".join(answer.reasons[:3]) or "no cut of the model can run"
        return f"{text} no number of them can: {reasons}"
    lines_ = [text]
    if answer.needs_at_least > answer.available:
        lines_[0] += (
            f" by data sheet alone {question.rate_per_s:g} requests/s take {answer.needs_at_least} GPUs or more"
        )
    if answer.would_need is not None:
        gpus, label = answer.would_need
        lines_.append(f"  about {gpus} would: {label}, by a first look at one replica")
    lines_ += [f"  {reason}" for reason in dict.fromkeys(answer.reasons[-3:])]
    return "\n".join(lines_)


def _commands(answers: Sequence[HardwareAnswer], directory: Path) -> str:
    best = [answer.choices[0] for answer in answers if answer.choices]
    return (
        "\n".join(["the best of each, in full:", *(f"  {run_command(one, directory)}" for one in best)])
        if best
        else ""
    )


def _basis(question: SizeQuestion, answers: Sequence[HardwareAnswer], evaluator: Evaluator) -> str:
    results: list[PointResult] = [choice.at_rate for choice in _all(answers)]
    statements = list(dict.fromkeys(line for result in results for line in result.basis))
    told = [f"rests on: {line}" for line in statements]
    if results:
        longest = max(result.requests or 0 for result in results)
        how = evaluator.offered_load().how(longest)
        told.append(f"measured: up to {longest:,} requests a run ({how}), between warm-up and drain")
        unsure = [result.point.label for result in results if result.why_wide]
        told += [f"note: {label} is not sure to hold it after runs as long as allowed" for label in unsure]
    prices = [f"{label} {usd:g}" for label, usd in question.prices.items()]
    if prices:
        told.append(
            f"prices: US dollars per GPU and hour, {', '.join(prices)}; a month is {HOURS_PER_MONTH} hours"
        )
    if any(listed_watts(label) for label in question.hardware):
        told.append("watts: the makers' maximum board power of the GPUs alone")
    return "\n".join(told)


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
                "candidates": answer.candidates,
                "ruled_out": answer.ruled_out,
                "needs_at_least": answer.needs_at_least,
                "would_need": answer.would_need,
                "reasons": answer.reasons,
                "choices": [
                    {
                        **choice.point.to_json(),
                        "gpus": choice.at_rate.gpus,
                        "headroom": choice.headroom,
                        "usd_per_hour": _usd_per_hour(question, choice),
                        "usd_per_million_tokens": choice.at_rate.usd_per_million_tokens,
                        "joules_per_token": choice.at_rate.joules_per_token,
                        "statistics_ns": dict(choice.at_rate.statistics_ns),
                        "limited_by": choice.at_rate.limiting_text,
                    }
                    for choice in answer.choices
                ],
            }
            for answer in answers
        ],
    }
