"""Requests of three numbers each, a megabyte of lines at once: most files of many requests hold nothing else."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np

from penstock.workload.jsonl import MAX_NS, MAX_TOKENS, PLAIN_KEYS
from penstock.workload.workload import Columns

_NUMBER = rb"(?:0|[1-9][0-9]{0,17})"
_DIGITS_ALONE = bytes(byte if byte in b"0123456789" else ord(" ") for byte in range(256))


class PlainLines:
    """Lines that differ from one of a request's arrival and its two lengths in these numbers alone."""

    def __init__(self, frame: bytes, keys: list[str]) -> None:
        line = _NUMBER.join(re.escape(part) for part in frame.split(b"0"))
        self._lines = re.compile(rb"(?:%b\n)*+(?:%b)?" % (line, line))
        self._arrival, self._inputs, self._outputs = (
            keys.index(key) for key in ("arrival_time_ns", "input_toks", "output_toks")
        )

    @classmethod
    def like(cls, text: str) -> PlainLines | None:
        """Those like ``text``, or None where that is none."""
        try:
            record: Any = json.loads(text)
        except (ValueError, RecursionError):
            return None
        if not isinstance(record, dict) or record.keys() != PLAIN_KEYS:
            return None
        numbers = re.findall(r"[0-9]+", text)
        if numbers != [str(value) for value in record.values()] or "-" in text:
            return None
        frame = re.sub(rb"[0-9]+", b"0", text.removesuffix("\n").encode())
        return cls(frame, list(record))

    def add(self, columns: Columns, most: int | None, block: bytes) -> int:
        """Add the requests of whole lines to ``columns`` if all are alike and in range, and no more than ``most``;
        returns how many, else 0."""
        if self._lines.fullmatch(block) is None:
            return 0
        numbers = np.fromstring(block.translate(_DIGITS_ALONE), dtype=np.int64, sep=" ").reshape(-1, 3)
        arrivals, inputs, outputs = (
            numbers[:, place] for place in (self._arrival, self._inputs, self._outputs)
        )
        lengths = numbers[:, [self._inputs, self._outputs]]
        if most is not None and len(numbers) > most:
            return 0
        if lengths.min() < 1 or lengths.max() > MAX_TOKENS or arrivals.max() > MAX_NS:
            return 0
        columns.arrival_ns.frombytes(arrivals.tobytes())
        columns.input_tokens.frombytes(inputs.tobytes())
        columns.output_tokens.frombytes(outputs.tobytes())
        return len(numbers)
