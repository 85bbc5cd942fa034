"""Constraints on the points of a search, as expressions: ``gpus <= 16``, ``$/hour <= 40``, ``tp >= pp``."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from penstock.errors import Problem, nearest
from penstock.explore.design_point import DesignPoint

DOLLARS = "$/hour"
"""Stands for ``usd_per_hour``: the price of all GPUs of a point."""

NAMES = ("gpus", "usd_per_hour", *DesignPoint.__dataclass_fields__)

_BINARY: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_COMPARE: Mapping[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.LtE: operator.le,
    ast.Lt: operator.lt,
    ast.GtE: operator.ge,
    ast.Gt: operator.gt,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.In: lambda one, many: one in many,
    ast.NotIn: lambda one, many: one not in many,
}


@dataclass(frozen=True, slots=True)
class Constraint:
    """An expression over a point's choices, ``gpus`` and ``usd_per_hour``."""

    text: str

    @property
    def names(self) -> frozenset[str]:
        """Those that it mentions."""
        return frozenset(node.id for node in ast.walk(_tree(self.text)) if isinstance(node, ast.Name))

    def holds(self, point: DesignPoint, usd_per_hour: float | None) -> bool:
        """Whether a point keeps it, at the price of all its GPUs. A choice that is left to the engine (None) keeps
        every bound on it.

        Raises:
            ArithmeticError: a division by zero.
        """
        known = {**point.to_json(), "gpus": point.gpus, "usd_per_hour": usd_per_hour}
        if any(known[name] is None for name in self.names):
            return True
        return bool(_value(_tree(self.text).body, known))


def parse_constraint(text: str, where: str, problems: list[Problem]) -> Constraint | None:
    """Check an expression; what is wrong with it goes to ``problems``."""
    try:
        tree = _tree(text)
    except SyntaxError:
        problems.append(Problem(where, f"'{text}' is not an expression: write gpus <= 16 or $/hour <= 40"))
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id not in NAMES:
            problems.append(Problem(where, f"'{text}': no choice '{node.id}'{nearest(node.id, NAMES)}"))
            return None
    example = dict.fromkeys(NAMES, 1) | {"hardware": "", "partition": "", "policy": "", "router": ""}
    example |= {"prefill_hardware": "", "network": "", "dtype": "", "kv_cache_dtype": ""}
    try:
        result = _value(tree.body, example)
    except ZeroDivisionError:
        result = True
    except TypeError:
        problems.append(Problem(where, f"'{text}' compares what cannot be compared"))
        return None
    except ValueError as error:
        problems.append(Problem(where, f"'{text}': {error}"))
        return None
    if not isinstance(result, bool):
        problems.append(Problem(where, f"'{text}' is not a comparison: write gpus <= 16"))
        return None
    return Constraint(text)


def _tree(text: str) -> ast.Expression:
    return ast.parse(text.replace(DOLLARS, "usd_per_hour").strip(), mode="eval")


def _value(node: ast.expr, known: Mapping[str, Any]) -> Any:
    """The value of an expression of names, numbers, strings, lists, arithmetic, comparisons, and, or, not."""
    match node:
        case ast.Constant(value=int() | float() | str() | bool()):
            return node.value
        case ast.Name():
            return known[node.id]
        case ast.Tuple() | ast.List():
            return [_value(one, known) for one in node.elts]
        case ast.UnaryOp(op=ast.USub()):
            return -_value(node.operand, known)
        case ast.UnaryOp(op=ast.Not()):
            return not _value(node.operand, known)
        case ast.BoolOp():
            values = [bool(_value(one, known)) for one in node.values]
            return all(values) if isinstance(node.op, ast.And) else any(values)
        case ast.BinOp() if type(node.op) in _BINARY:
            return _BINARY[type(node.op)](_value(node.left, known), _value(node.right, known))
        case ast.Compare() if all(type(one) in _COMPARE for one in node.ops):
            parts = [_value(one, known) for one in (node.left, *node.comparators)]
            return all(
                _COMPARE[type(op)](parts[place], parts[place + 1]) for place, op in enumerate(node.ops)
            )
        case _:
            raise ValueError("only names, numbers, arithmetic, comparisons, and, or, not")
