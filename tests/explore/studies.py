"""Small searches for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

SMALL: dict[str, Any] = {
    "model": "meta-llama/Llama-3.1-8B",
    "generate": {"num_requests": 80, "input_toks": "lognormal:400,0.6", "output_toks": "uniform:4,20"},
    "slo": "ttft_p90<150ms,tpot_p90<25ms",
    "objectives": ["goodput_per_gpu", "cost_per_million_tokens", "gpus"],
    "tolerance": 0.3,
    "max_requests": 240,
    "search": {"early_stop": None},
    "space": {"hardware": ["H100", "L40S"], "gpus": [1, 2], "tp": [1, 2], "pp": [1, 2]},
}


def write_study(directory: Path, **changes: Any) -> Path:
    """SMALL with top-level members replaced (None removes one), as a file."""
    data = {name: value for name, value in {**SMALL, **changes}.items() if value is not None}
    path = directory / "study.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path
