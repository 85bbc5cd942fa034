"""JSON as users write it: every mistake placed, by line and column or by JSON path."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from penstock.errors import Problem, UserError
from penstock.files.place import Place
from penstock.files.reading import MAX_CONFIG_BYTES, read_text, text_lines
from penstock.files.use import AnyPath

MAX_DEPTH = 64
"""Of lists and objects in each other, in JSON and in YAML: no config has ten."""

MAX_NODES = 5_000_000
"""Values in one document; YAML's aliases can make a small file stand for more."""

MAX_FAULTS = 20


class Mapping(dict[str, Any]):
    """A JSON object that remembers which keys stood in it twice: plain dicts keep the last silently."""

    duplicates: tuple[str, ...] = ()


def as_mapping(pairs: list[tuple[Any, Any]]) -> Mapping:
    """The object of these members."""
    result = Mapping(pairs)
    if len(result) < len(pairs):
        seen: set[Any] = set()
        result.duplicates = tuple({key: None for key, _ in pairs if key in seen or seen.add(key)})
    return result


def faults(value: Any, place: Place, *, finite: bool = True) -> Iterator[Problem]:
    """What no reader of a document takes: keys that stand twice or are no text, values that are no JSON, characters
    that are none, nesting without end and, with ``finite``, numbers that are none. At most ``MAX_FAULTS``."""
    left = MAX_FAULTS
    nodes = 0
    todo: list[tuple[Any, Place, int]] = [(value, place, 0)]
    while todo:
        value, place, depth = todo.pop()
        nodes += 1
        for message in _faults_here(value, depth, nodes, finite):
            yield Problem(str(place), message)
            left -= 1
        if not left or depth > MAX_DEPTH or nodes > MAX_NODES:
            return
        if isinstance(value, dict):
            members = [(member, place.key(shown_text(str(key))), depth + 1) for key, member in value.items()]
            todo += reversed(members)
        elif isinstance(value, list):
            kinds = {type(entry) for entry in value}
            if kinds <= {int} or (kinds <= {int, float} and (not finite or _are_finite(value))):
                nodes += len(value)
            else:
                todo += [(entry, place.item(index), depth + 1) for index, entry in enumerate(value)][::-1]


def _faults_here(value: Any, depth: int, nodes: int, finite: bool) -> Iterator[str]:
    if depth > MAX_DEPTH:
        yield f"is nested more than {MAX_DEPTH} deep"
        return
    if nodes > MAX_NODES:
        yield f"the document stands for more than {MAX_NODES:,} values"
        return
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                yield f"key {shown_text(repr(key))} must be text: write it in quotes"
            elif not is_text(key):
                yield f"key '{shown_text(key)}' holds half a surrogate pair, which is no character"
        for key in getattr(value, "duplicates", ()):
            yield f"key '{shown_text(str(key))}' stands here twice"
    elif isinstance(value, str):
        if not is_text(value):
            yield f"'{shown_text(value)}' holds half a surrogate pair, which is no character"
    elif isinstance(value, float):
        if finite and not math.isfinite(value):
            yield f"must be a finite number, not {value}"
    elif value is not None and not isinstance(value, bool | int | float | list):
        yield f"must be text, a number, a list or an object, not a {type(value).__name__}"


def _are_finite(values: list[int | float]) -> bool:
    return all(math.isfinite(value) for value in values if type(value) is float)


def is_text(value: str) -> bool:
    """Whether it can be written as UTF-8."""
    return value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value)


def shown_text(value: str) -> str:
    """Text as messages show it: short, and what cannot be printed in escapes."""
    text = value if len(value) <= 60 else value[:57] + "..."
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


def parse_json(text: str, shown: str, *, finite: bool = True) -> Any:
    """The value of a document. ``finite`` False takes NaN and Infinity too, which other programs write into members
    that nobody may ask for.

    Raises:
        UserError: with all that is wrong with it.
    """
    try:
        value = json.loads(text, object_pairs_hook=as_mapping)
    except json.JSONDecodeError as error:
        where = f"{shown}:{error.lineno}:{error.colno}"
        message = f"broken JSON: {error.msg[:1].lower()}{error.msg[1:]}"
        raise UserError([Problem(where, message)]) from None
    except RecursionError:
        raise UserError([Problem(shown, f"is nested more than {MAX_DEPTH} deep")]) from None
    except ValueError as error:
        raise UserError([Problem(shown, f"cannot be read as JSON: {error}")]) from None
    problems = list(faults(value, Place(shown), finite=finite))
    if problems:
        raise UserError(problems)
    return value


def load_json(path: AnyPath, limit: int = MAX_CONFIG_BYTES) -> Any:
    """The value of a file.

    Raises:
        UserError: it cannot be read, or all that is wrong with it.
    """
    return parse_json(read_text(path, limit), str(path))


def read_json(path: AnyPath, problems: list[Problem]) -> Any:
    """The file's value, or None after adding to ``problems`` why it cannot be had."""
    try:
        value = load_json(path)
    except UserError as error:
        problems += error.problems
        return None
    if value is None:
        problems.append(Problem(str(path), "must be a JSON object, not null"))
    return value


def json_lines(path: AnyPath) -> Iterator[tuple[str, Any]]:
    """(``file:line``, value) of each line that is not blank.

    Raises:
        UserError: the file cannot be read, or the first line that is no JSON.
    """
    for number, text in text_lines(path):
        where = f"{path}:{number}"
        try:
            yield where, parse_json(text, where)
        except UserError as error:
            raise UserError([Problem(where, problem.message) for problem in error.problems[:1]]) from None
