"""What a recording, a real run and a measured run must hold: only members that are read, each with its range.

The ranges keep one file from taking all memory: what was recorded on a real engine lies far below them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field

from penstock.errors import Problem, UserError
from penstock.spec.check import Recorded, check_document, shown

MAX_RECORDED_TOKENS = 20_000_000
"""Of all requests of one recording: each is a row of the comparison."""

Time = Annotated[int, Field(ge=0, le=2**61)]
Duration = Annotated[int, Field(ge=0, le=10**15)]
Tokens = Annotated[int, Field(ge=1, le=1 << 24)]
Index = Annotated[int, Field(ge=0, le=1 << 31)]
TokenIds = list[Annotated[int, Field(ge=0, lt=1 << 31)]]
Bandwidth = Annotated[int, Field(ge=1, le=10**18)]
Rows = list[dict[str, Any]]


def _are(value: Any, *kinds: tuple[type, ...]) -> bool:
    """Whether a value is a list of values of these kinds."""
    if not isinstance(value, list) or len(value) != len(kinds):
        return False
    return all(type(entry) in kind for entry, kind in zip(value, kinds, strict=True))


def _entry(value: Any) -> Any:
    if _are(value, (str,), (int,), (int,)):
        return value
    raise ValueError(f"must be a name, new tokens and tokens computed before, not {shown(value)}")


def _named_stage(value: Any) -> Any:
    if _are(value, (str,), (int, type(None))):
        return value
    raise ValueError(f"must be a request and a stage or null, not {shown(value)}")


def _abort(value: Any) -> Any:
    sound = _are(value, (str,), (int,), (str,))
    if sound and 0 <= value[1] <= 2**61 and value[2] in ("prefill", "decode"):
        return value
    raise ValueError(f'must be a request, a time and "prefill" or "decode", not {shown(value)}')


class RecordedRequest(Recorded):
    """An entry of ``requests``."""

    req_id: str
    arrival_time_ns: Time
    input_toks: Tokens
    output_toks: Tokens
    input_tok_ids: TokenIds | None = None
    output_tok_ids: TokenIds | None = None
    priority: Annotated[int, Field(ge=-(1 << 31), le=1 << 31)] = 0
    client: Index = 0
    dp_rank: Index | None = None
    direct: bool = False


class RecordedStage(Recorded):
    """``a + b tokens + c context`` ns, and ``m`` for the most tokens of a rank."""

    a: Duration
    b: Duration
    c: Duration
    m: Duration = 0


class RecordedHop(Recorded):
    """``d + e tokens`` ns."""

    d: Duration = 0
    e: Duration = 0


class RecordedTail(Recorded):
    """``f + g requests`` ns."""

    f: Duration = 0
    g: Duration = 0


class RecordedConfig(Recorded):
    """``config`` of one engine."""

    max_num_seqs: Annotated[int, Field(ge=1, le=1 << 20)]
    max_num_batched_tokens: Tokens
    block_size: Annotated[int, Field(ge=1, le=1 << 20)]
    num_gpu_blocks: Annotated[int, Field(ge=2, le=1 << 32)]
    stages: Annotated[list[RecordedStage], Field(min_length=1, max_length=256)]
    max_model_len: Tokens = 131_072
    pp_size: Annotated[int, Field(ge=1, le=256)] = 1
    hop: RecordedHop | None = None
    tail: RecordedTail | None = None
    long_prefill_token_threshold: Annotated[int, Field(ge=0, le=1 << 24)] = 0
    enable_chunked_prefill: bool = True
    enable_prefix_caching: bool = False
    scheduler_reserve_full_isl: bool = True
    watermark: Annotated[float, Field(ge=0, lt=1, strict=False)] = 0.0
    async_scheduling: bool = False
    v2_model_runner: bool = False
    engine_idle_sleep_ns: Duration = 0
    policy: Literal["fcfs", "priority"] = "fcfs"


class RecordedIteration(Recorded):
    """A row of ``iterations``; all its members are compared, these are read."""

    iter: int
    t_schedule_ns: Time
    scheduled: list[Annotated[Any, BeforeValidator(_entry)]]
    preempted: list[str]


class RecordedOutcome(Recorded):
    """A row of ``per_request``."""

    req_id: str


class RecordedEngine(Recorded):
    """A recording of one engine."""

    config: RecordedConfig
    requests: list[RecordedRequest]
    iterations: list[RecordedIteration]
    per_request: list[RecordedOutcome]
    batch_queue_size: Annotated[int, Field(ge=1, le=1024)] = 1
    end_ns: Time = 0
    livelock: bool = False


class RecordedLatency(Recorded):
    """``config.latency`` of ranks in lock-step."""

    client_engine: Duration
    engine_client: Duration
    client_coord: Duration
    coord_client: Duration
    engine_coord: Duration
    coord_engine: Duration


class RecordedGroupConfig(RecordedConfig):
    """``config`` of ranks in lock-step."""

    dp_size: Annotated[int, Field(ge=1, le=256)]
    dp_sync_interval: Annotated[int, Field(ge=1, le=1 << 20)]
    sync_ns: Duration
    prefill_schedule_interval: Annotated[int, Field(ge=1, le=1 << 20)]
    lb: Literal["internal", "hybrid", "external"]
    client_count: Annotated[int, Field(ge=1, le=1024)]
    hybrid_nodes: Annotated[int, Field(ge=1, le=1024)]
    stats_interval_ms: Annotated[int, Field(ge=1, le=10**9)]
    latency: RecordedLatency


class RecordedGroup(Recorded):
    """A recording of ranks in lock-step."""

    config: RecordedGroupConfig
    requests: list[RecordedRequest]
    iterations: Rows
    per_request: Rows
    routing: Rows
    dummies: list[Any]
    forwards: Rows
    syncs: list[Any]
    engine_messages: list[Any]
    start_waves: list[Any]
    publishes: list[Any]
    num_iterations: int
    num_forwards: int
    num_dummies: int
    num_empty_schedules: list[int]
    num_idle_sleeps: list[int]
    end_ns: Any
    free_blocks_end: Any
    final_wave: Any
    unfinished: list[Any]


class RecordedPartConfig(RecordedConfig):
    """``config`` of one of several instances."""

    kv_load_failure_policy: Literal["recompute", "fail"]
    kv_lease_duration: Annotated[int, Field(ge=1, le=1_000_000)]
    worker_poll: Literal["start", "end"]


class RecordedPart(Recorded):
    """An entry of ``instances``."""

    name: str
    role: Literal["prefill", "decode"]
    kv_role: Literal["kv_producer", "kv_consumer", "kv_both"]
    config: RecordedPartConfig
    iterations: list[RecordedIteration]
    per_request: list[RecordedOutcome]
    end_ns: Time
    batch_queue_size: Annotated[int, Field(ge=1, le=1024)] = 1


class RecordedTransfer(Recorded):
    """``transfer``: the wire."""

    latency_ns: Duration
    bandwidth_Bps: Bandwidth  # noqa: N815 (the recordings' name)
    kv_bytes_per_token: Annotated[int, Field(ge=1, le=1 << 40)]
    serialise: Literal["none", "pair", "d_stage", "both"]
    notify_ns: Duration
    handshake_ns: Duration
    fail: list[Annotated[Any, BeforeValidator(_named_stage)]]


class RecordedProxy(Recorded):
    """``proxy``."""

    proxy_ns: Duration


class RecordedApart(Recorded):
    """A recording of prefill and decode apart."""

    requests: list[RecordedRequest]
    instances: Annotated[list[RecordedPart], Field(min_length=2, max_length=256)]
    transfer: RecordedTransfer
    proxy: RecordedProxy
    transfers: Rows
    pd_requests: Rows
    aborts: list[Annotated[Any, BeforeValidator(_abort)]] = Field(default_factory=list[Any])


class RecordedTier(Recorded):
    """``offload``."""

    cpu_chunks: Annotated[int, Field(ge=0, le=1 << 32)]
    blocks_per_chunk: Annotated[int, Field(ge=1, le=1 << 20)]
    eviction_policy: Literal["lru", "arc"]
    offload_prompt_only: bool
    store_threshold: Annotated[int, Field(ge=0, le=1 << 31)]
    kv_bytes_per_token: Annotated[int, Field(ge=1, le=1 << 40)]
    d2h_latency_ns: Duration
    d2h_bandwidth_Bps: Bandwidth  # noqa: N815
    h2d_latency_ns: Duration
    h2d_bandwidth_Bps: Bandwidth  # noqa: N815


class RecordedTierConfig(RecordedConfig):
    """``config`` of an engine with a CPU tier."""

    worker_poll: Literal["start", "end"]


class RecordedOffloading(Recorded):
    """A recording of an engine with a CPU tier."""

    config: RecordedTierConfig
    requests: list[RecordedRequest]
    iterations: list[RecordedIteration]
    per_request: list[RecordedOutcome]
    batch_queue_size: Annotated[int, Field(ge=1, le=1024)] = 1
    end_ns: Time
    offload: RecordedTier
    jobs: Rows


def check_recording(data: Any, shown_as: str) -> None:
    """Hold a recording of any kind against its shape.

    Raises:
        UserError: with the first mistakes.
    """
    check_document(_shape_of(data), data, shown_as)
    names = [entry["req_id"] for entry in data["requests"]]
    problems = (
        [Problem(f"{shown_as}: requests", "two requests have one req_id")]
        if len({*names}) < len(names)
        else []
    )
    if sum(entry["output_toks"] + entry["input_toks"] for entry in data["requests"]) > MAX_RECORDED_TOKENS:
        problems.append(
            Problem(f"{shown_as}: requests", f"have more than {MAX_RECORDED_TOKENS:,} tokens together")
        )
    for place, entry in enumerate(data["requests"]):
        for ids, count in (("input_tok_ids", "input_toks"), ("output_tok_ids", "output_toks")):
            if entry.get(ids) and len(entry[ids]) != entry[count]:
                where = f"{shown_as}: requests[{place}].{ids}"
                problems.append(Problem(where, f"has {len(entry[ids])} ids, {count} is {entry[count]}"))
    if problems:
        raise UserError(problems[:5])


def _shape_of(data: Any) -> type[BaseModel]:
    config = data.get("config") if isinstance(data, dict) else None
    if isinstance(data, dict) and "instances" in data:
        return RecordedApart
    if isinstance(data, dict) and "offload" in data:
        return RecordedOffloading
    return RecordedGroup if isinstance(config, dict) and "dp_size" in config else RecordedEngine


class RealRequest(Recorded):
    """A row of a real run's ``requests.jsonl.gz``."""

    req_id: str
    arrival_time_ns: Time
    input_toks: Tokens
    output_toks: Tokens


