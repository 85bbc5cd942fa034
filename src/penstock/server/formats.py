"""The JSON of answers: whole, and in the chunks of a stream, member by member as vLLM writes it.

``entrypoints/openai/completion/serving.py`` and ``chat_completion/serving.py``. What stays the same over a stream is
made once; a token costs a concatenation.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a request: of its prompts, and of all its sequences."""

    prompt_tokens: int
    completion_tokens: int

    def body(self) -> dict[str, Any]:
        """The JSON of it."""
        total = self.prompt_tokens + self.completion_tokens
        return {
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": total,
            "completion_tokens": self.completion_tokens,
        }


class AnswerFormat(Protocol):
    """How one endpoint writes an answer. ``text`` in a chunk is the inside of a JSON string, encoded."""

    def opening(self, sequences: int) -> bytes:
        """What a stream begins with, once the first token is there."""
        ...

    def chunk(self, sequence: int, text: bytes, finish_reason: str | None, usage: Usage | None) -> bytes:
        """Some tokens of a sequence; ``finish_reason`` with its last."""
        ...

    def closing(self, usage: Usage) -> bytes:
        """The chunk that has the usage and no choices."""
        ...

    def whole(self, answers: Sequence[tuple[str, str]], usage: Usage) -> dict[str, Any]:
        """All at once; each answer is (text, finish_reason)."""
        ...


class CompletionFormat:
    """``/v1/completions``."""

    def __init__(self, request_id: str, created_s: int, model: str) -> None:
        self._head = {"id": f"cmpl-{request_id}", "object": "text_completion", "created": created_s}
        self._model = model
        self._start = _start({**self._head, "model": model}) + b',"choices":[{"index":'

    def opening(self, sequences: int) -> bytes:
        """See :class:`AnswerFormat`."""
        return b""

    def chunk(self, sequence: int, text: bytes, finish_reason: str | None, usage: Usage | None) -> bytes:
        """See :class:`AnswerFormat`."""
        return (
            b'%b%d,"text":"%b","logprobs":null,"finish_reason":%b,"stop_reason":null,'
            b'"prompt_token_ids":null,"token_ids":null}]%b}\n\n'
        ) % (self._start, sequence, text, _reason(finish_reason), _usage(usage))

    def closing(self, usage: Usage) -> bytes:
        """See :class:`AnswerFormat`."""
        return _line({**self._head, "model": self._model, "choices": [], "usage": usage.body()})

    def whole(self, answers: Sequence[tuple[str, str]], usage: Usage) -> dict[str, Any]:
        """See :class:`AnswerFormat`."""
        choices = [
            {
                "index": index,
                "text": text,
                "logprobs": None,
                "finish_reason": reason,
                "stop_reason": None,
                "token_ids": None,
                "prompt_logprobs": None,
                "prompt_token_ids": None,
            }
            for index, (text, reason) in enumerate(answers)
        ]
        return {**self._head, "model": self._model, "choices": choices, **_TAIL, "usage": _full(usage)}


class ChatFormat:
    """``/v1/chat/completions``."""

    def __init__(self, request_id: str, created_s: int, model: str) -> None:
        self._id = f"chatcmpl-{request_id}"
        self._created_s = created_s
        self._model = model
        self._start = _start(self._head("chat.completion.chunk")) + b',"choices":[{"index":'

    def opening(self, sequences: int) -> bytes:
        """See :class:`AnswerFormat`: the role, for each sequence."""
        return b"".join(
            (
                b'%b%d,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],'
                b'"prompt_token_ids":null,"prompt_text":null}\n\n'
            )
            % (self._start, sequence)
            for sequence in range(sequences)
        )

    def chunk(self, sequence: int, text: bytes, finish_reason: str | None, usage: Usage | None) -> bytes:
        """See :class:`AnswerFormat`."""
        stop = b"" if finish_reason is None else b'"stop_reason":null,'
        return (
            b'%b%d,"delta":{"content":"%b"},"logprobs":null,"finish_reason":%b,%b"token_ids":null}]%b}\n\n'
            % (
                self._start,
                sequence,
                text,
                _reason(finish_reason),
                stop,
                _usage(usage),
            )
        )

    def closing(self, usage: Usage) -> bytes:
        """See :class:`AnswerFormat`."""
        return _line({**self._head("chat.completion.chunk"), "choices": [], "usage": usage.body()})

    def whole(self, answers: Sequence[tuple[str, str]], usage: Usage) -> dict[str, Any]:
        """See :class:`AnswerFormat`."""
        choices = [
            {
                "index": index,
                "message": {
                    "role": "assistant",
                    "content": text,
                    "refusal": None,
                    "annotations": None,
                    "audio": None,
                    "function_call": None,
                    "reasoning": None,
                },
                "logprobs": None,
                "finish_reason": reason,
                "stop_reason": None,
                "token_ids": None,
            }
            for index, (text, reason) in enumerate(answers)
        ]
        return {**self._head("chat.completion"), "choices": choices, **_TAIL, "usage": _full(usage)}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created_s, "model": self._model}


_TAIL = {"service_tier": None, "system_fingerprint": None}


def escaped(text: str) -> bytes:
    """The inside of a JSON string."""
    return json.dumps(text)[1:-1].encode()


def error_line(body: dict[str, Any]) -> bytes:
    """An error in the middle of a stream."""
    return _line(body)


def _start(head: dict[str, Any]) -> bytes:
    """The beginning of a chunk, without the closing brace."""
    return b"data: " + json.dumps(head, separators=(",", ":")).encode()[:-1]


def _line(body: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"


def _reason(finish_reason: str | None) -> bytes:
    return b"null" if finish_reason is None else b'"%b"' % finish_reason.encode()


def _usage(usage: Usage | None) -> bytes:
    return b"" if usage is None else b',"usage":' + json.dumps(usage.body(), separators=(",", ":")).encode()


def _full(usage: Usage) -> dict[str, Any]:
    return {**usage.body(), "prompt_tokens_details": None, "completion_tokens_details": None}
