"""The text of tokens, also as it stands in JSON, made once for each token id."""

from __future__ import annotations

from collections.abc import Iterable

from penstock.server.formats import escaped
from penstock.server.tokenizer import Tokenizer

_MOST = 200_000


class Pieces:
    """What the tokens of answers add to their texts."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._escaped: dict[int, bytes] = {
            token_id: escaped(tokenizer.piece(token_id)) for token_id in tokenizer.filler
        }

    def escaped(self, token_id: int) -> bytes:
        """A token's text inside a JSON string."""
        found = self._escaped.get(token_id)
        if found is None:
            found = escaped(self._tokenizer.piece(token_id))
            if len(self._escaped) < _MOST:
                self._escaped[token_id] = found
        return found

    def text(self, ids: Iterable[int]) -> str:
        """The text of tokens."""
        return self._tokenizer.decode(ids)

    def escape(self, text: str) -> bytes:
        """Any text inside a JSON string."""
        return escaped(text)
