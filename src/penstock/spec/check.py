"""pydantic decides what is valid; this says it in our words, with the place and the nearest valid name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from penstock.errors import Problem, UserError, nearest
from penstock.files.place import Place


class Raw(BaseModel):
    """Base of all shapes read from users: no unknown key, no coercion, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True, defer_build=True)


RawT = TypeVar("RawT", bound=Raw)
PlaceOf = Callable[[tuple[str | int, ...]], str]


@dataclass(frozen=True, slots=True)
class Checked(Generic[RawT]):
    """What could be read: ``value`` holds the valid members, ``broken`` names those that were not (they
    have their defaults in ``value``), so that rules over the others can still be checked."""

    value: RawT
    broken: frozenset[str]

    def sound(self, *names: str) -> bool:
        """Whether all of these members were valid."""
        return self.broken.isdisjoint(names)


def check(shape: type[RawT], data: Any, place: Place, problems: list[Problem]) -> Checked[RawT] | None:
    """Read ``data`` as ``shape``; mistakes go to ``problems``. None if it is not even an object."""
    if not isinstance(data, Mapping):
        problems.append(Problem(str(place), f"must be an object, not {shown(data)}"))
        return None

    def where(loc: tuple[str | int, ...]) -> str:
        spot, value = place, data
        for step in loc:
            if isinstance(step, int) and isinstance(value, list):
                spot, value = spot.item(step), value[step]
            elif isinstance(step, str) and isinstance(value, Mapping):
                spot, value = spot.key(step), value.get(step)
            elif isinstance(step, int):
                continue  # a single value stands for a list of one
            else:
                break
        return str(spot)

    return check_members(shape, data, where, problems)


def check_members(
    shape: type[RawT], data: Mapping[str, Any], where: PlaceOf, problems: list[Problem]
) -> Checked[RawT]:
    """As :func:`check`, for members whose places ``where`` knows. All members of ``shape`` have defaults."""
    given = {
        name: value for name, value in data.items() if value is not None or name not in shape.model_fields
    }
    try:
        return Checked(shape.model_validate(given), frozenset())
    except ValidationError as error:
        details = error.errors(include_url=False)
    for detail in details:
        loc = detail["loc"]
        if detail["type"] == "extra_forbidden":
            name = str(loc[-1])
            message = f"unknown key '{name}'{nearest(name, _members(shape, loc[:-1]))}"
            problems.append(Problem(where(loc[:-1]), message))
        else:
            problems.append(
                Problem(where(loc), _message(detail["type"], detail["input"], detail.get("ctx", {})))
            )
    broken = frozenset(str(detail["loc"][0]) for detail in details)
    rest = {name: value for name, value in given.items() if name not in broken}
    return Checked(shape.model_validate(rest), broken)


class Recorded(BaseModel):
    """Base of the shapes of documents that other programs wrote: members not named here are theirs."""

    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False, frozen=True)


MAX_PROBLEMS = 5
"""Of a document that a program wrote: one mistake stands in every row."""


def check_document(shape: type[BaseModel], data: Any, shown: str) -> None:
    """Hold a document against its shape.

    Raises:
        UserError: with the first mistakes.
    """
    try:
        shape.model_validate(data)
    except ValidationError as error:
        details = error.errors(include_url=False)
    else:
        return
    problems: list[Problem] = []
    for detail in details[:MAX_PROBLEMS]:
        place = Place(shown)
        loc = detail["loc"][:-1] if detail["type"] == "missing" else detail["loc"]
        for step in loc:
            place = place.item(step) if isinstance(step, int) else place.key(step)
        told = (
            f"missing key '{detail['loc'][-1]}'"
            if detail["type"] == "missing"
            else _message(detail["type"], detail["input"], detail.get("ctx", {}))
        )
        problems.append(Problem(str(place), told))
    more = len(details) - MAX_PROBLEMS
    raise UserError([*problems, *([Problem(shown, f"... and {more} more")] if more > 0 else [])])


def _members(shape: type[BaseModel], loc: tuple[str | int, ...]) -> list[str]:
    """Valid member names at ``loc``: of ``shape``, or of the shape nested there."""
    for step in loc:
        annotation = shape.model_fields[step].annotation if step in shape.model_fields else None
        shape = _nested(annotation) or shape
    return list(shape.model_fields)


def _nested(annotation: Any) -> type[BaseModel] | None:
    """The shape that an annotation such as ``dict[str, Shape] | None`` holds."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_nested(part) for part in getattr(annotation, "__args__", ()))
    return next((shape for shape in found if shape is not None), None)


_TYPES = {
    "int_type": "an integer",
    "int_parsing": "an integer",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "a string",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
}
_SPOKEN = {"fp16": "float16", "half": "float16", "bf16": "bfloat16", "fp32": "float32", "float": "float32"}
"""What people call a dtype, where letters alone would suggest the wrong one."""

_BOUNDS = {
    "greater_than": (">", "gt"),
    "greater_than_equal": (">=", "ge"),
    "less_than": ("<", "lt"),
    "less_than_equal": ("<=", "le"),
}


def _message(kind: str, value: Any, context: Mapping[str, Any]) -> str:
    if kind in _TYPES:
        return f"must be {_TYPES[kind]}, not {shown(value)}"
    if kind in _BOUNDS:
        sign, name = _BOUNDS[kind]
        bound = context[name]
        return f"must be {sign} {bound if isinstance(bound, int) else f'{bound:g}'}, not {shown(value)}"
    if kind == "finite_number":
        return f"must be a finite number, not {shown(value)}"
    if kind == "literal_error":
        expected = str(context["expected"])
        choices = expected.replace("'", "").replace(" or ", ", ").split(", ")
        hint = nearest(_SPOKEN.get(value, value), choices) if isinstance(value, str) else ""
        return f"must be {expected}, not {shown(value)}{hint}"
    if kind in ("too_short", "string_too_short"):
        return "must not be empty"
    if kind == "value_error":
        return str(context["error"])
    return f"is not valid: {kind.replace('_', ' ')}"


def shown(value: Any) -> str:
    """A value as a message shows it: short, in JSON's words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list | tuple):
        return "a list" if isinstance(value, list) else "a tuple"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
