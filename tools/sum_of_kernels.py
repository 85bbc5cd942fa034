"""Whether a layer takes as long as its kernels do one by one (docs/costs.md).

    pip install 'penstock[profile]'
    python tools/sum_of_kernels.py meta-llama/Llama-3.1-8B --device cuda

Penstock adds up the times of kernels that were measured apart, each beside others of its own kind. Here the kernels of
whole layers run one after the other, as in an engine, and are timed together: in a CUDA graph on a GPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from penstock.profiling.calibration_run import named_model
from penstock.profiling.profiler import measure_us
from penstock.profiling.torch_kernels import TorchKernels
from penstock.spec.model import ModelSpec

Call = Callable[[], Any]

BEFORE = ("layernorm", "qkv_proj", "qk_norm", "rotary_emb")
AFTER = ("o_proj", "layernorm", "gate_up_proj", "act_fn", "down_proj")
STEPS = (
    (0, 0, 1, 1024),
    (0, 0, 16, 1024),
    (0, 0, 64, 1024),
    (0, 0, 64, 4096),
    (0, 0, 256, 1024),
    (512, 0, 0, 0),
    (2048, 0, 0, 0),
    (8192, 0, 0, 0),
    (1024, 1024, 64, 1024),
)
"""A chunk, the tokens before it, decodes, the tokens before each."""


def layer(calls: TorchKernels, step: tuple[int, int, int, int]) -> list[Call]:
    """The kernels of one decoder layer for one step, in order."""
    chunk, _, decodes, _ = step
    known = calls.dense_names()
    before = [calls.dense(name, chunk + decodes) for name in BEFORE if name in known]
    after = [calls.dense(name, chunk + decodes) for name in AFTER]
    return [*before, calls.attention(*step), *after]


def in_turn(kernels: list[Call], layers: int) -> Call:
    """All of them, ``layers`` times over."""
    return lambda: [kernel() for _ in range(layers) for kernel in kernels]


def compare(model: ModelSpec, tp_size: int, device: str, dtype: str, layers: int, repeats: int) -> None:
    """Print microseconds a layer, apart and together, of each step."""
    import torch  # pyright: ignore[reportMissingImports]

    calls = TorchKernels(model, tp_size, device, dtype)
    print("| chunk | after | decodes | after | kernels one by one, us | a layer, us | sum over layer |")
    print("|---|---|---|---|---|---|---|")
    with torch.inference_mode():
        for step in STEPS:
            own = layer(calls, step)
            apart = sum(measure_us(kernel, device, repeats) for kernel in own)
            together = measure_us(in_turn(own, layers), device, repeats) / layers
            cells = [f"{value:,}" for value in step]
            cells += [f"{apart:,.1f}", f"{together:,.1f}", f"{apart / together - 1:+.1%}"]
            print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Print the table of one model."""
    parser = argparse.ArgumentParser(description="A layer's time beside the sum of its kernels' times.")
    parser.add_argument("model", help="model name, or a Hugging Face config.json")
    parser.add_argument("--tp", type=int, default=1, help="degree whose shapes to measure")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--dtype", default="bfloat16", help="bfloat16, float16 or float32")
    parser.add_argument("--layers", type=int, default=16, help="layers one after the other")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of which the median counts")
    given = parser.parse_args()
    compare(named_model(given.model), given.tp, given.device, given.dtype, given.layers, given.repeats)


if __name__ == "__main__":
    main()