class RealClientRow(Recorded):
    """A row of ``client.jsonl.gz``."""

    req_id: str
    sent_ns: Time
    token_times_ns: Annotated[list[Time], Field(min_length=1)]


class RealStageTimes(Recorded):
    """A stage of an iteration."""

    start_ns: Time
    end_ns: Time
    recv_wait_ns: Duration
    sample_end_ns: Time | None


class RealIteration(Recorded):
    """A row of ``iterations.jsonl.gz``."""

    t_schedule_ns: Time
    t_update_ns: Time | None
    schedule_cpu_ns: Duration
    scheduled: list[Annotated[Any, BeforeValidator(_entry)]]
    preempted: list[Any]
    stages: list[RealStageTimes]


class RealEngineArguments(Recorded):
    """``summary.json: engine_args``."""

    max_num_seqs: Annotated[int, Field(ge=1, le=1 << 20)]
    max_num_batched_tokens: Tokens
    max_model_len: Tokens
    block_size: Annotated[int, Field(ge=1, le=1 << 20)]
    enable_prefix_caching: bool


class RealSummary(Recorded):
    """``summary.json`` of a real run."""

    engine_args: RealEngineArguments
    batch_queue_size: Annotated[int, Field(ge=1, le=1024)]
    async_scheduling: bool
    v2_model_runner: bool
    args: dict[str, Any]
    num_gpu_blocks: Annotated[int, Field(ge=2, le=1 << 32)]


class MeasuredRequest(Recorded):
    """A row of a measured run's ``requests.jsonl``: seconds of one clock."""

    request_id: str | int
    output_toks: Tokens
    queued_ts: Annotated[float, Field(ge=0, le=1e12)]
    scheduled_ts: Annotated[float, Field(ge=0, le=1e12)]
    first_token_ts: Annotated[float, Field(ge=0, le=1e12)]
    last_token_ts: Annotated[float, Field(ge=0, le=1e12)]


class MeasuredCache(Recorded):
    """``meta.json: kv_cache``."""

    num_gpu_blocks: Annotated[int, Field(ge=2, le=1 << 40)] | None = None


class MeasuredEngine(Recorded):
    """``meta.json: engine_kwargs``: those that are not checked as options of ours."""

    async_scheduling: bool | None = None
    max_model_len: Tokens | None = None
    tensor_parallel_size: Index | None = None
    pipeline_parallel_size: Index | None = None
    data_parallel_size: Index | None = None


class MeasuredMeta(Recorded):
    """``meta.json`` of a measured run."""

    engine_kwargs: MeasuredEngine | None = None
    vllm_version: str | int | float = "0"
    kv_cache: MeasuredCache | None = None
