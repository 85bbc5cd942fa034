"""``penstock run`` and ``python -m serving``: one workload served on one cluster."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from penstock.cli.registry import GuardedCommand

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _integer(text: str) -> int | str:
    """A number, or the text itself, to be reported together with the other mistakes."""
    try:
        return int(text)
    except ValueError:
        return text


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _count(name: str, text: str) -> Any:
    return typer.Option(name, parser=_integer, metavar="INTEGER", help=text)


def _amount(name: str, text: str) -> Any:
    return typer.Option(name, parser=_number, metavar="NUMBER", help=text)


def _choice(name: str, choices: str, text: str) -> Any:
    return typer.Option(name, metavar=choices, help=text)


def _switch(name: str, text: str) -> Any:
    return typer.Option(f"--{name}/--no-{name}", help=text, show_default=False)


def _path(name: str, text: str) -> Any:
    return typer.Option(name, metavar="PATH", help=text)


Text = str | None
Switch = bool | None


@app.command(cls=GuardedCommand)
def run(
    *,
    cluster_config: Annotated[Text, _path("--cluster-config", "Cluster config (JSON); required.")] = None,
    dataset: Annotated[Text, _path("--dataset", "Workload (JSONL, CSV); required.")] = None,
    num_reqs: Annotated[
        Any, _count("--num-reqs", "Serve the first N only; a session is one; 0 = all [0].")
    ] = None,
    output: Annotated[Text, _path("--output", "Write the per-request CSV here.")] = None,
    no_itl: Annotated[bool, typer.Option("--no-itl", help="Leave the CSV's ITL column empty.")] = False,
    results: Annotated[
        Text, _path("--results", "Write Parquet tables and summary.json into this directory.")
    ] = None,
    record: Annotated[
        Text, _choice("--record", "requests|steps|stages", "How much to keep [stages].")
    ] = None,
    trace: Annotated[Text, _path("--trace", "Write a Perfetto timeline here (.json or .json.gz).")] = None,
    trace_window: Annotated[
        Text, _choice("--trace-window", "FROM:TO", "Part of the timeline: 10s:12s.")
    ] = None,
    report: Annotated[Text, _path("--report", "Write an HTML report here.")] = None,
    log_interval: Annotated[
        Any, _amount("--log-interval", "Simulated seconds between lines of the throughput log; 0 = none [1].")
    ] = None,
    log_level: Annotated[Text, _choice("--log-level", "WARNING|INFO|DEBUG", "Diagnostics [WARNING].")] = None,
    profile_root: Annotated[
        Text, _path("--profile-root", "Profile bundles in LLMServingSim's layout.")
    ] = None,
    dtype: Annotated[
        Text,
        _choice("--dtype", "float16|bfloat16|float32|fp8|int8", "Of weights and activations [the model's]."),
    ] = None,
    kv_cache_dtype: Annotated[
        Text, _choice("--kv-cache-dtype", "auto|fp8", "Of the KV cache [auto].")
    ] = None,
    block_size: Annotated[Any, _count("--block-size", "Tokens in a KV block [16].")] = None,
    max_num_seqs: Annotated[Any, _count("--max-num-seqs", "Requests running at once; 0 = any [128].")] = None,
    max_num_batched_tokens: Annotated[
        Any, _count("--max-num-batched-tokens", "Tokens in a step; 0 = the model's longest context [2048].")
    ] = None,
    long_prefill_token_threshold: Annotated[
        Any, _count("--long-prefill-token-threshold", "Tokens of one prompt in a step; 0 = any [0].")
    ] = None,
    npu_memory_utilization: Annotated[
        Any, _amount("--npu-memory-utilization", "Share of a device's memory to use [0.9].")
    ] = None,
    enable_chunked_prefill: Annotated[
        Switch, _switch("enable-chunked-prefill", "Cut long prompts [on].")
    ] = None,
    enable_prefix_caching: Annotated[
        Switch, _switch("enable-prefix-caching", "Share KV of equal prefixes [on].")
    ] = None,
    reserve_full_isl: Annotated[
        Switch, _switch("reserve-full-isl", "Admit a request only if its whole prompt fits [on].")
    ] = None,
    async_scheduling: Annotated[
        Switch, _switch("async-scheduling", "Schedule ahead of the sampled tokens [off].")
    ] = None,
    scheduling_policy: Annotated[
        Text,
        _choice(
            "--scheduling-policy",
            "fcfs|priority",
            "The order in which requests wait and lose their blocks: by arrival or by their priority [fcfs].",
        ),
    ] = None,
    engine_idle_sleep_ns: Annotated[
        Any, _count("--engine-idle-sleep-ns", "The engine's sleep after an empty schedule [1000000].")
    ] = None,
    request_routing_policy: Annotated[
        Text, _choice("--request-routing-policy", "LOAD|RR|RAND|CUSTOM", "LLMServingSim's name of --router.")
    ] = None,
    router: Annotated[
        Text,
        _choice(
            "--router",
            "NAME|module:Class",
            "Who serves a request: LOAD, RR, RAND, P2C, LOT, PREFIX or a class of yours [LOAD].",
        ),
    ] = None,
    seed: Annotated[Any, _count("--seed", "Of random routing [0].")] = None,
    network_backend: Annotated[
        Text, _choice("--network-backend", "analytical|ns3", "ns3 is not simulated.")
    ] = None,
    expert_routing_policy: Annotated[
        Text, _choice("--expert-routing-policy", "BALANCED|RR|RAND|CUSTOM", "No effect on dense models.")
    ] = None,
    enable_prefix_sharing: Annotated[Switch, _switch("enable-prefix-sharing", "Not simulated.")] = None,
    prefix_storage: Annotated[Text, _choice("--prefix-storage", "CPU|CXL", "Not simulated.")] = None,
    enable_local_offloading: Annotated[Switch, _switch("enable-local-offloading", "Not simulated.")] = None,
    enable_attn_offloading: Annotated[Switch, _switch("enable-attn-offloading", "Not simulated.")] = None,
    enable_sub_batch_interleaving: Annotated[
        Switch, _switch("enable-sub-batch-interleaving", "Not simulated.")
    ] = None,
    enable_block_copy: Annotated[
        Switch, _switch("enable-block-copy", "No effect: layers are costed alike anyway.")
    ] = None,
    skip_prefill: Annotated[Switch, _switch("skip-prefill", "Not simulated.")] = None,
    run_id: Annotated[
        Text, _choice("--run-id", "TEXT", "No effect: no intermediate inputs are written.")
    ] = None,
    inputs_root: Annotated[Text, _path("--inputs-root", "No effect, as above.")] = None,
    cleanup_inputs: Annotated[Switch, _switch("cleanup-inputs", "No effect, as above.")] = None,
) -> None:
    """Serve a workload on a cluster and report what every request and every pipeline stage experienced."""
    given = dict(locals())
    from penstock.cli.job import Outputs, run_job

    outputs = Outputs(
        csv=given.pop("output"),
        itl=not given.pop("no_itl"),
        results=given.pop("results"),
        trace=given.pop("trace"),
        trace_window=given.pop("trace_window"),
        report=given.pop("report"),
    )
    run_job(
        given.pop("cluster_config"), given.pop("dataset"), given, outputs, given.pop("log_level") or "WARNING"
    )
