"""Reading a JSON file so that every mistake in it can be placed: line and column, or JSON path."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.errors import Problem


@dataclass(frozen=True, slots=True)
class Place:
    """A spot in a file: ``cluster.json: nodes[0].instances[1]``."""

    file: str
    path: str = ""

    def key(self, name: str) -> Place:
        """The member ``name`` of the object here."""
        return Place(self.file, f"{self.path}.{name}" if self.path else name)

    def item(self, index: int) -> Place:
        """The entry ``index`` of the list here."""
        return Place(self.file, f"{self.path}[{index}]")

    def __str__(self) -> str:
        return f"{self.file}: {self.path}" if self.path else self.file


class _Object(dict[str, Any]):
    """A JSON object that remembers which keys stood in it twice: plain dicts keep the last silently."""

    duplicates: tuple[str, ...] = ()


def _object(pairs: list[tuple[str, Any]]) -> _Object:
    result = _Object(pairs)
    if len(result) < len(pairs):
        seen: set[str] = set()
        result.duplicates = tuple({key: None for key, _ in pairs if key in seen or seen.add(key)})
    return result


def _duplicates(value: Any, place: Place) -> Iterator[Problem]:
    if isinstance(value, _Object):
        for key in value.duplicates:
            yield Problem(str(place), f"key '{key}' stands here twice")
        for key, member in value.items():
            yield from _duplicates(member, place.key(key))
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            yield from _duplicates(entry, place.item(index))


def read_json(path: Path, problems: list[Problem]) -> Any:
    """The file's value, or None after adding to ``problems`` why it cannot be had."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        problems.append(Problem(str(path), f"cannot be read: {error.strerror or error}"))
        return None
    except UnicodeDecodeError as error:
        problems.append(Problem(str(path), f"is not UTF-8 text (byte {error.start})"))
        return None
    except ValueError as error:  # a null byte in the path
        problems.append(Problem(str(path), f"cannot be read: {error}"))
        return None
    try:
        value = json.loads(text, object_pairs_hook=_object)
        problems.extend(_duplicates(value, Place(str(path))))
    except json.JSONDecodeError as error:
        where = f"{path}:{error.lineno}:{error.colno}"
        problems.append(Problem(where, f"broken JSON: {error.msg[:1].lower()}{error.msg[1:]}"))
    except RecursionError:
        problems.append(Problem(str(path), "is nested too deeply to be a config"))
    except ValueError as error:
        problems.append(Problem(str(path), f"cannot be read as JSON: {error}"))
    else:
        if value is None:
            problems.append(Problem(str(path), "must be a JSON object, not null"))
        return value
    return None
