"""A model as clients see it: its names, its context, its tokenizer."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from penstock.server.answers import Answerer
from penstock.server.errors import ApiError
from penstock.server.pieces import Pieces
from penstock.server.schema import Message
from penstock.server.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model under the names that clients may use, the first of which is its own; ``name`` is the cluster's."""

    name: str
    aliases: tuple[str, ...]
    max_model_len: int
    tokenizer: Tokenizer
    answerer: Answerer
    pieces: Pieces

    def encode(self, prompt: str | list[int], *, add_special_tokens: bool) -> array[int]:
        """The ids of a prompt that leaves room for a token (``renderers/params.py``).

        Raises:
            ApiError: it does not, or it is empty.
        """
        most = self.max_model_len - 1
        if isinstance(prompt, str):
            most_chars = most * self.tokenizer.max_chars_per_token
            if len(prompt) > most_chars:
                raise ApiError(
                    f"This model's maximum context length is {self.max_model_len} tokens. However, your prompt "
                    f"contains {len(prompt)} characters (more than {most_chars} characters, which is the upper "
                    f"bound for {most} input tokens). Please reduce the length of the input prompt.",
                    param="input_text",
                )
            ids = self.tokenizer.encode(prompt, add_special_tokens=add_special_tokens)
        else:
            ids = array("i", prompt)
        if not ids:
            raise ApiError("The decoder prompt cannot be empty")
        if len(ids) > most:
            raise ApiError(
                f"This model's maximum context length is {self.max_model_len} tokens. However, your prompt "
                f"contains {len(ids)} input tokens, which exceeds this limit even without any output tokens. "
                "Please reduce the length of the input prompt.",
                param="input_tokens",
            )
        return ids

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
        """The prompt that a conversation comes to."""
        conversation = [{**message.model_dump(), "content": message.text()} for message in messages]
        return self.tokenizer.render_chat(conversation, add_generation_prompt=add_generation_prompt)
