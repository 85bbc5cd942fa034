"""Text to token ids and back: a stated approximation, for where no tokenizer file is given."""

from __future__ import annotations

import re
import zlib
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

_PIECE = re.compile(r" ?[^\W\d_]{1,6}| ?\d{1,3}|\s+|.", re.DOTALL)
_LONGEST_PIECE = 7
_KNOWN_PIECES = 200_000
_FILLER = (
    "the model reads a prompt and writes one token after another until the answer is done while other users wait in "
    "the queue for their turn so each step holds some of them and the cache keeps what was said before they come back "
    "with more to ask of it then time goes on by small steps that add up to what a user sees on the page"
)


class Tokenizer(Protocol):
    """``max_chars_per_token`` bounds the characters of a token; ``filler`` are ids whose pieces make plain text."""

    @property
    def max_chars_per_token(self) -> int: ...
    @property
    def filler(self) -> Sequence[int]: ...

    def encode(self, text: str, *, add_special_tokens: bool = True) -> array[int]:
        """Token ids of a text."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids."""
        ...

    def piece(self, token_id: int) -> str:
        """The text that a token adds to an answer."""
        ...

    def render_chat(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True
    ) -> str:
        """The prompt that a conversation comes to."""
        ...


class ApproximateTokenizer:
    """A token is up to six letters or three digits with the space before them, a run of white space, or one other
    character; its id is a checksum of these, below ``vocab_size``. Equal text gives equal ids, so that prefixes are
    shared as they would be; the counts are an approximation: English prose gives about 1.3 tokens a word."""

    max_chars_per_token = 64
    """Bounds what is tokenized at all; a run of white space may be long."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._pieces: dict[int, str] = {}
        words = dict.fromkeys(f" {word}" for word in _FILLER.split() if len(word) < _LONGEST_PIECE)
        self.filler = tuple(self._id(word) for word in words)
        self._plain = dict(zip(self.filler, words, strict=True))

    def encode(self, text: str, *, add_special_tokens: bool = True) -> array[int]:
        """See :class:`Tokenizer`; there are no special tokens."""
        identify = self._id
        return array("i", [identify(piece) for piece in _PIECE.findall(text)])

    def decode(self, ids: Iterable[int]) -> str:
        """See :class:`Tokenizer`; an id that has not been seen becomes a word of filler."""
        return "".join(map(self.piece, ids))

    def piece(self, token_id: int) -> str:
        """See :class:`Tokenizer`."""
        found = self._plain.get(token_id) or self._pieces.get(token_id)
        return found or self._plain[self.filler[token_id % len(self.filler)]]

    def render_chat(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True
    ) -> str:
        """See :class:`Tokenizer`; ChatML, as many models have it."""
        return chat_ml(messages, add_generation_prompt=add_generation_prompt)

    def _id(self, piece: str) -> int:
        token_id = zlib.crc32(piece.encode(errors="surrogatepass")) % self._vocab_size
        pieces = self._pieces
        if token_id not in pieces:
            if len(pieces) >= _KNOWN_PIECES:
                pieces.clear()
            pieces[token_id] = piece
        return token_id


def chat_ml(messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool) -> str:
    """A conversation in ChatML."""
    parts = [f"<|im_start|>{one['role']}\n{one['content']}<|im_end|>\n" for one in messages]
    return "".join(parts) + ("<|im_start|>assistant\n" if add_generation_prompt else "")
