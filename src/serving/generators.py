"""LLMServingSim's ``workloads.generators``: its options as recipes of ``penstock workload generate``."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

if TYPE_CHECKING:
    from penstock.workload.workload import Workload

POOL = 10_000
"""Requests of the preset from which lengths are drawn, where no file gives them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Which lengths are taken, in tokens; ``together`` limits prompt and answer of a request."""

    least_input: int
    most_input: int
    least_output: int
    most_output: int
    together: int

    def kept(self, workload: Workload) -> Workload:
        """Its requests within the limits, all at 0.

        Raises:
            UserError: there is none.
        """
        from penstock.errors import Problem, UserError
        from penstock.workload.workload import Workload

        inputs, outputs = workload.input_tokens, workload.output_tokens
        fits = (
            (self.least_input <= inputs) & (inputs <= self.most_input) & (inputs + outputs <= self.together)
        )
        fits &= (self.least_output <= outputs) & (outputs <= self.most_output)
        if not fits.any():
            told = (
                f"no request has a prompt of {self.least_input} to {self.most_input} tokens and an answer of "
                f"{self.least_output} to {self.most_output}, together {self.together} at most"
            )
            raise UserError([Problem(workload.source, told)])
        kept_inputs, kept_outputs = inputs[fits].tolist(), outputs[fits].tolist()
        return Workload.from_columns([0] * len(kept_inputs), kept_inputs, kept_outputs, workload.source)


def sharegpt_command(
    *,
    model: Annotated[
        str | None,
        typer.Option(help="Its tokenizer.json, or the directory of it, for --source conversations."),
    ] = None,
    num_reqs: Annotated[int, typer.Option(min=1, help="Requests to write.")],
    sps: Annotated[float, typer.Option(help="Requests per second, Poisson.")],
    output: Annotated[Path, typer.Option(help="JSONL file.")],
    source: Annotated[
        Path | None,
        typer.Option(help="Lengths from ShareGPT conversations (JSON) or any workload file; else a preset."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 42,
    first_arrival_sec: Annotated[float, typer.Option(min=0, max=1e9, help="Of the first request.")] = 0.0,
    min_input_toks: Annotated[int, typer.Option(min=0, help="Shorter prompts are left out.")] = 0,
    max_input_toks: Annotated[int, typer.Option(min=1, help="Longer prompts are left out.")] = 16384,
    min_output_toks: Annotated[int, typer.Option(min=0, help="Shorter answers are left out.")] = 0,
    max_output_toks: Annotated[int, typer.Option(min=1, help="Longer answers are left out.")] = 16384,
    max_kv_toks: Annotated[int, typer.Option(min=2, help="Longer requests are left out.")] = 16384,
    max_sessions: Annotated[int, typer.Option(min=1, help="Conversations of --source that are read.")] = 5000,
    fix_len: Annotated[bool, typer.Option("--fix-len", help="All requests alike.")] = False,
    fix_input_length: Annotated[int, typer.Option(min=1, help="Prompt of --fix-len.")] = 128,
    fix_output_length: Annotated[int, typer.Option(min=1, help="Answer of --fix-len.")] = 512,
    pulse: Annotated[bool, typer.Option("--pulse", help="Requests come in pulses.")] = False,
    pulse_n: Annotated[int, typer.Option(min=1, help="Requests of a pulse.")] = 10,
    pulse_delay_sec: Annotated[
        float, typer.Option(min=0, max=1e9, help="From one pulse to the next.")
    ] = 60.0,
    pulse_poisson: Annotated[
        bool, typer.Option("--pulse-poisson", help="Within a pulse at --sps, not all at once.")
    ] = False,
) -> None:
    """Make a workload with the lengths of chats, and write it as JSON lines."""
    from penstock.files.use import FileUse
    from penstock.files.writing import atomic_write
    from penstock.workload.generate import Recipe, generate
    from penstock.workload.writer import lines

    files = FileUse(reads={"--source": source}, writes={"--output": output})
    files.check()
    if fix_len:
        pool = _alike(fix_input_length, fix_output_length)
    else:
        limits = Limits(
            least_input=min_input_toks,
            most_input=max_input_toks,
            least_output=min_output_toks,
            most_output=max_output_toks,
            together=max_kv_toks,
        )
        pool = limits.kept(_preset(seed) if source is None else _read(source, model, max_sessions))
    workload = generate(Recipe(num_requests=num_reqs, rate_per_s=sps, sample_from=pool, seed=seed))
    pulses = (pulse_n, pulse_delay_sec, pulse_poisson) if pulse else None
    times = _arrivals(workload.arrival_ns.tolist(), first_arrival_sec, pulses)
    files.check()
    with atomic_write(output) as file:
        file.writelines(lines(workload.with_arrivals(times), token_ids=False))
    typer.echo(f"wrote {num_reqs} requests to {output}", err=True)


def _alike(input_tokens: int, output_tokens: int) -> Workload:
    from penstock.workload.workload import Workload

    return Workload.from_columns([0], [input_tokens], [output_tokens], "--fix-len")


def _preset(seed: int) -> Workload:
    """Requests of the preset's lengths."""
    from penstock.workload.generate import PRESETS, Recipe, generate

    chat = PRESETS["sharegpt"]
    typer.echo(f"lengths are drawn, no conversation is read (--source): {chat.basis}", err=True)
    recipe = Recipe(
        num_requests=POOL,
        arrivals="burst",
        input_tokens=chat.input_tokens,
        output_tokens=chat.output_tokens,
        seed=seed,
    )
    return generate(recipe).renamed("sharegpt")


