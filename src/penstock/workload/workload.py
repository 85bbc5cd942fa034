"""All requests of a run in columns; :class:`Request` objects are built as they are asked for."""

from __future__ import annotations

import copy
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from penstock.units import Int64Array
from penstock.workload.request import Request

PREFIX_BLOCK_TOKENS = 512
"""Tokens behind one entry of Mooncake's ``hash_ids``."""

_MAX_ID = 2**31 - 1


class RaggedInts:
    """A list of int32 per row, most of them absent: one flat array and where each row's part ends.

    Rows are written in rising order; a row that was never written, or has no values, is absent.
    """

    def __init__(self) -> None:
        self._values = array("i")
        self._ends = array("q")

    def put(self, row: int, values: array[int]) -> None:
        """Write ``row``, which lies behind all rows written before."""
        self._ends.extend([len(self._values)] * (row - len(self._ends)))
        self._values.extend(values)
        self._ends.append(len(self._values))

    def get(self, row: int) -> array[int] | None:
        """A copy of the row's values, or None where it has none."""
        if row >= len(self._ends):
            return None
        start = self._ends[row - 1] if row else 0
        return self._values[start : self._ends[row]] or None

    def __len__(self) -> int:
        """Values in all rows together."""
        return len(self._values)

    @property
    def largest(self) -> int:
        """Of all values; -1 where there are none."""
        return max(self._values, default=-1)


class SparseInts:
    """An int32 per row, 0 where none was written. Nothing is stored up to the first row that has another value.

    Rows are written in rising order.
    """

    def __init__(self) -> None:
        self._first_row = 0
        self._values = array("i")

    def put(self, row: int, value: int) -> None:
        """Write ``row``, which lies behind all rows written before."""
        if not value:
            return
        if not self._values:
            self._first_row = row
        self._values.extend([0] * (row - self._first_row - len(self._values)))
        self._values.append(value)

    def get(self, row: int) -> int:
        """The row's value."""
        place = row - self._first_row
        return self._values[place] if 0 <= place < len(self._values) else 0

    def dense(self, rows: int) -> Int64Array:
        """The values of rows 0 to ``rows`` - 1, shape (rows,)."""
        values = np.zeros(rows, dtype=np.int64)
        values[self._first_row : self._first_row + len(self._values)] = self._values
        return values

    def __bool__(self) -> bool:
        """Whether any row has another value than 0."""
        return bool(self._values)


@dataclass(frozen=True, slots=True)
class Call:
    """One request as a file or the generator describes it.

    ``tool_duration_ns`` passes between its completion and the arrival of the session's next call.
    ``prefix_blocks`` are numbers standing for the contents of the prompt's 512-token blocks, from which
    token ids are made where no ``input_ids`` are given. A lower ``priority`` is more urgent.
    ``model`` names the model that has to serve it.
    """

    input_tokens: int
    output_tokens: int
    tool_duration_ns: int = 0
    input_ids: array[int] | None = None
    output_ids: array[int] | None = None
    prefix_blocks: array[int] | None = None
    priority: int = 0
    model: str | None = None


@dataclass(slots=True)
class Columns:
    """What a :class:`Workload` is built from, one row per request, in file order.

    ``arrival_ns`` of a later call of a session is the session's own: when it arrives depends on the run.
    ``session_starts`` and ``session_ends`` are the rows [start, end) of each session, in file order. ``model`` is
    the place of a request's model in ``model_names``, from 1; 0 names none.
    """

    input_tokens: array[int] = field(default_factory=lambda: array("q"))
    output_tokens: array[int] = field(default_factory=lambda: array("q"))
    arrival_ns: array[int] = field(default_factory=lambda: array("q"))
    session_starts: array[int] = field(default_factory=lambda: array("q"))
    session_ends: array[int] = field(default_factory=lambda: array("q"))
    tool_duration_ns: array[int] = field(default_factory=lambda: array("q"))  # calls of sessions only
    input_ids: RaggedInts = field(default_factory=RaggedInts)
    output_ids: RaggedInts = field(default_factory=RaggedInts)
    prefix_blocks: RaggedInts = field(default_factory=RaggedInts)
    priority: SparseInts = field(default_factory=SparseInts)
    model: SparseInts = field(default_factory=SparseInts)
    model_names: dict[str, int] = field(default_factory=dict[str, int])

    def add_plain(self, arrival_ns: int, input_tokens: int, output_tokens: int) -> None:
        """Add a request without token ids that arrives by itself."""
        self.input_tokens.append(input_tokens)
        self.output_tokens.append(output_tokens)
        self.arrival_ns.append(arrival_ns)

    def add(self, arrival_ns: int, call: Call) -> None:
        """Add a request that arrives by itself."""
        row = len(self.arrival_ns)
        self.add_plain(arrival_ns, call.input_tokens, call.output_tokens)
        if call.input_ids is not None:
            self.input_ids.put(row, call.input_ids)
        if call.output_ids is not None:
            self.output_ids.put(row, call.output_ids)
        if call.prefix_blocks is not None:
            self.prefix_blocks.put(row, call.prefix_blocks)
        self.priority.put(row, call.priority)
        if call.model is not None:
            self.model.put(row, self.model_names.setdefault(call.model, len(self.model_names) + 1))

    def add_session(self, arrival_ns: int, calls: Sequence[Call]) -> None:
        """Add a session: its first call arrives at ``arrival_ns``, each later one after the one before."""
        self.session_starts.append(len(self.arrival_ns))
        for call in calls:
            self.add(arrival_ns, call)
            self.tool_duration_ns.append(call.tool_duration_ns)
        self.session_ends.append(len(self.arrival_ns))


