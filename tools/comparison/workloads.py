"""Workloads of the comparison, drawn from fixed seeds: one file per format and habit that a run can meet."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

NS_PER_S = 1_000_000_000


def write_workloads(directory: Path) -> dict[str, Path]:
    """Write all workloads into ``directory``; returns their paths by name."""
    directory.mkdir(parents=True, exist_ok=True)
    flat = {
        "steady": _requests(1, 80, gap_s=0.06),
        "dense": _requests(2, 160, gap_s=0.008),
        "burst": _requests(3, 70, gap_s=0),
        "long": _requests(4, 14, gap_s=0.3, prompts=(2500, 9000), outputs=(10, 60)),
        "short": _requests(5, 60, gap_s=0.02, prompts=(1, 40), outputs=(1, 6)),
        "growing": _requests(6, 50, gap_s=0.01, prompts=(100, 400), outputs=(150, 350)),
        "oversized": _requests(7, 40, gap_s=0.05, prompts=(50, 6000), outputs=(5, 120)),
        "unordered": _shuffled(_requests(8, 60, gap_s=0.05)),
        "sessions": _sessions(9, 24),
        "prefixes": _prefixes(10, 60),
        "conversations": _conversations(11, 16),
    }
    paths = {name: _write_lines(directory / f"{name}.jsonl", lines) for name, lines in flat.items()}
    paths["mixed"] = _write_lines(
        directory / "mixed.jsonl", [*_requests(12, 30, gap_s=0.1), *_sessions(13, 10)]
    )
    paths["azure"] = directory / "azure.csv"
    paths["azure"].write_text(_azure(14, 70), encoding="utf-8")
    paths["mooncake"] = _write_lines(directory / "mooncake.jsonl", _mooncake(15, 40))
    packed = directory / "mooncake.jsonl.gz"
    packed.write_bytes(gzip.compress(paths["mooncake"].read_bytes(), mtime=0))
    paths["mooncake-gz"] = packed
    return paths


def _write_lines(path: Path, lines: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def _requests(
    seed: int,
    count: int,
    *,
    gap_s: float,
    prompts: tuple[int, int] = (20, 900),
    outputs: tuple[int, int] = (2, 140),
) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    now = 0
    lines: list[dict[str, Any]] = []
    for _ in range(count):
        now += round(rng.expovariate(1 / gap_s) * NS_PER_S) if gap_s else 0
        lines.append(
            {
                "input_toks": rng.randint(*prompts),
                "output_toks": rng.randint(*outputs),
                "arrival_time_ns": now,
            }
        )
    return lines


def _shuffled(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    random.Random(0).shuffle(lines)
    return lines


def _sessions(seed: int, count: int) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    return [
        {
            "session_id": f"s{number}",
            "arrival_time_ns": round(number * 0.15 * NS_PER_S),
            "sub_requests": [
                {
                    "input_toks": rng.randint(30, 700),
                    "output_toks": rng.randint(3, 80),
                    "tool_duration_ns": rng.choice([0, 1, 30_000_000, 700_000_000]),
                }
                for _ in range(rng.randint(1, 5))
            ],
        }
        for number in range(count)
    ]


def _prefixes(seed: int, count: int) -> list[dict[str, Any]]:
    """Prompts that share one of four prefixes, some of them repeated whole."""
    rng = random.Random(seed)
    shared = [[1000 * group + place for place in range(400 + 77 * group)] for group in range(4)]
    lines = _requests(seed, count, gap_s=0.03, prompts=(1, 300))
    for number, line in enumerate(lines):
        own = [50_000 + 400 * (number // 2) + place for place in range(line["input_toks"])]
        ids = rng.choice(shared) + own
        line["input_toks"] = len(ids)
        line["input_tok_ids"] = ids
        line["output_tok_ids"] = [90_000 + 200 * number + place for place in range(line["output_toks"])]
    return lines


def _conversations(seed: int, count: int) -> list[dict[str, Any]]:
    """Sessions whose calls repeat the conversation so far, answers included."""
    rng = random.Random(seed)
    lines: list[dict[str, Any]] = []
    fresh = iter(range(1, 1 << 30))
    for number in range(count):
        said = [next(fresh) for _ in range(100)]
        calls: list[dict[str, Any]] = []
        for _ in range(rng.randint(2, 5)):
            prompt = said + [next(fresh) for _ in range(rng.randint(5, 120))]
            answer = [next(fresh) for _ in range(rng.randint(4, 60))]
            calls.append(
                {
                    "input_toks": len(prompt),
                    "output_toks": len(answer),
                    "input_tok_ids": prompt,
                    "output_tok_ids": answer,
                    "tool_duration_ns": rng.choice([0, 200_000_000]),
                }
            )
            said = prompt + answer
        lines.append({"session_id": number, "arrival_time_ns": number * 90_000_000, "sub_requests": calls})
    for line in lines:
        line["session_id"] = f"c{line['session_id']}"
    return lines


def _azure(seed: int, count: int) -> str:
    rng = random.Random(seed)
    now = datetime(2023, 11, 16, 18, 17, 3)
    rows = ["TIMESTAMP,ContextTokens,GeneratedTokens"]
    for _ in range(count):
        now += timedelta(microseconds=rng.randint(0, 150_000))
        rows.append(
            f"{now:%Y-%m-%d %H:%M:%S.%f}{rng.randint(0, 9)},{rng.randint(5, 2500)},{rng.randint(1, 90)}"
        )
    return "\n".join(rows) + "\n"


def _mooncake(seed: int, count: int) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    fresh = iter(range(100, 1 << 30))
    lines: list[dict[str, Any]] = []
    for number in range(count):
        blocks = list(range(rng.randint(0, 4))) + [next(fresh) for _ in range(rng.randint(1, 5))]
        lines.append(
            {
                "timestamp": number * 120,
                "input_length": 512 * len(blocks) - rng.randint(0, 500),
                "output_length": rng.randint(2, 60),
                "hash_ids": blocks,
            }
        )
    return lines
