"""What is wrong with a value, in words that name the choice: the refusals of a msgspec decoder, put plainly."""

import re
from collections.abc import Iterable
from functools import cache
from typing import Any

import msgspec
from msgspec import inspect

from chatledger.errors import InvalidRequest

SHOWN_CHARACTERS_MAX = 40
"""How much of a value that was given is shown again."""

_AT = " - at `"
_UNKNOWN, _MISSING, _NO_CHOICE = (
    "Object contains unknown field `",
    "Object missing required field `",
    "Invalid enum value ",
)
_step = re.compile(r"\.(\w+)|\[").finditer
_expected = re.compile(r"Expected `([a-z |]{1,60})`, got `([a-z]{1,20})`").fullmatch
_KINDS = {
    "str": "a string",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "an array",
    "object": "an object",
    "null": "null",
}


def shown(value: str) -> str:
    """*value* in quotes, for a message: its beginning, where it is long."""
    return repr(value) if len(value) <= SHOWN_CHARACTERS_MAX else f"{value[:SHOWN_CHARACTERS_MAX]!r}…"


def expected_one_of(allowed: Iterable[str], given: str) -> str:
    """What to say of a value that is none of those that are allowed."""
    return f"expected one of {', '.join(allowed)}; got {shown(given)}."


def refusal(error: msgspec.ValidationError, kind: Any, *, where: str = "$") -> InvalidRequest:
    """The refusal for the *error* of decoding *kind*, which stands at *where* in the request.

    Its field is the path of the member.
    """
    text, field = _placed(str(error))
    found = _reach(_type_info(kind), field)
    if found is None:  # what looks like a place belongs to a name that was given
        text, field, found = str(error), "$", _type_info(kind)
    path = where + field.removeprefix("$")
    if text.startswith(_UNKNOWN):
        name = text.removeprefix(_UNKNOWN).removesuffix("`")
        return InvalidRequest(f"Unknown member: {expected_one_of(_members(found), name)}", field=f"{path}.{name}")
    if text.startswith(_MISSING):
        name = text.removeprefix(_MISSING).removesuffix("`")
        return InvalidRequest(f"The member {name!r} is missing.", field=f"{path}.{name}")
    if text.startswith(_NO_CHOICE) and (allowed := _choices(found)):
        name = field.rpartition(".")[2]
        given = text.removeprefix(_NO_CHOICE)[1:-1]
        return InvalidRequest(f"{name}: {expected_one_of(allowed, given)}", field=path)
    return InvalidRequest(f"{_plain(text)}.", field=path)


def _placed(text: str) -> tuple[str, str]:
    """The *text* of an error without its place, and the place: the root where it names none."""
    said, at, place = text.rpartition(_AT)
    return (said, place[:-1]) if at and place.startswith("$") and place.endswith("`") else (text, "$")


def _plain(text: str) -> str:
    """An error about a value's kind, in JSON's words."""
    match = _expected(text)
    if match is None:
        return text[: 3 * SHOWN_CHARACTERS_MAX]
    names = match[1].split(" | ")
    if "float" in names and "int" in names:
        names.remove("int")
    return f"Expected {' or '.join(_KINDS.get(name, name) for name in names)}; got {_KINDS.get(match[2], match[2])}"


@cache
def _type_info(kind: Any) -> inspect.Type:
    return inspect.type_info(kind)


def _reach(found: inspect.Type, path: str) -> inspect.Type | None:
    """The type at *path* below *found*; None where the path leads nowhere."""
    reached: inspect.Type | None = found
    for step in _step(path):
        options = reached.types if isinstance(reached, inspect.UnionType) else (reached,)
        below: list[inspect.Type] = []
        for option in options:
            if step[1] is None and isinstance(option, inspect.ListType | inspect.VarTupleType):
                below.append(option.item_type)
            elif step[1] is not None and isinstance(option, inspect.StructType):
                below += [field.type for field in option.fields if field.encode_name == step[1]]
        reached = below[0] if below else None
    return reached


def _members(found: inspect.Type) -> list[str]:
    return [field.encode_name for field in found.fields] if isinstance(found, inspect.StructType) else []


def _choices(found: inspect.Type) -> list[str]:
    options = found.types if isinstance(found, inspect.UnionType) else (found,)
    return [str(value) for option in options if isinstance(option, inspect.LiteralType) for value in option.values]
