"""What LLMServingSim does where its options say nothing: its default requests, and names of runs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from penstock.errors import UserError
from penstock.files.json_text import load_json
from penstock.workload.workload import Workload

REQUESTS_PER_INSTANCE = 16
PROMPT_TOKENS = ANSWER_TOKENS = 64


def default_requests(cluster: str | Mapping[str, Any] | None) -> Workload:
    """16 requests per instance that serves prompts, of 64 + 64 tokens, all at once."""
    count = REQUESTS_PER_INSTANCE * max(_instances(cluster), 1)
    columns = ([0] * count, [PROMPT_TOKENS] * count, [ANSWER_TOKENS] * count)
    return Workload.from_columns(*columns, "LLMServingSim's default requests")


def _instances(cluster: str | Mapping[str, Any] | None) -> int:
    """How many instances a config has; 0 where it cannot be read, which is told elsewhere."""
    data: Any = cluster
    if isinstance(cluster, str):
        with suppress(UserError):
            data = load_json(cluster)
    try:
        return sum(one.get("pd_type") != "decode" for node in data["nodes"] for one in node["instances"])
    except (AttributeError, KeyError, TypeError):
        return 0
