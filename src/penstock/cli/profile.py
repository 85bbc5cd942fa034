"""``penstock profile``: fit, import and measure kernel profiles."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from penstock.cli.registry import GuardedCommand, GuardedGroup

app = typer.Typer(
    cls=GuardedGroup,
    help="Fit, import or measure kernel profiles.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

_Bundle = Annotated[Path, typer.Argument(help="A bundle: <root>/<hardware>/<model>/<variant>.")]


@app.command("fit", cls=GuardedCommand)
def fit_command(
    bundle: _Bundle,
    *,
    output: Annotated[Path, typer.Option("-o", "--output", help="Write the fit here (JSON).")],
    source: Annotated[
        str | None, typer.Option(help="Where the measurements come from, for the record.")
    ] = None,
    hardware: Annotated[str | None, typer.Option(help="Label; default from the path or meta.yaml.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Model, by name or config.json; default from the path or meta.yaml.")
    ] = None,
) -> None:
    """Fit a compact model to a measured bundle and print its errors by kernel."""
    from penstock.files.document import understood
    from penstock.files.use import FileUse
    from penstock.profiling.calibration_run import named_model
    from penstock.profiling.fit import fit_bundle, fit_report, write_fit
    from penstock.profiling.meta import bundle_identity

    files = FileUse(reads={"BUNDLE": bundle / "meta.yaml"}, writes={"--output": output})
    files.check()
    identity = bundle_identity(bundle, hardware=hardware, model=model)
    with understood(str(bundle), "cannot be fitted"):
        result = fit_bundle(
            bundle,
            hardware=identity.hardware,
            model=named_model(identity.model),
            variant=identity.variant,
            source=source or f"the profile {bundle}",
        )
    files.check()
    write_fit(result, output)
    typer.echo(fit_report(result))
    typer.echo(f"wrote {output}", err=True)


@app.command("import", cls=GuardedCommand)
def import_command(
    source: Annotated[
        str,
        typer.Argument(
            help="LLMServingSim's old layout (with tp<N>/layers.csv), Vidur's mlp.csv, or the word aiconfigurator: the "
            "tables of the installed extra."
        ),
    ],
    *,
    output: Annotated[Path, typer.Option("-o", "--output", help="Profile root to write the bundle under.")],
    hardware: Annotated[str, typer.Option(help="Hardware label.")],
    model: Annotated[str, typer.Option(help="Model name.")],
    tp: Annotated[str, typer.Option(help="aiconfigurator: tp degrees, as in 1,2,4,8.")] = "1",
    dtype: Annotated[str, typer.Option(help="aiconfigurator: of the weights.")] = "bfloat16",
    kv_cache_dtype: Annotated[str, typer.Option(help="aiconfigurator: auto or fp8.")] = "auto",
    engine: Annotated[str, typer.Option(help="aiconfigurator: vllm, sglang or trtllm.")] = "vllm",
) -> None:
    """Write a profile of another layout as a bundle."""
    from penstock.files.document import understood
    from penstock.files.use import FileUse
    from penstock.profiling.imports import import_profile

    if source == "aiconfigurator":
        from penstock.profiling.database import import_database, wanted_tables

        wanted = wanted_tables(hardware, model, tp, (dtype, kv_cache_dtype), engine)
        FileUse(reads={}, writes={"--output": output / hardware / model / "meta.yaml"}).check()
        typer.echo(f"wrote {import_database(wanted, output)}")
        return
    # The bundle's files are named after what is imported; this one is always among them.
    meta = output / hardware / model / "bf16" / "meta.yaml"
    FileUse(reads={"SOURCE": Path(source)}, writes={"--output": meta}).check()
    with understood(source, "cannot be read as a profile"):
        directory, note = import_profile(Path(source), output, hardware=hardware, model=model)
    typer.echo(f"wrote {directory}")
    typer.echo(note)


@app.command("pack", cls=GuardedCommand)
def pack_command(
    *,
    output: Annotated[Path, typer.Option("-o", "--output", help="Write the fit here (JSON).")],
    hardware: Annotated[str, typer.Option(help="Hardware label.")],
    model: Annotated[str, typer.Option(help="Model, by name or config.json.")],
    tp: Annotated[str, typer.Option(help="Tp degrees.")] = "1,2,4,8",
    dtype: Annotated[str, typer.Option(help="Of the weights.")] = "bfloat16",
    kv_cache_dtype: Annotated[str, typer.Option(help="auto or fp8.")] = "auto",
) -> None:
    """Pack AIConfigurator's tables of a model on a chip as a fit, and print its errors by kernel."""
    from penstock.files.use import FileUse
    from penstock.profiling.database import pack_database, wanted_tables
    from penstock.profiling.fit import fit_report, write_fit

    files = FileUse(reads={}, writes={"--output": output})
    files.check()
    result = pack_database(wanted_tables(hardware, model, tp, (dtype, kv_cache_dtype), "vllm"))
    files.check()
    write_fit(result, output)
    typer.echo(fit_report(result))
    typer.echo(f"wrote {output}", err=True)


