from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from penstock.cost.experts.measured import find_moe_table, measured_experts
from penstock.cost.experts.times import ExpertShape
from penstock.cost.roofline import hardware_rates
from penstock.errors import UserError
from penstock.spec.hardware import find_hardware
from penstock.spec.layers import MoeMlp

HEADER = (
    "kernel_source,moe_dtype,num_tokens,hidden_size,inter_size,topk,num_experts,moe_tp_size,moe_ep_size,"
    "distribution,latency_ms"
)
MOE = MoeMlp(num_experts=8, experts_per_token=2, intermediate_size=1024)
SHAPE = ExpertShape(hidden=512, width=1024, weight_bytes=2, activation_bytes=2)
chip = find_hardware("H100")
assert chip is not None
RATES = hardware_rates(chip, "bfloat16")


def write(root: Path, *rows: str) -> Path:
    path = root / "H100" / "moe_perf.csv"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join((HEADER, *rows)) + "\n")
    return path


def test_a_measured_shape_is_interpolated_from_its_most_measured_kernel(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        *(
            f"triton,bfloat16,{tokens},512,1024,2,8,1,2,balanced,{us / 1000}"
            for tokens, us in ((4, 30), (16, 40), (64, 60))
        ),
        "cutlass,bfloat16,4,512,1024,2,8,1,2,balanced,9",
        "triton,bfloat16,4,512,1024,2,8,1,2,power_law_1.2,8",
        "triton,bfloat16,4,512,1024,2,8,1,1,balanced,7",
    )
    assert find_moe_table(tmp_path, "H100") == path
    found = measured_experts(path, MOE, "bfloat16", (SHAPE, 1, 2), RATES)
    assert found is not None
    experts, basis = found
    pairs = np.array([4.0, 16.0, 64.0])  # of 4, 16 and 64 tokens, one of two ranks computes half
    assert experts.rank_us(pairs, np.minimum(pairs, 4)) == pytest.approx([30, 40, 60])
    assert experts.rank_us(np.array([4.0]), np.array([2.0]))[0] < 30
    assert "as measured" in basis


def test_another_shape_takes_the_utilisation_of_the_nearest(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "triton,bfloat16,4,1024,1024,2,8,1,1,balanced,0.05",
        "triton,bfloat16,4096,1024,1024,2,8,1,1,balanced,1.5",
        "triton,bfloat16,4,8192,8192,2,8,1,1,balanced,50",
    )
    found = measured_experts(path, MOE, "bfloat16", (SHAPE, 1, 1), RATES)
    assert found is not None
    experts, basis = found
    assert "nearest measured shape (1024 x 1024" in basis
    wide = ExpertShape(hidden=1024, width=1024, weight_bytes=2, activation_bytes=2)
    for tokens, measured in ((4, 50.0), (4096, 1500.0)):
        pairs, used = np.array([2.0 * tokens]), np.array([min(2.0 * tokens, 8.0)])
        share = [max(one.roofline_us(pairs, used, RATES))[0] + 2 for one in (SHAPE, wide)]
        assert experts.rank_us(pairs, used)[0] == pytest.approx(measured * share[0] / share[1])


def test_a_dtype_that_was_not_measured_has_no_times(tmp_path: Path) -> None:
    path = write(tmp_path, "triton,bfloat16,4,512,1024,2,8,1,1,balanced,0.05")
    assert measured_experts(path, MOE, "fp8_block", (SHAPE, 1, 1), RATES) is None


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "moe_perf.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="is no moe_perf table: no column hidden_size"):
        measured_experts(path, MOE, "bfloat16", (SHAPE, 1, 1), RATES)


def test_expert_parallelism_divides_a_measured_prefill_less_than_evenly(shared_dir: Path) -> None:
    """H100, Qwen3-30B in bf16, 16384 tokens: 2.91 ms on one rank, 1.88 on two, 1.12 on eight."""
    path = shared_dir / "data" / "aiconfigurator" / "moe" / "h100_sxm.vllm-0.24.0.csv"
    moe = MoeMlp(num_experts=128, experts_per_token=8, intermediate_size=768)
    shape = ExpertShape(hidden=2048, width=768, weight_bytes=2, activation_bytes=2)
    times = []
    for ranks in (1, 2, 8):
        found = measured_experts(path, moe, "bfloat16", (shape, 1, ranks), RATES)
        assert found is not None
        assert "as measured" in found[1]
        pairs = np.array([16384.0 * 8 / ranks])
        times.append(float(found[0].rank_us(pairs, np.array([128.0 / ranks]))[0]) / 1000)
    assert times == pytest.approx([2.91, 1.88, 1.12], abs=0.01)
