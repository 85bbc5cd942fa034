from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from tests.cost.test_sources import LLAMA, ask

from penstock.cost.sources import kernel_tables
from penstock.cost.stage import StageRole, TabulatedStageCost
from penstock.cost.step_cost import StepShape

CHUNKS = (*product((64, 300, 2048, 8050), (0, 4096, 30000)), (4, 4096), (1, 30000))
DECODES = tuple(product((1, 16, 200, 256), (100, 1500, 8000)))


def packaged(hardware: str) -> TabulatedStageCost:
    """A packaged fit of chunks and decodes that were measured apart."""
    question = replace(ask(hardware, LLAMA), max_tokens=8192)
    tables = kernel_tables(question, None)
    assert "packaged fit" in tables.basis[0]
    assert "AIConfigurator" in tables.basis[0]
    role = StageRole(layers=LLAMA.layers, first=True, last=True)
    return TabulatedStageCost({question.kind: tables}, [role], max_tokens=8192)


@pytest.mark.parametrize("hardware", ["A100", "H100", "H200", "B200", "L40S"])
def test_a_step_of_both_lies_between_its_parts_and_their_sum(hardware: str) -> None:
    cost = packaged(hardware)
    for (tokens, history), (decodes, context) in product(CHUNKS, DECODES):
        chunk = StepShape(prefill_tokens=tokens, prefill_context=history, sampled=1)
        alone = StepShape.of_decodes(decodes, context)
        both = StepShape(tokens, history, decodes, decodes * context, context, context, decodes + 1)
        attention = [cost.attention_ns(load) for load in (chunk, alone, both)]
        assert max(attention[:2]) <= attention[2] <= attention[0] + attention[1] + 1, (both, attention)
        times = [cost.stage_ns(load)[0] for load in (chunk, alone, both)]
        assert times[2] <= times[0] + times[1], (both, times)
        # Dense kernels are as measured, and some were measured faster with a few more tokens.
        assert times[2] > 0.9 * max(times[:2]), (both, times)
