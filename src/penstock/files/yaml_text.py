"""YAML as users write it: plain values only, every mistake placed."""

from __future__ import annotations

from typing import Any

import yaml

from penstock.errors import Problem, UserError
from penstock.files.json_text import MAX_DEPTH, Mapping, as_mapping, faults, shown_text
from penstock.files.place import Place
from penstock.files.reading import read_text
from penstock.files.use import AnyPath

MAX_YAML_BYTES = 4 << 20
"""PyYAML reads about a megabyte a second."""


class _Loader(yaml.SafeLoader):
    """Of YAML's types only those of JSON: dates are text, tags are refused. Keys that stand twice are remembered."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """As the base class's, down to ``MAX_DEPTH``."""
        self.depth = getattr(self, "depth", 0) + 1
        if self.depth > MAX_DEPTH + 1:
            raise yaml.MarkedYAMLError(
                problem=f"is nested more than {MAX_DEPTH} deep", problem_mark=self.peek_event().start_mark
            )
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_members(self, node: Any) -> Any:
        """A mapping, filled after its members, which may refer to it, are known."""
        result = Mapping()
        yield result
        self.flatten_mapping(node)
        pairs = [(self._key(key), self.construct_object(value, deep=True)) for key, value in node.value]
        made = as_mapping(pairs)
        result.update(made)
        result.duplicates = made.duplicates

    def _key(self, node: Any) -> Any:
        key = self.construct_object(node, deep=True)
        if isinstance(key, dict | list):
            raise yaml.MarkedYAMLError(problem="a key must be text", problem_mark=node.start_mark)
        return key

    def refuse(self, node: Any) -> Any:
        """A tag that asks for something else."""
        raise yaml.MarkedYAMLError(
            problem=f"'{shown_text(str(node.tag))}' is not taken: plain values only",
            problem_mark=node.start_mark,
        )


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_constructor("tag:yaml.org,2002:map", _Loader.construct_members)
for _kind in ("binary", "timestamp", "omap", "pairs", "set"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _Loader.refuse)
_Loader.add_constructor(None, _Loader.refuse)  # pyright: ignore[reportArgumentType]


def parse_yaml(text: str, shown: str) -> Any:
    """The value of a document.

    Raises:
        UserError: with what is wrong with it.
    """
    try:
        value = yaml.load(text, Loader=_Loader)  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{shown}:{mark.line + 1}:{mark.column + 1}" if mark is not None else shown
        told = error.problem or error.context or "cannot be read"
        raise UserError([Problem(where, f"broken YAML: {shown_text_long(told)}")]) from None
    except yaml.YAMLError as error:
        raise UserError(
            [Problem(shown, f"broken YAML: {shown_text_long(str(error).splitlines()[0])}")]
        ) from None
    except RecursionError:
        raise UserError([Problem(shown, f"is nested more than {MAX_DEPTH} deep")]) from None
    except (ValueError, OverflowError) as error:
        raise UserError([Problem(shown, f"broken YAML: {shown_text_long(str(error))}")]) from None
    problems = list(faults(value, Place(shown)))
    if problems:
        raise UserError(problems)
    return value


def load_yaml(path: AnyPath) -> Any:
    """The value of a file; None where it is empty.

    Raises:
        UserError: it cannot be read, or what is wrong with it.
    """
    return parse_yaml(read_text(path, MAX_YAML_BYTES), str(path))


def parse_measured(text: str, shown: str) -> Any:
    """The value of YAML that a program wrote, by libyaml where it is there: keys may be numbers.

    Raises:
        UserError: with what is wrong with it.
    """
    try:
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, RecursionError, ValueError, OverflowError) as error:
        told = shown_text_long(str(error).splitlines()[0] if str(error) else type(error).__name__)
        raise UserError([Problem(shown, f"is not YAML: {told}")]) from None


def read_yaml(path: AnyPath, problems: list[Problem]) -> Any:
    """The file's value, or None after adding to ``problems`` why it cannot be had."""
    try:
        value = load_yaml(path)
    except UserError as error:
        problems += error.problems
        return None
    if value is None:
        problems.append(Problem(str(path), "is empty"))
    return value


def shown_text_long(text: str) -> str:
    """A library's words, on one line and of bounded length."""
    return " ".join(text.split())[:200]
