"""Requests in every form in which they are read."""

from __future__ import annotations

FLAT = [{"input_toks": 20 + n, "output_toks": 3, "arrival_time_ns": n * 10**6} for n in range(4)]

SESSION = {
    "session_id": "a",
    "arrival_time_ns": 5,
    "sub_requests": [
        {"input_toks": 3, "output_toks": 2, "tool_duration_ns": 10, "input_tok_ids": [1, 2, 3]},
        {"input_toks": 6, "output_toks": 2, "priority": 1},
    ],
}

MOONCAKE = {"timestamp": 1, "input_length": 600, "output_length": 2, "hash_ids": [0, 1]}

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(
    f"2023-11-16 18:17:0{n}.9799600,{100 + n},{5 + n}\n" for n in range(4)
)

CONVERSATIONS = [
    {
        "id": str(n),
        "conversations": [{"from": "human", "value": "a the"}, {"from": "gpt", "value": "a a the"}],
    }
    for n in range(3)
]
