"""LLMServingSim's ``profiler``: its options as those of ``penstock profile run``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from penstock.errors import Problem, UserError

SLICE_REFUSED = (
    "a bundle is measured as a whole, so no single category is measured anew: llmservingsim profiler profile"
)


def profile_command(
    model: Annotated[str, typer.Argument(help="Model name, or a Hugging Face config.json.")],
    *,
    hardware: Annotated[str, typer.Option(help="Label to write the bundle under.")],
    tp: Annotated[str, typer.Option(help="Degrees, such as 1,2,4.")] = "1",
    variant: Annotated[str | None, typer.Option(help="Name of the bundle; must be the dtype's.")] = None,
    dtype: Annotated[str, typer.Option(help="bfloat16, float16 or float32.")] = "bfloat16",
    kv_cache_dtype: Annotated[str, typer.Option(help="auto: as the dtype.")] = "auto",
    max_num_batched_tokens: Annotated[int, typer.Option(min=16, help="Largest step.")] = 2048,
    max_num_seqs: Annotated[int, typer.Option(min=1, help="Largest batch of decodes.")] = 256,
    attention_max_kv: Annotated[int, typer.Option(min=16, help="Longest context.")] = 16384,
    attention_chunk_factor: Annotated[float, typer.Option(min=1.3, help="From one chunk to the next.")] = 2.0,
    attention_kv_factor: Annotated[float, typer.Option(min=1.3, help="Must be the same.")] = 2.0,
    measurement_iterations: Annotated[
        int, typer.Option(min=1, help="Measurements of which the median counts.")
    ] = 3,
    skip_skew: Annotated[
        bool, typer.Option("--skip-skew", help="No effect: skews are not measured.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Measure although the bundle is there.")] = False,
    out_root: Annotated[Path, typer.Option(help="Profile root.")] = Path("profiler/perf"),
    model_config_root: Annotated[
        Path | None, typer.Option(help="Directory with MODEL.json; the known models besides.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cuda",
    silent: Annotated[bool, typer.Option("--silent", help="Say nothing while it measures.")] = False,
) -> None:
    """Measure a model's kernels with PyTorch and write the bundle."""
    from penstock.profiling.calibration_run import named_model
    from penstock.profiling.profiler import VARIANTS, ProfileJob, parse_degrees, run_profile

    problems: list[Problem] = []
    if kv_cache_dtype != "auto":
        problems.append(
            Problem("--kv-cache-dtype", f"is auto, not {kv_cache_dtype}: PyTorch's attention has no other")
        )
    if attention_chunk_factor != attention_kv_factor:
        problems.append(
            Problem("--attention-kv-factor", "must be --attention-chunk-factor: one grid has one factor")
        )
    if variant is not None and variant != VARIANTS.get(dtype, variant):
        problems.append(Problem("--variant", f"{dtype} is measured as '{VARIANTS[dtype]}', not '{variant}'"))
    if problems:
        raise UserError(problems)
    job = ProfileJob(
        hardware=hardware,
        model=named_model(_config_under(model_config_root, model)),
        tp_sizes=parse_degrees(tp),
        device=device,
        dtype=dtype,
        max_tokens=max_num_batched_tokens,
        max_sequences=max_num_seqs,
        max_context=attention_max_kv,
        factor=math.sqrt(attention_chunk_factor),  # attention goes up by its square
        repeats=measurement_iterations,
    )
    if not force and job.directory(out_root).exists():
        raise UserError(
            [Problem("--out-root", f"{job.directory(out_root)} is there already: --force measures anew")]
        )
    if not skip_skew:
        typer.echo("skews are not measured: --skip-skew", err=True)
    wrote = run_profile(job, out_root, lambda line: None if silent else typer.echo(line, err=True))
    typer.echo(f"wrote {wrote}")


def slice_command() -> None:
    """Refused: bundles are measured as a whole."""
    raise UserError(SLICE_REFUSED)


def _config_under(root: Path | None, model: str) -> str:
    """The model's file under the root where it is there, else the model as it is called."""
    file = None if root is None else root / f"{model}.json"
    return str(file) if file is not None and file.is_file() else model