class Workload:
    """The requests of a run, frozen. ``source`` says where they come from, for display.

    24 bytes a request without token ids, and 4 bytes a token id; sessions add 8 bytes a call, priorities 4 a
    request, names of models 4 a request.
    """

    def __init__(self, columns: Columns, source: str) -> None:
        self.source = source
        self._input_tokens = columns.input_tokens
        self._output_tokens = columns.output_tokens
        self._arrival_ns = columns.arrival_ns
        self._input_ids = columns.input_ids
        self._output_ids = columns.output_ids
        self._prefix_blocks = columns.prefix_blocks
        self._priority = columns.priority
        self._model = columns.model
        self._model_names: tuple[str | None, ...] = (None, *columns.model_names)
        self._session_starts = _int64(columns.session_starts)
        self._session_ends = _int64(columns.session_ends)
        self._tool_duration_ns = columns.tool_duration_ns
        lengths = self._session_ends - self._session_starts
        self._calls_before_session = np.cumsum(lengths) - lengths

    def renamed(self, source: str) -> Workload:
        """The same requests under another ``source``."""
        same = copy.copy(self)
        same.source = source
        return same

    @classmethod
    def from_columns(
        cls, arrival_ns: Sequence[int], input_tokens: Sequence[int], output_tokens: Sequence[int], source: str
    ) -> Workload:
        """A workload of independent requests without token ids, from three columns of one length."""
        if not len(arrival_ns) == len(input_tokens) == len(output_tokens):
            raise ValueError("columns differ in length")
        columns = Columns(array("q", input_tokens), array("q", output_tokens), array("q", arrival_ns))
        return cls(columns, source)

    @classmethod
    def empty(cls) -> Workload:
        """No requests: all that is served is submitted."""
        return cls(Columns(), "submitted")

    def with_arrivals(self, arrival_ns: array[int]) -> Workload:
        """The same requests at other times, one per request; all calls of a session have its first."""
        if len(arrival_ns) != len(self):
            raise ValueError(f"{len(arrival_ns)} arrivals for {len(self)} requests")
        other = copy.copy(self)
        other._arrival_ns = arrival_ns  # noqa: SLF001 (its own copy)
        return other

    def __len__(self) -> int:
        """Requests, each call of a session counted."""
        return len(self._arrival_ns)

    @property
    def has_sessions(self) -> bool:
        """Whether some requests arrive only when others have completed."""
        return len(self._session_starts) > 0

    @property
    def num_sessions(self) -> int:
        """Lines with ``sub_requests``."""
        return len(self._session_starts)

    @property
    def has_token_ids(self) -> bool:
        """Whether any request has ids, so that prefix caching can matter."""
        return len(self._input_ids) + len(self._output_ids) + len(self._prefix_blocks) > 0

    @property
    def num_token_ids(self) -> int:
        """Of prompts and answers; those that numbers of prefix blocks stand for are made as they are needed."""
        return len(self._input_ids) + len(self._output_ids) + len(self._prefix_blocks)

    @property
    def has_priorities(self) -> bool:
        """Whether any request has another priority than 0."""
        return bool(self._priority)

    @property
    def priority(self) -> Int64Array:
        """Priorities in file order, shape (requests,), a copy; lower is more urgent."""
        return self._priority.dense(len(self))

    @property
    def names_models(self) -> bool:
        """Whether any request names the model that has to serve it."""
        return bool(self._model)

    def requests_by_model(self) -> dict[str | None, int]:
        """How many requests name each model, in order of first sight; None: no model."""
        if not self.names_models:
            return {None: len(self)} if len(self) else {}
        counts = np.bincount(self._model.dense(len(self)), minlength=len(self._model_names)).tolist()
        return {name: count for name, count in zip(self._model_names, counts, strict=True) if count}

    @property
    def input_tokens(self) -> Int64Array:
        """Prompt lengths in file order, shape (requests,), a copy."""
        return _int64(self._input_tokens)

    @property
    def output_tokens(self) -> Int64Array:
        """Answer lengths in file order, shape (requests,), a copy."""
        return _int64(self._output_tokens)

    @property
    def arrival_ns(self) -> Int64Array:
        """Arrivals in file order, shape (requests,), a copy; all calls of a session have its first."""
        return _int64(self._arrival_ns)

    @property
    def largest_id(self) -> int:
        """Of all token ids and numbers of prefix blocks; -1 where there are none."""
        return max(self._input_ids.largest, self._output_ids.largest, self._prefix_blocks.largest)

    @property
    def total_input_tokens(self) -> int:
        """Prompt tokens of all requests."""
        return int(self.input_tokens.sum())

    @property
    def total_output_tokens(self) -> int:
        """Tokens all answers have together."""
        return int(self.output_tokens.sum())

    @property
    def first_arrival_ns(self) -> int:
        """Earliest arrival."""
        return int(self.arrival_ns.min())

    def requests(self) -> Iterator[Request]:
        """Those that arrive by themselves, by (arrival, place in the file), each built when it is reached."""
        rows = self._rows_arriving()
        arrivals = self.arrival_ns[rows]
        if np.any(arrivals[1:] < arrivals[:-1]):
            rows = rows[np.argsort(arrivals, kind="stable")]
        if not self.is_plain:
            return (self.request(row) for row in array("q", rows.tobytes()))
        inputs, outputs, times = self._input_tokens, self._output_tokens, self._arrival_ns
        return (Request(row, times[row], inputs[row], outputs[row]) for row in array("q", rows.tobytes()))

    @property
    def is_plain(self) -> bool:
        """Whether a request is no more than its arrival and its two lengths."""
        return not (self.has_token_ids or self.has_sessions or self.has_priorities or self.names_models)

    def in_order(self) -> tuple[Int64Array, Int64Array, Int64Array, Int64Array]:
        """Of a workload without sessions, in the order of :meth:`requests`: places in the file, arrivals, and both
        lengths."""
        rows = np.argsort(self.arrival_ns, kind="stable")
        return rows, self.arrival_ns[rows], self.input_tokens[rows], self.output_tokens[rows]

    def ids_at(self, index: int) -> tuple[array[int] | None, array[int] | None]:
        """Token ids of a prompt and its answer."""
        return self._ids_of_prompt(index), self._output_ids.get(index)

    def request(self, index: int) -> Request:
        """The request at ``index``; a session's later call with its session's arrival (see next_call)."""
        return self._build(index, self._arrival_ns[index])

    def next_call(self, request_index: int, finish_ns: int) -> Request | None:
        """The call that the completion of ``request_index`` at ``finish_ns`` releases, with its arrival.

        None where the request belongs to no session or is its last call.
        """
        session = self._session_of(request_index)
        if session is None or request_index + 1 >= self._session_ends[session]:
            return None
        call = int(self._calls_before_session[session] + request_index - self._session_starts[session])
        return self._build(request_index + 1, finish_ns + self._tool_duration_ns[call])

    def calls_of_session(self, session: int) -> list[Call]:
        """The calls of a session in order, their token ids written out."""
        rows = range(int(self._session_starts[session]), int(self._session_ends[session]))
        first = int(self._calls_before_session[session])
        requests = (self.request(row) for row in rows)
        return [
            Call(
                request.input_tokens,
                request.output_tokens,
                self._tool_duration_ns[first + place],
                request.input_ids,
                request.output_ids,
                priority=request.priority,
                model=request.model,
            )
            for place, request in enumerate(requests)
        ]

    def call(self, index: int) -> Call:
        """A request that arrives by itself, as it was described: numbers of prefix blocks stay such."""
        return Call(
            self._input_tokens[index],
            self._output_tokens[index],
            input_ids=self._input_ids.get(index),
            output_ids=self._output_ids.get(index),
            prefix_blocks=self._prefix_blocks.get(index),
            priority=self._priority.get(index),
            model=self._model_names[self._model.get(index)],
        )

    def _build(self, index: int, arrival_ns: int) -> Request:
        return Request(
            index,
            arrival_ns,
            self._input_tokens[index],
            self._output_tokens[index],
            self._ids_of_prompt(index),
            self._output_ids.get(index),
            self._session_of(index),
            self._priority.get(index),
            self._model_names[self._model.get(index)],
        )

    def _session_of(self, index: int) -> int | None:
        if not self.has_sessions:
            return None
        session = int(np.searchsorted(self._session_starts, index, side="right")) - 1
        return session if session >= 0 and index < self._session_ends[session] else None

    def _rows_arriving(self) -> Int64Array:
        alone = np.ones(len(self), dtype=np.bool_)
        for start, end in zip(self._session_starts, self._session_ends, strict=True):
            alone[start + 1 : end] = False
        return np.flatnonzero(alone).astype(np.int64)

    def _ids_of_prompt(self, index: int) -> array[int] | None:
        """The prompt's ids; those made from block numbers repeat the number over the block.

        So equal numbers under equal predecessors are equal prefixes, whatever the KV block size, and
        different numbers differ in every token. A tail without a number gets one of its own, from the top.
        """
        blocks = self._prefix_blocks.get(index)
        if blocks is None:
            return self._input_ids.get(index)
        ids = array("i")
        for block in blocks:
            ids.extend(array("i", (block,)) * PREFIX_BLOCK_TOKENS)
        missing = self._input_tokens[index] - len(ids)
        ids.extend(array("i", (_MAX_ID - index,)) * missing)
        return ids[: self._input_tokens[index]]


def _int64(column: array[int]) -> Int64Array:
    return np.array(column, dtype=np.int64)
