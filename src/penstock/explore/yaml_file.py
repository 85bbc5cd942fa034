"""Reading a YAML file so that every mistake in it can be placed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from penstock.errors import Problem


class _Loader(yaml.SafeLoader):
    """Refuses keys that stand twice; PyYAML keeps the last silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As the base class's."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str | int | float | bool) and key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"key '{key}' stands here twice", problem_mark=key_node.start_mark
                )
            seen.add(key if isinstance(key, str | int | float | bool) else id(key_node))
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, problems: list[Problem]) -> Any:
    """The file's value, or None after adding to ``problems`` why it cannot be had."""
    try:
        value = yaml.load(path.read_text(encoding="utf-8-sig"), Loader=_Loader)  # a SafeLoader
    except OSError as error:
        problems.append(Problem(str(path), f"cannot be read: {error.strerror or error}"))
    except UnicodeDecodeError as error:
        problems.append(Problem(str(path), f"is not UTF-8 text (byte {error.start})"))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark is not None else str(path)
        problems.append(Problem(where, f"broken YAML: {error.problem or error.context or 'cannot be read'}"))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        problems.append(Problem(str(path), f"broken YAML: {str(error).splitlines()[0]}"))
    else:
        if value is None:
            problems.append(Problem(str(path), "is empty: a search needs a model, requests and a space"))
        return value
    return None