@app.command("calibrate", cls=GuardedCommand)
def calibrate_command(
    llmservingsim: Annotated[Path, typer.Argument(help="LLMServingSim's data: perf/ and perf_v0/.")],
    *,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the curves here (JSON).")
    ] = None,
    vidur: Annotated[Path | None, typer.Option(help="Vidur's data: compute/.")] = None,
) -> None:
    """Fit the roofline's efficiency curves and print the error on what is left out."""
    from penstock.files.document import understood
    from penstock.files.use import FileUse
    from penstock.profiling.calibration_run import run_calibration, transfer_report, write_calibration

    files = FileUse(reads={}, writes={"--output": output})
    files.check()
    with understood(str(llmservingsim), "cannot be fitted"):
        data, lines = run_calibration(llmservingsim, vidur)
    files.check()
    if output is not None:
        write_calibration(data, output)
        typer.echo(f"wrote {output}", err=True)
    typer.echo(transfer_report(lines))


@app.command("network", cls=GuardedCommand)
def network_command(
    directory: Annotated[
        Path, typer.Argument(help="Vidur's network measurements: <machine>/send_recv.csv, ...")
    ],
    *,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the link classes here (JSON).")
    ] = None,
) -> None:
    """Fit link classes to measured send/recv and all-reduce times."""
    from penstock.files.document import understood
    from penstock.files.use import FileUse
    from penstock.profiling.calibration_run import write_calibration
    from penstock.profiling.network_fit import fit_links

    files = FileUse(reads={}, writes={"--output": output})
    files.check()
    with understood(str(directory), "cannot be fitted"):
        data, lines = fit_links(directory)
    files.check()
    if output is not None:
        write_calibration(data, output)
        typer.echo(f"wrote {output}", err=True)
    typer.echo("\n".join(lines))


@app.command("run", cls=GuardedCommand)
def run_command(
    model: Annotated[str, typer.Argument(help="Model name, or a Hugging Face config.json.")],
    *,
    output: Annotated[Path, typer.Option("-o", "--output", help="Profile root to write the bundle under.")],
    hardware: Annotated[str, typer.Option(help="Label to write it under.")],
    tp: Annotated[str, typer.Option(help="Degrees whose shapes to measure, such as 1,2,4.")] = "1",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="bfloat16, float16 or float32.")] = "bfloat16",
    max_tokens: Annotated[int, typer.Option(min=16, help="Largest step.")] = 2048,
    max_sequences: Annotated[int, typer.Option(min=1, help="Largest batch of decodes.")] = 256,
    max_context: Annotated[int, typer.Option(min=16, help="Longest context.")] = 16384,
    factor: Annotated[float, typer.Option(min=1.1, help="From one size to the next.")] = 2.0,
    repeats: Annotated[int, typer.Option(min=1, help="Measurements of which the median counts.")] = 5,
    longest: Annotated[
        float, typer.Option(min=0.0, help="Seconds a call may take before its sweep ends.")
    ] = 1.0,
) -> None:
    """Measure a model's kernels on this machine with PyTorch: random weights, no download."""
    from penstock.profiling.calibration_run import named_model
    from penstock.profiling.profiler import ProfileJob, parse_degrees, run_profile

    job = ProfileJob(
        hardware=hardware,
        model=named_model(model),
        tp_sizes=parse_degrees(tp),
        device=device,
        dtype=dtype,
        max_tokens=max_tokens,
        max_sequences=max_sequences,
        max_context=max_context,
        factor=factor,
        repeats=repeats,
        longest_s=longest,
    )
    typer.echo(f"wrote {run_profile(job, output, lambda line: typer.echo(line, err=True))}")
