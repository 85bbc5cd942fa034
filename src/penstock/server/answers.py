"""What a simulated model answers: how many tokens, and which."""

from __future__ import annotations

import zlib
from array import array
from dataclasses import dataclass
from typing import Literal

import numpy as np

from penstock.server.tokenizer import Tokenizer
from penstock.workload.lengths import Lengths

TextSource = Literal["filler", "echo"]


@dataclass(frozen=True, slots=True)
class Answer:
    """The ids that will be generated, and why it ends: ``length`` where ``max_tokens`` cut it, else ``stop``."""

    ids: array[int]
    finish_reason: Literal["length", "stop"]


class Answerer:
    """Decides answers. Their lengths are drawn from ``lengths`` where the request leaves them open; the draw, and the
    text, follow from the request's seed or, without one, from its prompt: the same request has the same answer."""

    def __init__(self, tokenizer: Tokenizer, lengths: Lengths, source: TextSource = "filler") -> None:
        self._filler = np.array(tokenizer.filler, dtype=np.int32)
        self._lengths = lengths
        self._source = source

    def answer(
        self,
        prompt: array[int],
        *,
        max_tokens: int,
        min_tokens: int = 0,
        ignore_eos: bool = False,
        seed: int | None = None,
        number: int = 0,
    ) -> Answer:
        """The answer to ``prompt``, at most ``max_tokens`` long, which must be 1 or more; ``number`` tells several
        answers to one request apart."""
        start = zlib.crc32(prompt) if seed is None else seed
        generator = np.random.default_rng([start & 0xFFFF_FFFF_FFFF_FFFF, number])
        tokens = max_tokens
        if not ignore_eos:
            tokens = max(int(self._lengths.sample(generator, 1)[0]), min_tokens)
        finish_reason = "length" if tokens >= max_tokens else "stop"
        tokens = min(tokens, max_tokens)
        return Answer(self._ids(prompt, tokens, generator), finish_reason)

    def _ids(self, prompt: array[int], tokens: int, generator: np.random.Generator) -> array[int]:
        if self._source == "echo":
            whole, rest = divmod(tokens, len(prompt))
            return prompt * whole + prompt[:rest]
        drawn = self._filler[generator.integers(0, len(self._filler), size=tokens)]
        return array("i", drawn.tobytes())
