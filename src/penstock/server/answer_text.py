"""The text of the answers to one HTTP request, as far as it has come."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from penstock.server.answers import Answer
from penstock.server.formats import AnswerFormat, Usage
from penstock.server.pieces import Pieces


class AnswerText:
    """Turns tokens that have come into text. ``prompts[i]`` has the answers from ``i * n`` on, ``n`` of them each.
    ``echoes``: each answer begins with its prompt's text. ``counts``: every chunk has the usage so far.

    ``left`` is how many tokens have not come.
    """

    __slots__ = ("_answers", "_counts", "_echoes", "_n", "_pieces", "_prompts", "_style", "_taken", "left")

    def __init__(
        self,
        prompts: Sequence[array[int]],
        answers: Sequence[Answer],
        n: int,
        style: AnswerFormat,
        pieces: Pieces,
        *,
        echoes: bool,
        counts: bool,
    ) -> None:
        self._prompts = prompts
        self._answers = answers
        self._n = n
        self._style = style
        self._pieces = pieces
        self._echoes = echoes
        self._counts = counts
        self._taken = [0] * len(answers)
        self.left = sum(len(answer.ids) for answer in answers)

    @property
    def sequences(self) -> int:
        """How many answers there are."""
        return len(self._answers)

    def chunk(self, sequence: int, count: int) -> bytes:
        """The next ``count`` tokens of a sequence, as its endpoint writes a chunk."""
        answer = self._answers[sequence]
        start = self._taken[sequence]
        stop = self._taken[sequence] = start + count
        self.left -= count
        ids = answer.ids
        if count == 1 and (start or not self._echoes):
            text = self._pieces.escaped(ids[start])
        else:
            text = self._pieces.escape(self._text(sequence, start, stop))
        usage = self.usage() if self._counts else None
        return self._style.chunk(sequence, text, answer.finish_reason if stop == len(ids) else None, usage)

    def whole(self) -> list[tuple[str, str]]:
        """All of each answer, and why it ended; they count as come then."""
        self._taken = [len(answer.ids) for answer in self._answers]
        self.left = 0
        return [
            (self._text(place, 0, len(answer.ids)), answer.finish_reason)
            for place, answer in enumerate(self._answers)
        ]

    def usage(self) -> Usage:
        """Tokens so far; of the prompts, each once."""
        return Usage(sum(map(len, self._prompts)), sum(self._taken))

    def _text(self, sequence: int, start: int, stop: int) -> str:
        text = self._pieces.text(self._answers[sequence].ids[start:stop])
        if self._echoes and not start:
            return self._pieces.text(self._prompts[sequence // self._n]) + text
        return text
