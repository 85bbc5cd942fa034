"""The bodies of requests, as vLLM takes them; fields that change nothing here are let through."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from penstock.server.errors import ApiError

_INT64 = 2**63
MAX_SEQUENCES = 16_384
"""vLLM's VLLM_MAX_N_SEQUENCES; here of all prompts of a request together."""

MAX_ANSWER_TOKENS = 1 << 24
"""Of all answers to one request; they are decided when it comes, in 4 bytes each."""

TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Integer = Annotated[int, Field(ge=-_INT64, lt=_INT64)]


class Body(BaseModel):
    """What clients send may have more fields than these."""

    model_config = ConfigDict(extra="allow")


class StreamOptions(Body):
    """What a stream says beside the tokens."""

    include_usage: bool | None = False
    continuous_usage_stats: bool | None = False


class Sampling(Body):
    """What completions and chats have in common."""

    model: str | None = None
    n: Integer | None = 1
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    ignore_eos: bool = False
    min_tokens: Integer = 0
    seed: Integer | None = None
    stop: str | list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    priority: Integer = 0
    request_id: str | None = None
    return_token_ids: bool | None = None

    def check(self, max_tokens: int | None) -> None:
        """Refuse what vLLM refuses (``sampling_params.py: SamplingParams._verify_args``).

        Raises:
            ApiError: naming the field.
        """
        n = 1 if self.n is None else self.n
        if self.stream_options is not None and not self.stream:
            raise ApiError("Stream options can only be defined when `stream=True`.", param="stream_options")
        if n < 1:
            raise ApiError(f"n must be at least 1, got {n}.", param="n")
        if n > MAX_SEQUENCES:
            raise ApiError(f"n must be at most {MAX_SEQUENCES}, got {n}.", param="n")
        if self.temperature is not None and not (
            math.isfinite(self.temperature) and 0.0 <= self.temperature <= 2.0
        ):
            raise ApiError(f"temperature must be in [0, 2], got {self.temperature}.", param="temperature")
        if self.top_p is not None and not 0.0 < self.top_p <= 1.0:
            raise ApiError(f"top_p must be in (0, 1], got {self.top_p}.", param="top_p")
        if max_tokens is not None and max_tokens < 1:
            raise ApiError(f"max_tokens must be at least 1, got {max_tokens}.", param="max_tokens")
        if self.min_tokens < 0:
            raise ApiError(f"min_tokens must be greater than or equal to 0, got {self.min_tokens}.")
        if max_tokens is not None and self.min_tokens > max_tokens:
            raise ApiError(
                f"min_tokens must be less than or equal to max_tokens={max_tokens}, got {self.min_tokens}."
            )


class CompletionBody(Sampling):
    """``POST /v1/completions``."""

    prompt: list[TokenId] | list[list[TokenId]] | str | list[str] | None = None
    max_tokens: Integer | None = 16
    echo: bool | None = False
    add_special_tokens: bool = True

    def prompts(self) -> list[str | list[int]]:
        """Each prompt, as text or token ids.

        Raises:
            ApiError: there is none.
        """
        prompt = self.prompt
        if prompt is None or (not prompt and not isinstance(prompt, str)):
            raise ApiError("Either prompt or prompt_embeds must be provided and non-empty.", param="prompt")
        if isinstance(prompt, str):
            return [prompt]
        if isinstance(prompt[0], int):
            return [[one for one in prompt if isinstance(one, int)]]
        return [one for one in prompt if not isinstance(one, int)]


class Message(Body):
    """One message of a conversation; content may be text, or parts of which the text counts."""

    role: str
    content: str | list[dict[str, Any]] | None = None

    def text(self) -> str:
        """The text of it."""
        if isinstance(self.content, list):
            return "".join(str(part.get("text", "")) for part in self.content)
        return self.content or ""


class ChatBody(Sampling):
    """``POST /v1/chat/completions``."""

    messages: list[Message]
    max_tokens: Integer | None = None
    max_completion_tokens: Integer | None = None
    add_generation_prompt: bool = True

    @property
    def most_tokens(self) -> int | None:
        """How long the answer may become; None: as far as the context goes."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


class TokenizeBody(Body):
    """``POST /tokenize``, of a text or of a conversation."""

    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = None
    add_special_tokens: bool = True
    add_generation_prompt: bool = True
    return_token_strs: bool | None = False


class DetokenizeBody(Body):
    """``POST /detokenize``."""

    model: str | None = None
    tokens: list[TokenId]
