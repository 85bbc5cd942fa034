"""``penstock profile run``: measure a model's kernels on the machine at hand and write a bundle."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.errors import Problem, UserError
from penstock.files.use import FileUse
from penstock.profiling.old_layout import Profile, write_bundle
from penstock.profiling.torch_attention import AttentionCalls
from penstock.profiling.torch_kernels import TorchKernels
from penstock.spec.layers import GroupedAttention
from penstock.spec.model import ModelSpec

VARIANTS = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
"""What a bundle of each dtype is called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileJob:
    """What to measure. Sizes go up by ``factor``; once a call takes longer than ``longest_s`` the larger sizes of its
    sweep are left out, to be extrapolated."""

    hardware: str
    model: ModelSpec
    tp_sizes: tuple[int, ...]
    device: str
    dtype: str = "bfloat16"
    max_tokens: int = 2048
    max_sequences: int = 256
    max_context: int = 16384
    factor: float = 2.0
    repeats: int = 5
    longest_s: float = 1.0

    def directory(self, root: Path) -> Path:
        """Where the bundle goes under a profile root."""
        return root / self.hardware / self.model.name / VARIANTS.get(self.dtype, self.dtype)


def parse_degrees(text: str) -> tuple[int, ...]:
    """``"1,2,4"`` as numbers.

    Raises:
        UserError: anything but positive numbers.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise UserError(f"--tp: positive numbers such as 1,2,4, not {text!r}")
    return tuple(sorted({int(part) for part in parts}))


def run_profile(job: ProfileJob, root: Path, progress: Callable[[str], None] = lambda _: None) -> Path:
    """Measure every tp degree (the shapes one rank has; collectives are not measured) and write the bundle under
    ``root``; returns its directory.

    Raises:
        UserError: PyTorch is missing, the device is not there, or the bundle cannot be written.
    """
    torch = _torch(job.device)
    obstacles = (job.model.tensor_parallel_obstacle(tp_size) for tp_size in job.tp_sizes)
    problems = [Problem("--tp", why) for why in obstacles if why is not None]
    attention = {type(kind.attention) for kind in job.model.kinds}
    if len(job.model.kinds) > 1 or attention != {GroupedAttention} or job.model.moe is not None:
        what = "profiled are models of like layers, with grouped-query attention and a dense MLP"
        problems.append(Problem(job.model.name, what))
    problems += (
        []
        if job.dtype in VARIANTS
        else [Problem("--dtype", f"one of {', '.join(VARIANTS)}, not {job.dtype}")]
    )
    if problems:
        raise UserError(problems)
    variant = VARIANTS[job.dtype]
    directory = job.directory(root)
    FileUse(reads={}, writes={"--output": directory / "meta.yaml"}).check()  # before measuring for an hour
    profiles: dict[int, Profile] = {}
    note = ""
    with torch.inference_mode():
        for tp_size in job.tp_sizes:
            calls = TorchKernels(job.model, tp_size, job.device, job.dtype)
            note = calls.attention.note
            profiles[tp_size] = _profile(job, tp_size, calls, progress)
    name = torch.cuda.get_device_name() if job.device.startswith("cuda") else platform.processor() or "CPU"
    meta: dict[str, object] = {
        "profiler": "penstock profile run",
        "torch_version": str(torch.__version__),
        "device": name,
        "threads": torch.get_num_threads() if job.device == "cpu" else None,
        "hardware": job.hardware,
        "model": job.model.name,
        "variant": variant,
        "note": f"PyTorch's kernels, random weights, one rank alone; {note}",
    }
    write_bundle(directory, profiles, meta)
    return directory


def _torch(device: str) -> Any:
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError("profiling needs PyTorch: pip install 'penstock[profile]'") from None
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch finds no CUDA device here")
    return torch


def _profile(job: ProfileJob, tp_size: int, calls: TorchKernels, progress: Callable[[str], None]) -> Profile:
    profile = Profile()
    tokens = sizes_up_to(job.max_tokens, job.factor)
    sequences = sizes_up_to(job.max_sequences, job.factor)
    for name in calls.dense_names():
        progress(f"tp {tp_size}: {name}")
        make = _bound(calls.dense, name)
        profile.dense[name] = list(_sweep(job, tokens, make))
    progress(f"tp {tp_size}: lm_head, sampler")
    profile.per_sequence["lm_head"] = list(_sweep(job, sequences, _bound(calls.gemm, "lm_head")))
    profile.per_sequence["sampler"] = list(_sweep(job, sequences, calls.sampler))
    progress(f"tp {tp_size}: attention")
    profile.attention = list(_attention(job, calls.attention))
    return profile


def _bound(make: Callable[[str, int], Callable[[], Any]], name: str) -> Callable[[int], Callable[[], Any]]:
    return lambda size: make(name, size)


def _sweep(
    job: ProfileJob, sizes: Sequence[int], make: Callable[[int], Callable[[], Any]]
) -> Iterator[tuple[int, float]]:
    for size in sizes:
        taken_us = measure_us(make(size), job.device, job.repeats)
        yield size, taken_us
        if taken_us > job.longest_s * 1e6:
            return


def _attention(job: ProfileJob, attention_of: AttentionCalls) -> Iterator[tuple[float, ...]]:
    """Coarse on every axis: chunks alone, decodes alone, and both, smallest first."""
    step = job.factor**2
    chunks = [0, *(size for size in sizes_up_to(job.max_tokens, step) if size >= 16)]
    batches = [0, *sizes_up_to(job.max_sequences, step)]
    contexts = [size for size in sizes_up_to(job.max_context, step) if size >= 16]
    for chunk in chunks:
        for decodes in batches:
            for history in [0, *contexts] if chunk else [0]:
                for context in contexts if decodes else [0]:
                    if not chunk and not decodes:
                        continue
                    taken_us = measure_us(
                        attention_of(chunk, history, decodes, context), job.device, job.repeats
                    )
                    yield chunk, history, decodes, context, taken_us
                    if taken_us > job.longest_s * 1e6:
                        break


def sizes_up_to(last: int, factor: float) -> list[int]:
    """1, factor, factor squared, ... and ``last``."""
    sizes: list[int] = []
    size = 1.0
    while round(size) < last:
        sizes.append(round(size))
        size *= factor
    return [*dict.fromkeys(sizes), last]


def measure_us(call: Callable[[], Any], device: str, repeats: int) -> float:
    """Median over ``repeats`` after a warm-up, microseconds.

    On a CUDA device, calls are recorded one after the other in a CUDA graph and the graph is timed, as an engine runs
    its steps: the time of a launch by the host is not the kernel's.
    """
    call()
    if not device.startswith("cuda"):
        return statistics.median(_once_us(call) for _ in range(repeats))
    import torch  # pyright: ignore[reportMissingImports]

    torch.cuda.synchronize()
    start = time.perf_counter_ns()
    call()
    torch.cuda.synchronize()
    roughly_us = (time.perf_counter_ns() - start) / 1000
    calls = max(2, min(_MOST_CALLS, round(_GRAPH_US / roughly_us)))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            call()
    graph.replay()
    return statistics.median(_replay_us(torch, graph) for _ in range(repeats)) / calls


_GRAPH_US = 2000
_MOST_CALLS = 32


def _once_us(call: Callable[[], Any]) -> float:
    start = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - start) / 1000


def _replay_us(torch: Any, graph: Any) -> float:
    events: list[Any] = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
    torch.cuda.synchronize()
    events[0].record()
    graph.replay()
    events[1].record()
    torch.cuda.synchronize()
    return float(events[0].elapsed_time(events[1])) * 1000
