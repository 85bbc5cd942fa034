"""JSON lines: LLMServingSim's flat requests and sessions, and Mooncake's requests.

A line that is in order takes the short way (a few comparisons); any other is looked at again, key by key,
to say what is wrong with it.
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Mapping
from typing import Any, cast

from pydantic_core import from_json

from penstock.units import NS_PER_MS
from penstock.workload.mistakes import Mistakes
from penstock.workload.workload import PREFIX_BLOCK_TOKENS, Call, Columns

MAX_TOKENS = 2**31 - 1
MAX_NS = 2**62
MAX_PRIORITY = 2**31 - 1

PLAIN_KEYS = frozenset(("input_toks", "output_toks", "arrival_time_ns"))
_ID_KEYS = ("input_tok_ids", "output_tok_ids")
_COUNT_KEYS = ("input_toks", "output_toks")
_FLAT_KEYS = (*_COUNT_KEYS, "arrival_time_ns", *_ID_KEYS, "priority", "model")
_CALL_KEYS = (*_COUNT_KEYS, "tool_duration_ns", *_ID_KEYS, "priority", "model")
_SESSION_KEYS = ("session_id", "arrival_time_ns", "sub_requests")
_MOONCAKE_KEYS = ("timestamp", "input_length", "output_length", "hash_ids", "priority", "model")
_MOONCAKE_MARKS = frozenset(_MOONCAKE_KEYS) - {"priority", "model"}

Json = Mapping[str, Any]


class LineReader:
    """Takes JSON lines one by one and adds their requests to ``columns``, or their faults to ``mistakes``."""

    def __init__(self, columns: Columns, mistakes: Mistakes) -> None:
        self._columns = columns
        self._mistakes = mistakes
        self._block_numbers: dict[int | str, int] = {}
        self._line_of_session: dict[str | int, int] = {}

    def take(self, line: int, text: str) -> None:
        """Read line number ``line``."""
        try:
            record: Any = _parsed(text.rstrip())
        except json.JSONDecodeError as error:
            self._mistakes.add(line, f"broken JSON: {error.msg} at column {error.colno}")
            return
        except (ValueError, RecursionError) as error:
            self._mistakes.add(line, f"broken JSON: {error}")
            return
        if not isinstance(record, dict):
            self._mistakes.add(line, f"expected one JSON object per line, got {_kind(record)}")
            return
        record = cast("dict[str, Any]", record)
        if text.count(":") != _members(record):
            self._check_duplicates(line, text)
        if record.keys() == PLAIN_KEYS and self._take_plain(record):
            return
        if "sub_requests" in record:
            self._take_session(line, record)
        elif "input_toks" not in record and not record.keys().isdisjoint(_MOONCAKE_MARKS):
            self._take_mooncake(line, record)
        else:
            self._take_flat(line, record)

    def _check_duplicates(self, line: int, text: str) -> None:
        """More colons than members: one in a string, or a key that stands twice, of which one would be lost."""

        def collect(pairs: list[tuple[str, Any]]) -> None:
            seen: set[str] = set()
            for key, _ in pairs:
                if key in seen:
                    self._mistakes.add(line, f"key '{key}' stands twice in one object")
                seen.add(key)

        json.loads(text.rstrip(), object_pairs_hook=collect)

    def _take_plain(self, record: Json) -> bool:
        inputs, outputs, arrival = record["input_toks"], record["output_toks"], record["arrival_time_ns"]
        if not (type(inputs) is type(outputs) is type(arrival) is int):
            return False
        if not (0 < inputs <= MAX_TOKENS and 0 < outputs <= MAX_TOKENS and 0 <= arrival <= MAX_NS):
            return False
        self._columns.add_plain(arrival, inputs, outputs)
        return True

    def _take_flat(self, line: int, record: Json) -> None:
        before = self._mistakes.count()
        self._mistakes.check_keys(line, "", record, (*_COUNT_KEYS, "arrival_time_ns"), _FLAT_KEYS)
        arrival_ns = self._time(line, "", "arrival_time_ns", record)
        call = self._call(line, "", record)
        if self._mistakes.count() == before:
            self._columns.add(arrival_ns, call)

    def _take_session(self, line: int, record: Json) -> None:
        before = self._mistakes.count()
        self._mistakes.check_keys(line, "", record, ("arrival_time_ns", "sub_requests"), _SESSION_KEYS)
        arrival_ns = self._time(line, "", "arrival_time_ns", record)
        self._check_session_id(line, record.get("session_id"))
        calls: list[Call] = []
        entries = record["sub_requests"]
        if not isinstance(entries, list) or not entries:
            self._mistakes.add(
                line, f"sub_requests must be a list of at least one call, got {_kind(entries)}"
            )
            return
        for place, entry in enumerate(cast("list[Any]", entries)):
            prefix = f"sub_requests[{place}]."
            if not isinstance(entry, dict):
                self._mistakes.add(line, f"sub_requests[{place}] must be an object, got {_kind(entry)}")
                continue
            call = cast("Json", entry)
            self._mistakes.check_keys(line, prefix, call, _COUNT_KEYS, _CALL_KEYS)
            calls.append(self._call(line, prefix, call))
        if arrival_ns + sum(call.tool_duration_ns for call in calls) > MAX_NS:
            self._mistakes.add(line, f"arrival_time_ns and the tool_duration_ns sum to more than {MAX_NS}")
        if self._mistakes.count() == before:
            self._columns.add_session(arrival_ns, calls)

    def _check_session_id(self, line: int, session_id: object) -> None:
        if session_id is None:
            return
        if not isinstance(session_id, str | int) or isinstance(session_id, bool):
            self._mistakes.add(line, f"session_id must be a string, got {_kind(session_id)}")
            return
        first = self._line_of_session.setdefault(session_id, line)
        if first != line:
            self._mistakes.add(line, f"session_id {session_id!r} is taken by line {first}")

    def _take_mooncake(self, line: int, record: Json) -> None:
        before = self._mistakes.count()
        required = ("timestamp", "input_length", "output_length")
        self._mistakes.check_keys(line, "", record, required, _MOONCAKE_KEYS)
        timestamp: Any = record.get("timestamp")
        if "timestamp" in record and not (_is_number(timestamp) and 0 <= timestamp <= MAX_NS // NS_PER_MS):
            self._mistakes.add(line, f"timestamp must be milliseconds >= 0, got {_show(timestamp)}")
        inputs = self._tokens(line, "input_length", record)
        outputs = self._tokens(line, "output_length", record)
        blocks = self._prefix_blocks(line, record.get("hash_ids"), inputs)
        priority = self._priority(line, "", record)
        model = self._model(line, "", record)
        if self._mistakes.count() == before:
            arrival_ns = round(cast("float", timestamp) * NS_PER_MS)
            call = Call(inputs, outputs, prefix_blocks=blocks, priority=priority, model=model)
            self._columns.add(arrival_ns, call)

    def _prefix_blocks(self, line: int, hash_ids: Any, input_tokens: int) -> array[int] | None:
        """Hash ids as small numbers in order of first sight, equal where the ids are."""
        if hash_ids is None:
            return None
        if not isinstance(hash_ids, list) or not all(
            type(i) in (int, str) for i in cast("list[Any]", hash_ids)
        ):
            self._mistakes.add(line, "hash_ids must be a list of block ids")
            return None
        ids = cast("list[int | str]", hash_ids)
        full, rest = divmod(input_tokens, PREFIX_BLOCK_TOKENS)
        if input_tokens and len(ids) not in (full, full + bool(rest)):
            blocks = full + bool(rest)
            self._mistakes.add(
                line, f"hash_ids has {len(ids)} entries, {input_tokens} tokens are {blocks} blocks of 512"
            )
        numbers = self._block_numbers
        return array("i", [numbers.setdefault(block, len(numbers)) for block in ids])

    def _call(self, line: int, place: str, record: Json) -> Call:
        inputs = self._tokens(line, "input_toks", record, place)
        outputs = self._tokens(line, "output_toks", record, place)
        wait_ns = self._time(line, place, "tool_duration_ns", record) if "tool_duration_ns" in record else 0
        input_ids = self._ids(line, place, "input_tok_ids", record, inputs)
        output_ids = self._ids(line, place, "output_tok_ids", record, outputs)
        priority = self._priority(line, place, record)
        model = self._model(line, place, record)
        return Call(inputs, outputs, wait_ns, input_ids, output_ids, priority=priority, model=model)

    def _tokens(self, line: int, key: str, record: Json, place: str = "") -> int:
        """The count, or 0 where there is none: the mistake is noted."""
        if key not in record:
            return 0
        value: Any = record[key]
        if _is_number(value) and value == int(value) and 0 < value <= MAX_TOKENS:
            return int(value)
        self._mistakes.add(
            line, f"{place}{key} must be a whole number from 1 to {MAX_TOKENS}, got {_show(value)}"
        )
        return 0

    def _time(self, line: int, place: str, key: str, record: Json) -> int:
        if key not in record:
            return 0
        value: Any = record[key]
        if _is_number(value) and value == int(value) and 0 <= value <= MAX_NS:
            return int(value)
        self._mistakes.add(line, f"{place}{key} must be whole nanoseconds >= 0, got {_show(value)}")
        return 0

    def _priority(self, line: int, place: str, record: Json) -> int:
        value: Any = record.get("priority", 0)
        if _is_number(value) and value == int(value) and -MAX_PRIORITY <= value <= MAX_PRIORITY:
            return int(value)
        self._mistakes.add(
            line,
            f"{place}priority must be a whole number from -{MAX_PRIORITY} to {MAX_PRIORITY}, got {_show(value)}",
        )
        return 0

    def _model(self, line: int, place: str, record: Json) -> str | None:
        value: Any = record.get("model")
        if value is None or (isinstance(value, str) and value):
            return value
        self._mistakes.add(line, f"{place}model must be the name of a model, got {_show(value)}")
        return None

    def _ids(self, line: int, place: str, key: str, record: Json, tokens: int) -> array[int] | None:
        ids: Any = record.get(key)
        if ids is None:
            return None
        values = _int32(cast("list[Any]", ids)) if isinstance(ids, list) else None
        if values is None:
            self._mistakes.add(
                line, f"{place}{key} must be a list of token ids, whole numbers from 0 to {MAX_TOKENS}"
            )
            return None
        if tokens and len(values) != tokens:
            counted = key.replace("_tok_ids", "_toks")
            self._mistakes.add(line, f"{place}{key} has {len(values)} ids, {counted} is {tokens}")
        return values


def _parsed(text: str) -> Any:
    """As ``json.loads``, which reads the same values more slowly: it has the words for what is broken, and takes some
    lines that pydantic's parser refuses (lone surrogates)."""
    try:
        return from_json(text)
    except ValueError:
        return json.loads(text)


def _members(record: Json) -> int:
    """Members of a line's object and of its calls, each with one colon."""
    calls = record.get("sub_requests")
    if not isinstance(calls, list):
        return len(record)
    return len(record) + sum(len(call) for call in cast("list[Any]", calls) if isinstance(call, dict))


def _int32(values: list[Any]) -> array[int] | None:
    if bool in set(map(type, values)):
        return None
    try:
        ids = array("i", values)
    except (TypeError, OverflowError):
        return None
    return None if ids and min(ids) < 0 else ids


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, int) or math.isfinite(value)


def _kind(value: object) -> str:
    if value is None:
        return "null"
    if value == []:
        return "an empty list"
    names = (("an object", dict), ("a list", list), ("a string", str), ("a boolean", bool))
    return next((name for name, kind in names if isinstance(value, kind)), "a number")


def _show(value: object) -> str:
    if isinstance(value, dict | list):
        return _kind(cast("object", value))
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