def _read(source: Path, model: str | None, most: int) -> Workload:
    """The lengths of a file: ShareGPT's conversations, or requests of any known format."""
    from penstock.errors import Problem, UserError
    from penstock.server.tokenizer_file import FileTokenizer
    from penstock.workload.formats import load_workload
    from penstock.workload.workload import Workload

    if source.suffix.lower() != ".json":
        return load_workload(source, most)
    if model is None:
        raise UserError(
            [Problem("--model", "conversations are text: give the tokenizer that counts their tokens")]
        )
    tokenizer = FileTokenizer(model, "--model")
    inputs: list[int] = []
    outputs: list[int] = []
    for prompt, answer in _exchanges(source):
        counts = [len(tokenizer.encode(text)) for text in (prompt, answer)]
        if all(counts):
            inputs.append(counts[0])
            outputs.append(counts[1])
        if len(inputs) == most:
            break
    return Workload.from_columns([0] * len(inputs), inputs, outputs, str(source))


def _exchanges(source: Path) -> Iterator[tuple[str, str]]:
    """First prompt and first answer of each conversation that has both, as vLLM's benchmark takes them.

    Raises:
        UserError: the file is no list of conversations.
    """
    from penstock.errors import Problem, UserError
    from penstock.files.json_text import load_json

    data: Any = load_json(source)
    if not isinstance(data, list):
        raise UserError([Problem(str(source), "is no list of conversations, as ShareGPT's file")])
    for place, entry in enumerate(cast("list[Any]", data)):
        turns: Any = cast("dict[str, Any]", entry).get("conversations") if isinstance(entry, dict) else None
        if not isinstance(turns, list):
            raise UserError([Problem(f"{source} [{place}]", "has no conversations")])
        texts = [
            cast("dict[str, Any]", turn).get("value") if isinstance(turn, dict) else None
            for turn in cast("list[Any]", turns)[:2]
        ]
        if len(texts) == 2 and all(isinstance(text, str) for text in texts):
            yield cast("str", texts[0]), cast("str", texts[1])


def _arrivals(times: list[int], first_s: float, pulses: tuple[int, float, bool] | None) -> array[int]:
    """The first comes at ``first_s``; pulses are (requests, seconds from one to the next, spread as drawn)."""
    from penstock.units import NS_PER_S

    begin = round(first_s * NS_PER_S)
    if pulses is None:
        return array("q", (begin + time - times[0] for time in times))
    count, delay_s, is_spread = pulses
    arrivals = array("q")
    for number, time in enumerate(times):
        pulse = number // count
        within = time - times[pulse * count] if is_spread else 0
        arrivals.append(begin + round(pulse * delay_s * NS_PER_S) + within)
    return arrivals
