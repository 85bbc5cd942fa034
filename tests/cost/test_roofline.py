from __future__ import annotations

import numpy as np
import pytest
from tests.cost.test_sources import LLAMA

from penstock.cost.roofline import roofline_tables
from penstock.cost.stage import StageRole, TabulatedStageCost
from penstock.cost.step_cost import StepShape
from penstock.cost.tables import KernelTables
from penstock.spec.catalogue import CATALOGUE
from penstock.spec.hardware import HardwareSpec, find_hardware


def estimate(hardware: HardwareSpec) -> KernelTables:
    dtypes = ("bfloat16", "auto")
    return roofline_tables(hardware, LLAMA, kind=LLAMA.kinds[0], tp_size=1, dtypes=dtypes, max_tokens=8192)


@pytest.mark.parametrize("hardware", CATALOGUE, ids=lambda hardware: hardware.label)
def test_attention_of_chunks_beside_decodes_lies_between_the_longer_and_both_apart(
    hardware: HardwareSpec,
) -> None:
    us = estimate(hardware).attention.us
    chunks, decodes = us[1:, :1], us[:1, 1:, :1]
    assert (us[1:, 1:] <= (chunks + decodes) * (1 + 1e-12)).all()
    assert (us[1:, 1:] >= np.maximum(chunks, decodes)).all()
    assert us.min() > 0


@pytest.mark.parametrize(
    ("tokens", "history"), [(8050, 0), (512, 0), (2048, 6000), (64, 0), (16, 30000), (4, 100000)]
)
@pytest.mark.parametrize("decodes", [1, 16, 200, 256])
def test_a_step_of_both_lies_between_the_longer_and_two_steps(
    tokens: int, history: int, decodes: int
) -> None:
    hardware = find_hardware("H100")
    assert hardware is not None
    role = StageRole(layers=LLAMA.layers, first=True, last=True)
    cost = TabulatedStageCost({LLAMA.kinds[0]: estimate(hardware)}, [role], max_tokens=8192)
    chunk = StepShape(prefill_tokens=tokens, prefill_context=history, sampled=1)
    alone = StepShape.of_decodes(decodes, 1000)
    both = StepShape(tokens, history, decodes, decodes * 1000, 1000, 1000, decodes + 1)
    times = [cost.stage_ns(load)[0] for load in (chunk, alone, both)]
    assert times[2] <= times[0] + times[1]
    assert times[2] > max(times[:2])


def test_small_weights_make_decodes_faster_by_their_bytes() -> None:
    hardware = find_hardware("GB300")
    assert hardware is not None
    at = np.array([1.0])
    mlp = {}
    for dtype in ("bfloat16", "fp8", "nvfp4", "fp4"):
        tables = roofline_tables(
            hardware, LLAMA, kind=LLAMA.kinds[0], tp_size=1, dtypes=(dtype, "auto"), max_tokens=512
        )
        mlp[dtype] = float(tables.dense["gate_up_proj"].at(at)[0])
    assert mlp["bfloat16"] > mlp["fp8"] > mlp["nvfp4"] > mlp["fp4"]
